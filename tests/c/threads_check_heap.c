/* More threads than there are marks for thread caches, all busy, while those born last verify the heap. */
#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { THREADS = 290, AUDITORS = 30, AUDITS = 40 };

static atomic_int stop, audits;
static pthread_barrier_t all_have_caches;

static void *work(void *number) {
    uint32_t state = (uint32_t)(uintptr_t)number * 2654435761u;
    char *kept[16] = {0};
    int (*check_heap)(void) = (int (*)(void))dlsym(RTLD_DEFAULT, "testudo_check_heap");
    free(malloc(100));
    pthread_barrier_wait(&all_have_caches);
    int auditor = (int)(uintptr_t)number >= THREADS - AUDITORS;
    for (unsigned round = 1; !atomic_load(&stop); round++) {
        state = state * 1103515245 + 12345;
        char **place = &kept[(state >> 8) % 16];
        free(*place);
        *place = malloc(1 + (state >> 16) % 3000);
        if (auditor && round % 50 == 0) {
            check_heap();
            if (atomic_fetch_add(&audits, 1) >= AUDITS)
                atomic_store(&stop, 1);
        }
    }
    for (int i = 0; i < 16; i++)
        free(kept[i]);
    return NULL;
}

int main(void) {
    pthread_t crew[THREADS];
    alarm(800);
    pthread_barrier_init(&all_have_caches, NULL, THREADS);
    for (uintptr_t i = 0; i < THREADS; i++)
        if (pthread_create(&crew[i], NULL, work, (void *)i) != 0)
            return 1;
    for (int i = 0; i < THREADS; i++)
        pthread_join(crew[i], NULL);
    puts("every audit passed");
    return 0;
}
