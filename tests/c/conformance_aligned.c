/* Aligned allocation, and the sized frees of C23, which this machine's C library may not have. */
#define _GNU_SOURCE
#include "checks.h"

#include <dlfcn.h>
#include <errno.h>
#include <malloc.h>
#include <stdint.h>
#include <unistd.h>

static const size_t sizes[] = {0, 1, 8, 24, 100, 1000, 4096, 5000, 20000, 65536, 262144, 300000, 3000000};
#define EACH_SIZE(n) for (size_t at = 0, n; at < sizeof sizes / sizeof *sizes && (n = sizes[at], 1); at++)
#define EACH_ALIGNMENT(a) for (size_t a = 1; a <= (size_t)1 << 20; a *= 2)

static void (*free_sized_found)(void *, size_t);
static void (*free_aligned_sized_found)(void *, size_t, size_t);

static bool find_sized_frees(void) {
    free_sized_found = (void (*)(void *, size_t))dlsym(RTLD_DEFAULT, "free_sized");
    free_aligned_sized_found = (void (*)(void *, size_t, size_t))dlsym(RTLD_DEFAULT, "free_aligned_sized");
    EXPECT(free_sized_found && free_aligned_sized_found);
    return free_sized_found && free_aligned_sized_found;
}

static void use(char *p, size_t n) {
    EXPECT(p != NULL);
    if (p) memset(p, 'a', n);
}

static void aligned_alloc_aligns(void) {
    EACH_ALIGNMENT(a) EACH_SIZE(n) {
        char *p = aligned_alloc(a, n);
        use(p, n);
        EXPECT(aligned_to(p, a) && aligned_to(p, 8));
        free(p);
    }
}

static void memalign_aligns(void) {
    EACH_ALIGNMENT(a) EACH_SIZE(n) {
        char *p = memalign(a, n);
        use(p, n);
        EXPECT(aligned_to(p, a));
        free(p);
    }
}

/* Who asks for little may still rely on what malloc gives. */
static void less_than_malloc_aligns_is_never_given(void) {
    for (size_t align = 1; align <= 16; align *= 2)
        for (size_t size = 1; size < 200; size++) {
            char *one = memalign(align, size), *other = aligned_alloc(align, size);
            EXPECT((uintptr_t)one % 16 == 0);
            EXPECT((uintptr_t)other % 16 == 0);
            free(one);
            free(other);
        }
}

static void posix_memalign_aligns(void) {
    for (size_t a = sizeof(void *); a <= (size_t)1 << 20; a *= 2) EACH_SIZE(n) {
            void *p = NULL;
            EXPECT(posix_memalign(&p, a, n) == 0);
            use(p, n);
            EXPECT(aligned_to(p, a));
            free(p);
        }
}

static void many_aligned_chunks_live_at_once(void) {
    enum { COUNT = 400 };
    static char *chunks[COUNT];
    for (int round = 0; round < 4; round++) {
        for (int i = 0; i < COUNT; i++) {
            size_t alignment = (size_t)16 << i % 10, n = 1 + i * 13 % 3000;
            chunks[i] = memalign(alignment, n);
            EXPECT(aligned_to(chunks[i], alignment));
            memset(chunks[i], i, n);
        }
        for (int i = 0; i < COUNT; i++) {
            EXPECT(all_are(chunks[i], (char)i, 1 + i * 13 % 3000));
            free(chunks[i]);
        }
    }
}

static void memalign_rounds_odd_alignments_up(void) {
    const size_t odd[] = {0, 3, 24, 33, 100, 4097, 5000};
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
        size_t up = 1;
        while (up < odd[i]) up *= 2;
        char *p = memalign(odd[i], 100);
        use(p, 100);
        EXPECT(aligned_to(p, up));
        free(p);
    }
}

static void huge_alignments_work(void) {
    for (size_t a = (size_t)1 << 21; a <= (size_t)1 << 30; a *= 8) {
        char *p = memalign(a, 100);
        use(p, 100);
        EXPECT(aligned_to(p, a));
        free(p);
    }
}

static void posix_memalign_refuses_bad_alignments_with_einval(void) {
    const size_t bad[] = {0, 1, 2, 4, 3, 7, 9, 12, 24, 40, 100, SIZE_MAX, SIZE_MAX / 2, ((size_t)1 << 63) + 8};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        void *p = (void *)0x5a5a;
        errno = EILSEQ;
        EXPECT(posix_memalign(&p, bad[i], 64) == EINVAL);
        EXPECT(errno == EILSEQ);
        EXPECT(p == (void *)0x5a5a);
    }
}

static void posix_memalign_returns_enomem_and_leaves_errno(void) {
    const size_t sizes[] = {PTRDIFF_MAX, SIZE_MAX, SIZE_MAX - 64, (size_t)1 << 60};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        void *p = (void *)0x5a5a;
        errno = EILSEQ;
        EXPECT(posix_memalign(&p, 64, sizes[i]) == ENOMEM);
        EXPECT(errno == EILSEQ);
        EXPECT(p == (void *)0x5a5a);
    }
    void *p = (void *)0x5a5a;
    EXPECT(posix_memalign(&p, (size_t)1 << 62, 64) == ENOMEM);
    EXPECT(p == (void *)0x5a5a);
}

