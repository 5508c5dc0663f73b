/* Sixteen threads hand chunks to each other through shared places; each chunk is written by the one
   that allocates it and checked by the one that frees it. No byte of one is ever in another. */
#include "threads_resident.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { THREADS = 16, PLACES = 2048, ROUNDS = 60000 };

struct chunk {
    uint32_t size, mark;
};

static _Atomic(struct chunk *) places[PLACES];

static void check_and_free(struct chunk *chunk) {
    if (!chunk)
        return;
    unsigned char *bytes = (unsigned char *)(chunk + 1);
    for (uint32_t i = 0; i < chunk->size; i++)
        if (bytes[i] != (unsigned char)chunk->mark) {
            printf("byte %u of %u is %#x, not %#x\n", i, chunk->size, bytes[i], chunk->mark);
            exit(1);
        }
    free(chunk);
}

static void *storm(void *seed) {
    uint32_t state = (uint32_t)(uintptr_t)seed * 2654435761u;
    for (int round = 0; round < ROUNDS; round++) {
        state = state * 1103515245 + 12345;
        uint32_t size = (state >> 8) % (round % 1000 == 0 ? 400000 : round % 50 == 0 ? 9000 : 300);
        struct chunk *chunk = malloc(sizeof *chunk + size);
        if (!chunk)
            exit(1);
        *chunk = (struct chunk){size, state & 0xff};
        memset(chunk + 1, (int)chunk->mark, size);
        check_and_free(atomic_exchange(&places[(state >> 16) % PLACES], chunk));
    }
    return NULL;
}

int main(void) {
    pthread_t crew[THREADS];
    alarm(800);
    for (uintptr_t i = 0; i < THREADS; i++)
        if (pthread_create(&crew[i], NULL, storm, (void *)(i + 1)) != 0)
            return 1;
    for (int i = 0; i < THREADS; i++)
        pthread_join(crew[i], NULL);
    for (int i = 0; i < PLACES; i++)
        check_and_free(atomic_load(&places[i]));
    if (resident_kib() > 400 * 1024) {
        printf("%ld KiB resident\n", resident_kib());
        return 1;
    }
    puts("every chunk was whole");
    return 0;
}
