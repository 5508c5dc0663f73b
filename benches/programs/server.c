/* A server: each worker owns a table of live requests and replaces them at random. After a share of
 * its work it ends and a fresh thread takes over the table, so that most chunks are freed by another
 * thread than the one that allocated them. The question Larson and Krishnan asked in 1998.
 * Arguments: replacements in all, threads, requests a table, smallest and largest size, generations. */
#include "common.h"
#include <pthread.h>

typedef struct {
    char **table;
    uint64_t slots, smallest, largest, work, generations;
    rng_t rng;
} worker_t;

static void *serve(void *argument_) {
    worker_t *worker = argument_;
    rng_t rng = worker->rng;
    uint64_t span = worker->largest - worker->smallest + 1;
    for (uint64_t i = 0; i < worker->work; i++) {
        uint64_t slot = rng_below(&rng, worker->slots);
        uint64_t size = worker->smallest + rng_below(&rng, span);
        char *old = worker->table[slot];
        if (old != NULL) {
            if (old[0] != (char)slot) {
                fputs("a request lost its contents\n", stderr);
                abort();
            }
            free(old);
        }
        char *request = must(malloc(size));
        request[0] = (char)slot;
        request[size - 1] = (char)slot;
        worker->table[slot] = request;
    }
    worker->rng = rng;
    if (--worker->generations > 0) {
        pthread_t heir;
        if (pthread_create(&heir, NULL, serve, worker) != 0) {
            abort();
        }
        return (void *)heir;
    }
    return NULL;
}

int main(int argc, char **argv) {
    uint64_t total = argument(argc, argv, 1, 10000000);
    uint64_t threads = argument(argc, argv, 2, 2);
    uint64_t slots = argument(argc, argv, 3, 5000);
    uint64_t smallest = argument(argc, argv, 4, 8);
    uint64_t largest = argument(argc, argv, 5, 1000);
    uint64_t generations = argument(argc, argv, 6, 20);
    worker_t *workers = must(calloc(threads, sizeof *workers));
    pthread_t *handles = must(calloc(threads, sizeof *handles));
    double start = seconds();
    for (uint64_t t = 0; t < threads; t++) {
        workers[t] = (worker_t){.table = must(calloc(slots, sizeof(char *))),
                                .slots = slots,
                                .smallest = smallest,
                                .largest = largest,
                                .work = total / threads / generations,
                                .generations = generations,
                                .rng = rng_new(t)};
        pthread_create(&handles[t], NULL, serve, &workers[t]);
    }
    for (uint64_t t = 0; t < threads; t++) {
        pthread_t current = handles[t];
        while (current != 0) {
            void *heir = NULL;
            pthread_join(current, &heir);
            current = (pthread_t)heir;
        }
        for (uint64_t slot = 0; slot < slots; slot++) {
            free(workers[t].table[slot]);
        }
        free(workers[t].table);
    }
    printf("operations_per_second=%.0f\n", (double)total / (seconds() - start));
    free(workers);
    free(handles);
    return 0;
}
