/* Eight threads resize chunks of their own, through small and large sizes and back; contents move
   along. */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { THREADS = 8, CHUNKS = 12, ROUNDS = 3000 };

static unsigned char at(size_t place, unsigned mark) {
    return (unsigned char)(place * 7 + mark);
}

static void *resize(void *seed) {
    static const size_t bounds[] = {40, 300, 5000, 70000, 300000, 2000000};
    uint32_t state = (uint32_t)(uintptr_t)seed * 2654435761u;
    unsigned char *chunks[CHUNKS] = {0};
    size_t sizes[CHUNKS] = {0};
    for (int round = 0; round < ROUNDS; round++) {
        state = state * 1103515245 + 12345;
        unsigned which = (state >> 8) % CHUNKS;
        size_t size = 1 + (state >> 4) % bounds[(state >> 16) % (round % 20 == 0 ? 6 : 4)];
        unsigned char *moved = realloc(chunks[which], size);
        if (!moved)
            exit(1);
        size_t common = size < sizes[which] ? size : sizes[which];
        for (size_t place = 0; place < common; place++)
            if (moved[place] != at(place, which)) {
                printf("byte %zu of %zu changed\n", place, size);
                exit(1);
            }
        for (size_t place = common; place < size; place++)
            moved[place] = at(place, which);
        chunks[which] = moved;
        sizes[which] = size;
    }
    for (int i = 0; i < CHUNKS; i++)
        free(chunks[i]);
    return NULL;
}

int main(void) {
    pthread_t crew[THREADS];
    alarm(800);
    for (uintptr_t i = 0; i < THREADS; i++)
        if (pthread_create(&crew[i], NULL, resize, (void *)(i + 1)) != 0)
            return 1;
    for (int i = 0; i < THREADS; i++)
        pthread_join(crew[i], NULL);
    puts("every byte moved along");
    return 0;
}
