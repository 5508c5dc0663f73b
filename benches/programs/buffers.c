/* Large buffers: a fixed number is live, one at random is replaced by one of another size, and each
 * page of the new one is written. Arguments: operations, smallest and largest size, live buffers. */
#include "common.h"

int main(int argc, char **argv) {
    uint64_t operations = argument(argc, argv, 1, 100000);
    uint64_t smallest = argument(argc, argv, 2, 64 << 10);
    uint64_t largest = argument(argc, argv, 3, 128 << 10);
    uint64_t live = argument(argc, argv, 4, 20);
    char **buffers = must(calloc(live, sizeof *buffers));
    rng_t rng = rng_new(11);
    double start = seconds();
    for (uint64_t i = 0; i < operations; i++) {
        uint64_t slot = rng_below(&rng, live);
        uint64_t size = smallest + rng_below(&rng, largest - smallest + 1);
        free(buffers[slot]);
        buffers[slot] = must(malloc(size));
        touch_pages(buffers[slot], size);
    }
    printf("microseconds_per_operation=%.2f\n", (seconds() - start) * 1e6 / (double)operations);
    for (uint64_t i = 0; i < live; i++) {
        free(buffers[i]);
    }
    free(buffers);
    return 0;
}
