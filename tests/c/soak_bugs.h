/* Bugs, each committed in a child forked for it, so that the process that ages goes on. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static void (*volatile release)(void *) = free;

static void double_free(void) {
    char *chunk = malloc(24);
    release(chunk);
    release(chunk);
}

static void overflow(void) {
    char *chunk = malloc(24);
    chunk[24] = 'x';
    release(chunk);
}

static void overflow_of_a_page(void) {
    char *chunk = malloc(5000);
    chunk[5000] = 'x';
    release(chunk);
}

static void underflow(void) {
    char *chunk = malloc(24);
    memset(chunk - 8, 'x', 8);
    release(chunk);
}

static void write_after_free(void) {
    char *chunk = malloc(24);
    release(chunk);
    chunk[8] = 'x';
    for (int i = 0; i < 20000000; i++)
        release(malloc(24));
}

static void free_inside(void) {
    char *chunk = malloc(100);
    release(chunk + 16);
}

static void double_free_of_a_mapping(void) {
    char *chunk = malloc(1000000);
    release(chunk);
    release(chunk);
}

static void overflow_of_a_mapping(void) {
    char *chunk = malloc(1000000);
    for (size_t i = 0; i <= 8192; i++)
        ((volatile char *)chunk)[1000000 + i] = 'x';
}

struct end {
    int signal;
    const char *report; /* Its beginning. */
};

/* What becomes of it in a small or mapped chunk, and in the one of many thousands that got pages of its own. */
static const struct bug {
    const char *name;
    void (*commit)(void);
    struct end usual, guarded;
} bugs[] = {
    {"double free", double_free, {SIGABRT, "testudo: double free at 0x"}, {0}},
    {"overflow", overflow, {SIGABRT, "testudo: buffer overflow at 0x"}, {0}},
    {"overflow of a page", overflow_of_a_page, {SIGABRT, "testudo: buffer overflow at 0x"}, {0}},
    {"underflow", underflow, {SIGABRT, "testudo: corrupted chunk header at 0x"}, {SIGSEGV, "testudo: buffer underflow by a write at 0x"}},
    {"write after free", write_after_free, {SIGABRT, "testudo: write after free at 0x"}, {SIGSEGV, "testudo: write after free at 0x"}},
    {"free inside", free_inside, {SIGABRT, "testudo: invalid free at 0x"}, {0}},
    {"double free of a mapping", double_free_of_a_mapping, {SIGABRT, "testudo: double free at 0x"}, {0}},
    {"overflow of a mapping", overflow_of_a_mapping, {SIGSEGV, ""}, {0}},
};
enum { BUGS = sizeof bugs / sizeof *bugs };

static int is_end(const struct end *end, int status, const char *said) {
    return end->signal && WIFSIGNALED(status) && WTERMSIG(status) == end->signal
        && strncmp(said, end->report, strlen(end->report)) == 0;
}

/* Whether the child that commits it ends as it must. What it said is printed when not. */
static int is_noticed(const struct bug *bug) {
    int ends[2], status = 0;
    char said[4096];
    size_t length = 0;
    if (pipe(ends) != 0)
        return 0;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        struct rlimit none = {0, 0};
        setrlimit(RLIMIT_CORE, &none);
        signal(SIGABRT, SIG_DFL);
        signal(SIGSEGV, SIG_DFL);
        dup2(ends[1], STDERR_FILENO);
        bug->commit();
        _exit(0);
    }
    close(ends[1]);
    for (ssize_t count; length < sizeof said - 1; length += (size_t)count)
        if ((count = read(ends[0], said + length, sizeof said - 1 - length)) <= 0)
            break;
    said[length] = 0;
    close(ends[0]);
    if (child < 0 || waitpid(child, &status, 0) != child)
        return 0;
    int noticed = is_end(&bug->usual, status, said) || is_end(&bug->guarded, status, said);
    if (!noticed)
        fprintf(stderr, "%s: status %#x, \"%s\"\n", bug->name, (unsigned)status, said);
    return noticed;
}

/* How many of the bugs are noticed. */
static int noticed_bugs(void) {
    int noticed = 0;
    for (int i = 0; i < BUGS; i++)
        noticed += is_noticed(&bugs[i]);
    return noticed;
}
