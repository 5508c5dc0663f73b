/* Forks argv[1] times (else 200) while 32 threads allocate. Each child allocates, frees what its parent allocated, starts
   threads of its own, and exits: every second one through exit() and its handlers. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { THREADS = 32, SHARED = 512, KEPT = 200 };

static _Atomic(char *) shared[SHARED];
static atomic_int stop;

static size_t size_for(unsigned state) {
    if (state % 400 == 0)
        return 300000;
    return state % 50 == 0 ? 1 + state % 30000 : 1 + state % 700;
}

/* Swaps chunks with the other threads, so that most are freed by another one than allocated them.
   Pauses now and then: on few cores the children would otherwise wait for their turn all the time. */
static void *churn(void *seed) {
    unsigned state = (unsigned)(uintptr_t)seed;
    for (unsigned round = 1; !atomic_load(&stop); round++) {
        if (round % 256 == 0)
            usleep(1000);
        state = state * 1103515245 + 12345;
        char *chunk = malloc(size_for(state >> 8));
        if (!chunk)
            abort();
        chunk[0] = 'c';
        free(atomic_exchange(&shared[(state >> 20) % SHARED], chunk));
    }
    return NULL;
}

static void *work(void *seed) {
    unsigned state = (unsigned)(uintptr_t)seed;
    char *kept[50] = {0};
    for (int i = 0; i < 500; i++) {
        state = state * 1103515245 + 12345;
        size_t size = size_for(state >> 8);
        free(kept[i % 50]);
        kept[i % 50] = malloc(size);
        memset(kept[i % 50], 'k', size);
    }
    for (int i = 0; i < 50; i++)
        free(kept[i]);
    return NULL;
}

static void child(char **from_parent, int number) {
    alarm(800);
    work((void *)(uintptr_t)number);
    for (int i = 0; i < KEPT; i++) {
        if (from_parent[i][0] != 'p')
            _exit(3);
        free(from_parent[i]);
    }
    for (int i = 0; i < SHARED; i++)
        free(atomic_exchange(&shared[i], NULL));
    if (number % 10 == 0) {
        pthread_t helpers[2];
        for (int i = 0; i < 2; i++)
            if (pthread_create(&helpers[i], NULL, work, (void *)(uintptr_t)(number + i)) != 0)
                _exit(4);
        for (int i = 0; i < 2; i++)
            pthread_join(helpers[i], NULL);
    }
    work((void *)(uintptr_t)(number + 7));
    if (number % 2 == 0)
        exit(0);
    _exit(0);
}

int main(int argc, char **argv) {
    pthread_t crew[THREADS];
    char *kept[KEPT];
    int forks = argc > 1 ? atoi(argv[1]) : 200;
    alarm(argc > 1 ? 7200 : 800);
    for (int i = 0; i < KEPT; i++) {
        kept[i] = malloc(size_for((unsigned)i * 17 + 1));
        kept[i][0] = 'p';
    }
    for (uintptr_t i = 0; i < THREADS; i++)
        if (pthread_create(&crew[i], NULL, churn, (void *)(i + 1)) != 0)
            return 1;
    for (int number = 0; number < forks; number++) {
        pid_t pid = fork();
        if (pid == 0)
            child(kept, number);
        int status;
        if (pid < 0 || waitpid(pid, &status, 0) != pid)
            return 1;
        if (status != 0) {
            printf("child %d ended with status %#x\n", number, status);
            return 1;
        }
    }
    atomic_store(&stop, 1);
    for (int i = 0; i < THREADS; i++)
        pthread_join(crew[i], NULL);
    for (int i = 0; i < SHARED; i++)
        free(atomic_load(&shared[i]));
    for (int i = 0; i < KEPT; i++)
        free(kept[i]);
    puts("every child ended well");
    return 0;
}
