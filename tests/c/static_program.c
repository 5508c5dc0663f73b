/* Allocates in threads, children and at exit; with an argument, frees a chunk twice. */
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void *work(void *unused) {
    for (size_t i = 1; i < 20000; i++) {
        char *chunk = malloc(i % 3000);
        if (i % 3000) memset(chunk, 's', i % 3000);
        chunk = realloc(chunk, i % 5000 + 1);
        if (i % 3000 && chunk[0] != 's') abort();
        free(chunk);
    }
    char *large = malloc(1 << 20);
    memset(large, 'l', 1 << 20);
    free(large);
    return unused;
}

static void at_exit(void) { free(malloc(100)); }

int main(int argc, char **argv) {
    pthread_t threads[4];
    atexit(at_exit);
    for (int i = 0; i < 4; i++)
        if (pthread_create(&threads[i], NULL, work, NULL)) return 1;
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    for (int i = 0; i < 20; i++) {
        pid_t child = fork();
        if (child == 0) {
            work(NULL);
            _exit(0);
        }
        int status;
        if (waitpid(child, &status, 0) != child || status) return 1;
    }
    char *chunk = malloc(13);
    /* Only testudo says exactly what was asked for. */
    if (malloc_usable_size(chunk) != 13) return 2;
    free(chunk);
    if (argc > 1) free(chunk);
    (void)argv;
    puts("every thread and child ended well");
    return 0;
}