static void aligned_alloc_and_memalign_of_too_much_fail_with_enomem(void) {
    const size_t sizes[] = {PTRDIFF_MAX, SIZE_MAX, SIZE_MAX - 15, SIZE_MAX - 4095, (size_t)1 << 60};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (size_t a = 8; a <= 1 << 20; a *= 4) {
            errno = 0;
            EXPECT(aligned_alloc(a, sizes[i]) == NULL && errno == ENOMEM);
            errno = 0;
            EXPECT(memalign(a, sizes[i]) == NULL && errno == ENOMEM);
        }
}

static void an_impossible_alignment_fails(void) {
    errno = 0;
    EXPECT(memalign((size_t)1 << 62, 64) == NULL && errno == ENOMEM);
    errno = 0;
    EXPECT(memalign(SIZE_MAX, 64) == NULL && (errno == EINVAL || errno == ENOMEM));
    errno = 0;
    EXPECT(aligned_alloc((size_t)1 << 62, 64) == NULL && errno == ENOMEM);
}

/* glibc takes any size; the multiple that C11 asked for was dropped from the standard. */
static void aligned_alloc_takes_sizes_that_are_no_multiple(void) {
    char *p = aligned_alloc(64, 100);
    use(p, 100);
    EXPECT(aligned_to(p, 64) && malloc_usable_size(p) >= 100);
    free(p);
}

static void valloc_aligns_to_pages(void) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    EACH_SIZE(n) {
        char *p = valloc(n);
        use(p, n);
        EXPECT(aligned_to(p, page));
        free(p);
    }
    errno = 0;
    EXPECT(valloc(SIZE_MAX) == NULL && errno == ENOMEM);
}

static void pvalloc_aligns_and_rounds_up_to_pages(void) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    EACH_SIZE(n) {
        size_t whole = (n + page - 1) / page * page;
        char *p = pvalloc(n);
        use(p, whole);
        EXPECT(aligned_to(p, page) && malloc_usable_size(p) >= whole);
        free(p);
    }
    errno = 0;
    EXPECT(pvalloc(SIZE_MAX) == NULL && errno == ENOMEM);
    errno = 0;
    EXPECT(pvalloc(SIZE_MAX - 100) == NULL && errno == ENOMEM);
}

static void realloc_of_aligned_memory_keeps_the_contents(void) {
    EACH_ALIGNMENT(a) EACH_SIZE(n) {
        char *p = memalign(a, n);
        use(p, n);
        p = realloc(p, n + 5000);
        EXPECT(all_are(p, 'a', n));
        use(p, n + 5000);
        p = realloc(p, n / 2 + 1);
        EXPECT(all_are(p, 'a', n / 2 + 1));
        free(p);
    }
}

static void free_sized_frees(void) {
    if (!find_sized_frees()) return;
    EACH_SIZE(n) {
        free_sized_found(malloc(n), n);
        free_sized_found(calloc(1, n), n);
        free_sized_found(realloc(malloc(5), n + 1), n + 1);
    }
    free_sized_found(NULL, 0);
    free_sized_found(NULL, 100);
}

/* C23, 7.24.3.4: what realloc returned, wherever it was before. */
static void free_sized_frees_what_realloc_made_of_aligned_memory(void) {
    if (!find_sized_frees()) return;
    const size_t changes[][2] = {{100, 101}, {100, 5000}, {5000, 100}, {300000, 300100}, {300000, 30000000}, {3000000, 400000}};
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++)
        for (size_t align = 16; align <= 4096; align *= 16) {
            char *p = aligned_alloc(align, changes[i][0]);
            use(p, changes[i][0]);
            p = realloc(p, changes[i][1]);
            use(p, changes[i][1]);
            free_sized_found(p, changes[i][1]);
        }
}

static void free_aligned_sized_frees(void) {
    if (!find_sized_frees()) return;
    EACH_ALIGNMENT(a) EACH_SIZE(n) free_aligned_sized_found(aligned_alloc(a, n), a, n);
    free_aligned_sized_found(NULL, 64, 0);
    free_aligned_sized_found(NULL, 64, 100);
}

static void sized_frees_preserve_errno(void) {
    if (!find_sized_frees()) return;
    EACH_SIZE(n) {
        void *p = malloc(n), *q = aligned_alloc(64, n);
        errno = EILSEQ;
        free_sized_found(p, n);
        free_aligned_sized_found(q, 64, n);
        EXPECT(errno == EILSEQ);
    }
}

static const struct check checks[] = {
    CHECK(aligned_alloc_aligns),
    CHECK(memalign_aligns),
    CHECK(less_than_malloc_aligns_is_never_given),
    CHECK(posix_memalign_aligns),
    CHECK(many_aligned_chunks_live_at_once),
    CHECK(memalign_rounds_odd_alignments_up),
    CHECK(huge_alignments_work),
    CHECK(posix_memalign_refuses_bad_alignments_with_einval),
    CHECK(posix_memalign_returns_enomem_and_leaves_errno),
    CHECK(aligned_alloc_and_memalign_of_too_much_fail_with_enomem),
    CHECK(an_impossible_alignment_fails),
    CHECK(aligned_alloc_takes_sizes_that_are_no_multiple),
    CHECK(valloc_aligns_to_pages),
    CHECK(pvalloc_aligns_and_rounds_up_to_pages),
    CHECK(realloc_of_aligned_memory_keeps_the_contents),
    CHECK(free_sized_frees),
    CHECK(free_sized_frees_what_realloc_made_of_aligned_memory),
    CHECK(free_aligned_sized_frees),
    CHECK(sized_frees_preserve_errno),
    {0},
};

int main(int argc, char **argv) { return run_named(checks, argc, argv); }
