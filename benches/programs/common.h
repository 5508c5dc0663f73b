/* What every program here needs: a random source that costs next to nothing beside malloc, a clock,
 * numeric arguments, and a way to make use of memory that the compiler cannot remove. */
#ifndef TESTUDO_BENCH_COMMON_H
#define TESTUDO_BENCH_COMMON_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef struct {
    uint64_t state;
} rng_t;

/* xorshift64*: the state must not be zero, and neighbouring seeds must not give related streams. */
static inline rng_t rng_new(uint64_t seed) {
    rng_t rng = {(seed + 1) * 0x9e3779b97f4a7c15u};
    rng.state ^= rng.state >> 29;
    if (rng.state == 0) {
        rng.state = 1;
    }
    return rng;
}

static inline uint64_t rng_next(rng_t *rng) {
    uint64_t x = rng->state;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    rng->state = x;
    return x * 0x2545f4914f6cdd1du;
}

/* A number in 0..bound, by multiplication: a division would be as dear as a malloc. */
static inline uint64_t rng_below(rng_t *rng, uint64_t bound) {
    return (uint64_t)(((unsigned __int128)rng_next(rng) * bound) >> 64);
}

static inline double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static inline uint64_t argument(int argc, char **argv, int index, uint64_t otherwise) {
    return index < argc ? strtoull(argv[index], NULL, 0) : otherwise;
}

/* The compiler may remove a malloc whose pointer goes nowhere; it must not. */
static inline void keep(void *pointer) { __asm__ volatile("" : : "r"(pointer) : "memory"); }

static inline void *must(void *pointer) {
    if (pointer == NULL) {
        fputs("out of memory\n", stderr);
        exit(1);
    }
    return pointer;
}

/* Writes one byte in every page, as a program that fills the buffer sooner or later does. */
static inline void touch_pages(char *bytes, size_t size) {
    for (size_t at = 0; at < size; at += 4096) {
        bytes[at] = (char)(at >> 12 | 1);
    }
}

/* A field of /proc/self/status in KiB ("VmRSS:", "VmHWM:"), without buffered input: stdio would
 * allocate in the heap under measurement. */
#include <fcntl.h>
#include <unistd.h>
static inline uint64_t status_kib(const char *field) {
    char text[4096];
    int fd = open("/proc/self/status", O_RDONLY);
    ssize_t got = read(fd, text, sizeof text - 1);
    close(fd);
    text[got > 0 ? got : 0] = 0;
    char *found = strstr(text, field);
    return found ? strtoull(found + strlen(field), NULL, 10) : 0;
}

#endif
