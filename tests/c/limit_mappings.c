/* Uses up nearly all mappings that vm.max_map_count allows, then holds large chunks until malloc
   refuses: with NULL and ENOMEM, and once they are freed it works again. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { SIZE = 300000, SPARE = 3000, MOST = 200000 };

static void demand(int holds, const char *what) {
    if (!holds) {
        printf("not so: %s (errno %d)\n", what, errno);
        exit(1);
    }
}

/* Pages that are accessible by turns: each is a mapping of its own. */
static void use_up_mappings(void) {
    FILE *file = fopen("/proc/sys/vm/max_map_count", "r");
    long limit = 0;
    demand(file && fscanf(file, "%ld", &limit) == 1, "the limit can be read");
    fclose(file);
    demand(limit > 2 * SPARE, "the limit is above what this program keeps spare");
    size_t pages = (size_t)(limit - SPARE);
    char *area = mmap(NULL, pages * 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    demand(area != MAP_FAILED, "address space");
    for (size_t page = 1; page < pages; page += 2)
        demand(mprotect(area + page * 4096, 4096, PROT_READ) == 0, "a mapping");
}

int main(void) {
    static char buffer[4096];
    static char *chunks[MOST];
    static char *small[100000];
    setvbuf(stdout, buffer, _IOFBF, sizeof buffer);
    alarm(800);
    use_up_mappings();

    int count = 0;
    while (count < MOST) {
        errno = 0;
        char *chunk = malloc(SIZE);
        if (!chunk) {
            demand(errno == ENOMEM, "malloc sets ENOMEM");
            break;
        }
        memcpy(chunk, &count, sizeof count);
        chunk[SIZE - 1] = 'e';
        chunks[count++] = chunk;
    }
    demand(count >= 100, "some chunks fit");

    /* Small chunks may still be had or not; those had are whole. */
    for (int i = 0; i < 100000; i++) {
        errno = 0;
        small[i] = malloc(16 + i % 3000);
        demand(small[i] || errno == ENOMEM, "malloc sets ENOMEM for a small chunk");
        if (small[i])
            memset(small[i], i, 16 + i % 3000);
    }
    errno = 0;
    void *grown = realloc(chunks[0], 20 * SIZE);
    demand(grown || errno == ENOMEM, "realloc sets ENOMEM");
    if (grown)
        chunks[0] = grown;

    for (int i = 0; i < count; i++) {
        demand(memcmp(chunks[i], &i, sizeof i) == 0, "a chunk keeps its first bytes");
        demand(chunks[i][SIZE - 1] == 'e', "a chunk keeps its last byte");
        free(chunks[i]);
    }
    for (int i = 0; i < 100000; i++) {
        if (small[i])
            demand(small[i][15 + i % 3000] == (char)i, "a small chunk keeps its last byte");
        free(small[i]);
    }
    for (int i = 0; i < 100; i++) {
        demand((chunks[i] = malloc(SIZE)) != NULL, "malloc works again");
        memset(chunks[i], i, SIZE);
    }
    for (int i = 0; i < 100; i++)
        free(chunks[i]);
    puts("the limit is kept");
    return 0;
}
