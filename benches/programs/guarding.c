/* What the kernel takes to give a page to a chunk and to make it inaccessible when the chunk is freed: nanoseconds a cycle of
 * opening, writing a little, and closing, by each way there is. For profile fuzz, which does this for every allocation.
 *
 *   cc -O2 benches/programs/guarding.c -o guarding && ./guarding [cycles]
 */
#define _GNU_SOURCE
#include <linux/userfaultfd.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, SLOTS = 4096, STRIDE = 17 * PAGE, BATCH = 32, OPEN_AHEAD = 64 };
enum { GUARD_INSTALL = 102, GUARD_REMOVE = 103 };

/* Linux 6.8; older headers lack it. */
struct move {
    uint64_t to, from, bytes, mode;
    int64_t moved;
};
#define MOVE _IOWR(UFFDIO, 0x05, struct move)
#define FEATURE_MOVE (1 << 16)

static char *base;
static long cycles = 200000;
static int self, faults;

static char *slot(long number) { return base + number % SLOTS * STRIDE + STRIDE - 2 * PAGE; }

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

static int fresh(int protection) {
    base = mmap(NULL, (size_t)SLOTS * STRIDE, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return base == MAP_FAILED ? -1 : madvise(base, (size_t)SLOTS * STRIDE, MADV_NOHUGEPAGE);
}

/* One call for the next BATCH slots. */
static int for_batch(long first, int advice) {
    struct iovec parts[BATCH];
    for (int i = 0; i < BATCH; i++) parts[i] = (struct iovec){slot(first + i), PAGE};
    return syscall(SYS_process_madvise, self, parts, BATCH, advice, 0) == BATCH * PAGE ? 0 : -1;
}

/* Each page a mapping of its own for ever, so that no call splits or joins mappings. */
static int start_protect(void) {
    if (fresh(PROT_NONE)) return -1;
    for (long i = 0; i < SLOTS; i++)
        if (madvise(slot(i), PAGE, MADV_RANDOM)) return -1;
    return 0;
}
static int protect(long i) {
    if (mprotect(slot(i), PAGE, PROT_READ | PROT_WRITE)) return -1;
    memset(slot(i), 1, 64);
    return mprotect(slot(i), PAGE, PROT_NONE);
}

/* Opened BATCH slots by one call, closed one by one: the pages between are kept closed by markers. Open slots are accessible before
 * anybody owns them, and slots come back in the order of their addresses, not in that of their frees. */
static int start_runs(void) {
    if (fresh(PROT_READ | PROT_WRITE)) return -1;
    for (long i = 0; i < SLOTS; i++) {
        char *start = base + i * STRIDE;
        if (madvise(start, STRIDE, i % 2 ? MADV_RANDOM : MADV_SEQUENTIAL)) return -1;
        if (madvise(start, STRIDE - 2 * PAGE, GUARD_INSTALL)) return -1;
        if (madvise(start + STRIDE - PAGE, PAGE, GUARD_INSTALL)) return -1;
    }
    return mprotect(base, (size_t)SLOTS * STRIDE, PROT_NONE);
}
static int runs(long i) {
    char *start = base + i % SLOTS * STRIDE;
    if (i % BATCH == 0 && mprotect(start, BATCH * STRIDE, PROT_READ | PROT_WRITE)) return -1;
    memset(slot(i), 1, 64);
    return mprotect(start, STRIDE, PROT_NONE);
}

/* Markers in the page table (Linux 6.13): the page is given back and faulted in anew. */
static int start_markers(void) {
    return fresh(PROT_READ | PROT_WRITE) || madvise(base, (size_t)SLOTS * STRIDE, GUARD_INSTALL);
}
static int markers(long i) {
    if (madvise(slot(i), PAGE, GUARD_REMOVE)) return -1;
    memset(slot(i), 1, 64);
    return madvise(slot(i), PAGE, GUARD_INSTALL);
}
static int markers_in_batches(long i) {
    if (i % BATCH == 0 && for_batch(i, GUARD_REMOVE)) return -1;
    memset(slot(i), 1, 64);
    return madvise(slot(i), PAGE, GUARD_INSTALL);
}
static int markers_populated(long i) {
    if (i % BATCH == 0 && (for_batch(i, GUARD_REMOVE) || for_batch(i, MADV_POPULATE_WRITE))) return -1;
    memset(slot(i), 1, 64);
    return madvise(slot(i), PAGE, GUARD_INSTALL);
}

/* The least that closing may cost: no page is there, and slots are opened in batches. */
static int closing_alone(long i) {
    if (i % BATCH == 0 && for_batch(i, GUARD_REMOVE)) return -1;
    return madvise(slot(i), PAGE, GUARD_INSTALL);
}

/* Missing pages of the range fault; one call moves a freed slot's page to one that is handed out later. */
static int start_move(void) {
    faults = (int)syscall(SYS_userfaultfd, 1 /* UFFD_USER_MODE_ONLY */);
    struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_SIGBUS | FEATURE_MOVE};
    if (faults < 0 || ioctl(faults, UFFDIO_API, &api) || fresh(PROT_READ | PROT_WRITE)) return -1;
    struct uffdio_register all = {{(uintptr_t)base, (uint64_t)SLOTS * STRIDE}, UFFDIO_REGISTER_MODE_MISSING, 0};
    if (ioctl(faults, UFFDIO_REGISTER, &all)) return -1;
    for (long i = 0; i < OPEN_AHEAD; i++) {
        struct uffdio_zeropage page = {.range = {(uintptr_t)slot(i), PAGE}};
        if (ioctl(faults, UFFDIO_ZEROPAGE, &page)) return -1;
        memset(slot(i), 1, 64);
    }
    return 0;
}
static int move(long i) {
    struct move page = {.to = (uintptr_t)slot(i + OPEN_AHEAD), .from = (uintptr_t)slot(i), .bytes = PAGE};
    memset(slot(i), 1, 64);
    return ioctl(faults, MOVE, &page);
}

static void measure(const char *name, int (*start)(void), int (*cycle)(long)) {
    int failed = start();
    double before = 0;
    /* The first time round every page is new. */
    for (long i = 0; !failed && i < SLOTS + cycles; i++) {
        if (i == SLOTS) before = now();
        failed = cycle(i);
    }
    if (failed) printf("%-44s %10s\n", name, "-");
    else printf("%-44s %7.0f ns\n", name, (now() - before) / (double)cycles);
    if (base != MAP_FAILED) munmap(base, (size_t)SLOTS * STRIDE);
}

int main(int count, char **words) {
    if (count > 1) cycles = atol(words[1]);
    self = (int)syscall(SYS_pidfd_open, getpid(), 0);
    measure("mprotect twice", start_protect, protect);
    measure("mprotect, opened in batches", start_runs, runs);
    measure("guard markers", start_markers, markers);
    measure("guard markers, removed in batches", start_markers, markers_in_batches);
    measure("guard markers, removed, populated in batches", start_markers, markers_populated);
    measure("userfaultfd: one move", start_move, move);
    measure("a guard marker, no page (the floor)", start_markers, closing_alone);
    return 0;
}
