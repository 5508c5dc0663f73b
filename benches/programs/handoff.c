/* Producer and consumer: one thread allocates, another frees, nothing else. Chunks travel in batches
 * through a bounded ring, so that the allocator and not the ring is what is measured.
 * Up to 112 bytes glibc frees without taking the lock of the other thread's arena; with larger chunks
 * this would measure that lock. Arguments: chunks, smallest and largest size. Prints the resident
 * memory half way and at the end:
 * an allocator that never brings freed chunks back to the producer grows without bound. */
#include "common.h"
#include <pthread.h>

enum { BATCH = 256, RING = 16 };

typedef struct {
    char *chunks[BATCH];
} batch_t;

static batch_t ring[RING];
static uint64_t filled, drained;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static uint64_t batches, smallest, largest;

static void *produce(void *unused) {
    (void)unused;
    rng_t rng = rng_new(7);
    for (uint64_t number = 0; number < batches; number++) {
        pthread_mutex_lock(&lock);
        while (filled - drained == RING) {
            pthread_cond_wait(&changed, &lock);
        }
        pthread_mutex_unlock(&lock);
        batch_t *batch = &ring[number % RING];
        for (int i = 0; i < BATCH; i++) {
            uint64_t size = smallest + rng_below(&rng, largest - smallest + 1);
            batch->chunks[i] = must(malloc(size));
            batch->chunks[i][0] = (char)i;
        }
        pthread_mutex_lock(&lock);
        filled++;
        pthread_cond_signal(&changed);
        pthread_mutex_unlock(&lock);
    }
    return NULL;
}

static void *consume(void *unused) {
    (void)unused;
    for (uint64_t number = 0; number < batches; number++) {
        pthread_mutex_lock(&lock);
        while (filled == drained) {
            pthread_cond_wait(&changed, &lock);
        }
        pthread_mutex_unlock(&lock);
        batch_t *batch = &ring[number % RING];
        for (int i = 0; i < BATCH; i++) {
            if (batch->chunks[i][0] != (char)i) {
                fputs("a chunk lost its contents\n", stderr);
                abort();
            }
            free(batch->chunks[i]);
        }
        pthread_mutex_lock(&lock);
        drained++;
        pthread_cond_signal(&changed);
        pthread_mutex_unlock(&lock);
        if (number == batches / 2) {
            printf("rss_half_kib=%llu\n", (unsigned long long)status_kib("VmRSS:"));
        }
    }
    return NULL;
}

int main(int argc, char **argv) {
    batches = argument(argc, argv, 1, 10000000) / BATCH;
    smallest = argument(argc, argv, 2, 16);
    largest = argument(argc, argv, 3, 112);
    pthread_t producer, consumer;
    pthread_create(&producer, NULL, produce, NULL);
    pthread_create(&consumer, NULL, consume, NULL);
    pthread_join(producer, NULL);
    pthread_join(consumer, NULL);
    printf("rss_end_kib=%llu\n", (unsigned long long)status_kib("VmRSS:"));
    return 0;
}
