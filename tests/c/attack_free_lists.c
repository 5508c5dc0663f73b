/* Techniques that turn a write into freed memory, or a second free, into a pointer of the attacker's choice. They were
 * published against glibc's bins and tcache, Scudo's batches and quarantine, and free lists of other allocators. */
#define _GNU_SOURCE
#include "driver.h"

#include <malloc.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

/* What the attacker wants to be given, or to have written to: dressed as a free chunk of glibc's, so that only the
 * allocator's own checks can stand in the way. */
static _Alignas(16) uint64_t target[64];

static void dress_target(size_t size) {
    target[8] = 0;
    target[9] = (size + 24) & ~(size_t)15 | 1;
    target[10] = target[11] = (uint64_t)&target[8];
}

static bool is_target(const void *p) {
    return (uintptr_t)p >= (uintptr_t)target && (uintptr_t)p < (uintptr_t)(target + 64);
}

static void must_be_untouched(const uint64_t *before) {
    if (memcmp(before, target, sizeof target)) broken("the allocator wrote where the attacker pointed");
}

static char *chunk(size_t size) {
    char *p = malloc(size);
    fill(p, 0x53, size);
    return p;
}

/* Allocates until the chunk that was written to would have to come back, or the attacker's target comes. */
static void harvest(struct trial t, const char *poisoned) {
    uint64_t before[64];
    memcpy(before, target, sizeof target);
    size_t rounds = t.bug ? enough(t.size, 512 << 20, 1000, 100000) : 100;
    for (size_t i = 0; i < rounds; i++) {
        char *p = malloc(t.size);
        if (is_target(p)) broken("malloc returned the attacker's target");
        if (t.bug && p == poisoned) broken("a poisoned chunk was handed out");
        if (i % 16 == 0) must_be_untouched(before);
        free(p);
    }
    must_be_untouched(before);
    if (t.bug) missed();
}

/* a: the first word that is written, b: how many, c: how the pointer is written */
enum { PLAIN, SAFE_LINKED, BYTE_SWAPPED, COMPACTED, LOW_BYTES };

static uint64_t link_to_target(long how, const char *place) {
    uint64_t pointer = (uint64_t)&target[10];
    if (how == SAFE_LINKED) return pointer ^ (uint64_t)place >> 12;
    if (how == BYTE_SWAPPED) return __builtin_bswap64(pointer);
    if (how == COMPACTED) return pointer >> 4;
    return pointer;
}

static void poison(struct trial t, char *freed) {
    note_subject(freed);
    dress_target(t.size);
    at_the_bug();
    for (long word = t.a; word < t.a + t.b; word++) {
        uint64_t link = link_to_target(t.c, freed + word * 8);
        /* The bytes above are the pointer's own where there is one, and need not be known. */
        if (t.c == LOW_BYTES) memcpy(freed + word * 8, &(uint16_t){(uint16_t)(link | 1)}, 2);
        else *(volatile uint64_t *)(freed + word * 8) = link;
    }
    past_the_bug();
}

static void poisoned_link(struct trial t) {
    settle(t.size);
    char *first = chunk(t.size), *second = chunk(t.size);
    free(first);
    free(second);
    if (t.bug) poison(t, second);
    harvest(t, second);
}

static void *free_both(void *chunks) {
    free(((char **)chunks)[0]);
    free(((char **)chunks)[1]);
    return NULL;
}

static void in_a_thread(void *(*what)(void *), void *argument) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, what, argument)) broken("no thread");
    pthread_join(thread, NULL);
}

static struct {
    struct trial t;
    char *poisoned;
} heir;

static void *harvest_as_heir(void *nothing) {
    harvest(heir.t, heir.poisoned);
    return nothing;
}

/* The chunks lie in the cache of a thread that has ended; another one comes after it. */
static void poisoned_link_in_another_cache(struct trial t) {
    char *chunks[] = {chunk(t.size), chunk(t.size)};
    in_a_thread(free_both, chunks);
    if (t.bug) poison(t, chunks[1]);
    heir.t = t;
    heir.poisoned = chunks[1];
    in_a_thread(harvest_as_heir, NULL);
}

/* More chunks than any cache holds: the poisoned one has gone on to the shared slabs. Some stay, so that the slabs do, too. */
static void poisoned_link_in_the_shared_slabs(struct trial t) {
    static char *chunks[3000];
    size_t count = enough(t.size, 16 << 20, 100, 3000);
    for (size_t i = 0; i < count; i++) chunks[i] = chunk(t.size);
    for (size_t i = 0; i < count; i++)
        if (i % 4) free(chunks[i]);
    /* Of the first half: the last ones wait in the quarantine until more is freed. */
    char *victim = chunks[1 + 4 * dice((uint32_t)count / 8)];
    if (t.bug) poison(t, victim);
    static char *again[100000];
    size_t rounds = enough(t.size, 512 << 20, 1000, 100000);
    for (size_t i = 0; i < rounds; i++) {
        again[i] = malloc(t.size);
        if (is_target(again[i])) broken("malloc returned the attacker's target");
        if (t.bug && again[i] == victim) broken("a poisoned chunk was handed out");
    }
    if (t.bug) missed();
}

