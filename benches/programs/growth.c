/* One large block that grows by realloc, step by step. Counts the page faults of the whole growth, and how many bytes were
 * copied: a page that was moved by remapping keeps its page frame, a copied one has another. (Only root may read page
 * frames; for others -1 is printed.) Arguments: final size in MiB, step in MiB, whether every page is written or only
 * one byte a step. */
#include "common.h"
#include <sys/resource.h>

enum { SAMPLES = 16 };

static uint64_t faults(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (uint64_t)usage.ru_minflt;
}

/* The page frame behind an address; 0 when the kernel does not tell. */
static uint64_t frame(int pagemap, const char *address) {
    uint64_t entry = 0;
    if (pread(pagemap, &entry, sizeof entry, (off_t)((uintptr_t)address / 4096 * 8)) != sizeof entry) {
        return 0;
    }
    return entry & ((1ull << 55) - 1);
}

int main(int argc, char **argv) {
    size_t last = (size_t)argument(argc, argv, 1, 1024) << 20;
    size_t step = (size_t)argument(argc, argv, 2, 4) << 20;
    int every_page = (int)argument(argc, argv, 3, 1);
    int pagemap = open("/proc/self/pagemap", O_RDONLY);
    int told = 0;
    uint64_t copied = 0, steps = 0, before = faults();
    size_t size = step;
    char *block = must(malloc(size));
    for (size_t at = 0; at < size; at += every_page ? 4096 : size) {
        block[at] = 1;
    }
    while (size < last) {
        /* Only pages that were written have frames: with one byte a step these are the first of each step. */
        uint64_t frames[SAMPLES];
        size_t places[SAMPLES];
        for (int i = 0; i < SAMPLES; i++) {
            places[i] = size / SAMPLES * (size_t)i / step * step;
            frames[i] = frame(pagemap, block + places[i]);
            told |= frames[i] != 0;
        }
        size_t larger = size + step;
        block = must(realloc(block, larger));
        unsigned other = 0;
        for (int i = 0; i < SAMPLES; i++) {
            other += frames[i] != 0 && frame(pagemap, block + places[i]) != frames[i];
        }
        copied += size / SAMPLES * other;
        for (size_t at = size; at < larger; at += every_page ? 4096 : step) {
            block[at] = 1;
        }
        size = larger;
        steps++;
    }
    printf("faults=%llu\n", (unsigned long long)(faults() - before));
    printf("steps=%llu\n", (unsigned long long)steps);
    printf("copied_mib=%lld\n", told ? (long long)(copied >> 20) : -1ll);
    free(block);
    return 0;
}
