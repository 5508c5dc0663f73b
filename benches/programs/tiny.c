/* The smallest process that uses the heap at all: what an allocator costs before it has done
 * anything. */
#include <stdlib.h>
#include <string.h>

int main(void) {
    char *copy = strdup("a tiny process");
    if (copy == NULL) {
        return 1;
    }
    int wrong = copy[0] != 'a';
    free(copy);
    return wrong;
}
