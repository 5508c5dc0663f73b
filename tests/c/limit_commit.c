/* Where the system promises no more memory than there is: what is more is refused, with NULL and ENOMEM, all else works. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void demand(int holds, const char *what) {
    if (!holds) {
        printf("not so: %s (errno %d)\n", what, errno);
        exit(1);
    }
}

static void work(void) {
    static char *chunks[20000];
    for (int i = 0; i < 20000; i++) {
        demand((chunks[i] = malloc((size_t)i)) != NULL, "small chunks are to be had");
        memset(chunks[i], i, (size_t)i);
    }
    for (int i = 0; i < 20000; i++) free(chunks[i]);
    char *large = NULL;
    for (size_t size = 1 << 20; size <= 64 << 20; size *= 2) {
        demand((large = realloc(large, size)) != NULL, "a chunk can grow");
        large[size - 1] = 1;
    }
    free(large);
}

int main(void) {
    errno = 0;
    /* More than is promised to anybody, however much memory there is. */
    demand(malloc((size_t)1 << 42) == NULL && errno == ENOMEM, "4 TiB are refused with ENOMEM");
    work();
    pid_t child = fork();
    if (child == 0) {
        work();
        _exit(0);
    }
    int status;
    demand(waitpid(child, &status, 0) == child && status == 0, "a child works");
    puts("the limit is kept");
    return 0;
}
