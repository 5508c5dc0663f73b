/* No single request above argv[1] MiB is met, by whichever function; one of just that size is. */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void refused(void *chunk, const char *what) {
    if (chunk || errno != ENOMEM) {
        printf("%s: %p, errno %d\n", what, chunk, errno);
        exit(1);
    }
    errno = 0;
}

int main(int argc, char **argv) {
    if (argc != 2)
        return 1;
    size_t most = strtoul(argv[1], NULL, 10) << 20;
    void *chunk = malloc(most);
    if (!chunk)
        return 1;
    memset(chunk, 'm', most);
    errno = 0;
    refused(malloc(most + 1), "malloc");
    refused(malloc(PTRDIFF_MAX), "malloc of PTRDIFF_MAX");
    refused(calloc(most / 8 + 1, 8), "calloc");
    refused(realloc(chunk, most + 1), "realloc");
    refused(aligned_alloc(4096, most + 4096), "aligned_alloc");
    void *aligned = NULL;
    if (posix_memalign(&aligned, 64, most + 1) != ENOMEM)
        return 1;
    if (((char *)chunk)[most - 1] != 'm')
        return 1;
    free(chunk);
    puts("the limit is kept");
    return 0;
}
