/* Churns for argv[1] seconds with a live heap whose size swings about the same mean: small, medium and large chunks, threads
   that come and go, chunks freed by other threads. Stops argv[2] times on the way, less often where the machine is slow, but at
   least eight times: prints resident KiB, mappings, and how many of the planted bugs were noticed, of how many. Then commits the
   bug that argv[3] names itself. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <time.h>

#include "soak_bugs.h"

enum { CREW = 4, SHARED = 20000 };

static _Atomic(char *) shared[SHARED];

static size_t draw_size(uint32_t state) {
    if (state % 4096 == 0)
        return 256 * 1024 + state % 3000000;
    return state % 64 == 0 ? state % 100000 : state % 16 == 0 ? state % 5000 : state % 300;
}

static void *churn(void *seed) {
    uint32_t state = (uint32_t)(uintptr_t)seed * 2654435761u;
    for (int round = 0; round < 100000; round++) {
        state = state * 1664525 + 1013904223;
        size_t size = draw_size(state >> 8) + 1;
        char *chunk = malloc(size);
        if (!chunk)
            abort();
        chunk[0] = chunk[size - 1] = 's';
        if (state % 128 == 0) {
            chunk = realloc(chunk, size + size / 2);
            if (!chunk || chunk[0] != 's')
                abort();
        }
        char *old = atomic_exchange(&shared[(state >> 12) % SHARED], chunk);
        if (old && old[0] != 's')
            abort();
        free(old);
    }
    return NULL;
}

static void count(long *resident, long *mappings) {
    char line[512];
    FILE *file = fopen("/proc/self/status", "r");
    while (file && fgets(line, sizeof line, file))
        sscanf(line, "VmRSS: %ld", resident);
    fclose(file);
    file = fopen("/proc/self/maps", "r");
    *mappings = 0;
    while (file && fgets(line, sizeof line, file))
        ++*mappings;
    fclose(file);
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void run_for(double seconds) {
    static uintptr_t seed;
    double start = now();
    seed += (uintptr_t)(start * 1e6);
    do {
        pthread_t crew[CREW];
        for (int i = 0; i < CREW; i++)
            if (pthread_create(&crew[i], NULL, churn, (void *)++seed) != 0)
                abort();
        for (int i = 0; i < CREW; i++)
            pthread_join(crew[i], NULL);
    } while (now() - start < seconds);
}

int main(int argc, char **argv) {
    if (argc != 4)
        return 2;
    double seconds = atof(argv[1]), start = now();
    for (int stop = 0; stop < 8 || now() - start < seconds; stop++) {
        long resident = 0, mappings = 0;
        run_for(seconds / atoi(argv[2]));
        count(&resident, &mappings);
        printf("%ld %ld %d of %d\n", resident, mappings, noticed_bugs(), BUGS);
        fflush(stdout);
    }
    for (int i = 0; i < BUGS; i++)
        if (strcmp(bugs[i].name, argv[3]) == 0)
            bugs[i].commit();
    puts("nothing was noticed");
    return 0;
}
