/* Destructors of thread-specific data that allocate, free and set their key again, in every round
   that POSIX grants: some of them run after the allocator's own thread state is gone. */
#include "threads_resident.h"
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { KEYS = 20, THREADS = 2000 };

static pthread_key_t keys[KEYS];
static atomic_long calls;

struct value {
    int key, rounds;
    char *text;
};

static void destroy(void *data) {
    struct value *old = data;
    atomic_fetch_add(&calls, 1);
    if (strcmp(old->text, "text of a value") != 0)
        abort();
    if (old->rounds + 1 < PTHREAD_DESTRUCTOR_ITERATIONS) {
        struct value *next = malloc(sizeof *next);
        *next = *old;
        next->rounds++;
        next->text = strdup(old->text);
        pthread_setspecific(next->key, next);
    }
    free(old->text);
    free(old);
    char *large = malloc(300000);
    large[299999] = 'l';
    free(realloc(malloc(10), 5000));
    free(large);
}

static void *live(void *unused) {
    for (int i = 0; i < KEYS; i++) {
        struct value *value = calloc(1, sizeof *value);
        value->key = (int)keys[i];
        value->text = strdup("text of a value");
        pthread_setspecific(keys[i], value);
    }
    return unused;
}

int main(void) {
    alarm(800);
    /* Some keys are older than the first thread that allocates, some younger. */
    for (int i = 0; i < KEYS / 2; i++)
        pthread_key_create(&keys[i], destroy);
    free(malloc(100));
    for (int i = KEYS / 2; i < KEYS; i++)
        pthread_key_create(&keys[i], destroy);
    long before = 0;
    for (int born = 0; born < THREADS; born++) {
        pthread_t thread;
        if (born == THREADS / 4)
            before = resident_kib();
        if (pthread_create(&thread, NULL, live, NULL) != 0 || pthread_join(thread, NULL) != 0)
            return 1;
    }
    long after = resident_kib();
    if (atomic_load(&calls) != (long)THREADS * KEYS * PTHREAD_DESTRUCTOR_ITERATIONS) {
        printf("%ld calls\n", atomic_load(&calls));
        return 1;
    }
    if (after - before > 16 * 1024) {
        printf("grew from %ld to %ld KiB\n", before, after);
        return 1;
    }
    puts("every destructor ran");
    return 0;
}
