/* Counts the system calls of a program by stopping it at each. Arguments: the program and its arguments. Prints the
 * number after the program's own output. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv) {
    if (argc < 2) {
        return 2;
    }
    pid_t child = fork();
    if (child == 0) {
        ptrace(PTRACE_TRACEME, 0, NULL, NULL);
        raise(SIGSTOP);
        execv(argv[1], argv + 1);
        _exit(127);
    }
    int status;
    if (child < 0 || waitpid(child, &status, 0) != child ||
        ptrace(PTRACE_SETOPTIONS, child, NULL, (void *)(PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEEXEC)) != 0) {
        return 1;
    }
    unsigned long stops = 0;
    int deliver = 0;
    for (;;) {
        if (ptrace(PTRACE_SYSCALL, child, NULL, (void *)(long)deliver) != 0) {
            return 1;
        }
        if (waitpid(child, &status, 0) != child) {
            return 1;
        }
        deliver = 0;
        if (WIFEXITED(status) || WIFSIGNALED(status)) {
            break;
        }
        int signal = WSTOPSIG(status);
        if (signal == (SIGTRAP | 0x80)) {
            stops++;
        } else if (signal != SIGTRAP) {
            deliver = signal;
        }
    }
    /* Each call stops at its entry and at its exit; the last one, exit_group, only at its entry. */
    printf("system_calls=%lu\n", (stops + 1) / 2);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
