/* Writes behind and in front of chunks. */
#define _GNU_SOURCE
#include "driver.h"

#include <malloc.h>
#include <stdlib.h>
#include <string.h>

enum maker { MALLOC, CALLOC, REALLOC_GREW, REALLOC_SHRANK, ALIGNED, NEVER_FREED };

static char *made_by(enum maker maker, size_t size) {
    settle(size);
    if (maker == CALLOC) return calloc(size, 1);
    if (maker == REALLOC_GREW) return realloc(malloc(size / 2), size);
    if (maker == REALLOC_SHRANK) return realloc(malloc(size + size / 8 + 1), size);
    if (maker == ALIGNED) return memalign(64, size);
    return malloc(size);
}

/* Writes `count` bytes. If that changes nothing, nothing can be found; only a NUL, the commonest
 * stray byte, must always change something behind a chunk, so there it is not excused. In front of it
 * lie the upper bytes of a checksum, which may be anything: two of them are NUL once in 65,536 times. */
static void scribble(volatile char *start, size_t count, int byte, int behind) {
    at_the_bug();
    if (!(behind && byte == 0) && only((const char *)start, byte, count)) moot();
    for (size_t i = 0; i < count; i++) start[i] = (char)byte;
    past_the_bug();
}

static void check_by_free(struct trial t, char *p) {
    free(p);
    if (t.bug) missed();
}

/* a: how many bytes, b: which byte, c: what made the chunk */
static void behind(struct trial t) {
    char *p = made_by((enum maker)t.c, t.size);
    note_subject(p);
    fill(p, 0x53, t.size);
    if (t.bug) scribble(p + t.size, (size_t)t.a, (int)t.b, 1);
    if (t.c != NEVER_FREED) check_by_free(t, p);
}

/* One byte anywhere between the requested size and the next chunk's header, or, where there is no
 * room between, the header's first byte. b: which byte */
static void somewhere_in_the_slack(struct trial t) {
    size_t room = stride_of(t.size) - 8 - t.size;
    char *p = made_by(MALLOC, t.size);
    note_subject(p);
    if (t.bug) scribble(p + t.size + (room ? dice((uint32_t)room) : 0), 1, (int)t.b, 1);
    check_by_free(t, p);
}

/* a: how many bytes, b: which byte, c: what made the chunk */
static void in_front(struct trial t) {
    char *p = made_by((enum maker)t.c, t.size);
    note_subject(p);
    fill(p, 0x53, t.size);
    if (t.bug) scribble(p - t.a, (size_t)t.a, (int)t.b, 0);
    if (t.c != NEVER_FREED) check_by_free(t, p);
}

/* Between 1 and 32 bytes, written downwards as a loop with a wrong end does. */
static void in_front_by_a_loop(struct trial t) {
    char *p = made_by(MALLOC, t.size);
    note_subject(p);
    if (t.bug) {
        at_the_bug();
        for (long i = 1; i <= 1 + (long)(t.repetition % 32); i++) ((volatile char *)p)[-i] ^= (char)0xff;
        past_the_bug();
    }
    check_by_free(t, p);
}

/* The attacker knows what a freed chunk's header looks like, and overflows with that. a: the state of
 * the header that is copied, live or freed */
static void behind_by_a_true_header(struct trial t) {
    char *copied = malloc(t.size), *p = made_by(MALLOC, t.size);
    uint64_t header;
    if (!t.a) free(copied);
    memcpy(&header, copied - 8, 8);
    note_subject(p);
    fill(p, 0x53, t.size);
    if (t.bug) {
        at_the_bug();
        if (memcmp(p + t.size, &header, 8) == 0) moot();
        memcpy(p + t.size, &header, 8);
        past_the_bug();
    }
    check_by_free(t, p);
}

/* A chunk grown by realloc, perhaps in place. a: growth in bytes, b: how far behind its end */
static void behind_a_grown_chunk(struct trial t) {
    char *p = malloc(t.size);
    fill(p, 0x53, t.size);
    size_t size = t.size + (size_t)t.a;
    p = realloc(p, size);
    fill(p, 0x53, size);
    note_subject(p);
    if (t.bug) scribble(p + size + t.b, 1, 0, 1);
    check_by_free(t, p);
}

/* A chunk shrunk by realloc: what lies behind its new end is no longer the program's. */
static void behind_a_shrunk_chunk(struct trial t) {
    char *p = malloc(t.size);
    fill(p, 0x53, t.size);
    size_t size = t.size - 1 - t.size / 16;
    p = realloc(p, size);
    note_subject(p);
    if (t.bug) scribble(p + size, 1, 0, 1);
    check_by_free(t, p);
}

