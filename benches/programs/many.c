/* So many small chunks live at once, linked into a list so that nothing else is needed to find them
 * again, then every second one freed and allocated again, then all freed.
 * Arguments: chunks, size (at least 8). Prints resident memory, mappings and nanoseconds a chunk. */
#include "common.h"

typedef struct chunk {
    struct chunk *next;
} chunk_t;

static uint64_t mappings(void) {
    int fd = open("/proc/self/maps", O_RDONLY);
    char text[1 << 15];
    uint64_t lines = 0;
    for (ssize_t got; (got = read(fd, text, sizeof text)) > 0;) {
        for (ssize_t i = 0; i < got; i++) {
            lines += text[i] == '\n';
        }
    }
    close(fd);
    return lines;
}

int main(int argc, char **argv) {
    uint64_t count = argument(argc, argv, 1, 10000000);
    uint64_t size = argument(argc, argv, 2, 48);
    if (size < sizeof(chunk_t)) {
        size = sizeof(chunk_t);
    }
    double start = seconds();
    chunk_t *first = NULL;
    for (uint64_t i = 0; i < count; i++) {
        chunk_t *chunk = must(malloc(size));
        chunk->next = first;
        first = chunk;
    }
    double built = seconds();
    printf("build_nanoseconds=%.1f\n", (built - start) * 1e9 / (double)count);
    printf("rss_kib=%llu\n", (unsigned long long)status_kib("VmRSS:"));
    printf("mappings=%llu\n", (unsigned long long)mappings());
    for (chunk_t *chunk = first; chunk != NULL && chunk->next != NULL; chunk = chunk->next) {
        chunk_t *second = chunk->next;
        chunk_t *rest = second->next;
        free(second);
        chunk->next = must(malloc(size));
        chunk->next->next = rest;
        chunk = chunk->next;
    }
    double replaced = seconds();
    printf("replace_nanoseconds=%.1f\n", (replaced - built) * 2e9 / (double)count);
    while (first != NULL) {
        chunk_t *next = first->next;
        free(first);
        first = next;
    }
    printf("free_nanoseconds=%.1f\n", (seconds() - replaced) * 1e9 / (double)count);
    return 0;
}
