/* Eight children of one parent each note where a few thousand chunks of argv[1] bytes come to lie.
   A child that knows its own layout must not know its brother's. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CHILDREN = 8, MOST = 4096 };

int main(int argc, char **argv) {
    size_t size = argc > 1 ? strtoul(argv[1], NULL, 10) : 48;
    int count = size < 10000 ? MOST : 64;
    alarm(800);
    /* The parent's caches are warm, as a server's are. */
    for (int i = 0; i < 1000; i++)
        free(malloc(size));
    uintptr_t(*layouts)[MOST] = mmap(NULL, CHILDREN * sizeof *layouts, PROT_READ | PROT_WRITE,
                                     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (layouts == MAP_FAILED)
        return 1;
    for (int number = 0; number < CHILDREN; number++) {
        pid_t pid = fork();
        if (pid == 0) {
            for (int i = 0; i < count; i++)
                layouts[number][i] = (uintptr_t)malloc(size);
            _exit(0);
        }
        int status;
        if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0)
            return 1;
    }
    for (int a = 0; a < CHILDREN; a++)
        for (int b = 0; b < a; b++)
            if (memcmp(layouts[a], layouts[b], (size_t)count * sizeof **layouts) == 0) {
                printf("children %d and %d have the same layout\n", b, a);
                return 1;
            }
    puts("every layout is another");
    return 0;
}
