/* Reads and writes chunks after free, and memory that was never written since malloc. */
#define _GNU_SOURCE
#include "driver.h"

#include <malloc.h>
#include <stdlib.h>
#include <string.h>

static char *filled(size_t size) {
    settle(size);
    char *p = malloc(size);
    fill(p, 0x53, size);
    note_subject(p);
    return p;
}

/* a: where, or one of these; b: how many bytes */
enum { MIDDLE = 1000000, END, ANYWHERE };

static void scribble(struct trial t, char *p) {
    long at = t.a;
    if (t.a == MIDDLE) at = (long)t.size / 2;
    if (t.a == END) at = (long)t.size - t.b;
    if (t.a == ANYWHERE) at = (long)dice((uint32_t)t.size);
    at_the_bug();
    for (long i = 0; i < t.b; i++) ((volatile char *)p)[at + i] ^= 'A';
    past_the_bug();
}

/* What was written can be gone, together with the page it lay in, if that was given back to the
 * system in between: then nothing was there to be found. */
static void handed_out(struct trial t, const char *p) {
    if (t.a < 0 || !only(p, 0, t.size)) broken("a slot written after free was handed out");
    moot();
}

/* Allocates and frees until the slot would have to come back. */
static void reuse(struct trial t, char *written) {
    size_t rounds = t.bug ? enough(t.size, 512 << 20, 1000, 100000) : 100;
    for (size_t i = 0; i < rounds; i++) {
        char *p = malloc(t.size);
        if (t.bug && p == written) handed_out(t, p);
        free(p);
    }
    if (t.bug) missed();
}

static void write_then_reuse(struct trial t) {
    char *p = filled(t.size);
    free(p);
    if (t.bug) scribble(t, p);
    reuse(t, p);
}

static void write_in_another_place_of_the_queue(struct trial t) {
    static char *others[5000];
    size_t count = enough(t.size, 8 << 20, 50, 5000);
    char *p = filled(t.size);
    for (size_t i = 0; i < count; i++) others[i] = malloc(t.size);
    free(p);
    for (size_t i = 0; i < count; i++) free(others[i]);
    if (t.bug) scribble(t, p);
    size_t rounds = enough(t.size, 512 << 20, 1000, 100000);
    for (size_t i = 0; t.bug && i < rounds; i++) {
        if (malloc(t.size) == p) handed_out(t, p);
    }
    if (t.bug) missed();
}

static void write_then_exit(struct trial t) {
    char *p = filled(t.size);
    free(p);
    if (t.bug) scribble(t, p);
}

static void write_then_free_again(struct trial t) {
    char *p = filled(t.size);
    free(p);
    if (t.bug) {
        scribble(t, p);
        free(p);
        missed();
    }
}

static void write_through_what_realloc_moved(struct trial t) {
    char *p = filled(t.size);
    char *moved = realloc(p, t.size * 16 + 4096);
    if (moved == p) moot();
    if (t.bug) scribble(t, p);
    reuse(t, p);
    free(moved);
}

static void read_sees_zeroes(struct trial t) {
    char *p = filled(t.size);
    free(p);
    if (!only(p, 0, t.size)) broken("freed contents can still be read");
}

/* Large chunks fault. b: bytes to write, none to read */
static void access_large(struct trial t, char *p) {
    size_t at = t.a == END ? t.size - 1 : (size_t)t.a;
    at_the_bug();
    if (t.b) ((volatile char *)p)[at] = 'A';
    else (void)((volatile char *)p)[at];
    if (t.bug) missed();
}

static void large_at_once(struct trial t) {
    char *p = filled(t.size);
    if (t.bug) free(p);
    access_large(t, p);
    if (!t.bug) free(p);
}

/* c: bytes of each of 900 chunks that come and go between the free and the access, at random up to that or exactly that. */
enum { UP_TO_300 = 300, SMALLEST_LARGE = 229385 };

static void large_after_900_frees(struct trial t) {
    char *p = filled(t.size);
    if (t.bug) free(p);
    for (int i = 0; i < 900; i++) {
        char *other = malloc(t.c == UP_TO_300 ? 1 + dice(UP_TO_300) : (size_t)t.c);
        if (t.bug && other == p) broken("a large chunk came back too early");
        other[0] = 1;
        free(other);
    }
    access_large(t, p);
    if (!t.bug) free(p);
}

/* c: MiB of chunks of the same size that come and go between the free and the access */
static void large_after_large_frees(struct trial t) {
    char *p = filled(t.size);
    if (t.bug) free(p);
    for (size_t freed = 0; freed + t.size < (size_t)t.c << 20; freed += t.size) {
        char *other = malloc(t.size);
        if (t.bug && other == p) broken("a large chunk came back too early");
        other[0] = 1;
        free(other);
    }
    access_large(t, p);
    if (!t.bug) free(p);
}

static void large_moved_by_realloc(struct trial t) {
    char *p = filled(t.size);
    char *moved = realloc(p, t.size * 64);
    if (!moved || moved == p) moot();
    access_large(t, t.bug ? p : moved);
    free(moved);
}

/* The next chunk of the size is another one. */
static void not_handed_out_at_once(struct trial t) {
    char *p = filled(t.size);
    free(p);
    char *next = malloc(t.size);
    if (next == p) broken("a freed slot was handed out at once");
    free(next);
}

