/* Techniques against chunks with a mapping of their own: Scudo keeps a doubly linked list and the extent of the mapping in
 * front of each, glibc its size, from which free works out what to unmap. */
#define _GNU_SOURCE
#include "driver.h"

#include <malloc.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

static _Alignas(16) uint64_t target[64];

static void target_must_be_untouched(void) {
    for (int i = 0; i < 64; i++)
        if (target[i]) broken("the allocator wrote where the attacker pointed");
}

static char *chunk(size_t size) {
    char *p = malloc(size);
    fill(p, 0x53, size);
    return p;
}

/* a: bytes in front that are overwritten; b: with what */
enum { POINTERS_TO_THE_TARGET, ITS_NEIGHBOURS_OWN, LARGER_EXTENT };

static void front(struct trial t) {
    char *before = chunk(t.size), *p = chunk(t.size), *behind = chunk(t.size);
    note_subject(p);
    if (t.bug) {
        uint64_t words[8];
        memcpy(words, p - t.a, (size_t)t.a);
        for (long i = 0; i < t.a / 8; i++) {
            if (t.b == POINTERS_TO_THE_TARGET) words[i] = (uint64_t)&target[i + 8];
            if (t.b == ITS_NEIGHBOURS_OWN) memcpy(&words[i], before - t.a + i * 8, 8);
            if (t.b == LARGER_EXTENT) words[i] = (t.size + 0x100000) & ~0xffful | 2;
        }
        at_the_bug();
        memcpy(p - t.a, words, (size_t)t.a);
        past_the_bug();
    }
    /* Whoever keeps a list changes the neighbours' links now. */
    free(before);
    free(p);
    target_must_be_untouched();
    if (t.bug) missed();
    if (!only(behind, 0x53, t.size)) broken("another chunk was given back with it");
    free(behind);
}

/* The header says more than there is; realloc and malloc_usable_size are asked. a: which */
enum { REALLOC, USABLE_SIZE };

static void larger_size(struct trial t) {
    char *p = chunk(t.size);
    note_subject(p);
    if (t.bug) {
        uint64_t bits;
        memcpy(&bits, p - 8, 8);
        bits ^= (uint64_t)1 << 24;
        at_the_bug();
        memcpy(p - 8, &bits, 8);
        past_the_bug();
    }
    if (t.a == REALLOC) p = realloc(p, t.size * 3);
    if (t.a == USABLE_SIZE && malloc_usable_size(p) != t.size) broken("a forged size was believed");
    if (t.bug) missed();
    free(p);
}

static sigjmp_buf back;

static void after_a_fault(int number) {
    siglongjmp(back, number);
}

/* Writes to a freed chunk: true where that did not fault. */
static bool stale_write(char *place, uint64_t value) {
    if (sigsetjmp(back, 1)) return false;
    *(volatile uint64_t *)place = value;
    return true;
}

/* A hot loop makes the allocator keep freed mappings for those who come next. What a dangling pointer still reaches of them is
 * written to, header and all; the next owners must see zeroes, and each a chunk of its own. */
static void poisoning_of_kept_mappings(struct trial t) {
    enum { MANY = 150 };
    static char *chunks[MANY], *next[40];
    struct sigaction before, action = {.sa_handler = after_a_fault};
    for (int i = 0; i < MANY; i++) fill(chunks[i] = malloc(t.size), 0x53, 4096 * 3);
    for (int i = 0; i < MANY; i++) free(chunks[i]);
    sigaction(SIGSEGV, &action, &before);
    for (int i = 0; i < MANY; i++)
        for (long at = -32; at < 4096 * 3; at += at < 64 ? 8 : 4096) stale_write(chunks[i] + at, (uint64_t)&target[8]);
    sigaction(SIGSEGV, &before, NULL);
    for (int i = 0; i < 40; i++) {
        next[i] = malloc(t.size);
        if (!only(next[i], 0, t.size)) broken("a new chunk holds what was written to a freed one");
        if (malloc_usable_size(next[i]) != t.size) broken("a forged size was believed");
        fill(next[i], i + 1, t.size);
    }
    for (int i = 0; i < 40; i++) {
        if (!only(next[i], i + 1, t.size)) broken("two chunks overlap");
        free(next[i]);
    }
    target_must_be_untouched();
}

/* Frees what lies inside a large chunk behind a copy of its own front. */
static void fake_front_inside(struct trial t) {
    char *p = chunk(t.size);
    size_t at = 4096 * (1 + dice((uint32_t)(t.size / 4096 - 2)));
    memcpy(p + at - 32, p - 32, 32);
    note_subject(p + at);
    if (t.bug) {
        at_the_bug();
        free(p + at);
        missed();
    }
    free(p);
}

/* The end of a large chunk's mapping is given back by realloc, and written to. */
static void behind_what_was_cut_off(struct trial t) {
    char *p = chunk(t.size * 4);
    note_subject(p);
    char *cut = realloc(p, t.size);
    if (t.bug) {
        at_the_bug();
        *(volatile uint64_t *)(cut + t.size * 4 - 8) = (uint64_t)&target[8];
        missed();
    }
    free(cut);
}

const struct attack attacks[] = {
    {"header_as_pointer", front, 8, POINTERS_TO_THE_TARGET},
    {"list_unlink", front, 32, POINTERS_TO_THE_TARGET},
    {"front_of_a_neighbour", front, 32, ITS_NEIGHBOURS_OWN},
    {"header_of_a_neighbour", front, 8, ITS_NEIGHBOURS_OWN},
    {"larger_extent", front, 16, LARGER_EXTENT},
    {"larger_extent_everywhere", front, 32, LARGER_EXTENT},
    {"larger_size_then_realloc", larger_size, REALLOC},
    {"larger_size_then_usable_size", larger_size, USABLE_SIZE},
    {"poisoning_of_kept_mappings", poisoning_of_kept_mappings},
    {"fake_front_inside", fake_front_inside},
    {"behind_what_was_cut_off", behind_what_was_cut_off},
    {0},
};
