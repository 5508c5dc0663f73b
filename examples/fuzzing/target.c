/* A fuzz target with one planted heap bug of each kind, for libFuzzer and AFL++, with no sanitizer: testudo finds them.
 *
 * The first byte of an input chooses the bug, the second must be '!' for it to happen. Nothing here calls abort(): an
 * input that ends the process was stopped by the heap, or by the address that it had been given.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* C++'s operator new[] and delete, by the names that the linker knows. */
extern void *_Znam(size_t);
extern void _ZdlPv(void *);

/* The compiler must neither see what becomes of a pointer nor remove a read. */
static void *volatile hidden;
static volatile char sink;

static char *hide(void *pointer) {
    hidden = pointer;
    return hidden;
}

static void parse(char kind, int bug) {
    char *small = hide(malloc(24));
    char *large = hide(malloc(400000));
    if (small == NULL || large == NULL) {
        free(small);
        free(large);
        return;
    }
    memset(small, 1, 24);
    switch (kind) {
    case 'a': /* overflow by one byte, read */
        sink = small[23 + bug];
        break;
    case 'b': /* overflow by one byte, write */
        small[23 + bug] = 0;
        break;
    case 'c': /* underflow */
        small[0 - 4 * bug] = 0;
        break;
    case 'd': /* overflow of a large chunk */
        large[399999 + bug] = 0;
        break;
    case 'e': /* double free */
        free(small);
        if (bug) free(hide(small));
        free(large);
        return;
    case 'f': /* free of an address inside a chunk */
        if (bug) free(small + 8);
        break;
    case 'g': /* write after free */
        free(small);
        if (bug) small[3] = 'x';
        free(large);
        return;
    case 'h': /* read after free */
        free(small);
        if (bug) sink = small[3];
        free(large);
        return;
    case 'i': /* use after free of a large chunk */
        free(large);
        if (bug) large[100] = 'x';
        free(small);
        return;
    case 'j': { /* access to a chunk of no bytes */
        char *none = hide(malloc(0));
        if (bug) none[0] = 'x';
        free(none);
        break;
    }
    case 'k': { /* new[] given back by delete */
        void *array = hide(_Znam(40));
        if (bug) _ZdlPv(array);
        else free(hide(malloc(40)));
        break;
    }
    case 'l': { /* free of an address on the stack */
        char local[32];
        if (bug) free(hide(local + 16));
        break;
    }
    case 'm': { /* an index that was never written: zero in fresh memory of most heaps, so that nobody notices */
        uint32_t *indices = hide(malloc(64));
        if (!bug) memset(indices, 0, 64);
        sink = small[indices[2]];
        free(indices);
        break;
    }
    }
    free(small);
    free(large);
}

/* For ./speed: this many allocations an input, of sizes that the input chooses, given back in another order, and each chunk
 * read this many times, as a program does that works with what it allocates. */
#ifndef ALLOCATIONS
#define ALLOCATIONS 0
#endif
#ifndef READS
#define READS 0
#endif

static void work(const uint8_t *data, size_t size) {
    char *held[64] = {0};
    unsigned sum = 0;
    for (size_t number = 0; number < ALLOCATIONS; number++) {
        size_t bytes = 16 + data[number % size] * (number % 16 == 0 ? 16 : 1);
        char **place = &held[(number * 7 + data[number % size]) % 64];
        free(*place);
        *place = hide(malloc(bytes));
        if (*place == NULL) continue;
        memset(*place, 1, bytes);
        for (int round = 0; round < READS; round++)
            for (size_t at = 0; at < bytes; at++) sum = sum * 31 + (unsigned char)(*place)[at];
    }
    sink = (char)sum;
    for (size_t number = 0; number < 64; number++) free(held[number]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (ALLOCATIONS > 0 && size >= 1) {
        work(data, size);
        return 0;
    }
    if (size >= 1) parse((char)data[0], size >= 2 && data[1] == '!');
    return 0;
}

#ifdef __AFL_COMPILER
#include <unistd.h>

/* -DPERSISTENT: many inputs a process; otherwise AFL++'s fork server, a process each. */
#ifdef PERSISTENT
__AFL_FUZZ_INIT();
#endif

int main(void) {
#ifdef PERSISTENT
    __AFL_INIT();
    unsigned char *input = __AFL_FUZZ_TESTCASE_BUF;
    while (__AFL_LOOP(100000)) LLVMFuzzerTestOneInput(input, __AFL_FUZZ_TESTCASE_LEN);
#else
    unsigned char input[64];
    ssize_t length = read(0, input, sizeof input);
    if (length > 0) LLVMFuzzerTestOneInput(input, (size_t)length);
#endif
    return 0;
}
#endif
