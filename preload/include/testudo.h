/* testudo: a hardened malloc. What libtestudo.so offers beyond the C library's functions. */
#ifndef TESTUDO_H
#define TESTUDO_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What the heap holds. Bytes, unless it says otherwise. In a heap at rest `committed` is the sum of `active`,
 * `cached`, `quarantined` and `retained`. */
struct testudo_stats {
    size_t allocated;         /* requested bytes of live chunks; when not `exact`, what those chunks could hold */
    size_t chunks;            /* number of live chunks */
    size_t active;            /* slots and mappings of live chunks */
    size_t cached;            /* ready slots in thread caches, and kept mappings of freed large chunks */
    size_t quarantined;       /* slots of freed small chunks that are held back from reuse */
    size_t retained;          /* free slots of slabs with memory behind them */
    size_t empty;             /* the part of `retained` in slabs all of whose slots are free */
    size_t committed;         /* slabs and mappings with memory behind them: what heap_limit_mb limits */
    size_t peak;              /* the most that `committed` has been */
    size_t resident;          /* pages in memory, metadata included; when not `exact`, the most that it can be */
    size_t metadata;          /* accessible memory of tables and caches; much of it is never touched */
    size_t large_chunks;      /* number of live large chunks */
    size_t large_allocated;   /* requested bytes of live large chunks */
    size_t large_active;      /* mappings of live large chunks */
    size_t large_quarantined; /* freed large chunks whose addresses are in quarantine: address space, not memory */
    size_t guarded_chunks;    /* number of live guarded chunks, which have pages of their own */
    size_t guarded_allocated; /* requested bytes of live guarded chunks */
    size_t guarded_active;    /* pages of live guarded chunks */
    size_t zero_sized;        /* number of live zero-sized chunks */
    size_t caches;            /* number of thread caches, in use or not */
    size_t violations;        /* number of violations found and returned; others end the process */
    size_t mappings;          /* number of mappings of the process; 0 when /proc cannot be read */
    size_t mappings_limit;    /* how many it may have: vm.max_map_count */
    size_t exact;             /* 1 when every chunk was visited */
};

/* What the heap holds of one size class. Slots, unless it says otherwise. */
struct testudo_class_stats {
    size_t size;        /* the largest request that the class serves, in bytes */
    size_t stride;      /* bytes from one slot to the next */
    size_t live;        /* slots in the program's hands */
    size_t allocated;   /* requested bytes of live chunks; when not exact, what those chunks could hold */
    size_t cached;      /* slots that lie ready in thread caches */
    size_t quarantined; /* slots that are held back from reuse */
    size_t retained;    /* free slots of slabs with memory behind them */
    size_t slabs;       /* number of slabs with memory behind them */
    size_t empty_slabs; /* number of those in which every slot is free */
};

/* Verifies header and canaries of every chunk. Returns 0; a violation ends the process with a report. */
int testudo_check_heap(void);

/* Gives free memory back to the system. */
void testudo_purge(void);

/* What the heap holds, read off its counters in some 100 microseconds, most of which is counting mappings. While other
 * threads allocate, up to 64 slots of each may be counted as live that are not. */
void testudo_stats(struct testudo_stats *stats);

/* Verifies every chunk and counts exactly what the heap holds. Takes time that grows with the heap. Returns 0; a violation
 * ends the process with a report. */
int testudo_check_stats(struct testudo_stats *stats);

/* Writes what the heap holds of the first `count` size classes, smallest first; returns how many classes there are. */
size_t testudo_class_stats(struct testudo_class_stats *classes, size_t count);

/* Writes the heap profile to a file; where `path` is NULL, to the one that the option heap_profile_path names. Returns 0, or
 * -1 and sets errno: ENOTSUP when nothing is recorded because heap_profile_kb is 0, EINVAL when no file is named. Not for
 * signal handlers: heap_profile_signal is. */
int testudo_heap_profile(const char *path);

/* The requested size of the live chunk that starts at `chunk`; (size_t)-1 for any other address. */
size_t testudo_object_size(const void *chunk);

/* The library's version, as "major.minor.patch". */
const char *testudo_version(void);

#ifdef __cplusplus
}
#endif
#endif
