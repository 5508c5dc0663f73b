/* Opens the module argv[1], bound to its own libraries first, as PHP does with its extensions; tells whose malloc that has. If that is
   the program's, they free each other's chunks. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *named(void *module, const char *name) {
    void *found = dlsym(module, name);
    if (found == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        exit(2);
    }
    return found;
}

int main(int argc, char **argv) {
    /* For its children. */
    free(malloc(1));
    setenv("TESTUDO_OPTIONS", "nonsense=1", 1);
    if (dlopen("/nowhere/libnothing.so", RTLD_NOW | RTLD_DEEPBIND) != NULL || strstr(dlerror(), "libnothing.so") == NULL) {
        fputs("a module that is not there was opened, or not named\n", stderr);
        return 2;
    }
    void *module = argc == 2 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND) : NULL;
    if (module == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        return 2;
    }
    void *(*give)(size_t) = (void *(*)(size_t))named(module, "give");
    void (*take)(void *) = (void (*)(void *))named(module, "take");
    void *(*(*allocator)(void))(size_t) = (void *(*(*)(void))(size_t))named(module, "allocator");
    if (dlsym(RTLD_DEFAULT, "give") != NULL) {
        fputs("it was opened for everybody\n", stderr);
        return 2;
    }
    if (allocator() != malloc) {
        puts("another malloc");
        return 0;
    }
    puts("the program's malloc");
    static const size_t sizes[] = {1, 100, 3000, 70000, 300000, 6000000};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        free(memset(give(sizes[i]), 'g', sizes[i]));
        take(memset(malloc(sizes[i]), 't', sizes[i]));
    }
    puts("chunks were exchanged");
    return dlclose(module);
}
