/* A library that allocates while it is loaded and frees while it is unloaded, with thread-local
   storage that the loader allocates late. */
#include <stdlib.h>
#include <string.h>

static char *table[200];
static _Thread_local char scratch[5000];

__attribute__((constructor)) static void load(void) {
    for (int i = 0; i < 200; i++) {
        table[i] = malloc(1 + (size_t)i * 50);
        memset(table[i], 'p', 1 + (size_t)i * 50);
    }
}

__attribute__((destructor)) static void unload(void) {
    for (int i = 0; i < 200; i++)
        free(table[i]);
}

char *plugin_text(int number);

/* What this returns outlives the library. */
char *plugin_text(int number) {
    scratch[number % 5000] = 's';
    return strdup(table[number % 199 + 1][0] == 'p' ? "text from a plugin" : "");
}
