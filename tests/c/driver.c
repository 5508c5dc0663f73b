/* Runs attacks in child processes and prints one line for each child:
 *     <size> <exit N | signal N> <phase> <subject> <value> <first line of its stderr>
 *
 *   prog NAME bug|twin SEED REPETITIONS SIZE...    the first child of each size is a fresh process
 *   prog --once NAME bug|twin REPETITION SIZE      here and now, to look at one by hand */
#define _GNU_SOURCE
#include "driver.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MOOT = 3, BROKEN = 4, MISSED = 5, USAGE = 64 };
enum { OBSERVED_FD = 90, STDERR_FD = 91, HANGS_AFTER_SECONDS = 800 };
enum phase { BEFORE, AT_THE_BUG, PAST_THE_BUG };

/* Shared between the driver and the child, also across exec. */
struct observed {
    volatile int phase;
    const void *volatile subject;
    volatile uint64_t value;
};
static struct observed alone, *observed = &alone;
static uint64_t dice_state = 1;

void at_the_bug(void) { observed->phase = AT_THE_BUG; }
void past_the_bug(void) { observed->phase = PAST_THE_BUG; }
void note_subject(const void *subject) { observed->subject = subject; }
void note_value(uint64_t value) { observed->value = value; }
void moot(void) { _exit(MOOT); }
void missed(void) { _exit(MISSED); }

static void say(const char *text) {
    if (write(STDERR_FILENO, text, strlen(text)) < 0) _exit(USAGE);
}

void broken(const char *what) {
    say(what);
    say("\n");
    _exit(BROKEN);
}

uint32_t dice(uint32_t sides) {
    dice_state += 0x9e3779b97f4a7c15u;
    uint64_t z = dice_state;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (uint32_t)((z ^ (z >> 31)) % sides);
}

void fill(void *start, int byte, size_t count) {
    memset(start, byte, count);
    __asm__ volatile("" ::"r"(start) : "memory");
}

bool only(const void *start, int byte, size_t count) {
    const volatile unsigned char *p = start;
    size_t i = 0;
    for (; i < count && (uintptr_t)(p + i) % 8 != 0; i++)
        if (p[i] != (unsigned char)byte) return false;
    for (; i + 8 <= count; i += 8)
        if (*(const volatile uint64_t *)(p + i) != (unsigned char)byte * 0x0101010101010101u) return false;
    for (; i < count; i++)
        if (p[i] != (unsigned char)byte) return false;
    return true;
}

size_t enough(size_t size, size_t bytes, size_t least, size_t most) {
    size_t count = bytes / (size ? size : 1);
    return count < least ? least : count > most ? most : count;
}

void settle(size_t size) {
    char *chunks[24];
    size_t count = 1 + dice(size <= 4096 ? 24 : 3);
    for (size_t i = 0; i < count; i++) {
        chunks[i] = malloc(size);
        if (size <= 4096) fill(chunks[i], 0x53, size);
    }
    for (size_t i = 0; i < count; i++)
        if (dice(2)) free(chunks[i]);
}

static int by_address(const void *a, const void *b) {
    uintptr_t x = *(const uintptr_t *)a, y = *(const uintptr_t *)b;
    return x < y ? -1 : x > y;
}

/* Insertion in order: qsort may allocate, and would disturb what is looked at. */
static size_t sorted_chunks(size_t size, char **chunks, size_t most) {
    size_t count = enough(size, 4 << 20, 64, most);
    for (size_t i = 0; i < count; i++) {
        char *fresh = malloc(size);
        size_t at = i;
        for (; at > 0 && by_address(&chunks[at - 1], &fresh) > 0; at--) chunks[at] = chunks[at - 1];
        chunks[at] = fresh;
    }
    return count;
}

static char *many[512];

size_t stride_of(size_t size) {
    size_t count = sorted_chunks(size, many, 512), least = SIZE_MAX;
    for (size_t i = 1; i < count; i++)
        if ((size_t)(many[i] - many[i - 1]) < least) least = (size_t)(many[i] - many[i - 1]);
    for (size_t i = 0; i < count; i++) free(many[i]);
    return least;
}

