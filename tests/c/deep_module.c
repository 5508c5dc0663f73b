/* A module that gives the program chunks of its own, and gives back the program's. */
#include <stdlib.h>

void *give(size_t size);
void take(void *chunk);
void *(*allocator(void))(size_t);

void *give(size_t size) {
    return malloc(size);
}

void take(void *chunk) {
    free(chunk);
}

void *(*allocator(void))(size_t) {
    return malloc;
}
