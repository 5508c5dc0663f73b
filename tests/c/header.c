/* Forges chunk headers, with any knowledge of other headers that reading the heap could give. */
#include "driver.h"

#include <stdlib.h>
#include <string.h>

static uint64_t header(const char *p) {
    uint64_t bits;
    memcpy(&bits, p - 8, 8);
    return bits;
}

/* A header that is already what it should be forged into proves nothing. */
static void forge(char *p, uint64_t bits) {
    note_subject(p);
    at_the_bug();
    if (header(p) == bits) moot();
    memcpy(p - 8, &bits, 8);
    past_the_bug();
}

static void check_by_free(struct trial t, char *p) {
    free(p);
    if (t.bug) missed();
}

static char *chunk(size_t size) {
    char *p = malloc(size);
    fill(p, 0x53, size);
    return p;
}

static void one_bit(struct trial t) {
    settle(t.size);
    char *p = chunk(t.size);
    if (t.bug) forge(p, header(p) ^ (uint64_t)1 << t.repetition % 64);
    check_by_free(t, p);
}

static void two_bits(struct trial t) {
    settle(t.size);
    char *p = chunk(t.size);
    uint32_t first = dice(64), second = (first + 1 + dice(63)) % 64;
    if (t.bug) forge(p, header(p) ^ (uint64_t)1 << first ^ (uint64_t)1 << second);
    check_by_free(t, p);
}

static void zero(struct trial t) {
    char *p = chunk(t.size);
    if (t.bug) forge(p, 0);
    check_by_free(t, p);
}

static void guessed(struct trial t) {
    char *p = chunk(t.size);
    if (t.bug) forge(p, (uint64_t)dice(UINT32_MAX) << 32 | dice(UINT32_MAX));
    check_by_free(t, p);
}

static void of_another_chunk(struct trial t) {
    settle(t.size);
    char *p = chunk(t.size), *other = chunk(t.size);
    if (t.bug) forge(p, header(other));
    check_by_free(t, p);
    free(other);
}

static void of_a_chunk_of_another_size(struct trial t) {
    char *p = chunk(t.size), *other = chunk(t.size + 1);
    if (t.bug) forge(p, header(other));
    check_by_free(t, p);
    free(other);
}

static void of_a_freed_chunk(struct trial t) {
    settle(t.size);
    char *p = chunk(t.size), *other = chunk(t.size);
    uint64_t freed = header(other);
    free(other);
    if (t.size < 256 << 10) freed = header(other);
    if (t.bug) forge(p, freed);
    check_by_free(t, p);
}

/* Of all other chunks in turn: a forgery that fits one in many chunks shows here. */
static void of_a_distant_chunk(struct trial t) {
    char *chunks[300];
    size_t count = enough(t.size, 2 << 20, 8, 300);
    for (size_t i = 0; i < count; i++) chunks[i] = chunk(t.size);
    char *p = chunks[0];
    if (t.bug) forge(p, header(chunks[1 + dice((uint32_t)count - 1)]));
    check_by_free(t, p);
}

/* Under a linear checksum, what one change of size alters in one header alters it in every other. */
static void by_the_difference_of_two_sizes(struct trial t) {
    char *known = chunk(t.size), *p = chunk(t.size);
    uint64_t before = header(known);
    char *shrunk = realloc(known, t.size - 1);
    if (shrunk != known) moot();
    uint64_t difference = before ^ header(known);
    if (difference == 0) moot();
    if (t.bug) forge(p, header(p) ^ difference);
    check_by_free(t, p);
    free(known);
}

/* The same for what free alters: the difference would turn a freed chunk back into a live one. */
static void by_the_difference_of_two_states(struct trial t) {
    char *known = chunk(t.size), *p = chunk(t.size);
    uint64_t difference = header(known);
    free(known);
    if (!t.bug) return free(p);
    at_the_bug();
    difference ^= header(known);
    free(p);
    forge(p, header(p) ^ difference);
    check_by_free(t, p);
}

/* Four chunks whose addresses XOR to nothing: under a checksum linear in the address so do their
 * headers, and three of them forge the fourth. */
