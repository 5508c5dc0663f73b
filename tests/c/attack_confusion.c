/* Chunks of one kind passed for another: none of the places where a chunk begins may be taken for the start of one that is
 * not there, whatever stands around it. */
#define _GNU_SOURCE
#include "driver.h"

#include <malloc.h>
#include <stdlib.h>
#include <string.h>

/* C23; older C libraries do not declare them. */
extern void free_sized(void *, size_t) __attribute__((weak));
extern void free_aligned_sized(void *, size_t, size_t) __attribute__((weak));

enum operation { FREE, REALLOC, USABLE_SIZE };

static void perform(struct trial t, void *p) {
    note_subject(p);
    at_the_bug();
    if (t.a == FREE) free(p);
    if (t.a == REALLOC) free(realloc(p, 100));
    if (t.a == USABLE_SIZE && malloc_usable_size(p) == SIZE_MAX) broken("nonsense size");
    if (t.bug) missed();
    past_the_bug();
    if (t.a == USABLE_SIZE) free(p);
}

/* Chunks of no bytes lie in a region without memory. b: distance from a live one */
static void beside_a_zero_sized_chunk(struct trial t) {
    char *live[200];
    for (int i = 0; i < 200; i++) live[i] = malloc(0);
    if (!t.bug) return perform(t, live[dice(200)]);
    for (;;) {
        char *p = live[dice(200)] + t.b;
        int i = 0;
        while (i < 200 && live[i] != p) i++;
        if (i == 200) perform(t, p);
    }
}

/* So far along that nobody was ever given that address. */
static void far_behind_zero_sized_chunks(struct trial t) {
    char *p = malloc(0);
    perform(t, t.bug ? p + 16 * (long)(100000 + dice(1 << 24)) : p);
}

static void header_of_a_zero_sized_chunk(struct trial t) {
    char *p = malloc(0), *other = malloc(t.size);
    if (t.bug) {
        at_the_bug();
        memcpy(p - 8, other - 8, 8);
        missed();
    }
    free(p);
    free(other);
}

static void zero_sized_twice_with_traffic(struct trial t) {
    char *p = malloc(0);
    free(p);
    for (int i = 0; i < 300; i++) {
        char *other = malloc(0);
        if (other == p) broken("a zero-sized chunk came back at once");
        if (i % 2) free(other);
    }
    if (t.bug) perform(t, p);
}

/* The slot of an over-aligned chunk begins with a true header, in front of its chunk. b: the alignment */
static char *aligned_inside_its_slot(struct trial t, char **slot) {
    for (int i = 0; i < 1000; i++) {
        char *p = memalign((size_t)t.b, t.size);
        size_t gap = 16;
        /* Going down from the chunk: canaries, then the header, which is unlike them. */
        while (gap < (size_t)t.b && memcmp(p - gap, p - gap - 8, 8) == 0) gap += 8;
        if (gap % 16 == 0 && gap > 16 && gap < (size_t)t.b) {
            *slot = p - gap;
            return p;
        }
    }
    moot();
}

static void start_of_an_over_aligned_slot(struct trial t) {
    char *slot, *p = aligned_inside_its_slot(t, &slot);
    perform(t, t.bug ? slot : p);
}

/* The same, given back as what it is: with its own alignment and size. And the attacker has filled it so that what stands
 * where slack would be, were the chunk to begin where its slot does, looks like its canary. */
static void start_of_an_over_aligned_slot_as_such(struct trial t) {
    if (!free_aligned_sized) moot();
    char *slot, *p = aligned_inside_its_slot(t, &slot);
    for (size_t at = 0; at + 8 <= t.size; at += 8) memcpy(p + at, slot, 8);
    size_t rest = t.size % 8;
    if (rest) memcpy(p + t.size - rest, slot + (t.size - rest) % 8, rest);
    note_subject(slot);
    at_the_bug();
    free_aligned_sized(t.bug ? slot : p, (size_t)t.b, t.size);
    if (t.bug) missed();
}

static int by_address(const void *a, const void *b) {
    uintptr_t one = *(const uintptr_t *)a, other = *(const uintptr_t *)b;
    return (one > other) - (one < other);
}

