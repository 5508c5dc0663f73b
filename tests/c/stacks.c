/* One bug in a function of its own, so that a report's stacks can be held against the names of the functions. */
#define _GNU_SOURCE
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CALLED __attribute__((noinline, noclone, externally_visible))

/* What follows a call keeps it from becoming a jump. */
static volatile int calls;
char *volatile chunk;

CALLED void function_that_allocates(size_t size) {
    chunk = malloc(size);
    calls++;
}

CALLED void function_that_frees(void) {
    free(chunk);
    calls++;
}

CALLED void function_that_reads(ptrdiff_t at) {
    calls += *(volatile char *)(chunk + at);
    calls++;
}

CALLED void function_that_writes(ptrdiff_t at) {
    *(volatile char *)(chunk + at) = 1;
    calls++;
}

/* A frame whose size is not known when it is compiled. */
CALLED void function_between(size_t room, void (*next)(ptrdiff_t), ptrdiff_t at) {
    volatile char *place = __builtin_alloca(room);
    place[0] = 1;
    next(at);
    calls += place[0];
}

static void say(const char *text) {
    if (write(STDERR_FILENO, text, strlen(text)) < 0) _exit(9);
}

static void program_handler(int signal, siginfo_t *information, void *context) {
    (void)signal, (void)context;
    say(information->si_code == SEGV_ACCERR ? "the program's handler ran\n" : "another code\n");
    _exit(7);
}

/* What a fuzzer's runtime does about an abort. */
static void save_input(int signal) {
    (void)signal;
    say("the input is saved\n");
    _exit(6);
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    size_t size = argc > 2 ? strtoul(argv[2], NULL, 10) : 24;
    struct sigaction action = {0};
    action.sa_sigaction = program_handler;
    action.sa_flags = SA_SIGINFO;
    if (strncmp(what, "early-", 6) == 0) {
        sigaction(SIGSEGV, &action, NULL);
        what += 6;
    }
    if (strncmp(what, "alternate-", 10) == 0) {
        static char stack[16384];
        stack_t alternate = {.ss_sp = stack, .ss_size = sizeof stack};
        sigaltstack(&alternate, NULL);
        what += 10;
    }
    function_that_allocates(size);
    /* The first allocation is when testudo installs its handler: this one comes later. */
    if (strncmp(what, "late-", 5) == 0) {
        sigaction(SIGSEGV, &action, NULL);
        what += 5;
    }
    if (strncmp(what, "saving-", 7) == 0) {
        signal(SIGABRT, save_input);
        what += 7;
    }
    if (strcmp(what, "overflow") == 0) function_between(size, function_that_writes, (ptrdiff_t)size);
    if (strcmp(what, "overread") == 0) function_between(size, function_that_reads, (ptrdiff_t)size + 3);
    if (strcmp(what, "underflow") == 0)
        for (ptrdiff_t at = 1; at <= 4096; at++) function_that_reads(-at);
    if (strncmp(what, "freed-", 6) == 0) function_that_frees();
    if (strcmp(what, "freed-read") == 0) function_that_reads(5);
    if (strcmp(what, "freed-write") == 0) function_between(100, function_that_writes, 0);
    if (strcmp(what, "freed-freed") == 0) function_that_frees();
    if (strcmp(what, "nowhere") == 0) *(volatile char *)(uintptr_t)argc = 1;
    for (int i = 0; i < 3 && strcmp(what, "leak") == 0; i++) function_that_allocates(100);
    if (strcmp(what, "sent") == 0) kill(getpid(), SIGSEGV);
    return 0;
}
