/* Notes where chunks come to lie, for the tests to see how well it can be foreseen. */
#include "driver.h"

#include <stdlib.h>

/* The distance between two chunks allocated one after the other. */
static void next_chunk(struct trial t) {
    char *first = malloc(t.size), *second = malloc(t.size);
    note_value((uint64_t)(second - first));
}

static void address(struct trial t) { note_value((uint64_t)malloc(t.size)); }

/* From a chunk of this size to one of another size class, and to a large one. */
static void to_another_class(struct trial t) { note_value((uint64_t)((char *)malloc(t.size * 5) - (char *)malloc(t.size))); }
static void to_a_large_chunk(struct trial t) { note_value((uint64_t)((char *)malloc(500000) - (char *)malloc(t.size))); }

/* From a chunk to the program's own data and to the C library. */
static void to_the_program(struct trial t) { note_value((uint64_t)((char *)malloc(t.size) - (char *)attacks)); }
static void to_the_library(struct trial t) { note_value((uint64_t)((char *)malloc(t.size) - (char *)(uintptr_t)&abort)); }

/* How a hundred chunks allocated one after the other lie to each other, in one number. */
static void order_of_a_hundred(struct trial t) {
    char *first = malloc(t.size);
    uint64_t hash = 1469598103934665603u;
    for (int i = 1; i < 100; i++) hash = (hash ^ (uint64_t)((char *)malloc(t.size) - first)) * 1099511628211u;
    note_value(hash);
}

/* In which order a hundred freed slots come back. */
static void order_of_return(struct trial t) {
    char *chunks[100];
    for (int i = 0; i < 100; i++) chunks[i] = malloc(t.size);
    for (int i = 0; i < 100; i++) free(chunks[i]);
    uint64_t hash = 1469598103934665603u;
    for (int i = 0; i < 400; i++) {
        char *p = malloc(t.size);
        for (int j = 0; j < 100; j++)
            if (chunks[j] == p) hash = (hash ^ (uint64_t)(i * 100 + j)) * 1099511628211u;
    }
    note_value(hash);
}

const struct attack attacks[] = {
    {"next_chunk", next_chunk},
    {"address", address},
    {"to_another_class", to_another_class},
    {"to_a_large_chunk", to_a_large_chunk},
    {"to_the_program", to_the_program},
    {"to_the_library", to_the_library},
    {"order_of_a_hundred", order_of_a_hundred},
    {"order_of_return", order_of_return},
    {0},
};
