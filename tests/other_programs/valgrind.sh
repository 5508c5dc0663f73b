# A program that has the library, under valgrind, which puts its own malloc in its place or, asked not to, runs ours.
. ./prelude.sh
cat > program.c <<'END'
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
int main(void) {
    char *kept[100] = {0};
    for (int i = 0; i < 5000; i++) {
        size_t size = 1 + i * 37 % 3000;
        free(kept[i % 100]);
        kept[i % 100] = malloc(i % 500 ? size : 300000);
        memset(kept[i % 100], i, size);
    }
    for (int i = 0; i < 100; i++) free(kept[i]);
    puts("the program ended");
    return 0;
}
END
gcc -g -O1 -fno-builtin program.c -o program
protected valgrind --quiet --error-exitcode=9 ./program
protected valgrind --quiet --tool=none ./program
