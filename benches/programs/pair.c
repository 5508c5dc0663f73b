/* For counting instructions: so many malloc+free pairs of one size and nothing else. Two runs of
 * different length differ only by the pairs, so the difference of their instruction counts, divided
 * by the difference of their lengths, is the price of one pair with start-up cancelled out.
 * Arguments: pairs, size. */
#include <stdlib.h>

int main(int argc, char **argv) {
    unsigned long pairs = argc > 1 ? strtoul(argv[1], NULL, 10) : 100000;
    unsigned long size = argc > 2 ? strtoul(argv[2], NULL, 10) : 64;
    for (unsigned long i = 0; i < pairs; i++) {
        void *chunk = malloc(size);
        /* Keeps the compiler from removing the pair. */
        __asm__ volatile("" : : "r"(chunk) : "memory");
        free(chunk);
    }
    return 0;
}
