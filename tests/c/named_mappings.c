/* named_mappings LIBRARY [refused]: allocates and frees of every kind, gives memory back, and shows /proc/self/maps. The kernel's
   own randomisation is off, so that two runs with one seed differ in nothing but the names; with `refused` the kernel has none. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <malloc.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define NAMES 0x53564d41

enum { CHUNKS = 40000, LARGE = 200 };

static void demand(int holds, const char *what) {
    if (!holds) {
        fprintf(stderr, "not so: %s\n", what);
        _exit(3);
    }
}

/* What a kernel without CONFIG_ANON_VMA_NAME answers. */
static void refuse_names(void) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_prctl, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, NAMES, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EINVAL),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof code / sizeof *code, code};
    demand(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0, "no new privileges");
    demand(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0, "a filter");
}

static void start_again(char **argv) {
    if (argv[2])
        refuse_names();
    personality(ADDR_NO_RANDOMIZE);
    setenv("LD_PRELOAD", argv[1], 1);
    execl("/proc/self/exe", argv[0], (char *)NULL);
    demand(0, "the program starts again");
}

static void work(void) {
    static char *chunks[CHUNKS], *large[LARGE];
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < CHUNKS; i++)
            demand((chunks[i] = malloc(1 + (unsigned)i * 7919u % 20000u)) != NULL, "a chunk");
        for (int i = 0; i < LARGE; i++)
            demand((large[i] = malloc(300000 + (size_t)i * 5000)) != NULL, "a large chunk");
        for (int i = 0; i < LARGE; i += 3)
            demand((large[i] = realloc(large[i], 4000000)) != NULL, "a grown chunk");
        for (int i = 0; i < CHUNKS; i++)
            if (round < 2 || i % 5)
                free(chunks[i]);
        for (int i = 0; i < LARGE; i++)
            if (round < 2 || i % 5)
                free(large[i]);
        malloc_trim(0);
    }
}

static void show_maps(void) {
    static char part[1 << 16];
    int file = open("/proc/self/maps", O_RDONLY);
    demand(file >= 0, "the maps can be read");
    for (ssize_t count; (count = read(file, part, sizeof part)) > 0;)
        demand(write(1, part, (size_t)count) == count, "and written");
    close(file);
}

int main(int argc, char **argv) {
    if (argc > 1)
        start_again(argv);
    work();
    show_maps();
    demand(write(1, "in a child:\n", 12) == 12, "a line");
    pid_t child = fork();
    if (child == 0) {
        work();
        show_maps();
        _exit(0);
    }
    int status;
    demand(waitpid(child, &status, 0) == child && status == 0, "the child ends well");
    return 0;
}