static void by_the_difference_of_two_addresses(struct trial t) {
    enum { MOST = 200 };
    char *chunks[MOST];
    size_t count = enough(t.size, 4 << 20, 16, MOST);
    for (size_t i = 0; i < count; i++) chunks[i] = chunk(t.size);
    for (size_t i = 0; i < count; i++)
        for (size_t j = i + 1; j < count; j++)
            for (size_t k = j + 1; k < count; k++) {
                uintptr_t wanted = (uintptr_t)chunks[i] ^ (uintptr_t)chunks[j] ^ (uintptr_t)chunks[k];
                size_t m = k + 1;
                while (m < count && (uintptr_t)chunks[m] != wanted) m++;
                if (m == count) continue;
                char *p = chunks[m];
                uint64_t forged = header(chunks[i]) ^ header(chunks[j]) ^ header(chunks[k]);
                free(p);
                if (!t.bug) return;
                forge(p, forged);
                check_by_free(t, p);
            }
    moot();
}

/* A write after free puts back the header of the time before. a: what happens between */
enum between { NOTHING, OTHER_FREES, TRAFFIC };

static void restored(struct trial t) {
    static char *others[3000];
    size_t count = enough(t.size, 16 << 20, 20, 3000);
    settle(t.size);
    char *p = chunk(t.size);
    for (size_t i = 0; t.a == OTHER_FREES && i < count; i++) others[i] = malloc(t.size);
    uint64_t live = header(p);
    free(p);
    for (size_t i = 0; t.a == OTHER_FREES && i < count; i++) free(others[i]);
    for (int i = 0; t.a == TRAFFIC && i < (t.size <= 100 ? 5 : 1); i++) {
        char *other = malloc(t.size);
        if (other == p && t.bug) moot();
        free(other);
    }
    if (!t.bug) return;
    forge(p, live);
    check_by_free(t, p);
}

/* The contents are put back, too, should they be what tells a live chunk from a freed one. */
static void restored_with_contents(struct trial t) {
    settle(t.size);
    size_t room = stride_of(t.size);
    char *p = chunk(t.size), *copy = malloc(room);
    if (t.bug) memcpy(copy, p - 8, room);
    free(p);
    if (t.bug) {
        note_subject(p);
        at_the_bug();
        memcpy(p - 8, copy, room);
        past_the_bug();
        check_by_free(t, p);
    }
    free(copy);
}

static void restored_then_realloc(struct trial t) {
    char *p = chunk(t.size);
    uint64_t live = header(p);
    free(p);
    if (!t.bug) return;
    forge(p, live);
    p = realloc(p, t.size + 1);
    missed();
}

/* The slot is handed out again, the old header kept from its first life: freeing twice in the second. */
static void replayed_from_an_earlier_life(struct trial t) {
    char *p = chunk(t.size);
    uint64_t first_life = header(p);
    free(p);
    for (int i = 0; i < 100000; i++) {
        char *again = malloc(t.size);
        if (again != p) {
            free(again);
            continue;
        }
        free(p);
        if (!t.bug) return;
        forge(p, first_life);
        check_by_free(t, p);
    }
    moot();
}

const struct attack attacks[] = {
    {"one_bit", one_bit},
    {"two_bits", two_bits},
    {"zero", zero},
    {"guessed", guessed},
    {"of_another_chunk", of_another_chunk},
    {"of_a_chunk_of_another_size", of_a_chunk_of_another_size},
    {"of_a_freed_chunk", of_a_freed_chunk},
    {"of_a_distant_chunk", of_a_distant_chunk},
    {"by_the_difference_of_two_sizes", by_the_difference_of_two_sizes},
    {"by_the_difference_of_two_states", by_the_difference_of_two_states},
    {"by_the_difference_of_two_addresses", by_the_difference_of_two_addresses},
    {"restored", restored, NOTHING},
    {"restored_after_other_frees", restored, OTHER_FREES},
    {"restored_after_traffic", restored, TRAFFIC},
    {"restored_with_contents", restored_with_contents},
    {"restored_then_realloc", restored_then_realloc},
    {"replayed_from_an_earlier_life", replayed_from_an_earlier_life},
    {0},
};