/* Realloc has to check the chunk that it is given, too. */
static void checked_by_realloc(struct trial t) {
    char *p = made_by(MALLOC, t.size);
    note_subject(p);
    if (t.bug) scribble(p + t.size, 1, 0, 1);
    p = realloc(p, t.size * 4);
    if (t.bug) missed();
    free(p);
}

/* Of three neighbours, one is overrun and the middle one freed. a: which one, b: how far behind its
 * end, or if negative, in front of its start */
static void seen_by_a_neighbour(struct trial t) {
    char *chunks[3];
    neighbours(t.size, chunks, 3);
    note_subject(chunks[t.a]);
    if (t.bug) {
        at_the_bug();
        volatile char *victim = chunks[t.a] + (t.b < 0 ? t.b : (long)t.size + t.b);
        *victim = (char)(*victim ^ 0x55);
        past_the_bug();
    }
    check_by_free(t, chunks[1]);
}

/* Writes into the free neighbour of a chunk that is itself never freed, then allocates until that
 * neighbour would be handed out. */
static void into_a_free_slot(struct trial t) {
    char *chunks[2];
    neighbours(t.size, chunks, 2);
    free(chunks[1]);
    size_t distance = (size_t)(chunks[1] - chunks[0]);
    note_subject(chunks[1]);
    if (t.bug) {
        at_the_bug();
        for (size_t i = t.size; i < distance + t.size; i++) ((volatile char *)chunks[0])[i] = 'A';
        past_the_bug();
    }
    size_t rounds = t.bug ? enough(t.size, 512 << 20, 1000, 100000) : 100;
    for (size_t i = 0; i < rounds; i++) {
        void *p = malloc(t.size);
        if (t.bug && p == chunks[1]) broken("an overwritten slot was handed out");
        if (i % 4 == 0) free(p);
    }
    if (t.bug) missed();
}

#define EACH_BYTE(name, run, count, maker) \
    {name "_A", run, count, 'A', maker}, {name "_nul", run, count, 0, maker}, {name "_ff", run, count, 0xff, maker}

const struct attack attacks[] = {
    EACH_BYTE("behind_by_1", behind, 1, MALLOC),
    EACH_BYTE("behind_by_8", behind, 8, MALLOC),
    EACH_BYTE("behind_by_a_struct", behind, 64, MALLOC),
    EACH_BYTE("behind_calloc", behind, 1, CALLOC),
    EACH_BYTE("behind_realloc_grew", behind, 1, REALLOC_GREW),
    EACH_BYTE("behind_realloc_shrank", behind, 1, REALLOC_SHRANK),
    EACH_BYTE("behind_aligned", behind, 1, ALIGNED),
    EACH_BYTE("behind_never_freed", behind, 1, NEVER_FREED),
    {"behind_by_a_live_header", behind_by_a_true_header, 1},
    {"behind_by_a_freed_header", behind_by_a_true_header, 0},
    {"slack_A", somewhere_in_the_slack, 0, 'A'},
    {"slack_nul", somewhere_in_the_slack, 0, 0},
    {"slack_ff", somewhere_in_the_slack, 0, 0xff},
    {"behind_a_grown_chunk_by_1", behind_a_grown_chunk, 5000, 0},
    {"behind_a_much_grown_chunk_by_1", behind_a_grown_chunk, 3000000, 0},
    {"behind_a_grown_chunk_by_a_page", behind_a_grown_chunk, 5000, 4096 + 16},
    {"behind_a_shrunk_chunk", behind_a_shrunk_chunk},
    {"checked_by_realloc", checked_by_realloc},
    EACH_BYTE("in_front_by_2", in_front, 2, MALLOC),
    EACH_BYTE("in_front_by_8", in_front, 8, MALLOC),
    EACH_BYTE("in_front_by_16", in_front, 16, MALLOC),
    EACH_BYTE("in_front_by_32", in_front, 32, MALLOC),
    EACH_BYTE("in_front_aligned", in_front, 8, ALIGNED),
    EACH_BYTE("in_front_calloc", in_front, 8, CALLOC),
    EACH_BYTE("in_front_never_freed", in_front, 8, NEVER_FREED),
    {"in_front_by_a_loop", in_front_by_a_loop},
    {"behind_the_lower_neighbour", seen_by_a_neighbour, 0, 0},
    {"in_front_of_the_lower_neighbour", seen_by_a_neighbour, 0, -3},
    {"behind_the_upper_neighbour", seen_by_a_neighbour, 2, 0},
    {"in_front_of_the_upper_neighbour", seen_by_a_neighbour, 2, -3},
    {"into_a_free_slot", into_a_free_slot},
    {0},
};
