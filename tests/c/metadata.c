/* Looks at what lies in and around the heap, and runs over its end. */
#define _GNU_SOURCE
#include "driver.h"

#include <fcntl.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

enum { PAGE = 4096, MOST_CHUNKS = 1000, MOST_MAPPINGS = 20000 };

static char *chunks[MOST_CHUNKS];

struct mapping {
    uintptr_t start, end;
    bool accessible;
};
static struct mapping mappings[MOST_MAPPINGS];

/* Reads /proc/self/maps without stdio, which would allocate. */
static size_t read_mappings(void) {
    static char text[4 << 20];
    int fd = open("/proc/self/maps", O_RDONLY);
    size_t length = 0, count = 0;
    for (ssize_t got; (got = read(fd, text + length, sizeof text - 1 - length)) > 0;) length += (size_t)got;
    close(fd);
    text[length] = 0;
    for (char *line = text; *line && count < MOST_MAPPINGS; line = strchr(line, '\n') + 1) {
        char *rest;
        mappings[count].start = strtoul(line, &rest, 16);
        mappings[count].end = strtoul(rest + 1, &rest, 16);
        mappings[count].accessible = rest[1] != '-' || rest[2] != '-';
        count++;
    }
    return count;
}

static size_t allocate_many(size_t size) {
    size_t count = enough(size, 4 << 20, 8, MOST_CHUNKS);
    for (size_t i = 0; i < count; i++) {
        chunks[i] = malloc(size);
        fill(chunks[i], 0x53, size);
    }
    return count;
}

/* Joins mappings that touch and can be accessed: an overflow runs through all of them. */
static struct mapping accessible_around(const char *p, size_t count) {
    for (size_t i = 0; i < count; i++) {
        struct mapping run = mappings[i];
        if (!run.accessible) continue;
        while (i + 1 < count && mappings[i + 1].accessible && mappings[i + 1].start == run.end) run.end = mappings[++i].end;
        if (run.start <= (uintptr_t)p && (uintptr_t)p < run.end) return run;
    }
    broken("a live chunk lies in no mapping");
    return mappings[0];
}

/* Every accessible stretch that holds a chunk holds no library, stack or program; what else of the
 * allocator's it could hold is settled by the next two. */
static void guarded_on_both_sides(struct trial t) {
    size_t allocated = allocate_many(t.size), count = read_mappings();
    int local;
    const void *others[] = {&local, &attacks, (void *)&read_mappings, (void *)&malloc, (void *)&strlen, &mappings};
    for (size_t i = 0; i < allocated; i++) {
        struct mapping run = accessible_around(chunks[i], count);
        for (size_t j = 0; j < sizeof others / sizeof *others; j++)
            if (run.start <= (uintptr_t)others[j] && (uintptr_t)others[j] < run.end)
                broken("nothing guards what lies next to the heap");
    }
}

/* All that can be reached around freed and live chunks without crossing a guard: no word in it points
 * into the heap. The program itself stores no pointer in any chunk. */
static void no_pointer_in_the_heap(struct trial t) {
    size_t allocated = allocate_many(t.size);
    uintptr_t lowest = UINTPTR_MAX, highest = 0;
    for (size_t i = 0; i < allocated; i++) {
        if ((uintptr_t)chunks[i] < lowest) lowest = (uintptr_t)chunks[i];
        if ((uintptr_t)chunks[i] > highest) highest = (uintptr_t)chunks[i];
    }
    for (size_t i = 0; i < allocated; i++)
        if (i % 8) free(chunks[i]);
    size_t count = read_mappings();
    uintptr_t looked_at = 0;
    for (size_t i = 0; i < allocated; i += 8) {
        struct mapping run = accessible_around(chunks[i], count);
        if (run.start == looked_at) continue;
        looked_at = run.start;
        for (uintptr_t page = run.start; page < run.end; page += PAGE) {
            static uintptr_t words[PAGE / sizeof(uintptr_t)];
            struct iovec here = {words, sizeof words}, there = {(void *)page, sizeof words};
            /* Slabs that were given back may be inaccessible without a mapping of their own. */
            if (process_vm_readv(getpid(), &here, 1, &there, 1, 0) != (ssize_t)sizeof words) continue;
            for (size_t word = 0; word < PAGE / sizeof(uintptr_t); word++)
                if (words[word] >= lowest && words[word] <= highest + t.size)
                    broken("a pointer into the heap lies in the heap");
        }
    }
}

/* The bytes between the requested size and the next chunk: none is zero. */
static void canary_has_no_zero(struct trial t) {
    size_t stride = stride_of(t.size);
    settle(t.size);
    unsigned char *p = malloc(t.size);
    if (stride <= t.size + 8) return;
    for (size_t i = t.size; i < stride - 8; i++)
        if (((volatile unsigned char *)p)[i] == 0) broken("a canary byte is zero");
    free(p);
}

/* a: direction. Nothing but chunks and guards may lie on the way; a chunk of the program is not
 * called on while its neighbourhood is destroyed. */
static void until_it_faults(struct trial t) {
    char *p = malloc(t.size);
    note_subject(p);
    if (t.bug) {
        at_the_bug();
        for (long i = 0; i < 1l << 32; i += 8) ((volatile char *)p)[i * t.a] = 'A';
        missed();
    }
    free(p);
}

const struct attack attacks[] = {
    {"guarded_on_both_sides", guarded_on_both_sides},
    {"no_pointer_in_the_heap", no_pointer_in_the_heap},
    {"canary_has_no_zero", canary_has_no_zero},
    {"upwards_until_it_faults", until_it_faults, 1},
    {"downwards_until_it_faults", until_it_faults, -1},
    {0},
};
