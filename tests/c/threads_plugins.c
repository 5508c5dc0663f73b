/* dlopen and dlclose of the libraries in argv, again and again, from four threads at once. */
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char **libraries;

static void *use_them(void *seed) {
    for (uintptr_t round = 0; round < 200; round++) {
        void *library = dlopen(libraries[((uintptr_t)seed + round) % 4], RTLD_NOW | RTLD_LOCAL);
        if (!library) {
            printf("%s\n", dlerror());
            exit(1);
        }
        char *(*text)(int);
        *(void **)&text = dlsym(library, "plugin_text");
        char *got = text((int)round);
        if (dlclose(library) != 0 || strcmp(got, "text from a plugin") != 0)
            exit(1);
        free(got);
        if (dlopen("/no/such/library.so", RTLD_NOW) != NULL || !strstr(dlerror(), "library.so"))
            exit(1);
    }
    return NULL;
}

int main(int argc, char **argv) {
    pthread_t crew[4];
    alarm(800);
    if (argc != 5)
        return 1;
    libraries = argv + 1;
    for (uintptr_t i = 0; i < 4; i++)
        if (pthread_create(&crew[i], NULL, use_them, (void *)i) != 0)
            return 1;
    for (int i = 0; i < 4; i++)
        pthread_join(crew[i], NULL);
    puts("every library came and went");
    return 0;
}
