/* Hands what is not the start of a live chunk to free, realloc and malloc_usable_size. */
#define _GNU_SOURCE
#include "driver.h"

#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum operation { FREE, REALLOC, USABLE_SIZE };

static void perform(enum operation operation, void *p) {
    if (operation == FREE) free(p);
    if (operation == REALLOC) free(realloc(p, 100));
    if (operation == USABLE_SIZE && malloc_usable_size(p) == SIZE_MAX) broken("nonsense size");
}

/* The twin performs the operation on a chunk as it should be. */
static void attempt(struct trial t, void *wrong, void *right) {
    void *p = t.bug ? wrong : right;
    note_subject(p);
    at_the_bug();
    perform((enum operation)t.a, p);
    if (t.bug) missed();
    past_the_bug();
    if (t.a == USABLE_SIZE) free(right);
}

static char *chunk(size_t size) {
    settle(size);
    char *p = malloc(size);
    fill(p, 0x53, size);
    return p;
}

/* b: the distance from the chunk's start, or one of these */
enum { HALF = 1000000, LAST, ANYWHERE, ANY_MULTIPLE_OF_16 };

static void interior(struct trial t) {
    char *p = chunk(t.size);
    long distance = t.b;
    if (t.b == HALF) distance = (long)t.size / 2;
    if (t.b == LAST) distance = (long)t.size - 1;
    if (t.b == ANYWHERE) distance = 1 + (long)dice((uint32_t)t.size - 1);
    if (t.b == ANY_MULTIPLE_OF_16) distance = 16 + 16 * (long)dice((uint32_t)(t.size - 16) / 16);
    attempt(t, p + distance, p);
}

/* The attacker fakes a chunk inside a chunk: a copy of a true header in front of the pointer. */
static void interior_with_a_true_header(struct trial t) {
    char *p = chunk(t.size);
    long distance = 16 + 16 * (long)dice((uint32_t)(t.size - 16) / 16);
    memcpy(p + distance - 8, p - 8, 8);
    attempt(t, p + distance, p);
}

static void on_the_stack(struct trial t) {
    _Alignas(16) char local[64];
    fill(local, 0, sizeof local);
    attempt(t, local + 16, chunk(t.size));
}

static void on_the_stack_with_a_true_header(struct trial t) {
    _Alignas(16) char local[64];
    char *p = chunk(t.size);
    memcpy(local + 8, p - 8, 8);
    attempt(t, local + 16, p);
}

static _Alignas(16) char data[64] = "data";
static _Thread_local _Alignas(16) char thread_local_data[64];

static void global(struct trial t) { attempt(t, data + 16, chunk(t.size)); }
static void thread_local_variable(struct trial t) { attempt(t, thread_local_data + 16, chunk(t.size)); }
static void literal(struct trial t) { attempt(t, (void *)"a string of the program itself", chunk(t.size)); }
static void code(struct trial t) { attempt(t, (void *)code, chunk(t.size)); }
static void environment(struct trial t) { attempt(t, getenv("LD_PRELOAD"), chunk(t.size)); }

/* b: the distance from the start of a mapping that the program made itself */
static void foreign_mapping(struct trial t) {
    char *own = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    attempt(t, own + t.b, chunk(t.size));
}

/* b: an address where nothing is */
static void nowhere(struct trial t) { attempt(t, (void *)t.b, chunk(t.size)); }

static void far_from_a_chunk(struct trial t) {
    char *p = chunk(t.size);
    attempt(t, p + ((long)dice(1 << 20) - (1 << 19)) * 65536 + 16, p);
}

/* A place for a chunk of this size that no malloc returned: between, before or after its like. */
static void never_handed_out(struct trial t) {
    enum { MOST = 100 };
    char *mine[MOST];
    size_t count = enough(t.size, 2 << 20, 20, MOST), stride = stride_of(t.size);
    for (size_t i = 0; i < count; i++) mine[i] = malloc(t.size);
    char *p = mine[0];
    for (;;) {
        char *candidate = mine[dice((uint32_t)count)] + ((long)dice(16) - 8) * (long)stride;
        size_t i = 0;
        while (i < count && mine[i] != candidate) i++;
        if (i == count) attempt(t, candidate, p);
        if (i == count) return;
    }
}

static void freed(struct trial t) {
    char *p = chunk(t.size), *other = chunk(t.size);
    free(p);
    attempt(t, p, other);
}

static void of_an_emptied_slab(struct trial t) {
    static char *chunks[4000];
    size_t count = enough(t.size, 2 << 20, 50, 4000);
    char *right = malloc(t.size);
    for (size_t i = 0; i < count; i++) chunks[i] = malloc(t.size);
    char *p = chunks[dice((uint32_t)count)];
    for (size_t i = 0; i < count; i++) free(chunks[i]);
    attempt(t, p, right);
}

#define EACH_OPERATION(name, run, detail) \
    {"free_" name, run, FREE, detail}, {"realloc_" name, run, REALLOC, detail}, \
        {"usable_size_" name, run, USABLE_SIZE, detail}

const struct attack attacks[] = {
    EACH_OPERATION("interior_by_1", interior, 1),
    EACH_OPERATION("interior_by_4", interior, 4),
    EACH_OPERATION("interior_by_8", interior, 8),
    EACH_OPERATION("interior_by_16", interior, 16),
    EACH_OPERATION("interior_half", interior, HALF),
    EACH_OPERATION("interior_last_byte", interior, LAST),
    EACH_OPERATION("interior_anywhere", interior, ANYWHERE),
    EACH_OPERATION("interior_multiple_of_16", interior, ANY_MULTIPLE_OF_16),
    EACH_OPERATION("interior_with_a_true_header", interior_with_a_true_header, 0),
    EACH_OPERATION("before_by_1", interior, -1),
    EACH_OPERATION("before_by_8", interior, -8),
    EACH_OPERATION("on_the_stack", on_the_stack, 0),
    EACH_OPERATION("on_the_stack_with_a_true_header", on_the_stack_with_a_true_header, 0),
    EACH_OPERATION("global", global, 0),
    EACH_OPERATION("thread_local_variable", thread_local_variable, 0),
    EACH_OPERATION("literal", literal, 0),
    EACH_OPERATION("code", code, 0),
    EACH_OPERATION("environment", environment, 0),
    EACH_OPERATION("foreign_mapping_start", foreign_mapping, 0),
    EACH_OPERATION("foreign_mapping_inside", foreign_mapping, 4112),
    EACH_OPERATION("nowhere_first_page", nowhere, 0x40),
    EACH_OPERATION("nowhere_low", nowhere, 0x1234567890),
    EACH_OPERATION("nowhere_high", nowhere, 0x7ffffffff010),
    EACH_OPERATION("nowhere_not_canonical", nowhere, (long)0xdeadbeefdeadbee0),
    EACH_OPERATION("nowhere_last", nowhere, -16),
    EACH_OPERATION("far_from_a_chunk", far_from_a_chunk, 0),
    EACH_OPERATION("never_handed_out", never_handed_out, 0),
    EACH_OPERATION("freed", freed, 0),
    EACH_OPERATION("of_an_emptied_slab", of_an_emptied_slab, 0),
    {0},
};
