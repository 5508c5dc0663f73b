/* Two threads give the same chunk to the allocator in the same instant, and one of the two calls is realloc. One of them has
 * lost its right to the chunk when it comes; no slot or mapping may end up in two hands. */
#define _GNU_SOURCE
#include "driver.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* b: what the second thread does, c: by how much the first resizes, in per cent */
enum { FREE, REALLOC };

static struct {
    struct trial t;
    char *chunk, *result[2];
    atomic_int started, done;
} race;

static void meet(atomic_int *arrived) {
    atomic_fetch_add(arrived, 1);
    while (atomic_load(arrived) < 2)
        if (race.t.repetition % 2) sched_yield();
}

static size_t other_size(size_t size, long percent) {
    size_t other = size * (size_t)percent / 100;
    return other ? other : 1;
}

/* Both go on: each marks what it is given and looks for the mark before it gives it back. */
static void traffic(uintptr_t me, size_t size) {
    enum { WINDOW = 32 };
    char *window[WINDOW] = {0};
    uint64_t marks[WINDOW];
    size_t rounds = race.t.bug ? enough(size, 64 << 20, 200, 50000) : 200;
    for (size_t i = 0; i < rounds; i++) {
        size_t at = i % WINDOW;
        if (window[at]) {
            if (memcmp(window[at], &marks[at], 8)) broken("one chunk was handed out twice at once");
            free(window[at]);
        }
        marks[at] = me << 56 | i;
        window[at] = malloc(size);
        memcpy(window[at], &marks[at], 8);
    }
    for (size_t at = 0; at < WINDOW; at++) free(window[at]);
}

static void *racer(void *who) {
    uintptr_t me = (uintptr_t)who;
    meet(&race.started);
    /* The second comes a little later each time, so that it meets every part of the first one's call. */
    if (me == 2)
        for (volatile unsigned i = 0; i < race.t.repetition * 7 % 400; i++);
    if (me == 1) race.result[0] = realloc(race.chunk, other_size(race.t.size, race.t.c));
    else if (race.t.bug && race.t.b == FREE) free(race.chunk);
    else if (race.t.bug) race.result[1] = realloc(race.chunk, other_size(race.t.size, race.t.c + 7));
    meet(&race.done);
    traffic(me, race.t.size);
    return NULL;
}

static void *free_of_no_bytes(void *who) {
    meet(&race.started);
    if ((uintptr_t)who == 1 || race.t.bug) free(race.chunk);
    return NULL;
}

/* A chunk of no bytes has no contents to look at: the later free must not pass. */
static void zero_sized_twice_at_once(struct trial t) {
    race.t = t;
    race.chunk = malloc(0);
    note_subject(race.chunk);
    at_the_bug();
    pthread_t other;
    if (pthread_create(&other, NULL, free_of_no_bytes, (void *)2)) broken("no thread");
    free_of_no_bytes((void *)1);
    pthread_join(other, NULL);
    if (t.bug) missed();
}

static void realloc_races(struct trial t) {
    settle(t.size);
    race.t = t;
    race.chunk = malloc(t.size);
    fill(race.chunk, 0x53, t.size);
    note_subject(race.chunk);
    at_the_bug();
    pthread_t other;
    if (pthread_create(&other, NULL, racer, (void *)2)) broken("no thread");
    racer((void *)1);
    pthread_join(other, NULL);
    if (!t.bug) free(race.result[0]);
    if (!t.bug) return;
    /* What each was given is its own; were it one chunk, this is the moment at the latest. */
    free(race.result[0]);
    free(race.result[1]);
    missed();
}

const struct attack attacks[] = {
    {"free_against_growing", realloc_races, 0, FREE, 300},
    {"free_against_shrinking", realloc_races, 0, FREE, 60},
    {"free_against_resizing_in_place", realloc_races, 0, FREE, 97},
    {"growing_against_growing", realloc_races, 0, REALLOC, 300},
    {"resizing_in_place_twice", realloc_races, 0, REALLOC, 90},
    {"zero_sized_twice_at_once", zero_sized_twice_at_once},
    {0},
};
