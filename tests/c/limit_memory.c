/* Allocates chunks of argv[1] bytes until malloc refuses, which it must do with NULL and ENOMEM after
   at least argv[2] and at most argv[3] MiB; nothing handed out before is lost, and after the frees
   malloc works again. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct chunk {
    struct chunk *next;
    size_t number;
};

static void demand(int holds, const char *what) {
    if (!holds) {
        printf("not so: %s (errno %d)\n", what, errno);
        exit(1);
    }
}

static struct chunk *held;
static size_t count;

/* Takes chunks until there are no more or `most` of them. */
static void take(size_t size, size_t most) {
    while (count < most) {
        errno = 0;
        struct chunk *chunk = malloc(size);
        if (!chunk)
            break;
        chunk->number = count++;
        chunk->next = held;
        ((char *)chunk)[size - 1] = 'e';
        held = chunk;
    }
}

static void give_back(size_t size) {
    while (held) {
        struct chunk *chunk = held;
        demand(chunk->number == --count, "a chunk keeps its first bytes");
        demand(((char *)chunk)[size - 1] == 'e', "a chunk keeps its last byte");
        held = chunk->next;
        free(chunk);
    }
}

int main(int argc, char **argv) {
    static char buffer[4096];
    demand(argc == 4, "three arguments");
    setvbuf(stdout, buffer, _IOFBF, sizeof buffer);
    alarm(800);
    size_t size = strtoul(argv[1], NULL, 10);
    size_t least = (strtoul(argv[2], NULL, 10) << 20) / size;
    size_t too_many = (strtoul(argv[3], NULL, 10) << 20) / size + 1;

    take(size, too_many);
    demand(count < too_many, "there is a limit");
    demand(errno == ENOMEM, "malloc sets ENOMEM");
    demand(count >= least, "most of the memory there is can be had");

    errno = 0;
    demand(!calloc(1UL << 40, 1) && errno == ENOMEM, "calloc refuses with ENOMEM");
    errno = 0;
    demand(!realloc(held, 1UL << 40) && errno == ENOMEM, "realloc refuses with ENOMEM");
    void *aligned = NULL;
    demand(posix_memalign(&aligned, 4096, 1UL << 40) == ENOMEM, "posix_memalign refuses");

    size_t most = count;
    give_back(size);
    take(size, most / 2);
    demand(count == most / 2, "what was freed can be had again");
    give_back(size);
    puts("the limit is kept");
    return 0;
}