void neighbours(size_t size, char **chunks, size_t wanted) {
    size_t count = sorted_chunks(size, many, 512), stride = SIZE_MAX;
    for (size_t i = 1; i < count; i++)
        if ((size_t)(many[i] - many[i - 1]) < stride) stride = (size_t)(many[i] - many[i - 1]);
    for (size_t first = 0; first + wanted <= count; first++) {
        size_t found = 1;
        while (found < wanted && (size_t)(many[first + found] - many[first + found - 1]) == stride) found++;
        if (found < wanted) continue;
        for (size_t i = 0; i < wanted; i++) chunks[i] = many[first + i];
        return;
    }
    moot();
}

static void run_here(const struct attack *attack, bool bug, unsigned repetition, size_t size) {
    dice_state = repetition * 0x10001u + size;
    struct trial t = {size, bug, repetition, attack->a, attack->b, attack->c};
    attack->run(t);
    past_the_bug();
}

static void child(const struct attack *attack, bool bug, unsigned repetition, size_t size, bool fresh) {
    alarm(HANGS_AFTER_SECONDS);
    dup2(STDERR_FD, STDERR_FILENO);
    if (!fresh) {
        run_here(attack, bug, repetition, size);
        exit(0);
    }
    char repetition_text[24], size_text[24];
    snprintf(repetition_text, sizeof repetition_text, "%u", repetition);
    snprintf(size_text, sizeof size_text, "%zu", size);
    execl("/proc/self/exe", "attacks", "--once", attack->name, bug ? "bug" : "twin", repetition_text, size_text,
          (char *)NULL);
    _exit(USAGE);
}

static void run_in_child(const struct attack *attack, bool bug, unsigned repetition, size_t size, bool fresh) {
    memset((void *)observed, 0, sizeof *observed);
    if (ftruncate(STDERR_FD, 0) || lseek(STDERR_FD, 0, SEEK_SET)) exit(USAGE);
    pid_t pid = fork();
    if (pid < 0) exit(USAGE);
    if (pid == 0) child(attack, bug, repetition, size, fresh);
    int status;
    if (waitpid(pid, &status, 0) != pid) exit(USAGE);
    char line[300];
    ssize_t length = pread(STDERR_FD, line, sizeof line - 1, 0);
    line[length > 0 ? length : 0] = 0;
    line[strcspn(line, "\n")] = 0;
    static const char *const phases[] = {"before", "at", "past"};
    dprintf(STDOUT_FILENO, "%zu %s %d %s %#lx %llu %s\n", size, WIFSIGNALED(status) ? "signal" : "exit",
            WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status), phases[observed->phase],
            (unsigned long)observed->subject, (unsigned long long)observed->value, line);
}

static const struct attack *named(const char *name) {
    for (const struct attack *attack = attacks; attack->name; attack++)
        if (strcmp(attack->name, name) == 0) return attack;
    say("no such attack\n");
    exit(USAGE);
}

static bool is_bug(const char *word) {
    if (strcmp(word, "bug") && strcmp(word, "twin")) exit(USAGE);
    return word[0] == 'b';
}

static void *shared_page(void) {
    void *page = mmap(NULL, sizeof *observed, PROT_READ | PROT_WRITE, MAP_SHARED, OBSERVED_FD, 0);
    return page == MAP_FAILED ? &alone : page;
}

int main(int argc, char **argv) {
    struct rlimit none = {0, 0};
    setrlimit(RLIMIT_CORE, &none);
    if (argc == 6 && strcmp(argv[1], "--once") == 0) {
        observed = shared_page();
        run_here(named(argv[2]), is_bug(argv[3]), (unsigned)atoi(argv[4]), strtoul(argv[5], NULL, 10));
        return 0;
    }
    if (argc < 6) {
        say("usage: NAME bug|twin SEED REPETITIONS SIZE...\n");
        return USAGE;
    }
    const struct attack *attack = named(argv[1]);
    bool bug = is_bug(argv[2]);
    unsigned seed = (unsigned)atoi(argv[3]), repetitions = (unsigned)atoi(argv[4]);
    int shared = memfd_create("observed", 0), errors = memfd_create("stderr", 0);
    if (shared < 0 || errors < 0 || ftruncate(shared, sizeof *observed)) return USAGE;
    if (dup2(shared, OBSERVED_FD) < 0 || dup2(errors, STDERR_FD) < 0) return USAGE;
    observed = shared_page();
    for (int i = 5; i < argc; i++)
        for (unsigned r = 0; r < repetitions; r++)
            run_in_child(attack, bug, seed * repetitions + r, strtoul(argv[i], NULL, 10), r == 0);
    return 0;
}
