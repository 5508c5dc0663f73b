/* What the C standard, POSIX and the manual of the GNU C library say of malloc and its family. */
#define _GNU_SOURCE
#include "checks.h"

#include <dlfcn.h>
#include <errno.h>
#include <malloc.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

static const size_t sizes[] = {0,    1,    2,    7,     8,     9,      15,     16,     17,     24,      31,     32,
                               33,   40,   48,   63,    64,    65,     100,    127,    128,    129,     1000,   1024,
                               4095, 4096, 4097, 20000, 65536, 131072, 262143, 262144, 262145, 1000000, 5000000};
#define EACH_SIZE(n) for (size_t at = 0, n; at < sizeof sizes / sizeof *sizes && (n = sizes[at], 1); at++)

/* Sizes that no object can have, and that no machine can provide. */
static const size_t too_large[] = {PTRDIFF_MAX, (size_t)PTRDIFF_MAX + 1, SIZE_MAX - 4096, SIZE_MAX - 16, SIZE_MAX - 1, SIZE_MAX,
                                   (size_t)1 << 60, (size_t)1 << 47};
#define EACH_TOO_LARGE(n) for (size_t at = 0, n; at < sizeof too_large / sizeof *too_large && (n = too_large[at], 1); at++)

#define FAILS_WITH(expected, call)            \
    do {                                      \
        errno = 0;                            \
        EXPECT((call) == NULL);               \
        EXPECT(errno == (expected));          \
    } while (0)

static void malloc_aligns_for_every_type(void) {
    EACH_SIZE(n) {
        for (int i = 0; i < 20; i++) {
            char *p = malloc(n);
            EXPECT(p != NULL && aligned_to(p, _Alignof(max_align_t)));
            memset(p, 1, n);
            free(p);
        }
    }
}

static void calloc_and_realloc_align_for_every_type(void) {
    EACH_SIZE(n) {
        char *p = calloc(1, n), *q = realloc(malloc(3), n ? n : 1);
        EXPECT(aligned_to(p, _Alignof(max_align_t)) && aligned_to(q, _Alignof(max_align_t)));
        free(p);
        free(q);
    }
}

static void live_chunks_do_not_overlap(void) {
    enum { COUNT = 3000 };
    static unsigned char *chunks[COUNT];
    static size_t lengths[COUNT];
    unsigned state = 7;
    for (int i = 0; i < 60000; i++) {
        state = state * 1103515245 + 12345;
        int at = (state >> 8) % COUNT;
        if (chunks[at]) {
            EXPECT(all_are((char *)chunks[at], (char)at, lengths[at]));
            free(chunks[at]);
        }
        lengths[at] = (state >> 4) % (at % 100 ? 300 : 30000);
        chunks[at] = malloc(lengths[at]);
        memset(chunks[at], at, lengths[at]);
    }
}

static void malloc_zero_returns_distinct_pointers(void) {
    void *pointers[100];
    for (int i = 0; i < 100; i++) {
        pointers[i] = i % 2 ? malloc(0) : calloc(0, 0);
        EXPECT(pointers[i] != NULL);
        for (int j = 0; j < i; j++) EXPECT(pointers[i] != pointers[j]);
    }
    for (int i = 0; i < 100; i++) free(pointers[i]);
}

static void malloc_of_too_much_fails_with_enomem(void) {
    EACH_TOO_LARGE(n) FAILS_WITH(ENOMEM, malloc(n));
}

static void calloc_of_too_much_fails_with_enomem(void) {
    EACH_TOO_LARGE(n) {
        FAILS_WITH(ENOMEM, calloc(1, n));
        FAILS_WITH(ENOMEM, calloc(n, 1));
    }
}

static void calloc_fails_when_the_product_overflows(void) {
    FAILS_WITH(ENOMEM, calloc(SIZE_MAX, 2));
    FAILS_WITH(ENOMEM, calloc(2, SIZE_MAX));
    FAILS_WITH(ENOMEM, calloc(SIZE_MAX / 2 + 1, 2));
    FAILS_WITH(ENOMEM, calloc((size_t)1 << 32, (size_t)1 << 32));
    FAILS_WITH(ENOMEM, calloc(((size_t)1 << 32) + 1, (size_t)1 << 32));
    FAILS_WITH(ENOMEM, calloc(SIZE_MAX, SIZE_MAX));
    FAILS_WITH(ENOMEM, calloc(SIZE_MAX / 16 + 2, 16));
}

