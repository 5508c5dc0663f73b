/* Under a limit on address space: nothing is live at the end of a round, so every round must find what the first one found.
   A buffer that turns out too large, an over-aligned one, and one that grows step by step and is shrunk. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SIZE = 512 << 20, NEEDED = 300000, ROUNDS = 100 };

static int refused(const char *what, int round) {
    printf("%s: refused in round %d\n", what, round);
    return 1;
}

int main(void) {
    static char buffer[4096];
    setvbuf(stdout, buffer, _IOFBF, sizeof buffer);
    alarm(800);
    for (int round = 0; round < ROUNDS; round++) {
        char *chunk = malloc(SIZE);
        if (!chunk)
            return refused("malloc", round);
        memset(chunk, 'a', 4096);
        chunk = realloc(chunk, NEEDED);
        if (!chunk || chunk[4095] != 'a')
            return refused("shrinking", round);
        free(chunk);
    }
    for (int round = 0; round < ROUNDS; round++) {
        char *chunk = aligned_alloc(SIZE, NEEDED);
        if (!chunk)
            return refused("aligned_alloc", round);
        chunk[0] = 'b';
        free(chunk);
    }
    for (int round = 0; round < ROUNDS; round++) {
        char *chunk = malloc(NEEDED);
        for (size_t size = 2 * NEEDED; chunk && size < SIZE; size *= 2)
            chunk = realloc(chunk, size);
        if (!chunk || !(chunk = realloc(chunk, NEEDED)))
            return refused("growing", round);
        free(chunk);
    }
    puts("the limit is kept");
    return 0;
}
