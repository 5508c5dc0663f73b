/* Runs a program and measures it. Linked statically and tiny on purpose: a child's peak resident
 * memory counts what its parent's was at the fork, and a library preloaded for the child must not be
 * loaded here.
 * Arguments: file for the result, file for the child's standard output, seconds allowed, program…
 * The result is one line: wall, user and system seconds, peak resident KiB, minor faults, major
 * faults, voluntary and involuntary context switches, wait status, whether time ran out. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static volatile pid_t child;
static volatile sig_atomic_t late;

static void stop(int signal) {
    late = signal == SIGALRM;
    kill(-child, SIGKILL);
}

static double clock_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

int main(int argc, char **argv) {
    if (argc < 5) {
        return 2;
    }
    int output = open(argv[2], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    struct sigaction action = {.sa_handler = stop};
    sigaction(SIGALRM, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    double start = clock_seconds();
    child = fork();
    if (child == 0) {
        setpgid(0, 0);
        dup2(output, 1);
        execvp(argv[4], argv + 4);
        perror(argv[4]);
        _exit(127);
    }
    setpgid(child, child);
    alarm((unsigned)atoi(argv[3]));
    int status = 0;
    struct rusage used;
    while (wait4(child, &status, 0, &used) < 0) {
    }
    double wall = clock_seconds() - start;
    FILE *result = fopen(argv[1], "w");
    if (result == NULL) {
        perror(argv[1]);
        return 2;
    }
    fprintf(result, "%.6f %.6f %.6f %ld %ld %ld %ld %ld %d %d\n", wall,
            (double)used.ru_utime.tv_sec + (double)used.ru_utime.tv_usec * 1e-6,
            (double)used.ru_stime.tv_sec + (double)used.ru_stime.tv_usec * 1e-6, used.ru_maxrss,
            used.ru_minflt, used.ru_majflt, used.ru_nvcsw, used.ru_nivcsw, status, (int)late);
    return fclose(result) == 0 ? 0 : 2;
}
