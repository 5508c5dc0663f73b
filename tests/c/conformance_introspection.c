/* What tells of the heap or tunes it. */
#define _GNU_SOURCE
#include "checks.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

static void *held[1000];

static void hold_a_megabyte(void) {
    for (int i = 0; i < 1000; i++) memset(held[i] = malloc(1000), 1, 1000);
}

static void let_go(void) {
    for (int i = 0; i < 1000; i++) free(held[i]);
}

static void mallinfo2_counts_what_is_in_use(void) {
    struct mallinfo2 before = mallinfo2();
    hold_a_megabyte();
    void *large = malloc(3000000);
    struct mallinfo2 with = mallinfo2();
    size_t in_use = with.uordblks + with.hblkhd, was_in_use = before.uordblks + before.hblkhd;
    EXPECT(in_use >= was_in_use + 3900000);
    EXPECT(in_use <= was_in_use + 8000000);
    EXPECT(with.arena + with.hblkhd >= in_use - with.hblkhd);
    free(large);
    let_go();
    struct mallinfo2 after = mallinfo2();
    EXPECT(after.uordblks + after.hblkhd < in_use - 2500000);
}

static void mallinfo_agrees_with_mallinfo2(void) {
    hold_a_megabyte();
    struct mallinfo2 wide = mallinfo2();
    struct mallinfo narrow = mallinfo();
    EXPECT(narrow.uordblks + narrow.hblkhd > 900000);
    EXPECT((size_t)narrow.uordblks <= wide.uordblks + 100000 && (size_t)narrow.uordblks + 100000 >= wide.uordblks);
    let_go();
}

/* Tags nest, attributes are quoted, and there is one root. */
static bool well_formed(const char *text, const char *root) {
    char open[32][32];
    int depth = 0, roots = 0;
    for (const char *p = text; *p;) {
        if (*p != '<') {
            if (depth == 0 && *p != '\n' && *p != ' ') return false;
            p++;
            continue;
        }
        const char *end = strchr(p, '>');
        if (!end) return false;
        if (p[1] == '?') {
            if (end[-1] != '?' || p != text) return false;
        } else if (p[1] == '/') {
            size_t length = (size_t)(end - p - 2);
            if (depth == 0 || strlen(open[depth - 1]) != length || strncmp(open[depth - 1], p + 2, length)) return false;
            depth--;
        } else {
            size_t length = strcspn(p + 1, " />"), quotes = 0;
            for (const char *q = p; q < end; q++) {
                quotes += *q == '"';
                if (*q == '&' || (*q == '<' && q != p)) return false;
                if (*q == '=' && q[1] != '"') return false;
            }
            if (length == 0 || length > 31 || quotes % 2 || depth > 31) return false;
            if (depth == 0 && (roots++ || strncmp(p + 1, root, length))) return false;
            if (end[-1] != '/') {
                memcpy(open[depth], p + 1, length);
                open[depth++][length] = 0;
            }
        }
        p = end + 1;
    }
    return depth == 0 && roots == 1;
}

static void malloc_info_writes_well_formed_xml(void) {
    static char text[1 << 20];
    FILE *file = tmpfile();
    hold_a_megabyte();
    EXPECT(malloc_info(0, file) == 0);
    let_go();
    rewind(file);
    size_t length = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    EXPECT(length > 0);
    EXPECT(strstr(text, "<malloc") != NULL);
    EXPECT(well_formed(text, "malloc"));
}

static void malloc_info_writes_where_the_stream_stands(void) {
    char buffer[4096] = "";
    FILE *file = fmemopen(buffer, sizeof buffer, "w");
    fprintf(file, "before ");
    EXPECT(malloc_info(0, file) == 0);
    fclose(file);
    EXPECT(strncmp(buffer, "before <", 8) == 0);
}

static void malloc_info_refuses_other_options_with_einval(void) {
    errno = 0;
    int result = malloc_info(1, stdout);
    EXPECT(result == EINVAL || (result == -1 && errno == EINVAL));
}

static void malloc_stats_writes_to_stderr_only(void) {
    char text[4096];
    int file = memfd_create("malloc_stats", 0), saved = dup(STDERR_FILENO);
    dup2(file, STDERR_FILENO);
    malloc_stats();
    dup2(saved, STDERR_FILENO);
    ssize_t length = pread(file, text, sizeof text, 0);
    EXPECT(length > 20 && text[length - 1] == '\n');
    for (ssize_t i = 0; i < length; i++) EXPECT(text[i] == '\n' || text[i] >= ' ');
}

static void *asks_when_cancelled(void *returned) {
    pthread_cancel(pthread_self());
    malloc_stats();
    *(bool *)returned = true;
    return NULL;
}

static void malloc_stats_is_no_cancellation_point(void) {
    bool returned = false;
    pthread_t thread;
    EXPECT(freopen("/dev/null", "w", stderr) != NULL);
    EXPECT(pthread_create(&thread, NULL, asks_when_cancelled, &returned) == 0);
    pthread_join(thread, NULL);
    EXPECT(returned);
}

