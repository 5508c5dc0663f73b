/* Frees many large chunks in a hot loop, so that the allocator keeps what it can, then takes small ones
   until malloc refuses: at least argv[1] MiB of them, for nothing else is in use. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LARGE = 24, SIZE = 1 << 20, SMALL = 100 };

int main(int argc, char **argv) {
    static char buffer[4096];
    static char *large[LARGE];
    setvbuf(stdout, buffer, _IOFBF, sizeof buffer);
    alarm(800);
    for (int round = 0; round < 300; round++) {
        for (int i = 0; i < LARGE; i++) {
            large[i] = malloc(SIZE);
            if (!large[i]) {
                printf("large chunk %d of round %d was refused: errno %d\n", i, round, errno);
                return 2;
            }
            large[i][0] = 'l';
        }
        for (int i = 0; i < LARGE; i++)
            free(large[i]);
    }
    size_t had = 0;
    errno = 0;
    for (char *chunk; (chunk = malloc(SMALL)); had += SMALL)
        memset(chunk, 's', SMALL);
    if (argc != 2 || errno != ENOMEM || had >> 20 < strtoul(argv[1], NULL, 10)) {
        printf("%zu MiB, then errno %d\n", had >> 20, errno);
        return 1;
    }
    puts("the limit is kept");
    return 0;
}
