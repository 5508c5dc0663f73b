/* testudo_check_heap() finds at any moment what free, reuse and exit would find later. */
#define _GNU_SOURCE
#include "driver.h"

#include <dlfcn.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

static void check(struct trial t) {
    int (*check_heap)(void) = (int (*)(void))dlsym(RTLD_DEFAULT, "testudo_check_heap");
    if (!check_heap) broken("no testudo_check_heap");
    if (check_heap() != 0) broken("a sound heap is 0");
    if (t.bug) missed();
}

/* a: where, from the end of the chunk or, if negative, from its start */
static void live_chunk(struct trial t) {
    settle(t.size);
    char *p = malloc(t.size);
    fill(p, 0x53, t.size);
    settle(t.size);
    note_subject(p);
    if (t.bug) {
        at_the_bug();
        volatile char *victim = t.a < 0 ? p + t.a : p + t.size + t.a;
        *victim = (char)(*victim ^ 0x55);
        past_the_bug();
    }
    check(t);
}

/* a: where, from the start of the chunk */
static void freed_chunk(struct trial t) {
    settle(t.size);
    char *p = malloc(t.size);
    fill(p, 0x53, t.size);
    note_subject(p);
    free(p);
    if (t.bug) {
        at_the_bug();
        ((volatile char *)p)[t.a] ^= 'A';
        past_the_bug();
    }
    check(t);
}

const struct attack attacks[] = {
    {"overflow", live_chunk, 0},
    {"underflow", live_chunk, -2},
    {"write_after_free", freed_chunk, 4},
    {"write_to_a_freed_header", freed_chunk, -3},
    {0},
};
