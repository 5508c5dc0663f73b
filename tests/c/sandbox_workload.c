/* A little of everything an allocator does, in four threads; prints where a few chunks lie. */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void *work(void *seed) {
    static const size_t sizes[] = {8, 100, 4096, 20000, 300000, 3000000};
    char *kept[64] = {0};
    unsigned state = (unsigned)(uintptr_t)seed;
    for (int round = 0; round < 20000; round++) {
        state = state * 1103515245 + 12345;
        unsigned place = (state >> 8) % 64;
        size_t size = sizes[(state >> 16) % (round % 100 == 0 ? 6 : 4)];
        if (round % 5 == 0) {
            kept[place] = realloc(kept[place], size);
        } else {
            free(kept[place]);
            kept[place] = malloc(size);
        }
        if (!kept[place])
            exit(1);
        memset(kept[place], 'w', size);
    }
    for (int place = 0; place < 64; place++)
        free(kept[place]);
    return NULL;
}

int main(void) {
    pthread_t crew[4];
    alarm(800);
    for (uintptr_t i = 0; i < 4; i++)
        if (pthread_create(&crew[i], NULL, work, (void *)(i + 1)) != 0)
            return 1;
    for (int i = 0; i < 4; i++)
        pthread_join(crew[i], NULL);
    for (size_t size = 24; size < 1000000; size *= 10)
        printf("%p ", malloc(size));
    puts("all work done");
    return 0;
}
