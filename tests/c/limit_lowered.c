/* A program that lowers its own address space to argv[1] MiB, below what is reserved, goes on with the small chunks that fit
   what is mapped already; large ones are refused, and what there is stays as it was. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

int main(int argc, char **argv) {
    if (argc != 2)
        return 1;
    char *before = malloc(10 << 20);
    if (!before)
        return 1;
    memset(before, 'b', 10 << 20);
    struct rlimit limit;
    limit.rlim_cur = limit.rlim_max = strtoul(argv[1], NULL, 10) << 20;
    if (setrlimit(RLIMIT_AS, &limit) != 0)
        return 1;
    for (int count = 0; count < 100000; count++) {
        char *small = malloc(100);
        if (!small) {
            printf("no chunk of 100 bytes after %d\n", count);
            return 1;
        }
        memset(small, 's', 100);
    }
    errno = 0;
    if (malloc(10 << 20) || errno != ENOMEM) {
        printf("a large chunk, errno %d\n", errno);
        return 1;
    }
    if (before[(10 << 20) - 1] != 'b')
        return 1;
    free(before);
    puts("the limit is kept");
    return 0;
}