/* The word in which glibc's tcache notes that a chunk is free is cleared, then it is freed again. */
static void second_free_with_the_key_cleared(struct trial t) {
    char *p = chunk(t.size);
    free(p);
    if (!t.bug) return;
    note_subject(p);
    for (size_t at = 0; at + 8 <= t.size && at < 32; at += 8) *(volatile uint64_t *)(p + at) = 0;
    at_the_bug();
    free(p);
    missed();
}

/* Freed, then another, then the first again; and before that as many as fill a tcache. */
static void fastbin_dup(struct trial t) {
    char *others[7], *p = chunk(t.size), *between = chunk(t.size);
    note_subject(p);
    for (int i = 0; i < 7; i++) others[i] = chunk(t.size);
    for (int i = 0; i < 7; i++) free(others[i]);
    free(p);
    free(between);
    if (!t.bug) return;
    at_the_bug();
    free(p);
    missed();
}

/* What is freed a second time has meanwhile been moved to another list: by a large request, by a trim, by one chunk of
 * its size being taken from the front of the list (house of botcake). a: which */
enum { LARGE_REQUEST, TRIM, ONE_TAKEN };

static void second_free_after_consolidation(struct trial t) {
    char *others[7], *p = chunk(t.size), *neighbour = chunk(t.size);
    note_subject(p);
    for (int i = 0; i < 7; i++) others[i] = chunk(t.size);
    for (int i = 0; i < 7; i++) free(others[i]);
    free(p);
    free(neighbour);
    if (t.a == LARGE_REQUEST) free(malloc(0x20000));
    if (t.a == TRIM) malloc_trim(0);
    /* Were it the first that comes back, the other one is still free. */
    if (t.a == ONE_TAKEN && malloc(t.size) == p) p = neighbour;
    note_subject(p);
    if (!t.bug) return;
    at_the_bug();
    free(p);
    missed();
}

/* A second free while the chunk's second owner has it would free that one's chunk: so the attacker floods the quarantine, to
 * have it handed out again. As long as it was not, the second free is found, however many came and went. */
static void second_free_after_a_flood(struct trial t) {
    char *p = chunk(t.size);
    note_subject(p);
    free(p);
    size_t flood = enough(t.size, 64 << 20, 100, 20000);
    static char *held[20000];
    for (size_t i = 0; i < flood; i++) {
        held[i] = malloc(t.size);
        if (t.bug && held[i] == p) {
            /* The slot has come back: from here on it is another chunk's. Once more from the start. */
            char *other = chunk(t.size);
            free(other);
            p = other;
            note_subject(p);
            break;
        }
    }
    if (!t.bug) return;
    at_the_bug();
    free(p);
    missed();
}

const struct attack attacks[] = {
    {"tcache_poisoning", poisoned_link, 0, 1, PLAIN},
    {"safe_linked_poisoning", poisoned_link, 0, 1, SAFE_LINKED},
    {"byte_swapped_poisoning", poisoned_link, 0, 1, BYTE_SWAPPED},
    {"compacted_poisoning", poisoned_link, 0, 1, COMPACTED},
    {"house_of_roman", poisoned_link, 0, 1, LOW_BYTES},
    {"unsorted_bin_attack", poisoned_link, 1, 1, PLAIN},
    {"house_of_lore", poisoned_link, 0, 2, PLAIN},
    {"large_bin_attack", poisoned_link, 2, 2, PLAIN},
    {"header_as_link", poisoned_link, -1, 1, PLAIN},
    {"header_and_link", poisoned_link, -1, 3, PLAIN},
    {"poisoning_of_another_cache", poisoned_link_in_another_cache, 0, 2, PLAIN},
    {"poisoning_of_the_shared_slabs", poisoned_link_in_the_shared_slabs, 0, 2, PLAIN},
    {"second_free_with_the_key_cleared", second_free_with_the_key_cleared},
    {"fastbin_dup", fastbin_dup},
    {"second_free_after_a_large_request", second_free_after_consolidation, LARGE_REQUEST},
    {"second_free_after_a_trim", second_free_after_consolidation, TRIM},
    {"house_of_botcake", second_free_after_consolidation, ONE_TAKEN},
    {"second_free_after_a_flood", second_free_after_a_flood},
    {0},
};
