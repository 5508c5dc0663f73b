/* Commits the bug that is named. */
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv) {
    char *volatile chunk = malloc(20);
    const char *bug = argc > 1 ? argv[1] : "";
    if (strcmp(bug, "double free") == 0) free(chunk);
    if (strcmp(bug, "overflow") == 0) chunk[20] = 'x';
    free(strcmp(bug, "invalid free") == 0 ? chunk + 4 : chunk);
    return 0;
}
