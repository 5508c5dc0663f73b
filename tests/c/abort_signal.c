/* A double free in a program that, by argv[1], ignores, blocks or handles SIGABRT; or in a thread that has been cancelled, and
   ends where it next waits. "jumps" handles SIGSEGV and goes on elsewhere. "bad_alloc" is an `operator new` that fails in such a thread, where no C++ runtime can throw. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void (*volatile release)(void *) = free;

static void returning(int signal) {
    (void)signal;
}

static sigjmp_buf elsewhere;

static void jumping(int signal) {
    (void)signal;
    siglongjmp(elsewhere, 1);
}

static void free_twice(void) {
    char *chunk = malloc(24);
    release(chunk);
    release(chunk);
}

static void *cancelled(void *unused) {
    pthread_cancel(pthread_self());
    free_twice();
    return unused;
}

static void *fails_when_cancelled(void *size) {
    void *(*operator_new)(size_t) = (void *(*)(size_t))dlsym(RTLD_DEFAULT, "_Znwm");
    pthread_cancel(pthread_self());
    if (operator_new)
        operator_new((size_t)size);
    return NULL;
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
    if (strcmp(how, "jumps") == 0)
        signal(SIGSEGV, jumping);
    pthread_t thread;
    if (sigsetjmp(elsewhere, 1) != 0)
        puts("elsewhere");
    else if (strcmp(how, "cancelled") == 0)
        pthread_create(&thread, NULL, cancelled, NULL), pthread_join(thread, NULL);
    else if (strcmp(how, "bad_alloc") == 0)
        pthread_create(&thread, NULL, fails_when_cancelled, (void *)(SIZE_MAX / 2)), pthread_join(thread, NULL);
    else
        free_twice();
    puts("survived");
    return 0;
}
