/* How many bytes of an alternate stack the allocator's signal handlers use: printed for a handler that does nothing, for the one
 * that writes the heap profile (SIGUSR2), and for the one that explains a fault. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { BYTES = 1 << 17, UNTOUCHED = 0xa5 };

static unsigned char *stack;

static void print_use(const char *what) {
    size_t untouched = 0;
    while (untouched < BYTES && stack[untouched] == UNTOUCHED) untouched++;
    printf("%s %zu\n", what, BYTES - untouched);
    fflush(stdout);
    memset(stack, UNTOUCHED, BYTES);
}

static void nothing(int signal) { (void)signal; }

int main(void) {
    stack = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (stack == MAP_FAILED) return 1;
    memset(stack, UNTOUCHED, BYTES);
    stack_t alternate = {.ss_sp = stack, .ss_size = BYTES};
    sigaltstack(&alternate, NULL);
    struct sigaction action = {.sa_handler = nothing, .sa_flags = SA_ONSTACK};
    sigaction(SIGUSR1, &action, NULL);
    raise(SIGUSR1);
    print_use("nothing");
    for (int i = 0; i < 1000; i++) {
        if (malloc(1000) == NULL) return 1;
    }
    raise(SIGUSR2);
    print_use("profile");
    /* Nobody can look when the fault has been explained but somebody who shares the memory. */
    pid_t child = fork();
    if (child == 0) {
        volatile char *freed = malloc(1 << 20);
        free((void *)freed);
        freed[5000] = 1;
        return 1;
    }
    int status = 0;
    if (waitpid(child, &status, 0) != child || !WIFSIGNALED(status) || WTERMSIG(status) != SIGSEGV) return 1;
    print_use("fault");
    return 0;
}
