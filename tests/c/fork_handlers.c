/* Fork handlers that were registered before the allocator's, which therefore run between those and the fork, and allocate and free on both
 * sides. A thread allocates meanwhile. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { FORKS = 50, KEPT = 64 };

static atomic_int stop;
static char *kept[KEPT];

static void allocate_and_free(void) {
    for (int i = 0; i < KEPT; i++) {
        free(kept[i]);
        size_t size = 1 + (size_t)i * i * 150;
        kept[i] = malloc(size);
        if (!kept[i]) abort();
        memset(kept[i], i, size);
    }
    free(calloc(1, 3000000));
}

__attribute__((constructor(101))) static void first_of_all(void) {
    pthread_atfork(allocate_and_free, allocate_and_free, allocate_and_free);
}

static void *allocate(void *unused) {
    for (unsigned i = 1; !atomic_load(&stop); i++) free(malloc(i * 7919 % 400000));
    return unused;
}

int main(void) {
    pthread_t other;
    alarm(800);
    if (pthread_create(&other, NULL, allocate, NULL) != 0) return 1;
    for (int i = 0; i < FORKS; i++) {
        pid_t child = fork();
        if (child == 0) {
            alarm(800);
            allocate_and_free();
            _exit(0);
        }
        int status = 0;
        if (child < 0 || waitpid(child, &status, 0) != child || status != 0) return 2;
    }
    atomic_store(&stop, 1);
    pthread_join(other, NULL);
    puts("every handler allocated");
    return 0;
}
