/* What testudo_stats and testudo_check_stats say about known chunks. One claim a run: its name is the argument. */
#define _GNU_SOURCE
#include "../../preload/include/testudo.h"
#include "checks.h"

#include <malloc.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#pragma weak testudo_stats
#pragma weak testudo_check_stats
#pragma weak testudo_class_stats
#pragma weak testudo_purge
#pragma weak testudo_check_heap

enum { COUNT = 3000, SIZE = 100 };

static void *held[COUNT];

static struct testudo_stats counted(void) {
    struct testudo_stats stats;
    EXPECT(testudo_check_stats(&stats) == 0);
    EXPECT(stats.exact == 1);
    return stats;
}

static void hold(size_t size) {
    for (int i = 0; i < COUNT; i++) memset(held[i] = malloc(size), 1, size);
}

static void let_go(void) {
    for (int i = 0; i < COUNT; i++) free(held[i]);
}

static void an_exact_count_is_what_was_asked_for(void) {
    struct testudo_stats before = counted();
    hold(SIZE);
    void *large = malloc(1000001), *none = malloc(0);
    struct testudo_stats with = counted();
    EXPECT(with.allocated - before.allocated == COUNT * SIZE + 1000001);
    EXPECT(with.chunks - before.chunks == COUNT + 2);
    EXPECT(with.large_chunks - before.large_chunks == 1);
    EXPECT(with.large_allocated - before.large_allocated == 1000001);
    EXPECT(with.zero_sized - before.zero_sized == 1);
    EXPECT(with.active >= with.allocated && with.committed >= with.active && with.peak >= with.committed);
    let_go();
    free(large);
    free(none);
    struct testudo_stats after = counted();
    EXPECT(after.allocated == before.allocated && after.chunks == before.chunks);
    EXPECT(after.large_quarantined >= 1000001);
}

static void a_quick_count_knows_the_chunks_and_bounds_the_bytes(void) {
    struct testudo_stats before, with;
    testudo_stats(&before);
    hold(SIZE);
    testudo_stats(&with);
    EXPECT(with.exact == 0);
    EXPECT(with.chunks - before.chunks == COUNT);
    EXPECT(with.allocated - before.allocated >= COUNT * SIZE && with.allocated - before.allocated <= COUNT * (SIZE + 16));
    EXPECT(with.active + with.cached + with.quarantined + with.retained == with.committed);
    EXPECT(with.resident >= counted().resident);
    let_go();
    testudo_stats(&with);
    EXPECT(with.chunks == before.chunks && with.quarantined > before.quarantined);
}

static void a_class_is_counted_by_itself(void) {
    static struct testudo_class_stats before[200], with[200];
    size_t count = testudo_class_stats(before, 200);
    EXPECT(count > 10 && count <= 200);
    hold(SIZE);
    EXPECT(testudo_class_stats(with, 200) == count);
    for (size_t i = 0; i < count; i++) {
        int ours = with[i].size >= SIZE && (i == 0 || with[i - 1].size < SIZE);
        EXPECT(with[i].live - before[i].live == (ours ? COUNT : 0));
        EXPECT(with[i].live * with[i].stride <= with[i].slabs << 20);
        EXPECT(i == 0 || with[i].size > with[i - 1].size);
    }
    struct testudo_class_stats guard = {.size = 77};
    with[1] = guard;
    EXPECT(testudo_class_stats(with, 1) == count && with[1].size == 77);
    let_go();
}

static void resident_memory_is_what_the_kernel_says(void) {
    size_t before = counted().resident;
    hold(5000);
    size_t with = counted().resident;
    EXPECT(with - before > COUNT * 5000 && with - before < COUNT * 6000);
    let_go();
    testudo_purge();
    EXPECT(counted().resident < before + (with - before) / 20);
}

static void mappings_are_counted(void) {
    struct testudo_stats before, with;
    testudo_stats(&before);
    EXPECT(before.mappings > 10 && before.mappings < before.mappings_limit);
    for (int i = 0; i < 100; i++) held[i] = malloc(300000 + i * 4096);
    testudo_stats(&with);
    EXPECT(with.mappings >= before.mappings + 100);
}

static volatile int stop;

static void *churn(void *unused) {
    (void)unused;
    void *own[200] = {0};
    for (unsigned i = 0; !stop; i++) {
        free(own[i % 200]);
        own[i % 200] = malloc(i * 37 % 2000);
    }
    for (int i = 0; i < 200; i++) free(own[i]);
    return NULL;
}

/* Between them four threads hold at most 800 chunks of theirs; 64 slots of each may be on their way. */
static void numbers_stay_possible_while_threads_allocate(void) {
    static struct testudo_class_stats classes[200];
    pthread_t threads[4];
    struct testudo_stats before, now;
    testudo_stats(&before);
    for (int i = 0; i < 4; i++) pthread_create(&threads[i], NULL, churn, NULL);
    for (int i = 0; i < 300; i++) {
        testudo_stats(&now);
        EXPECT(now.chunks < before.chunks + 800 + 4 * 64 + 100);
        EXPECT(now.active <= now.peak && now.allocated <= now.active);
        EXPECT(now.cached < 8 << 20 && now.quarantined < 8 << 20);
        size_t count = testudo_class_stats(classes, 200);
        for (size_t c = 0; c < count; c++) {
            EXPECT(classes[c].live + classes[c].retained <= classes[c].slabs * 4096);
            EXPECT(classes[c].live < 1 << 20 && classes[c].empty_slabs <= classes[c].slabs);
        }
        if (wrong) break;
    }
    stop = 1;
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    EXPECT(counted().exact == 1);
}

