/* What every attack program shares: a table of named attacks, each with its correct twin.
 *
 * An attack is one function. With `bug` false it must do the same without the bug, and is then the
 * correct twin. The driver repeats it in child processes and prints how each ended. */
#ifndef DRIVER_H
#define DRIVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* One run of one attack. `a`, `b` and `c` are copied from the attack's entry. */
struct trial {
    size_t size;
    bool bug;
    unsigned repetition;
    long a, b, c;
};

struct attack {
    const char *name;
    void (*run)(struct trial t);
    long a, b, c;
};

/* Defined by each attack program; ends with an entry without a name. */
extern const struct attack attacks[];

/* Tells the driver that the next access or call is the bug itself: a fault from here on, and before
 * `past_the_bug`, is a fault at the access. */
void at_the_bug(void);
void past_the_bug(void);

/* The pointer that the report should name, and a number for the tests to look at. */
void note_subject(const void *subject);
void note_value(uint64_t value);

/* The three ways to end early: the bug changed nothing and proves nothing, the allocator let pass
 * what it had to stop, or the program saw something it must never see. None of them returns or runs
 * exit handlers, so that an audit at exit cannot make up for a check that came too late. */
__attribute__((noreturn)) void moot(void);
__attribute__((noreturn)) void missed(void);
__attribute__((noreturn)) void broken(const char *what);

/* A number below `sides`, the same for the same repetition of the same attack. */
uint32_t dice(uint32_t sides);

/* Writes and reads that no compiler removes. */
void fill(void *start, int byte, size_t count);
bool only(const void *start, int byte, size_t count);

/* Allocates and frees a few chunks of this size, so that no two repetitions begin alike. */
void settle(size_t size);

/* How many chunks of `size` make up `bytes`, but at least `least` and at most `most`. */
size_t enough(size_t size, size_t bytes, size_t least, size_t most);

/* The distance between two neighbouring chunks of this size, found by allocating many. */
size_t stride_of(size_t size);

/* Finds `count` live chunks of this size that lie one after the other and stores them in order. */
void neighbours(size_t size, char **chunks, size_t count);

#ifdef __cplusplus
}
#endif
#endif
