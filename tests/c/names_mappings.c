/* A kernel that names mappings, or one that does not: stands in front of prctl and notes what is to be named. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NAMES 0x53564d41

int prctl(int option, ...) {
    unsigned long arguments[4];
    va_list list;
    va_start(list, option);
    for (int i = 0; i < 4; i++) {
        arguments[i] = va_arg(list, unsigned long);
    }
    va_end(list);
    if (option != NAMES) {
        return (int)syscall(SYS_prctl, option, arguments[0], arguments[1], arguments[2], arguments[3]);
    }
    char line[200];
    int length = snprintf(line, sizeof line, "named %lx %lx %s\n", arguments[1], arguments[2], (char *)arguments[3]);
    if (write(2, line, (size_t)length) != length) {
        _exit(3);
    }
    errno = EINVAL;
    return getenv("NAMES_REFUSED") ? -1 : 0;
}
