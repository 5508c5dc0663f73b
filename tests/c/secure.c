/* Says whether the kernel takes this process for one with more rights than its user, whether testudo
   is in it, and that malloc works. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/auxv.h>

int main(void) {
    char *chunk = malloc(100);
    if (!chunk)
        return 1;
    printf("secure=%lu testudo=%d\n", getauxval(AT_SECURE),
           dlsym(RTLD_DEFAULT, "testudo_check_heap") != NULL);
    free(chunk);
    return 0;
}