static void calloc_returns_zeroes(void) {
    EACH_SIZE(n) {
        for (int i = 0; i < 4; i++) {
            char *p = calloc(n ? 1 : 0, n);
            EXPECT(all_zero(p, n));
            memset(p, 0xff, n);
            free(p);
        }
    }
    char *p = calloc(333, 7);
    EXPECT(all_zero(p, 333 * 7));
    free(p);
}

/* Programs calloc tables of which they use little. */
static void calloc_of_a_gibibyte_takes_memory_only_where_it_is_written_to(void) {
    enum { PAGE = 4096, PAGES = (1 << 30) / PAGE };
    static unsigned char there[PAGES + 1];
    char *p = calloc(1 << 15, 1 << 15);
    EXPECT(p != NULL);
    p[0] = p[(1 << 29) + 1] = 1;
    EXPECT(p[(1 << 30) - 1] == 0);
    char *first = (char *)((uintptr_t)p & -(uintptr_t)PAGE);
    EXPECT(mincore(first, (size_t)(p + (1 << 30) - first), there) == 0);
    size_t resident = 0;
    for (size_t i = 0; i < PAGES; i++) {
        resident += there[i] & 1;
    }
    /* Three pages, or as many huge ones. */
    EXPECT(resident >= 3 && resident <= 3 * 512);
    free(p);
}

static void calloc_with_a_zero_factor_returns_a_pointer(void) {
    void *p = calloc(0, SIZE_MAX), *q = calloc(SIZE_MAX, 0);
    EXPECT(p && q && p != q);
    free(p);
    free(q);
}

static void realloc_of_null_is_malloc(void) {
    EACH_SIZE(n) {
        char *p = realloc(NULL, n);
        EXPECT(p != NULL);
        memset(p, 1, n);
        free(p);
    }
}

static void realloc_to_zero_frees_and_returns_null(void) {
    EACH_SIZE(n) {
        void *p = malloc(n);
        errno = 0;
        EXPECT(realloc(p, 0) == NULL);
        EXPECT(errno == 0);
    }
    /* The memory is really given back: far more is cycled through than the machine has. */
    for (int i = 0; i < 100000; i++) {
        void *p = malloc(1 << 20);
        if (!p || realloc(p, 0)) {
            EXPECT(!"memory was given back");
            break;
        }
    }
}

static void realloc_keeps_the_contents(void) {
    EACH_SIZE(from) {
        for (size_t j = 1; j < sizeof sizes / sizeof *sizes; j++) {
            size_t to = sizes[j], kept = from < to ? from : to;
            char *p = malloc(from);
            for (size_t i = 0; i < from; i++) p[i] = (char)(i * 7 + i / 256);
            p = realloc(p, to);
            EXPECT(p != NULL);
            size_t same = 0;
            while (same < kept && p[same] == (char)(same * 7 + same / 256)) same++;
            EXPECT(same == kept);
            memset(p, 1, to);
            free(p);
        }
    }
}

static void realloc_step_by_step_keeps_the_contents(void) {
    char *p = NULL;
    size_t n = 0;
    for (size_t next = 1; next < 3000000; next += 1 + next / 7) {
        p = realloc(p, next);
        EXPECT(all_are(p, 'x', n));
        memset(p + n, 'x', next - n);
        n = next;
    }
    while (n > 3) {
        n -= n / 3;
        p = realloc(p, n);
        EXPECT(all_are(p, 'x', n));
    }
    free(p);
}

static void realloc_that_fails_leaves_the_chunk(void) {
    EACH_SIZE(n) {
        char *p = malloc(n);
        memset(p, 'k', n);
        EACH_TOO_LARGE(large) FAILS_WITH(ENOMEM, realloc(p, large));
        EXPECT(all_are(p, 'k', n));
        EXPECT(malloc_usable_size(p) >= n);
        free(p);
    }
}

/* Of the C library; `cfree` is there for old programs only. */
extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t), *__libc_memalign(size_t, size_t);
extern void *__libc_valloc(size_t), *__libc_pvalloc(size_t);
extern void __libc_free(void *), cfree_of_old_programs(void *);
__asm__(".symver cfree_of_old_programs,cfree@GLIBC_2.2.5");

