/* vfork, posix_spawn, system and popen while other threads allocate. */
#define _GNU_SOURCE
#include <pthread.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;
static atomic_int stop;

static void *churn(void *seed) {
    unsigned state = (unsigned)(uintptr_t)seed;
    char *kept[64] = {0};
    for (unsigned round = 1; !atomic_load(&stop); round++) {
        if (round % 1024 == 0)
            usleep(1000);
        state = state * 1103515245 + 12345;
        unsigned place = (state >> 16) % 64;
        free(kept[place]);
        kept[place] = malloc(1 + (state >> 8) % 5000);
    }
    for (int i = 0; i < 64; i++)
        free(kept[i]);
    return NULL;
}

static void demand(int holds, const char *what) {
    if (!holds) {
        printf("not so: %s\n", what);
        exit(1);
    }
}

int main(void) {
    pthread_t crew[8];
    char *args[] = {"true", NULL};
    alarm(800);
    for (uintptr_t i = 0; i < 8; i++)
        demand(pthread_create(&crew[i], NULL, churn, (void *)(i + 1)) == 0, "a thread");
    for (int i = 0; i < 100; i++) {
        pid_t pid;
        int status;
        demand(posix_spawn(&pid, "/bin/true", NULL, NULL, args, environ) == 0, "posix_spawn");
        demand(waitpid(pid, &status, 0) == pid && status == 0, "the spawned program ends well");
        pid = vfork();
        if (pid == 0) {
            execve("/bin/true", args, environ);
            _exit(127);
        }
        demand(pid > 0 && waitpid(pid, &status, 0) == pid && status == 0, "vfork");
    }
    for (int i = 0; i < 20; i++) {
        char line[100] = "";
        demand(system("exit 7") == 7 << 8, "system passes the status on");
        FILE *pipe = popen("echo a line", "r");
        demand(pipe && fgets(line, sizeof line, pipe) && pclose(pipe) == 0, "popen");
        demand(strcmp(line, "a line\n") == 0, "the line arrives");
    }
    atomic_store(&stop, 1);
    for (int i = 0; i < 8; i++)
        pthread_join(crew[i], NULL);
    puts("every program ended well");
    return 0;
}
