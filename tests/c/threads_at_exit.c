/* malloc and free in handlers of atexit, on_exit and quick paths, in destructors of the program, and
   in threads that are still running when the process ends. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char *old;

static void say(const char *who) {
    size_t length = strlen(who);
    char *line = malloc(length + 2);
    memcpy(line, who, length);
    line[length] = '\n';
    if (write(1, line, length + 1) < 0)
        abort();
    free(line);
    char *large = calloc(1, 400000);
    free(realloc(large, 800000));
}

static void first_registered(void) {
    say("atexit, last to run");
    free(old);
}

static void registered_late(void) {
    say("atexit, registered by a handler");
}

static void last_registered(void) {
    say("atexit, first to run");
    atexit(registered_late);
}

static void with_status(int status, void *argument) {
    say(status == 9 ? argument : "another status");
    free(argument);
}

__attribute__((destructor)) static void at_the_very_end(void) {
    say("destructor");
}

static void *churn(void *unused) {
    for (;;)
        free(malloc(100));
    return unused;
}

int main(void) {
    pthread_t thread;
    alarm(800);
    old = malloc(1000);
    atexit(first_registered);
    on_exit(with_status, strdup("on_exit"));
    atexit(last_registered);
    for (int i = 0; i < 4; i++)
        if (pthread_create(&thread, NULL, churn, NULL) != 0)
            return 1;
    exit(9);
}