static void malloc_trim_says_whether_it_gave_back(void) {
    enum { COUNT = 4000 };
    static void *chunks[COUNT];
    for (int i = 0; i < COUNT; i++) memset(chunks[i] = malloc(4000), 1, 4000);
    for (int i = 0; i < COUNT; i++) free(chunks[i]);
    EXPECT(malloc_trim(0) == 1);
    /* A program may repeat it until there is nothing left. */
    int rounds = 0;
    while (malloc_trim(0) == 1 && rounds < 100) rounds++;
    EXPECT(rounds < 5);
    EXPECT(malloc_trim(SIZE_MAX) == 0);
    void *p = malloc(100);
    memset(p, 1, 100);
    free(p);
}

static long resident_pages(void) {
    char text[100] = "";
    int fd = open("/proc/self/statm", O_RDONLY);
    if (read(fd, text, sizeof text - 1) < 0) return -1;
    close(fd);
    return strtol(strchr(text, ' '), NULL, 10);
}

static void malloc_trim_gives_memory_back(void) {
    enum { COUNT = 20000 };
    static void *chunks[COUNT];
    long before = resident_pages();
    for (int i = 0; i < COUNT; i++) memset(chunks[i] = malloc(2000), 1, 2000);
    long with = resident_pages();
    EXPECT(with - before > 9000);
    for (int i = 0; i < COUNT; i++) free(chunks[i]);
    malloc_trim(0);
    EXPECT(resident_pages() - before < (with - before) / 4);
}

/* Parameters of another allocator's insides: taken without harm. */
static void mallopt_takes_the_known_parameters(void) {
    const int known[] = {M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX, M_ARENA_TEST, M_PERTURB, M_MXFAST};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        int result = mallopt(known[i], 1);
        EXPECT(result == 0 || result == 1);
    }
    EXPECT(mallopt(M_MMAP_THRESHOLD, 65536) == 1);
    char *p = malloc(100);
    EXPECT(all_zero(p, 0));
    free(p);
}

static void every_interface_is_the_librarys_own(void) {
    const char *const names[] = {"malloc",        "free",        "calloc",   "realloc",  "reallocarray",       "aligned_alloc",
                                 "memalign",      "valloc",      "pvalloc",  "mallopt",  "malloc_usable_size", "posix_memalign",
                                 "malloc_trim",   "malloc_info", "mallinfo", "mallinfo2", "malloc_stats",      "free_sized",
                                 "free_aligned_sized", "testudo_check_heap", "testudo_purge"};
    Dl_info of_malloc, of_this;
    EXPECT(dladdr(dlsym(RTLD_DEFAULT, "malloc"), &of_malloc));
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        void *found = dlsym(RTLD_DEFAULT, names[i]);
        EXPECT(found != NULL);
        if (!found || !dladdr(found, &of_this) || strcmp(of_this.dli_fname, of_malloc.dli_fname)) {
            printf("%s is not the library's\n", names[i]);
            wrong++;
        }
    }
    EXPECT(strstr(of_malloc.dli_fname, "libc.so") == NULL);
}

static void the_extensions_pass_a_sound_heap(void) {
    int (*check_heap)(void) = (int (*)(void))dlsym(RTLD_DEFAULT, "testudo_check_heap");
    void (*purge)(void) = (void (*)(void))dlsym(RTLD_DEFAULT, "testudo_purge");
    EXPECT(check_heap && purge);
    if (!check_heap || !purge) return;
    hold_a_megabyte();
    void *large = malloc(500000), *none = malloc(0), *aligned = memalign(4096, 77);
    EXPECT(check_heap() == 0);
    for (int i = 0; i < 500; i++) {
        free(held[i]);
        held[i] = NULL;
    }
    EXPECT(check_heap() == 0);
    purge();
    EXPECT(check_heap() == 0);
    let_go();
    free(large);
    free(none);
    free(aligned);
    purge();
    EXPECT(check_heap() == 0);
}

static void testudo_object_size_knows_starts_of_live_chunks_only(void) {
    size_t (*object_size)(const void *) = (size_t (*)(const void *))dlsym(RTLD_DEFAULT, "testudo_object_size");
    EXPECT(object_size);
    if (!object_size) return;
    for (size_t size = 0; size < 600000; size = size * 3 + 1) {
        char *chunk = malloc(size);
        EXPECT(object_size(chunk) == size);
        EXPECT(object_size(chunk + 1) == (size_t)-1);
        free(chunk);
        EXPECT(object_size(chunk) == (size_t)-1);
    }
    EXPECT(object_size(NULL) == (size_t)-1);
    EXPECT(object_size(&object_size) == (size_t)-1);
}

static const struct check checks[] = {
    CHECK(mallinfo2_counts_what_is_in_use),
    CHECK(mallinfo_agrees_with_mallinfo2),
    CHECK(malloc_info_writes_well_formed_xml),
    CHECK(malloc_info_writes_where_the_stream_stands),
    CHECK(malloc_info_refuses_other_options_with_einval),
    CHECK(malloc_stats_writes_to_stderr_only),
    CHECK(malloc_stats_is_no_cancellation_point),
    CHECK(malloc_trim_says_whether_it_gave_back),
    CHECK(malloc_trim_gives_memory_back),
    CHECK(mallopt_takes_the_known_parameters),
    CHECK(every_interface_is_the_librarys_own),
    CHECK(the_extensions_pass_a_sound_heap),
    CHECK(testudo_object_size_knows_starts_of_live_chunks_only),
    {0},
};

int main(int argc, char **argv) { return run_named(checks, argc, argv); }
