/* argv[1] threads at a time, in three rounds, allocate and free small chunks of many sizes. Prints, in bytes, what is held
   back from reuse while the threads of the last round are alive, what is held back or lies ready then, and the same after they
   have ended. */
#include "../../preload/include/testudo.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#pragma weak testudo_stats

enum { MOST = 128, CHUNKS = 64, SIZES = 2000 };

static pthread_barrier_t all_are_done, all_may_end;

static void *work(void *unused) {
    (void)unused;
    char *held[CHUNKS] = {0};
    for (unsigned i = 0; i < 20000; i++) {
        unsigned draw = i * 2654435761U >> 8;
        char **place = &held[draw % CHUNKS];
        size_t size = 1 + draw / CHUNKS % SIZES;
        free(*place);
        if (!(*place = malloc(size))) {
            puts("malloc refused");
            exit(1);
        }
        memset(*place, 1, size);
    }
    for (int i = 0; i < CHUNKS; i++) free(held[i]);
    pthread_barrier_wait(&all_are_done);
    pthread_barrier_wait(&all_may_end);
    return NULL;
}

int main(int argc, char **argv) {
    static pthread_t threads[MOST];
    alarm(800);
    unsigned count = argc > 1 ? (unsigned)atoi(argv[1]) : 0;
    if (count < 1 || count > MOST) return 2;
    pthread_barrier_init(&all_are_done, NULL, count + 1);
    pthread_barrier_init(&all_may_end, NULL, count + 1);
    struct testudo_stats during, after;
    for (int round = 0; round < 3; round++) {
        for (unsigned i = 0; i < count; i++)
            if (pthread_create(&threads[i], NULL, work, NULL)) return 3;
        pthread_barrier_wait(&all_are_done);
        testudo_stats(&during);
        pthread_barrier_wait(&all_may_end);
        for (unsigned i = 0; i < count; i++) pthread_join(threads[i], NULL);
    }
    testudo_stats(&after);
    printf("%zu %zu %zu\n", during.quarantined, during.quarantined + during.cached, after.quarantined + after.cached);
    return 0;
}