static void the_infos_of_glibc_agree(void) {
    struct mallinfo2 before = mallinfo2();
    hold(SIZE);
    void *large = malloc(1000001);
    struct mallinfo2 with = mallinfo2();
    EXPECT(with.uordblks - before.uordblks >= COUNT * SIZE && with.uordblks - before.uordblks <= COUNT * (SIZE + 32));
    EXPECT(with.hblks - before.hblks == 1 && with.hblkhd - before.hblkhd >= 1000001);
    EXPECT(with.arena == with.uordblks + with.fordblks);
    EXPECT(with.fordblks >= with.keepcost && with.ordblks > 0);
    free(large);
    let_go();
}

static void holds_chunks_and_prints_info(void) {
    hold(SIZE);
    EXPECT(malloc_info(0, stdout) == 0);
}

/* Each function that tells about the heap or looks at all of it. */
static FILE *nowhere;
static struct testudo_stats told;
static struct testudo_class_stats told_of_classes[200];

static void ask_mallinfo(void) { (void)mallinfo(); }
static void ask_mallinfo2(void) { (void)mallinfo2(); }
static void ask_malloc_stats(void) { malloc_stats(); }
static void ask_malloc_info(void) { malloc_info(0, nowhere); }
static void ask_malloc_trim(void) { malloc_trim(0); }
static void ask_testudo_stats(void) { testudo_stats(&told); }
static void ask_testudo_check_stats(void) { testudo_check_stats(&told); }
static void ask_testudo_class_stats(void) { testudo_class_stats(told_of_classes, 200); }
static void ask_testudo_check_heap(void) { testudo_check_heap(); }
static void ask_testudo_purge(void) { testudo_purge(); }

static void (*const questions[])(void) = {
    ask_mallinfo,      ask_mallinfo2,           ask_malloc_stats,        ask_malloc_info,        ask_malloc_trim,
    ask_testudo_stats, ask_testudo_check_stats, ask_testudo_class_stats, ask_testudo_check_heap, ask_testudo_purge,
};
enum { QUESTIONS = sizeof questions / sizeof *questions };

/* Something to find everywhere; and the loader, which takes stack too, finds each function only once. */
static void ask_once(void) {
    nowhere = fopen("/dev/null", "w");
    EXPECT(nowhere != NULL && freopen("/dev/null", "w", stderr) != NULL);
    hold(SIZE);
    for (int i = 0; i < 1000; i++) free(malloc(i * 300));
    for (int i = 0; i < QUESTIONS; i++) questions[i]();
    for (int i = 0; i < 1000; i++) free(malloc(i * 300));
}

static void *asks_all(void *unused) {
    (void)unused;
    for (int i = 0; i < QUESTIONS; i++) questions[i]();
    return NULL;
}

static void a_thread_with_the_least_stack_can_ask_everything(void) {
    pthread_attr_t attributes;
    pthread_t thread;
    ask_once();
    pthread_attr_init(&attributes);
    EXPECT(pthread_attr_setstacksize(&attributes, 16384) == 0);
    EXPECT(pthread_create(&thread, &attributes, asks_all, NULL) == 0);
    pthread_join(thread, NULL);
    let_go();
}

/* Runs each on a stack of its own, and looks how far down it was written to. */
static void every_question_takes_less_than_4_kib_of_stack(void) {
    enum { STACK = 1 << 18, FILL = 0xa5 };
    static ucontext_t back, there;
    ask_once();
    for (int i = 0; i < QUESTIONS; i++) {
        unsigned char *stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        EXPECT(stack != MAP_FAILED);
        memset(stack, FILL, STACK);
        getcontext(&there);
        there.uc_stack.ss_sp = stack;
        there.uc_stack.ss_size = STACK;
        there.uc_link = &back;
        makecontext(&there, questions[i], 0);
        swapcontext(&back, &there);
        size_t untouched = 0;
        while (untouched < STACK && stack[untouched] == FILL) untouched++;
        if (STACK - untouched >= 4096) printf("question %d takes %zu bytes\n", i, STACK - untouched);
        EXPECT(STACK - untouched < 4096);
        munmap(stack, STACK);
    }
    let_go();
}

static const struct check checks[] = {
    CHECK(an_exact_count_is_what_was_asked_for),
    CHECK(a_quick_count_knows_the_chunks_and_bounds_the_bytes),
    CHECK(a_class_is_counted_by_itself),
    CHECK(resident_memory_is_what_the_kernel_says),
    CHECK(mappings_are_counted),
    CHECK(numbers_stay_possible_while_threads_allocate),
    CHECK(the_infos_of_glibc_agree),
    CHECK(holds_chunks_and_prints_info),
    CHECK(a_thread_with_the_least_stack_can_ask_everything),
    CHECK(every_question_takes_less_than_4_kib_of_stack),
    {0},
};

int main(int argc, char **argv) { return run_named(checks, argc, argv); }
