/* Chunks of no bytes under a limit on address space: argv[1] of them can be live at once, each with an address of its own, and as long as
   they are, one can be freed and another one had. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int compare(const void *a, const void *b) {
    uintptr_t x = *(const uintptr_t *)a, y = *(const uintptr_t *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    static char buffer[4096];
    setvbuf(stdout, buffer, _IOFBF, sizeof buffer);
    alarm(800);
    if (argc != 2)
        return 2;
    size_t count = strtoul(argv[1], NULL, 10);
    void **live = malloc(count * sizeof *live);
    for (size_t i = 0; i < count; i++)
        if (!(live[i] = malloc(0))) {
            printf("number %zu was refused\n", i);
            return 1;
        }
    unsigned state = 1;
    for (size_t round = 0; round < 5 * count; round++) {
        state = state * 1103515245 + 12345;
        size_t which = (state >> 8) % count;
        free(live[which]);
        if (!(live[which] = malloc(0))) {
            printf("refused in round %zu with %zu live\n", round, count - 1);
            return 1;
        }
    }
    qsort(live, count, sizeof *live, compare);
    for (size_t i = 1; i < count; i++)
        if (live[i] == live[i - 1]) {
            puts("two have the same address");
            return 1;
        }
    for (size_t i = 0; i < count; i++)
        free(live[i]);
    puts("the limit is kept");
    return 0;
}
