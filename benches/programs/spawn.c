/* Starts a program so many times, one after another, as a shell script or a build does.
 * Arguments: times, program. */
#include <spawn.h>
#include <stdlib.h>
#include <sys/wait.h>

extern char **environ;

int main(int argc, char **argv) {
    if (argc < 3) {
        return 2;
    }
    for (long left = atol(argv[1]); left > 0; left--) {
        pid_t child;
        int status;
        if (posix_spawn(&child, argv[2], NULL, NULL, argv + 2, environ) != 0 ||
            waitpid(child, &status, 0) != child || status != 0) {
            return 1;
        }
    }
    return 0;
}
