/* Does something before it allocates anything; without an argument it never does. */
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv) {
    (void)argv;
    if (write(STDOUT_FILENO, "main ran\n", 9) != 9) return 1;
    if (argc > 1) free(malloc(10));
    return 0;
}
