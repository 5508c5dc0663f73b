/* testudo: a hardened malloc. What libtestudo.so offers beyond the C library's functions. */
#ifndef TESTUDO_H
#define TESTUDO_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What the heap holds. Bytes, unless it says otherwise. */
struct testudo_stats {
    size_t allocated;         /* requested bytes of live chunks */
    size_t chunks;            /* number of live chunks */
    size_t active;            /* slots and mappings of live chunks */
    size_t committed;         /* slabs and mappings with memory behind them */
    size_t empty;             /* slabs with memory behind them in which every slot is free */
    size_t large_chunks;      /* number of live large chunks */
    size_t large_allocated;   /* requested bytes of live large chunks */
    size_t large_quarantined; /* freed large chunks whose addresses are in quarantine */
    size_t zero_sized;        /* number of live zero-sized chunks */
};

/* Verifies header and canaries of every chunk. Returns 0; a violation ends the process with a report. */
int testudo_check_heap(void);

/* Gives free memory back to the system. */
void testudo_purge(void);

/* Counts what the heap holds, by walking it. */
void testudo_stats(struct testudo_stats *stats);

/* The requested size of the live chunk that starts at `chunk`; (size_t)-1 for any other address. */
size_t testudo_object_size(const void *chunk);

#ifdef __cplusplus
}
#endif
#endif
