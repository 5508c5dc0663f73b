/* Threads cancelled while they allocate and wait by turns. Their clean-up handlers free what they
   held; the allocator is no cancellation point, so no lock of it stays taken. */
#include "threads_resident.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>

enum { THREADS = 200 };

static atomic_int cleaned, started;

struct life {
    char *held;
    unsigned state;
};

static void release(void *life) {
    free(((struct life *)life)->held);
    atomic_fetch_add(&cleaned, 1);
}

static void allocate_for_ever(struct life *life) {
    atomic_fetch_add(&started, 1);
    for (;;) {
        for (int i = 0; i < 200; i++) {
            life->state = life->state * 1103515245 + 12345;
            size_t size = (life->state >> 8) % (i % 100 == 0 ? 600000 : 900);
            char *other = malloc(size + 1);
            other[size] = 'o';
            free(life->held);
            life->held = other;
        }
        pthread_testcancel();
    }
}

static void *live(void *seed) {
    struct life life = {NULL, (unsigned)(uintptr_t)seed * 2654435761u};
    pthread_cleanup_push(release, &life);
    allocate_for_ever(&life);
    pthread_cleanup_pop(1);
    return NULL;
}

int main(void) {
    long before = 0;
    alarm(800);
    for (int born = 0; born < THREADS; born += 10) {
        pthread_t crew[10];
        if (born == THREADS / 4)
            before = resident_kib();
        for (int i = 0; i < 10; i++)
            if (pthread_create(&crew[i], NULL, live, (void *)(uintptr_t)(born + i)) != 0)
                return 1;
        while (atomic_load(&started) < born + 10)
            free(malloc(50));
        for (int i = 0; i < 10; i++) {
            void *result;
            pthread_cancel(crew[i]);
            if (pthread_join(crew[i], &result) != 0 || result != PTHREAD_CANCELED)
                return 1;
        }
    }
    if (atomic_load(&cleaned) != THREADS || resident_kib() - before > 16 * 1024) {
        printf("%d cleaned, from %ld to %ld KiB\n", cleaned, before, resident_kib());
        return 1;
    }
    puts("every thread was cleaned up");
    return 0;
}
