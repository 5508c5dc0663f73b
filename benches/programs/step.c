/* The same count as pair.c under callgrind, for allocators that do not run under valgrind: the
 * processor's trap flag raises a signal after each instruction, and the handler counts. x86-64 only.
 * Arguments: pairs, size. Prints the instructions of one pair. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#ifdef __x86_64__

static volatile unsigned long steps;

static void count(int signal) {
    (void)signal;
    steps++;
}

/* The red zone below the stack pointer may be in use: step over it before pushing. */
#define CHANGE_TRAP_FLAG(operation)                                                                \
    __asm__ volatile("sub $128, %%rsp\n\tpushfq\n\t" operation "\n\tpopfq\n\tadd $128, %%rsp"      \
                     :                                                                             \
                     :                                                                             \
                     : "memory", "cc")

static void run(unsigned long pairs, unsigned long size) {
    for (unsigned long i = 0; i < pairs; i++) {
        void *chunk = malloc(size);
        __asm__ volatile("" : : "r"(chunk) : "memory");
        free(chunk);
    }
}

int main(int argc, char **argv) {
    unsigned long pairs = argc > 1 ? strtoul(argv[1], NULL, 10) : 4000;
    unsigned long size = argc > 2 ? strtoul(argv[2], NULL, 10) : 64;
    struct sigaction action = {.sa_handler = count};
    sigaction(SIGTRAP, &action, NULL);
    /* What is done once, such as binding the symbols and filling the caches, is not counted. */
    run(pairs, size);
    CHANGE_TRAP_FLAG("orq $0x100, (%%rsp)");
    run(pairs, size);
    CHANGE_TRAP_FLAG("andq $~0x100, (%%rsp)");
    printf("instructions_per_pair=%.1f\n", (double)steps / (double)pairs);
    return 0;
}

#else

int main(void) {
    fputs("stepping is for x86-64\n", stderr);
    return 1;
}

#endif
