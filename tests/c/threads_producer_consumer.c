/* One thread allocates, the other frees, three million times: what the consumer frees goes back to
   the producer, and resident memory does not grow. */
#include "threads_resident.h"
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PLACES = 1024, CHUNKS = 3000000 };

static _Atomic(char *) ring[PLACES];

static size_t size_of(long number) {
    return number % 10000 == 0 ? 300000 : 16 + (size_t)(number % 37) * 8;
}

static void *consume(void *unused) {
    for (long number = 0; number < CHUNKS; number++) {
        char *chunk;
        while (!(chunk = atomic_exchange(&ring[number % PLACES], NULL)))
            sched_yield();
        if (chunk[0] != (char)number || chunk[size_of(number) - 1] != 'e')
            exit(1);
        free(chunk);
    }
    return unused;
}

int main(void) {
    pthread_t consumer;
    long before = 0;
    alarm(800);
    if (pthread_create(&consumer, NULL, consume, NULL) != 0)
        return 1;
    for (long number = 0; number < CHUNKS; number++) {
        if (number == CHUNKS / 10)
            before = resident_kib();
        char *chunk = malloc(size_of(number));
        chunk[0] = (char)number;
        chunk[size_of(number) - 1] = 'e';
        while (atomic_load(&ring[number % PLACES]))
            sched_yield();
        atomic_store(&ring[number % PLACES], chunk);
    }
    pthread_join(consumer, NULL);
    long after = resident_kib();
    if (after - before > 16 * 1024) {
        printf("grew from %ld to %ld KiB\n", before, after);
        return 1;
    }
    puts("memory came back");
    return 0;
}