/* Notes after how many allocations a freed slot came back. */
static void delay_of_return(struct trial t) {
    char *p = filled(t.size);
    free(p);
    size_t rounds = enough(t.size, 256 << 20, 1000, 100000), i = 0;
    for (; i < rounds; i++) {
        char *next = malloc(t.size);
        free(next);
        if (next == p) break;
    }
    note_value(i);
}

/* Chunks filled with secrets are freed; what is allocated then must not show them. */
static void after_secrets(struct trial t, char *(*make)(size_t)) {
    enum { MOST = 1000 };
    static char *chunks[MOST];
    size_t count = enough(t.size, 1 << 20, 8, MOST);
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < count; i++) {
            chunks[i] = make(t.size);
            if (!only(chunks[i], 0, t.size)) broken("memory from malloc is not zero");
            fill(chunks[i], 0x53, t.size);
        }
        for (size_t i = 0; i < count; i++) free(chunks[i]);
    }
}

static char *by_malloc(size_t size) { return malloc(size); }
static char *by_memalign(size_t size) { return memalign((size_t)64 << dice(7), size); }
static char *by_calloc(size_t size) { return calloc(1, size); }
static char *by_realloc(size_t size) { return realloc(NULL, size); }

static void malloc_after_secrets(struct trial t) { after_secrets(t, by_malloc); }
static void memalign_after_secrets(struct trial t) { after_secrets(t, by_memalign); }
static void calloc_after_secrets(struct trial t) { after_secrets(t, by_calloc); }
static void realloc_after_secrets(struct trial t) { after_secrets(t, by_realloc); }

/* Other sizes reuse the same memory: slabs given back, mappings kept. */
static void other_sizes_after_secrets(struct trial t) {
    enum { MOST = 1000 };
    static char *chunks[MOST];
    size_t count = enough(t.size, 4 << 20, 8, MOST);
    for (size_t i = 0; i < count; i++) {
        chunks[i] = malloc(t.size);
        fill(chunks[i], 0x53, t.size);
    }
    for (size_t i = 0; i < count; i++) free(chunks[i]);
    for (int i = 0; i < 200; i++) {
        size_t size = 1 + dice((uint32_t)t.size);
        char *p = malloc(size);
        if (!only(p, 0, size)) broken("memory from malloc is not zero");
        if (i % 2) free(p);
    }
}

/* realloc must show neither canaries nor what the chunk held before it shrank. */
static void grown_tail_after_secrets(struct trial t) {
    settle(t.size);
    for (int i = 0; i < 100; i++) {
        size_t small = 1 + dice((uint32_t)t.size - 1), large = small + 1 + dice((uint32_t)t.size);
        char *p = malloc(t.size);
        fill(p, 0x53, t.size);
        p = realloc(p, small);
        if (!only(p, 0x53, small < t.size ? small : t.size)) broken("realloc lost the contents");
        p = realloc(p, large);
        if (!only(p, 0x53, small)) broken("realloc lost the contents");
        if (!only(p + small, 0, large - small)) broken("memory grown by realloc is not zero");
        free(p);
    }
}

const struct attack attacks[] = {
    {"write_first_byte", write_then_reuse, 0, 1},
    {"write_first_word", write_then_reuse, 0, 8},
    {"write_second_word", write_then_reuse, 8, 8},
    {"write_middle", write_then_reuse, MIDDLE, 1},
    {"write_last_byte", write_then_reuse, END, 1},
    {"write_anywhere", write_then_reuse, ANYWHERE, 1},
    {"write_header", write_then_reuse, -8, 8},
    {"write_header_byte", write_then_reuse, -5, 1},
    {"write_among_many_free_slots", write_in_another_place_of_the_queue, ANYWHERE, 1},
    {"write_then_exit", write_then_exit, ANYWHERE, 1},
    {"write_header_then_exit", write_then_exit, -5, 1},
    {"write_then_free_again", write_then_free_again, 0, 8},
    {"write_what_realloc_moved", write_through_what_realloc_moved, ANYWHERE, 1},
    {"read_sees_zeroes", read_sees_zeroes},
    {"large_read_start", large_at_once, 0, 0},
    {"large_read_end", large_at_once, END, 0},
    {"large_write_start", large_at_once, 0, 1},
    {"large_write_end", large_at_once, END, 1},
    {"large_read_after_900_small_frees", large_after_900_frees, 0, 0, UP_TO_300},
    {"large_write_after_900_small_frees", large_after_900_frees, 5000, 1, UP_TO_300},
    {"large_read_after_900_large_frees", large_after_900_frees, 0, 0, SMALLEST_LARGE},
    {"large_write_after_900_large_frees", large_after_900_frees, 5000, 1, SMALLEST_LARGE},
    {"large_read_after_60_mib", large_after_large_frees, 0, 0, 60},
    {"large_write_after_60_mib", large_after_large_frees, END, 1, 60},
    {"large_moved_by_realloc", large_moved_by_realloc, 0, 0},
    {"not_handed_out_at_once", not_handed_out_at_once},
    {"delay_of_return", delay_of_return},
    {"malloc_after_secrets", malloc_after_secrets},
    {"memalign_after_secrets", memalign_after_secrets},
    {"calloc_after_secrets", calloc_after_secrets},
    {"realloc_after_secrets", realloc_after_secrets},
    {"other_sizes_after_secrets", other_sizes_after_secrets},
    {"grown_tail_after_secrets", grown_tail_after_secrets},
    {0},
};
