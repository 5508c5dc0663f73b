/* Ten thousand threads, or argv[1], that live for a moment; what each leaves behind, the next one frees. Memory
   does not grow with the number of threads that there have been. */
#include "threads_resident.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { AT_ONCE = 25, LEFT = 64 };

static _Atomic(char *) left[LEFT];

static void *live(void *seed) {
    unsigned state = (unsigned)(uintptr_t)seed * 2654435761u;
    char *kept[20] = {0};
    for (int i = 0; i < 100; i++) {
        state = state * 1103515245 + 12345;
        size_t size = 1 + (state >> 8) % 2000;
        free(kept[i % 20]);
        kept[i % 20] = malloc(size);
        memset(kept[i % 20], 't', size);
    }
    for (int i = 0; i < 20; i++)
        if (i % 5 == 0)
            free(atomic_exchange(&left[(state + (unsigned)i) % LEFT], kept[i]));
        else
            free(kept[i]);
    return NULL;
}

int main(int argc, char **argv) {
    long before = 0;
    int threads = argc > 1 ? atoi(argv[1]) : 10000;
    alarm(argc > 1 ? 7200 : 800);
    for (int born = 0; born < threads; born += AT_ONCE) {
        pthread_t crew[AT_ONCE];
        if (born == threads / 4)
            before = resident_kib();
        for (int i = 0; i < AT_ONCE; i++)
            if (pthread_create(&crew[i], NULL, live, (void *)(uintptr_t)(born + i)) != 0)
                return 1;
        for (int i = 0; i < AT_ONCE; i++)
            pthread_join(crew[i], NULL);
    }
    long after = resident_kib();
    for (int i = 0; i < LEFT; i++)
        free(atomic_load(&left[i]));
    if (after - before > 16 * 1024) {
        printf("grew from %ld to %ld KiB\n", before, after);
        return 1;
    }
    puts("every thread ended well");
    return 0;
}
