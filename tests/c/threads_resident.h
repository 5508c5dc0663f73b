/* How much memory this process occupies, in KiB. */
#include <stdio.h>

static inline long resident_kib(void) {
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file || fscanf(file, "%*s %ld", &pages) != 1)
        return -1;
    fclose(file);
    return pages * 4;
}
