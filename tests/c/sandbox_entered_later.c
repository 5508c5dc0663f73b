/* Frees much, gives it back to the system, and only then enters a sandbox without madvise. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <malloc.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

enum { CHUNKS = 20000 };
static char *chunks[CHUNKS];

static int take(size_t size) {
    for (int i = 0; i < CHUNKS; i++) {
        chunks[i] = calloc(1, size);
        if (!chunks[i]) {
            printf("chunk %d: errno %d\n", i, errno);
            return 0;
        }
        for (size_t place = 0; place < size; place++)
            if (chunks[i][place]) {
                printf("chunk %d is not zero\n", i);
                return 0;
            }
        memset(chunks[i], 's', size);
    }
    return 1;
}

static void give_back(void) {
    for (int i = 0; i < CHUNKS; i++)
        free(chunks[i]);
    malloc_trim(0);
}

int main(void) {
    static const size_t sizes[] = {24, 300, 5000};
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_madvise, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof code / sizeof *code, code};
    for (int i = 0; i < 3; i++) {
        if (!take(sizes[i]))
            return 1;
        give_back();
    }
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
        return 2;
    for (int round = 0; round < 2; round++)
        for (int i = 0; i < 3; i++) {
            if (!take(sizes[i]))
                return 1;
            give_back();
        }
    puts("all work done");
    return 0;
}