/* Whole pages of one size are freed and given back, so that another size may get them: a dangling pointer would then point
 * into an object of another type, which no placement within one class could prevent. */
static void pages_of_another_size(struct trial t) {
    enum { MOST = 20000 };
    static uintptr_t freed[MOST];
    static void *held[MOST];
    size_t count = enough(t.size, 16 << 20, 200, MOST);
    for (size_t i = 0; i < count; i++) freed[i] = (uintptr_t)(held[i] = malloc(t.size));
    for (size_t i = 0; i < count; i++) free(held[i]);
    malloc_trim(0);
    qsort(freed, count, sizeof *freed, by_address);
    size_t sizes[] = {t.size * 3, t.size / 3, t.size * 20, 300000};
    for (int which = 0; which < 4; which++) {
        size_t size = sizes[which], number = enough(size, 16 << 20, 50, MOST);
        for (size_t i = 0; i < number; i++) {
            uintptr_t start = (uintptr_t)(held[i] = malloc(size));
            size_t low = 0, high = count;
            while (low < high) {
                size_t middle = (low + high) / 2;
                if (freed[middle] < start) low = middle + 1;
                else high = middle;
            }
            /* The first one that was freed there or behind it. */
            if (low < count && freed[low] < start + size) broken("a chunk lies where one of another size was");
            if (low > 0 && freed[low - 1] + t.size > start) broken("a chunk lies where one of another size was");
        }
        for (size_t i = 0; i < number; i++) free(held[i]);
    }
}

/* A header has room for sizes of 20 bits: a size that is wrong only above them is wrong. */
static void size_beyond_the_header(struct trial t) {
    if (!free_sized) moot();
    char *p = malloc(t.size);
    note_subject(p);
    at_the_bug();
    free_sized(p, t.size + (t.bug ? (size_t)1 << (20 + t.repetition % 40) : 0));
    if (t.bug) missed();
}

/* The same for alignments, whose logarithm has 4 bits. */
static void alignment_beyond_the_header(struct trial t) {
    if (!free_aligned_sized) moot();
    char *p = memalign(64, t.size);
    note_subject(p);
    at_the_bug();
    free_aligned_sized(p, t.bug ? (size_t)64 << 16 * (1 + t.repetition % 3) : 64, t.size);
    if (t.bug) missed();
}

/* An alignment that is none. */
static void alignment_that_is_no_power_of_two(struct trial t) {
    if (!free_aligned_sized) moot();
    char *p = memalign(32768, t.size);
    note_subject(p);
    at_the_bug();
    free_aligned_sized(p, t.bug ? 100 : 32768, t.size);
    if (t.bug) missed();
}

#define EACH_OPERATION(name, run, detail) \
    {"free_" name, run, FREE, detail}, {"realloc_" name, run, REALLOC, detail}, \
        {"usable_size_" name, run, USABLE_SIZE, detail}

const struct attack attacks[] = {
    EACH_OPERATION("next_to_zero_sized", beside_a_zero_sized_chunk, 16),
    EACH_OPERATION("before_zero_sized", beside_a_zero_sized_chunk, -16),
    EACH_OPERATION("inside_zero_sized", beside_a_zero_sized_chunk, 8),
    EACH_OPERATION("one_behind_zero_sized", beside_a_zero_sized_chunk, 1),
    EACH_OPERATION("far_behind_zero_sized", far_behind_zero_sized_chunks, 0),
    {"header_of_a_zero_sized_chunk", header_of_a_zero_sized_chunk},
    {"zero_sized_twice", zero_sized_twice_with_traffic, FREE},
    EACH_OPERATION("over_aligned_slot", start_of_an_over_aligned_slot, 256),
    {"free_aligned_sized_over_aligned_slot", start_of_an_over_aligned_slot_as_such, 0, 256},
    {"pages_of_another_size", pages_of_another_size},
    {"size_beyond_the_header", size_beyond_the_header},
    {"alignment_beyond_the_header", alignment_beyond_the_header},
    {"alignment_that_is_no_power_of_two", alignment_that_is_no_power_of_two},
    {0},
};
