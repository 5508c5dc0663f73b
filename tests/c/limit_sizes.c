/* Under a limit on address space: a chunk of every size up to 16 KiB in steps, all live at once, with what was written to them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MOST = 16384, STEP = 61 };

int main(void) {
    static char buffer[4096];
    static unsigned char *live[MOST / STEP + 1];
    setvbuf(stdout, buffer, _IOFBF, sizeof buffer);
    alarm(800);
    for (size_t i = 0; i * STEP < MOST; i++) {
        if (!(live[i] = malloc(i * STEP + 1))) {
            printf("a size of %zu is refused\n", i * STEP + 1);
            return 1;
        }
        memset(live[i], (int)(i % 250) + 1, i * STEP + 1);
    }
    for (size_t i = 0; i * STEP < MOST; i++) {
        for (size_t at = 0; at <= i * STEP; at++)
            if (live[i][at] != i % 250 + 1) {
                printf("a chunk of %zu bytes has changed\n", i * STEP + 1);
                return 1;
            }
        free(live[i]);
    }
    puts("the limit is kept");
    return 0;
}
