/* Churns for argv[1] seconds with a live heap whose size swings about the same mean: small, medium and large
   chunks, threads that come and go, chunks freed by other threads. Prints resident KiB and mappings after the
   first half of the time and at the end, then commits the bug that argv[2] names. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { CREW = 4, SHARED = 20000 };

static _Atomic(char *) shared[SHARED];
static atomic_int stop;
static void (*volatile release)(void *) = free;

static size_t draw_size(uint32_t state) {
    if (state % 4096 == 0)
        return 256 * 1024 + state % 3000000;
    return state % 64 == 0 ? state % 100000 : state % 16 == 0 ? state % 5000 : state % 300;
}

static void *churn(void *seed) {
    uint32_t state = (uint32_t)(uintptr_t)seed * 2654435761u;
    for (int round = 0; round < 300000 && !atomic_load(&stop); round++) {
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

static void run_for(double seconds) {
    struct timespec now, start;
    clock_gettime(CLOCK_MONOTONIC, &start);
    uintptr_t seed = (uintptr_t)start.tv_nsec;
    do {
        pthread_t crew[CREW];
        for (int i = 0; i < CREW; i++)
            if (pthread_create(&crew[i], NULL, churn, (void *)++seed) != 0)
                abort();
        for (int i = 0; i < CREW; i++)
            pthread_join(crew[i], NULL);
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while ((double)(now.tv_sec - start.tv_sec) + (double)(now.tv_nsec - start.tv_nsec) / 1e9 < seconds);
}

int main(int argc, char **argv) {
    if (argc != 3)
        return 2;
    double seconds = atof(argv[1]);
    long resident = 0, mappings = 0;
    run_for(seconds / 2);
    count(&resident, &mappings);
    printf("%ld %ld\n", resident, mappings);
    run_for(seconds / 2);
    count(&resident, &mappings);
    printf("%ld %ld\n", resident, mappings);
    fflush(stdout);
    char *chunk = malloc(24);
    if (strcmp(argv[2], "overflow") == 0)
        chunk[24] = 'x';
    if (strcmp(argv[2], "double free") == 0)
        release(chunk);
    release(chunk);
    puts("nothing was noticed");
    return 0;
}
