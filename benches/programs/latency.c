/* How long single calls take: every malloc and every free of a mixed workload is timed by the
 * processor's time-stamp counter and sorted into a histogram with 16 buckets to each power of two.
 * Arguments: operations. Prints nanoseconds at p50, p99, p99.9 and the longest, for both. */
#include "common.h"
#include <x86intrin.h>

enum { BUCKETS = 64 * 16, LIVE = 20000, YOUNG = 64 };

typedef struct {
    uint64_t counts[BUCKETS];
    uint64_t total, longest;
} histogram_t;

static histogram_t of_malloc, of_free;

static inline unsigned bucket_of(uint64_t ticks) {
    if (ticks < 16) {
        return (unsigned)ticks;
    }
    unsigned exponent = 63 - (unsigned)__builtin_clzll(ticks);
    return (exponent - 3) * 16 + (unsigned)(ticks >> (exponent - 4) & 15);
}

static inline uint64_t bucket_start(unsigned bucket) {
    return bucket < 16 ? bucket : (uint64_t)(16 + bucket % 16) << (bucket / 16 - 1);
}

static inline void record(histogram_t *histogram, uint64_t ticks) {
    histogram->counts[bucket_of(ticks)]++;
    histogram->total++;
    if (ticks > histogram->longest) {
        histogram->longest = ticks;
    }
}

/* Nothing before may move past the reading, nor anything after ahead of it. */
static inline uint64_t ticks_now(void) {
    unsigned core;
    _mm_lfence();
    uint64_t ticks = __rdtscp(&core);
    _mm_lfence();
    return ticks;
}

static void print_quantile(const char *call, const char *name, histogram_t *histogram, double share,
                           double ticks_per_nanosecond, uint64_t overhead) {
    uint64_t wanted = (uint64_t)((double)histogram->total * share), seen = 0;
    unsigned bucket = 0;
    while (bucket < BUCKETS - 1 && (seen += histogram->counts[bucket]) <= wanted) {
        bucket++;
    }
    uint64_t ticks = share >= 1 ? histogram->longest : bucket_start(bucket);
    ticks = ticks > overhead ? ticks - overhead : 0;
    printf("%s_%s_nanoseconds=%.0f\n", call, name, (double)ticks / ticks_per_nanosecond);
}

/* Sizes as programs ask for them: the exponent is uniform, one in a thousand is a large buffer. */
static inline uint64_t pick_size(rng_t *rng) {
    if (rng_next(rng) % 1000 == 0) {
        return 32768 + rng_below(rng, 480 << 10);
    }
    return 1 + rng_below(rng, 16u << rng_below(rng, 10));
}

static void timed_free(char *chunk) {
    if (chunk != NULL) {
        uint64_t start = ticks_now();
        free(chunk);
        record(&of_free, ticks_now() - start);
    }
}

int main(int argc, char **argv) {
    uint64_t operations = argument(argc, argv, 1, 5000000);
    static char *old[LIVE], *young[YOUNG];
    rng_t rng = rng_new(17);
    uint64_t overhead = UINT64_MAX;
    for (int i = 0; i < 100000; i++) {
        uint64_t start = ticks_now(), took = ticks_now() - start;
        overhead = took < overhead ? took : overhead;
    }
    double clock_start = seconds();
    uint64_t tick_start = ticks_now();
    for (uint64_t i = 0; i < operations; i++) {
        uint64_t size = pick_size(&rng);
        uint64_t start = ticks_now();
        char *chunk = malloc(size);
        record(&of_malloc, ticks_now() - start);
        must(chunk);
        chunk[0] = (char)i;
        chunk[size - 1] = (char)i;
        char **place = i % 8 == 0 ? &old[rng_below(&rng, LIVE)] : &young[rng_next(&rng) % YOUNG];
        timed_free(*place);
        *place = chunk;
    }
    double rate = (double)(ticks_now() - tick_start) / ((seconds() - clock_start) * 1e9);
    histogram_t *both[] = {&of_malloc, &of_free};
    const char *names[] = {"malloc", "free"};
    for (int i = 0; i < 2; i++) {
        print_quantile(names[i], "p50", both[i], 0.5, rate, overhead);
        print_quantile(names[i], "p99", both[i], 0.99, rate, overhead);
        print_quantile(names[i], "p99.9", both[i], 0.999, rate, overhead);
        print_quantile(names[i], "max", both[i], 1.0, rate, overhead);
    }
    return 0;
}
