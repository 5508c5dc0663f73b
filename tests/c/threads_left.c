/* Hundreds of threads at once, and never again: what each had of its own goes back to the system, at once when that is asked
   for and after a while by itself, and those that come later do not notice. */
#include "threads_resident.h"
#include <malloc.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { THREADS = 600, KINDS = 40, MOST_KIB = 20 * 1024 };

static pthread_barrier_t all_there;

static void *live(void *unused) {
    (void)unused;
    char *kept[KINDS];
    for (int i = 0; i < KINDS; i++) {
        size_t size = 1 + (size_t)i * 50;
        kept[i] = malloc(size);
        memset(kept[i], 't', size);
    }
    pthread_barrier_wait(&all_there);
    for (int i = 0; i < KINDS; i++) {
        for (size_t at = 0; at < 1 + (size_t)i * 50; at++)
            if (kept[i][at] != 't')
                abort();
        free(kept[i]);
    }
    return NULL;
}

static int crowd(void) {
    static pthread_t threads[THREADS];
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 65536);
    pthread_barrier_init(&all_there, NULL, THREADS);
    for (int i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], &attributes, live, NULL) != 0)
            return 1;
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    return 0;
}

int main(void) {
    alarm(300);
    long before = resident_kib();
    if (crowd())
        return 1;
    malloc_trim(0);
    long trimmed = resident_kib();
    if (trimmed - before > MOST_KIB) {
        printf("grew from %ld to %ld KiB, trimmed\n", before, trimmed);
        return 1;
    }
    for (int round = 0; round < 3; round++)
        if (crowd())
            return 1;
    /* Until the alarm. */
    while (resident_kib() - before > MOST_KIB) {
        struct timespec moment = {0, 20 * 1000 * 1000};
        nanosleep(&moment, NULL);
        for (int i = 0; i < 500; i++)
            free(malloc((size_t)i));
    }
    if (crowd())
        return 1;
    puts("what threads leave went back");
    return 0;
}
