/* A double free in a program that, by argv[1], ignores, blocks or handles SIGABRT. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void (*volatile release)(void *) = free;

static void returning(int signal) {
    (void)signal;
}

int main(int argc, char **argv) {
    const char *how = argc > 1 ? argv[1] : "";
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGABRT);
    if (strcmp(how, "ignored") == 0)
        signal(SIGABRT, SIG_IGN);
    if (strcmp(how, "blocked") == 0)
        sigprocmask(SIG_BLOCK, &set, NULL);
    if (strcmp(how, "handled") == 0)
        signal(SIGABRT, returning);
    char *chunk = malloc(24);
    release(chunk);
    release(chunk);
    puts("survived");
    return 0;
}