static void other_names_are_of_the_same_heap(void) {
    for (int i = 0; i < 3; i++) {
        void (*give_back[])(void *) = {free, __libc_free, cfree_of_old_programs};
        void *chunks[] = {malloc(100),           __libc_malloc(100),       __libc_calloc(10, 10), __libc_realloc(malloc(100), 1000),
                          __libc_realloc(NULL, 100), __libc_memalign(64, 100), __libc_valloc(100),    __libc_pvalloc(100)};
        for (size_t at = 0; at < sizeof chunks / sizeof *chunks; at++) {
            EXPECT(chunks[at] != NULL && malloc_usable_size(chunks[at]) >= 100);
            give_back[i](chunks[at]);
        }
    }
}

static void reallocarray_multiplies(void) {
    char *p = reallocarray(NULL, 10, 30);
    memset(p, 'r', 300);
    p = reallocarray(p, 1000, 30);
    EXPECT(all_are(p, 'r', 300));
    memset(p, 'r', 30000);
    free(p);
}

static void reallocarray_fails_when_the_product_overflows(void) {
    char *p = malloc(100);
    memset(p, 'r', 100);
    FAILS_WITH(ENOMEM, reallocarray(p, SIZE_MAX, 2));
    FAILS_WITH(ENOMEM, reallocarray(p, (size_t)1 << 32, (size_t)1 << 32));
    FAILS_WITH(ENOMEM, reallocarray(p, SIZE_MAX / 2 + 1, 2));
    FAILS_WITH(ENOMEM, reallocarray(NULL, SIZE_MAX / 8 + 1, 8));
    EXPECT(all_are(p, 'r', 100));
    free(p);
}

static void free_of_null_does_nothing(void) {
    errno = EILSEQ;
    free(NULL);
    EXPECT(errno == EILSEQ);
}

static void free_preserves_errno(void) {
    EACH_SIZE(n) {
        void *p = malloc(n);
        if (p && n) memset(p, 1, n);
        errno = EILSEQ;
        free(p);
        EXPECT(errno == EILSEQ);
    }
    for (int i = 0; i < 300; i++) {
        void *p = malloc((size_t)1 << (10 + i % 16));
        errno = EILSEQ;
        free(p);
        EXPECT(errno == EILSEQ);
    }
}

static void success_leaves_errno_alone(void) {
    EACH_SIZE(n) {
        errno = EILSEQ;
        void *p = malloc(n), *q = calloc(1, n), *r = memalign(64, n);
        p = realloc(p, n + 100);
        EXPECT(errno == EILSEQ);
        free(p);
        free(q);
        free(r);
    }
}

static void usable_size_is_what_was_asked_for(void) {
    EACH_SIZE(n) {
        void *p = malloc(n), *q = calloc(1, n), *r = memalign(256, n);
        EXPECT(malloc_usable_size(p) == n && malloc_usable_size(q) == n && malloc_usable_size(r) == n);
        p = realloc(p, n + 3);
        EXPECT(malloc_usable_size(p) == n + 3);
        free(p);
        free(q);
        free(r);
    }
    EXPECT(malloc_usable_size(NULL) == 0);
}

static const struct check checks[] = {
    CHECK(malloc_aligns_for_every_type),
    CHECK(calloc_and_realloc_align_for_every_type),
    CHECK(live_chunks_do_not_overlap),
    CHECK(malloc_zero_returns_distinct_pointers),
    CHECK(malloc_of_too_much_fails_with_enomem),
    CHECK(calloc_of_too_much_fails_with_enomem),
    CHECK(calloc_fails_when_the_product_overflows),
    CHECK(calloc_returns_zeroes),
    CHECK(calloc_of_a_gibibyte_takes_memory_only_where_it_is_written_to),
    CHECK(calloc_with_a_zero_factor_returns_a_pointer),
    CHECK(realloc_of_null_is_malloc),
    CHECK(realloc_to_zero_frees_and_returns_null),
    CHECK(realloc_keeps_the_contents),
    CHECK(realloc_step_by_step_keeps_the_contents),
    CHECK(realloc_that_fails_leaves_the_chunk),
    CHECK(reallocarray_multiplies),
    CHECK(reallocarray_fails_when_the_product_overflows),
    CHECK(free_of_null_does_nothing),
    CHECK(free_preserves_errno),
    CHECK(success_leaves_errno_alone),
    CHECK(usable_size_is_what_was_asked_for),
    CHECK(other_names_are_of_the_same_heap),
    {0},
};

int main(int argc, char **argv) { return run_named(checks, argc, argv); }
