/* Shared by the conformance programs: named checks, each a function that says what it finds wrong.
 * The program is given the name of one and ends with the number of things it found. */
#ifndef CHECKS_H
#define CHECKS_H

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int wrong;

/* Prints and counts. stdout, so that a report on stderr stands alone. */
#define EXPECT(condition)                                                        \
    do {                                                                         \
        if (!(condition)) {                                                      \
            printf("line %d: not so: %s\n", __LINE__, #condition);               \
            wrong++;                                                             \
        }                                                                        \
    } while (0)

struct check {
    const char *name;
    void (*run)(void);
};

#define CHECK(name) {#name, name}

static int run_named(const struct check *checks, int argc, char **argv) {
    for (; argc == 2 && checks->name; checks++)
        if (strcmp(checks->name, argv[1]) == 0) {
            checks->run();
            fflush(stdout);
            return wrong > 100 ? 100 : wrong;
        }
    printf("no such check\n");
    return 101;
}

static inline bool aligned_to(const void *p, size_t alignment) { return (size_t)p % alignment == 0; }

static inline bool all_zero(const char *p, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (p[i]) return false;
    return true;
}

static inline bool all_are(const char *p, char byte, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (p[i] != byte) return false;
    return true;
}

#endif
