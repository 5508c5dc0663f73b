/* Grows one large chunk in small steps, as a reader's buffer grows. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>

static char *grow(size_t most) {
    size_t size = 300000;
    char *chunk = malloc(size);
    memset(chunk, 'g', size);
    while (size < most) {
        size_t next = size + size / 10;
        chunk = realloc(chunk, next);
        if (!chunk)
            exit(2);
        memset(chunk + size, 'g', next - size);
        size = next;
    }
    return chunk;
}

static long faults(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_minflt;
}

/* Another chunk was freed before. Its addresses must stay taken, so that nothing comes to lie there. */
static int quarantined(void) {
    char *volatile freed = malloc(16 << 20);
    freed[0] = 'f';
    free(freed);
    char *grown = grow(8 << 20);
    char *page = (char *)((uintptr_t)freed & ~(uintptr_t)4095);
    puts(msync(page, 4096, MS_ASYNC) == 0 ? "the addresses are taken" : "the addresses are free");
    free(grown);
    return 0;
}

/* Every page is faulted in once, where it is first written; a copy would fault its pages in again. */
static int moved(void) {
    if (prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) != 0)
        return 2;
    long before = faults();
    char *grown = grow(40 << 20);
    long pages = (44 << 20) / 4096, seen = faults() - before;
    free(grown);
    if (seen > pages + pages / 4)
        printf("%ld page faults for %ld pages\n", seen, pages);
    else
        puts("every page was faulted in once");
    return 0;
}

int main(int argc, char **argv) {
    return argc == 2 && strcmp(argv[1], "quarantined") == 0 ? quarantined() : moved();
}
