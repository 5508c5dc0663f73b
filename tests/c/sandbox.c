/* sandbox SYSCALL ERRNO LIBRARY PROGRAM: runs PROGRAM with LIBRARY preloaded where SYSCALL fails with
   ERRNO, as a seccomp sandbox makes it. The kernel's own randomisation of addresses is off where it
   can be switched off, so that it does not stand in for the allocator's. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static const struct {
    const char *name;
    unsigned number;
} numbers[] = {
    {"getrandom", SYS_getrandom}, {"madvise", SYS_madvise},       {"mremap", SYS_mremap},
    {"rseq", SYS_rseq},           {"ENOSYS", ENOSYS},             {"EPERM", EPERM},
};

static unsigned number(const char *name) {
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (strcmp(numbers[i].name, name) == 0)
            return numbers[i].number;
    fprintf(stderr, "sandbox: what is %s?\n", name);
    exit(2);
}

int main(int argc, char **argv) {
    if (argc != 5) {
        fprintf(stderr, "sandbox: four arguments\n");
        return 2;
    }
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number(argv[1]), 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | number(argv[2])),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof code / sizeof *code, code};
    personality(ADDR_NO_RANDOMIZE);
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) {
        perror("sandbox: no filter");
        return 2;
    }
    setenv("LD_PRELOAD", argv[3], 1);
    execl(argv[4], argv[4], (char *)NULL);
    perror("sandbox: the program does not start");
    return 2;
}
