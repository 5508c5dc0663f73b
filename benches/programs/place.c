/* Where chunks come to lie, as numbers for whoever wants to predict them. Writes 64-bit numbers to standard output: the
 * stride of the size; then for each of so many chunks allocated in a row the distance in bytes from the one before; for
 * each the number of allocations between it and the chunk that lies directly after it (or NOBODY); last, in a loop that
 * frees and allocates one chunk, after how many allocations a freed slot was handed out again.
 * Arguments: size, chunks, loops, whether to age the heap first. */
#include "common.h"

#define NOBODY INT64_MIN

typedef struct {
    uintptr_t address;
    int64_t number;
} placed_t;

static int by_address(const void *left, const void *right) {
    uintptr_t one = ((const placed_t *)left)->address, other = ((const placed_t *)right)->address;
    return (one > other) - (one < other);
}

static void put(int64_t number) {
    if (fwrite(&number, sizeof number, 1, stdout) != 1) {
        exit(1);
    }
}

/* Half of many chunks go, in an order that has nothing to do with where they lie. */
static void age(uint64_t size, rng_t *rng) {
    enum { COUNT = 50000 };
    static void *chunks[COUNT];
    for (int i = 0; i < COUNT; i++) {
        chunks[i] = must(malloc(size));
    }
    for (int i = COUNT; i > 1; i--) {
        uint64_t other = rng_below(rng, (uint64_t)i);
        void *swapped = chunks[i - 1];
        chunks[i - 1] = chunks[other];
        chunks[other] = swapped;
    }
    for (int i = 0; i < COUNT / 2; i++) {
        free(chunks[i]);
    }
}

/* When each address was freed last: open addressing, never more than half full. */
enum { TABLE = 1 << 18 };
static struct {
    uintptr_t address;
    int64_t when;
} freed[TABLE];

static int64_t *freed_at(uintptr_t address) {
    uint64_t place = (address * 0x9e3779b97f4a7c15u) >> 46;
    while (freed[place].address != 0 && freed[place].address != address) {
        place = (place + 1) % TABLE;
    }
    freed[place].address = address;
    return &freed[place].when;
}

int main(int argc, char **argv) {
    uint64_t size = argument(argc, argv, 1, 48);
    uint64_t count = argument(argc, argv, 2, 4096);
    uint64_t loops = argument(argc, argv, 3, 4096);
    /* Nothing may be allocated by stdio in between. */
    static char buffer[1 << 16];
    setvbuf(stdout, buffer, _IOFBF, sizeof buffer);
    /* The program's own choices must not repeat from one process to the next. */
    rng_t rng = rng_new((uint64_t)getpid() * 1000003 + (uint64_t)(seconds() * 1e9));
    if (argument(argc, argv, 4, 0) != 0) {
        age(size, &rng);
    }
    static placed_t placed[1 << 16];
    static uintptr_t in_order[1 << 16];
    static int64_t after[1 << 16];
    if (count < 2 || count > 1 << 16) {
        return 2;
    }
    for (uint64_t i = 0; i < count; i++) {
        in_order[i] = (uintptr_t)must(malloc(size));
        placed[i] = (placed_t){in_order[i], (int64_t)i};
    }
    qsort(placed, count, sizeof *placed, by_address);
    uintptr_t stride = UINTPTR_MAX;
    for (uint64_t i = 1; i < count; i++) {
        uintptr_t gap = placed[i].address - placed[i - 1].address;
        stride = gap < stride ? gap : stride;
    }
    for (uint64_t i = 0; i < count; i++) {
        after[placed[i].number] = i + 1 < count && placed[i + 1].address - placed[i].address == stride
                                      ? placed[i + 1].number - placed[i].number
                                      : NOBODY;
    }
    put((int64_t)stride);
    for (uint64_t i = 1; i < count; i++) {
        put((int64_t)(in_order[i] - in_order[i - 1]));
    }
    for (uint64_t i = 0; i < count; i++) {
        put(after[i]);
    }
    char *chunk = must(malloc(size));
    for (int64_t i = 1, seen = 0; (uint64_t)seen < loops && i < TABLE / 4; i++) {
        *freed_at((uintptr_t)chunk) = i;
        free(chunk);
        chunk = must(malloc(size));
        int64_t when = *freed_at((uintptr_t)chunk);
        if (when != 0) {
            put(i - when);
            seen++;
        }
    }
    return 0;
}
