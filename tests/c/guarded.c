/* What only chunks with pages of their own promise. */
#define _GNU_SOURCE
#include "driver.h"

#include <fcntl.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Lines of /proc/self/maps, read without allocating. */
static long mappings(void) {
    char part[4096];
    int file = open("/proc/self/maps", O_RDONLY);
    long lines = 0;
    for (ssize_t count; (count = read(file, part, sizeof part)) > 0;)
        for (ssize_t i = 0; i < count; i++) lines += part[i] == '\n';
    close(file);
    return lines;
}

/* One input of a fuzz target: allocations of many sizes, some of them alive at the same time. */
static void input(size_t size, uint64_t number) {
    char *chunks[8];
    for (size_t i = 0; i < 8; i++) {
        size_t bytes = 1 + (number * 2654435761u + i * 40503u) % size;
        chunks[i] = i % 3 ? malloc(bytes) : calloc(1, bytes);
        chunks[i][0] = chunks[i][bytes - 1] = 'A';
    }
    chunks[3] = realloc(chunks[3], 1 + number % (2 * size));
    for (size_t i = 0; i < 8; i++) free(chunks[i]);
}

/* Persistent mode: a process that runs input after input. b: thousands of allocations. What is guarded at the end must
 * be guarded as it was in the beginning. a: 0 to overflow at the end, 1 to use after free */
static void persistent(struct trial t) {
    uint64_t rounds = (uint64_t)t.b * 1000 / 8, counted = 0;
    const char *more = getenv("PERSISTENT_ROUNDS");
    if (more) rounds = strtoull(more, NULL, 10);
    for (uint64_t i = 0; i < rounds; i++) {
        input(t.size, i);
        /* By now every slot was used, and every way of opening and closing it. */
        if (i == rounds / 5) counted = (uint64_t)mappings();
    }
    long now = mappings();
    note_value((uint64_t)now);
    if ((uint64_t)now > counted + 64) broken("the number of mappings grows");
    if (now > 20000) broken("there are too many mappings");
    /* One in eight chunks is left-aligned: of these many, one at least ends at its guard page. */
    for (int i = 0; i < 40; i++) {
        volatile char *p = malloc(64);
        at_the_bug();
        if (t.bug && t.a == 0) p[64] = 1;
        if (t.bug && t.a == 1) {
            free((void *)p);
            (void)p[0];
            missed();
        }
        past_the_bug();
    }
    if (t.bug) missed();
}

static void new_memory_stands_out(struct trial t) {
    settle(t.size);
    char *p = malloc(t.size);
    if (!only(p, 0xaa, t.size)) broken("memory from malloc is not filled with the pattern");
    fill(p, 0x53, t.size);
    p = realloc(p, t.size + t.size / 2);
    if (!only(p, 0x53, t.size) || !only(p + t.size, 0xaa, t.size / 2)) broken("realloc adds something else");
    free(p);
    p = memalign(64, t.size);
    if (!only(p, 0xaa, t.size)) broken("memory from memalign is not filled with the pattern");
    free(p);
    p = calloc(t.size, 1);
    if (!only(p, 0, t.size)) broken("memory from calloc is not zero");
    free(p);
}

/* More chunks than there are slots: what is left over is served in the ordinary way, and is as correct. */
static void more_than_there_are_slots(struct trial t) {
    enum { MANY = 20000 };
    static char *chunks[MANY];
    for (size_t i = 0; i < MANY; i++) {
        chunks[i] = malloc(t.size);
        if (!chunks[i]) broken("there is no memory");
        if (!only(chunks[i], 0xaa, t.size)) broken("memory from malloc is not filled with the pattern");
        fill(chunks[i], (int)i & 0x7f, t.size);
    }
    if (mappings() > 40000) broken("there are too many mappings");
    for (size_t i = 0; i < MANY; i++) {
        if (!only(chunks[i], (int)i & 0x7f, t.size)) broken("a chunk has changed");
        if (malloc_usable_size(chunks[i]) != t.size) broken("a chunk has another size");
    }
    for (size_t i = 0; i < MANY; i++) free(chunks[i]);
    if (!t.bug) return;
    note_subject(chunks[MANY - 1]);
    at_the_bug();
    free(chunks[MANY - 1]);
    missed();
}

const struct attack attacks[] = {
    {"overflow_after_many_inputs", persistent, 0, 1000},
    {"use_after_free_after_many_inputs", persistent, 1, 1000},
    {"new_memory_stands_out", new_memory_stands_out},
    {"double_free_beyond_the_slots", more_than_there_are_slots},
    {0},
};
