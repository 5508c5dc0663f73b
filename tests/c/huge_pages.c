/* 256 MiB of small chunks, of which one in 10,000 stays: some in each huge page. Prints what the file argv[1], of the program's
   control group, says in bytes when all are live, and when the rest has been given back. */
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { COUNT = 4 << 20, SIZE = 48, STAYS = 10000 };

struct chunk {
    struct chunk *next;
    char rest[SIZE - sizeof(struct chunk *)];
};

static long in_use(const char *path) {
    long bytes = -1;
    FILE *file = fopen(path, "r");
    if (!file || fscanf(file, "%ld", &bytes) != 1) exit(2);
    fclose(file);
    return bytes;
}

int main(int argc, char **argv) {
    if (argc < 2) return 2;
    struct chunk *first = NULL, *kept = NULL;
    for (int i = 0; i < COUNT; i++) {
        struct chunk *chunk = malloc(sizeof *chunk);
        if (!chunk) return 3;
        chunk->next = first;
        first = chunk;
    }
    long before = in_use(argv[1]);
    for (int i = 0; first; i++) {
        struct chunk *chunk = first;
        first = chunk->next;
        if (i % STAYS == 0) {
            chunk->next = kept;
            kept = chunk;
        } else {
            free(chunk);
        }
    }
    malloc_trim(0);
    printf("%ld %ld\n", before, in_use(argv[1]));
    /* What comes back of it is zero. */
    for (int i = 0; i < COUNT / 2; i++) {
        static const struct chunk zero;
        struct chunk *chunk = malloc(sizeof *chunk);
        if (!chunk) return 3;
        if (memcmp(chunk, &zero, sizeof zero)) return 4;
        memset(chunk, 1, sizeof *chunk);
    }
    int count = 0;
    for (; kept; count++) kept = kept->next;
    return count != (COUNT + STAYS - 1) / STAYS;
}
