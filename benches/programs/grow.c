/* A vector that grows by realloc, one step at a time, to the size asked for, each new part written.
 * A second vector grows beside it, so that the end of the heap is not always free to grow into.
 * Arguments: final size in MiB, growth in percent a step, rounds. */
#include "common.h"

typedef struct {
    char *bytes;
    size_t size;
} vector_t;

static void grow(vector_t *vector, size_t size) {
    vector->bytes = must(realloc(vector->bytes, size));
    for (size_t at = vector->size & ~(size_t)4095; at < size; at += 4096) {
        if (at >= vector->size) {
            vector->bytes[at] = (char)(at >> 12);
        }
    }
    vector->size = size;
}

int main(int argc, char **argv) {
    size_t last = (size_t)argument(argc, argv, 1, 1024) << 20;
    size_t percent = argument(argc, argv, 2, 20);
    uint64_t rounds = argument(argc, argv, 3, 3);
    for (uint64_t round = 0; round < rounds; round++) {
        vector_t main_ = {0}, beside = {0};
        for (size_t size = 64; size < last; size += size * percent / 100 + 16) {
            grow(&main_, size);
            if (beside.size < last / 64) {
                grow(&beside, size);
            }
        }
        grow(&main_, last);
        for (size_t at = 4096 * 4096; at < last; at += 4096 * 997) {
            if (main_.bytes[at & ~(size_t)4095] != (char)(at >> 12)) {
                fputs("a page lost its contents\n", stderr);
                abort();
            }
        }
        free(main_.bytes);
        free(beside.bytes);
    }
    return 0;
}
