/* Allocates known amounts in functions of their own, so that a heap profile can be held against the names and the amounts. */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CALLED __attribute__((noinline, noclone, externally_visible))

/* Of libtestudo.so; not there without it. */
extern int testudo_heap_profile(const char *path) __attribute__((weak));
extern int testudo_check_heap(void) __attribute__((weak));

/* What follows a call keeps it from becoming a jump. */
static volatile int calls;

enum { RECORDED = 65000, SMALL = 400000, LARGE = 20, DROPPED = 800000, GROWN = 200, ALIGNED = 40000 };

static void *small[SMALL], *large[LARGE], *aligned[ALIGNED];

/* 40,000,000 bytes that stay, in chunks of three sizes. */
CALLED void keeps_small(void) {
    for (int i = 0; i < SMALL; i++) {
        small[i] = malloc(50 + i % 3 * 50);
        calls++;
    }
}

/* 20 MiB that stay, in chunks of their own mappings. */
CALLED void keeps_large(void) {
    for (int i = 0; i < LARGE; i++) {
        large[i] = malloc(1 << 20);
        calls++;
    }
}

/* 20,000,000 bytes that stay, over-aligned. */
CALLED void keeps_aligned(void) {
    for (int i = 0; i < ALIGNED; i++) {
        if (posix_memalign(&aligned[i], 256, 500) != 0) {
            abort();
        }
        calls++;
    }
}

/* 80,000,000 bytes that do not stay. */
CALLED void drops_all(void) {
    for (int i = 0; i < DROPPED; i++) {
        char *volatile chunk = malloc(100);
        chunk[0] = 1;
        free(chunk);
        calls++;
    }
}

/* Resizes within the slot, to other slots, and to a mapping. */
CALLED void resizes(void) {
    for (int i = 0; i < GROWN; i++) {
        char *chunk = malloc(10);
        for (size_t size = 11; size < 600000; size += size / 3 + 1) {
            chunk = realloc(chunk, size);
            memset(chunk, 1, size);
        }
        for (size_t size = 500000; size > 10; size = size * 2 / 3) {
            chunk = realloc(chunk, size);
            chunk[size - 1] = 1;
        }
        free(chunk);
        calls++;
    }
}

static void release_all(void) {
    for (int i = 0; i < SMALL; i++) {
        free(small[i]);
    }
    for (int i = 0; i < LARGE; i++) {
        free(large[i]);
    }
    for (int i = 0; i < ALIGNED; i++) {
        free(aligned[i]);
    }
}

static volatile int stop;

static void *allocates(void *unused) {
    (void)unused;
    void *held[64] = {0};
    for (unsigned i = 0; !stop; i++) {
        free(held[i % 64]);
        held[i % 64] = malloc(i % 3000);
    }
    for (int i = 0; i < 64; i++) {
        free(held[i]);
    }
    return NULL;
}

static int has_broken_pipe(const sigset_t *set) {
    return sigismember(set, SIGPIPE);
}

/* Asks for two profiles; whatever comes of it, no SIGPIPE is left over. */
static int asks(void) {
    sigset_t blocked, pending;
    signal(SIGPIPE, SIG_DFL);
    keeps_large();
    for (int i = 0; i < 2; i++) {
        raise(SIGUSR2);
        pthread_sigmask(SIG_BLOCK, NULL, &blocked);
        sigpending(&pending);
        if (has_broken_pipe(&blocked) || has_broken_pipe(&pending)) {
            return 1;
        }
    }
    return 0;
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    if (strcmp(what, "signals") == 0) {
        /* Profiles are asked for while four threads are changing them. */
        pthread_t threads[4];
        for (int i = 0; i < 4; i++) {
            pthread_create(&threads[i], NULL, allocates, NULL);
        }
        for (int i = 0; i < 200; i++) {
            pthread_kill(threads[i % 4], SIGUSR2);
            usleep(1000);
        }
        stop = 1;
        for (int i = 0; i < 4; i++) {
            pthread_join(threads[i], NULL);
        }
        raise(SIGUSR2);
        return 0;
    }
    if (strcmp(what, "asks") == 0) {
        return asks();
    }
    if (strcmp(what, "twice") == 0 || strcmp(what, "overflow") == 0) {
        /* As long as 64 intervals of the profile: that it goes unrecorded has a chance of 10^-28. */
        char *recorded = malloc(RECORDED);
        if (strcmp(what, "overflow") == 0) {
            recorded[RECORDED] = 1;
        }
        free(recorded);
        free(strcmp(what, "twice") == 0 ? recorded : NULL);
        return 0;
    }
    keeps_small();
    keeps_large();
    keeps_aligned();
    drops_all();
    resizes();
    for (int i = 2; i < argc; i++) {
        if (strcmp(argv[i], "released") == 0) {
            release_all();
        } else if (strcmp(argv[i], "check") == 0) {
            testudo_check_heap();
        } else if (testudo_heap_profile(argv[i]) != 0) {
            perror("testudo_heap_profile");
            return 1;
        }
    }
    return 0;
}
