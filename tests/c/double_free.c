/* Frees one chunk twice, before it is handed out again, in every way that tends to slip through. */
#define _GNU_SOURCE
#include "driver.h"

#include <malloc.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static char *filled(size_t size) {
    char *p = malloc(size);
    if (size) fill(p, 0x53, size);
    note_subject(p);
    return p;
}

static void free_again(struct trial t, void *p) {
    if (!t.bug) return;
    at_the_bug();
    free(p);
    missed();
}

static void at_once(struct trial t) {
    settle(t.size);
    char *p = filled(t.size);
    free(p);
    free_again(t, p);
}

static void interleaved(struct trial t) {
    char *p = filled(t.size), *q = malloc(t.size), *r = malloc(t.size);
    note_subject(p);
    free(p);
    free(q);
    free_again(t, p);
    free(r);
}

static void calloced(struct trial t) {
    char *p = calloc(1, t.size);
    note_subject(p);
    free(p);
    free_again(t, p);
}

/* a: the alignment */
static void aligned(struct trial t) {
    settle(t.size);
    char *p = memalign((size_t)t.a, t.size);
    note_subject(p);
    free(p);
    free_again(t, p);
}

static size_t another_size(size_t size) {
    for (;;) {
        size_t other = 1 + dice(800);
        if (other > size + size / 2 + 32 || other + other / 2 + 32 < size) return other;
    }
}

/* No chunk is allocated between the two frees, so that the first cannot have been handed out again. */
static void after_frees(struct trial t, bool same_size) {
    static void *others[4000];
    size_t count = same_size ? enough(t.size, 4 << 20, 50, 4000) : 3000;
    for (size_t i = 0; i < count; i++) others[i] = malloc(same_size ? t.size : another_size(t.size));
    char *p = filled(t.size);
    free(p);
    for (size_t i = 0; i < count; i++) free(others[i]);
    free_again(t, p);
}

static void after_frees_of_other_sizes(struct trial t) { after_frees(t, false); }
static void after_frees_of_the_same_size(struct trial t) { after_frees(t, true); }

static void after_traffic_of_other_sizes(struct trial t) {
    char *p = filled(t.size);
    free(p);
    for (int i = 0; i < 3000; i++) {
        char *other = malloc(another_size(t.size));
        if (other == p) moot();
        free(other);
    }
    free_again(t, p);
}

/* Chunks of the same size come and go; should the freed one be handed out again, it is no bug. Of
 * larger chunks fewer are kept from reuse, so there is less traffic. */
static void after_traffic_of_the_same_size(struct trial t) {
    char *p = filled(t.size);
    free(p);
    size_t rounds = t.size <= 100 ? 1 + dice(5) : 1;
    for (size_t i = 0; i < rounds; i++) {
        char *other = malloc(t.size);
        if (other == p && t.bug) moot();
        free(other);
    }
    free_again(t, p);
}

static void after_trim(struct trial t) {
    static char *chunks[4000];
    size_t count = enough(t.size, 4 << 20, 50, 4000);
    for (size_t i = 0; i < count; i++) chunks[i] = malloc(t.size);
    char *p = chunks[dice((uint32_t)count)];
    note_subject(p);
    for (size_t i = 0; i < count; i++) free(chunks[i]);
    malloc_trim(0);
    free_again(t, p);
}

static void after_realloc_moved_it(struct trial t) {
    char *p = filled(t.size);
    char *moved = realloc(p, t.size * 8 + 64);
    if (moved == p) moot();
    note_subject(p);
    free_again(t, p);
    free(moved);
}

static void *free_it(void *p) {
    free(p);
    return NULL;
}

static void in_a_thread(void *(*what)(void *), void *argument, void **result) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, what, argument)) broken("no thread");
    if (pthread_join(thread, result)) broken("no join");
}

static void again_in_another_thread(struct trial t) {
    char *p = filled(t.size);
    free(p);
    at_the_bug();
    if (t.bug) {
        in_a_thread(free_it, p, NULL);
        missed();
    }
}

static void freed_by_a_thread_that_ended(struct trial t) {
    char *p = filled(t.size);
    in_a_thread(free_it, p, NULL);
    free_again(t, p);
}

static void *allocate_and_free(void *size) {
    char *p = filled((size_t)size);
    free(p);
    return p;
}

static void of_a_thread_that_ended(struct trial t) {
    void *p;
    in_a_thread(allocate_and_free, (void *)t.size, &p);
    free_again(t, p);
}

/* Two threads free the same chunk in the same instant. */
static struct {
    struct trial t;
    char *chunk;
    atomic_int started, freed;
} race;

static void meet(atomic_int *arrived) {
    atomic_fetch_add(arrived, 1);
    while (atomic_load(arrived) < 2) sched_yield();
}

/* After the race both go on. Each writes its mark into what it is given and looks for it before it
 * gives it back: another mark means that one slot was handed out twice at once. */
static void traffic(uintptr_t me, size_t size) {
    enum { WINDOW = 32 };
    char *window[WINDOW] = {0};
    uint64_t marks[WINDOW];
    size_t rounds = race.t.bug ? enough(size, 64 << 20, 200, 100000) : 200;
    for (size_t i = 0; i < rounds; i++) {
        size_t at = i % WINDOW;
        if (window[at]) {
            if (memcmp(window[at], &marks[at], 8)) broken("one slot was handed out twice at once");
            free(window[at]);
        }
        marks[at] = me << 56 | i;
        window[at] = malloc(size);
        memcpy(window[at], &marks[at], 8);
    }
    for (size_t at = 0; at < WINDOW; at++) free(window[at]);
}

static void *racer(void *me) {
    meet(&race.started);
    if (me == (void *)1 || race.t.bug) free(race.chunk);
    /* Were one thread to go on alone, it could be given the chunk again, and the other's late free
     * would be the free of a live chunk. */
    meet(&race.freed);
    if (!race.t.a) traffic((uintptr_t)me, race.t.size);
    return NULL;
}

/* a: whether the second free itself has to abort, without any later call */
static void by_two_threads(struct trial t) {
    settle(t.size);
    race.t = t;
    race.chunk = filled(t.size);
    at_the_bug();
    pthread_t other;
    if (pthread_create(&other, NULL, racer, (void *)2)) broken("no thread");
    racer((void *)1);
    pthread_join(other, NULL);
    if (t.bug) missed();
}

const struct attack attacks[] = {
    {"at_once", at_once},
    {"interleaved", interleaved},
    {"calloced", calloced},
    {"aligned_to_64", aligned, 64},
    {"aligned_to_4096", aligned, 4096},
    {"after_frees_of_other_sizes", after_frees_of_other_sizes},
    {"after_frees_of_the_same_size", after_frees_of_the_same_size},
    {"after_traffic_of_other_sizes", after_traffic_of_other_sizes},
    {"after_traffic_of_the_same_size", after_traffic_of_the_same_size},
    {"after_trim", after_trim},
    {"after_realloc_moved_it", after_realloc_moved_it},
    {"again_in_another_thread", again_in_another_thread},
    {"freed_by_a_thread_that_ended", freed_by_a_thread_that_ended},
    {"of_a_thread_that_ended", of_a_thread_that_ended},
    {"race_then_traffic", by_two_threads, 0},
    {"race_and_nothing_else", by_two_threads, 1},
    {0},
};
