/* Many short-lived threads, a few at a time, each doing a small piece of work with the heap and
 * leaving one result for the main thread to free. Arguments: threads in all, threads at a time,
 * allocations a thread. */
#include "common.h"
#include <pthread.h>

static uint64_t allocations;

static void *work(void *seed) {
    rng_t rng = rng_new((uintptr_t)seed);
    char *live[32] = {0};
    for (uint64_t i = 0; i < allocations; i++) {
        char **place = &live[rng_next(&rng) % 32];
        free(*place);
        uint64_t size = 16 + rng_below(&rng, 1000);
        *place = must(malloc(size));
        (*place)[0] = 1;
        (*place)[size - 1] = 1;
    }
    for (int i = 0; i < 32; i++) {
        free(live[i]);
    }
    return must(malloc(100));
}

int main(int argc, char **argv) {
    uint64_t total = argument(argc, argv, 1, 20000);
    uint64_t together = argument(argc, argv, 2, 8);
    allocations = argument(argc, argv, 3, 500);
    pthread_t handles[256];
    if (together > 256) {
        together = 256;
    }
    for (uint64_t started = 0; started < total; started += together) {
        for (uint64_t t = 0; t < together; t++) {
            if (pthread_create(&handles[t], NULL, work, (void *)(uintptr_t)(started + t)) != 0) {
                abort();
            }
        }
        for (uint64_t t = 0; t < together; t++) {
            void *result;
            pthread_join(handles[t], &result);
            free(result);
        }
    }
    return 0;
}
