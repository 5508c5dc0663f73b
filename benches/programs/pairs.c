/* malloc and free in one thread: mostly short lives of mixed sizes, among survivors that stay. Each
 * chunk is written at both ends; one in 32 takes the place of a survivor.
 * Arguments: operations, survivors, largest size. */
#include "common.h"

enum { YOUNG = 64 };

/* Small sizes are common and large ones rare, as in real programs: the exponent is uniform. */
static inline uint64_t pick_size(rng_t *rng, uint64_t largest) {
    uint64_t ceiling = 16u << rng_below(rng, 10);
    uint64_t size = 1 + rng_below(rng, ceiling);
    return size < largest ? size : largest;
}

int main(int argc, char **argv) {
    uint64_t operations = argument(argc, argv, 1, 10000000);
    uint64_t survivors = argument(argc, argv, 2, 20000);
    uint64_t largest = argument(argc, argv, 3, 8192);
    char **old = must(calloc(survivors, sizeof *old));
    char *young[YOUNG] = {0};
    rng_t rng = rng_new(3);
    for (uint64_t i = 0; i < operations; i++) {
        uint64_t size = pick_size(&rng, largest);
        char *chunk = must(malloc(size));
        chunk[0] = (char)i;
        chunk[size - 1] = (char)i;
        char **place = i % 32 == 0 ? &old[rng_below(&rng, survivors)] : &young[rng_next(&rng) % YOUNG];
        free(*place);
        *place = chunk;
    }
    for (uint64_t i = 0; i < survivors; i++) {
        free(old[i]);
    }
    for (int i = 0; i < YOUNG; i++) {
        free(young[i]);
    }
    free(old);
    return 0;
}
