/* A C program without a C++ runtime loads a plug-in in C++, as Python does with extensions: in a scope of its own. */
#include <dlfcn.h>
#include <stdio.h>

int main(int argc, char **argv) {
    void *plug_in = argc == 2 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) : NULL;
    int (*run)(void) = plug_in == NULL ? NULL : (int (*)(void))dlsym(plug_in, "plug_in");
    if (run == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        return 2;
    }
    return run();
}
