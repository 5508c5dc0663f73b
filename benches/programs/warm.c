/* Writes to so much memory and gives it back, in single pages and in huge ones, for the program that runs next.
 *
 * The host of a virtual machine may take back what the machine has not used for a second or two (free page
 * reporting). The next program to use it pays for the host's page faults, 10 microseconds for each 4 KiB on one such
 * machine: twenty times the machine's own. Which allocator meets how much of that memory is chance.
 * Argument: KiB. */
#define _GNU_SOURCE
#include "common.h"
#include <sys/mman.h>

static void write_to(size_t bytes, int advice) {
    char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        return;
    }
    madvise(memory, bytes, advice);
    for (size_t at = 0; at < bytes; at += 4096) {
        memory[at] = 1;
    }
}

int main(int argc, char **argv) {
    size_t bytes = (size_t)argument(argc, argv, 1, 256 << 10) << 10;
    /* Kept until the end, so that the huge pages are others than the single ones. */
    write_to(bytes, MADV_NOHUGEPAGE);
    write_to(bytes, MADV_HUGEPAGE);
    return 0;
}
