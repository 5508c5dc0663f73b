/* A spike followed by quiet: the program fills so many MiB with chunks of mixed sizes, keeps one in
 * 200, frees the rest and then idles, doing a little work each 100 ms as a server at night would.
 * Arguments: MiB, seconds of quiet. Prints resident and live memory after each step. */
#include "common.h"
#include <malloc.h>

static void report(const char *when) {
    printf("rss_%s_kib=%llu\n", when, (unsigned long long)status_kib("VmRSS:"));
}

int main(int argc, char **argv) {
    uint64_t goal = argument(argc, argv, 1, 2048) << 20;
    uint64_t quiet = argument(argc, argv, 2, 0);
    rng_t rng = rng_new(5);
    size_t room = goal / 1000;
    char **chunks = must(malloc(room * sizeof *chunks));
    size_t count = 0;
    uint64_t bytes = 0;
    while (bytes < goal && count < room) {
        uint64_t size = rng_next(&rng) % 16 != 0 ? 16 + rng_below(&rng, 1008) : 4096 + rng_below(&rng, 16384);
        chunks[count] = must(malloc(size));
        memset(chunks[count], 1, size);
        bytes += size;
        count++;
    }
    report("spike");
    uint64_t live = count * sizeof *chunks;
    size_t kept = 0;
    for (size_t i = 0; i < count; i++) {
        /* What survives is neighbours, as things allocated together live together. */
        if (i / 1000 % 200 == 0) {
            live += malloc_usable_size(chunks[i]);
            chunks[kept++] = chunks[i];
        } else {
            free(chunks[i]);
        }
    }
    report("freed");
    for (uint64_t tenth = 0; tenth < quiet * 10; tenth++) {
        struct timespec pause = {0, 100000000};
        nanosleep(&pause, NULL);
        for (int i = 0; i < 100; i++) {
            void *chunk = must(malloc(16 + rng_below(&rng, 500)));
            keep(chunk);
            free(chunk);
        }
    }
    if (quiet > 0) {
        report("quiet");
        malloc_trim(0);
        report("trimmed");
    }
    printf("live_kib=%llu\n", (unsigned long long)(live >> 10));
    for (size_t i = 0; i < kept; i++) {
        free(chunks[i]);
    }
    free(chunks);
    return 0;
}
