/* Two threads that ask for over-aligned chunks. One shares its processor with a thread that does nothing else than be in its way, so
 * that it is interrupted anywhere and for long, while the other, and one that verifies the heap, go on elsewhere. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { SECONDS = 3, KEPT = 16 };

static atomic_int stop;
static int processors[2];

static void go_to(int which) {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(processors[which], &one);
    sched_setaffinity(0, sizeof one, &one);
}

static void *allocate(void *number) {
    uint32_t state = (uint32_t)(uintptr_t)number * 7919 + 1;
    char *kept[KEPT] = {0};
    go_to((int)(uintptr_t)number);
    while (!atomic_load(&stop)) {
        state = state * 1103515245 + 12345;
        char **place = &kept[(state >> 16) % KEPT];
        free(*place);
        *place = aligned_alloc(4096, 100);
    }
    for (int i = 0; i < KEPT; i++) free(kept[i]);
    return NULL;
}

static void *be_in_the_way(void *unused) {
    go_to(0);
    while (!atomic_load(&stop)) continue;
    return unused;
}

static void find_processors(void) {
    cpu_set_t all;
    int found = 0;
    sched_getaffinity(0, sizeof all, &all);
    for (int i = 0; i < CPU_SETSIZE && found < 2; i++)
        if (CPU_ISSET(i, &all)) processors[found++] = i;
    if (found == 1) processors[1] = processors[0];
}

int main(void) {
    pthread_t crew[3];
    int (*check_heap)(void) = (int (*)(void))dlsym(RTLD_DEFAULT, "testudo_check_heap");
    alarm(800);
    find_processors();
    if (pthread_create(&crew[0], NULL, allocate, (void *)0) != 0 || pthread_create(&crew[1], NULL, allocate, (void *)1) != 0
        || pthread_create(&crew[2], NULL, be_in_the_way, NULL) != 0)
        return 1;
    go_to(1);
    for (time_t end = time(NULL) + SECONDS; time(NULL) < end;) check_heap();
    atomic_store(&stop, 1);
    for (int i = 0; i < 3; i++) pthread_join(crew[i], NULL);
    puts("every audit passed");
    return 0;
}
