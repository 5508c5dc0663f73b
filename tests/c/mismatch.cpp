// Frees what one interface allocated through another, or with a wrong size or alignment.
#include "driver.h"

#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <malloc.h>
#include <new>

namespace {

// The C library of this machine may not have these two yet.
template <typename Function>
Function *symbol(const char *name) {
    void *found = dlsym(RTLD_DEFAULT, name);
    if (!found) broken("the library does not export it");
    return reinterpret_cast<Function *>(found);
}

void free_sized(void *p, size_t size) { symbol<void(void *, size_t)>("free_sized")(p, size); }
void free_aligned_sized(void *p, size_t alignment, size_t size) {
    symbol<void(void *, size_t, size_t)>("free_aligned_sized")(p, alignment, size);
}

constexpr std::align_val_t align{64};

using Allocate = void *(size_t);
using Release = void(void *, size_t);

void *with_malloc(size_t n) { return malloc(n); }
void *with_calloc(size_t n) { return calloc(1, n); }
void *with_realloc(size_t n) { return realloc(malloc(n / 2), n); }
void *with_memalign(size_t n) { return memalign(64, n); }
void *with_aligned_alloc(size_t n) { return aligned_alloc(64, n); }
void *with_posix_memalign(size_t n) {
    void *p = nullptr;
    if (posix_memalign(&p, 64, n)) broken("posix_memalign failed");
    return p;
}
void *with_valloc(size_t n) { return valloc(n); }
void *with_new(size_t n) { return ::operator new(n); }
void *with_new_array(size_t n) { return ::operator new[](n); }
void *with_nothrow_new(size_t n) { return ::operator new(n, std::nothrow); }
void *with_nothrow_new_array(size_t n) { return ::operator new[](n, std::nothrow); }
void *with_aligned_new(size_t n) { return ::operator new(n, align); }
void *with_aligned_new_array(size_t n) { return ::operator new[](n, align); }

void by_free(void *p, size_t) { free(p); }
void by_realloc(void *p, size_t n) { free(realloc(p, n + 1)); }
void by_free_sized(void *p, size_t n) { free_sized(p, n); }
void by_free_aligned_sized(void *p, size_t n) { free_aligned_sized(p, 64, n); }
void by_delete(void *p, size_t) { ::operator delete(p); }
void by_sized_delete(void *p, size_t n) { ::operator delete(p, n); }
void by_nothrow_delete(void *p, size_t) { ::operator delete(p, std::nothrow); }
void by_delete_array(void *p, size_t) { ::operator delete[](p); }
void by_sized_delete_array(void *p, size_t n) { ::operator delete[](p, n); }
void by_aligned_delete(void *p, size_t) { ::operator delete(p, align); }
void by_aligned_sized_delete(void *p, size_t n) { ::operator delete(p, n, align); }
void by_aligned_delete_array(void *p, size_t) { ::operator delete[](p, align); }

/* `wrong` releases the chunk in the attack, `right` in its twin; `size_error` is added to the size
 * that is said to be released, and the alignments are what is said instead of 64. */
template <Allocate allocate, Release right, Release wrong>
void pair(struct trial t) {
    settle(t.size);
    void *p = allocate(t.size);
    fill(p, 0x53, t.size);
    note_subject(p);
    if (!t.bug) return right(p, t.size);
    at_the_bug();
    wrong(p, t.size + static_cast<size_t>(t.a));
    missed();
}

void said_alignment(void *p, size_t n, long alignment, bool free_it) {
    if (free_it) free_aligned_sized(p, static_cast<size_t>(alignment), n);
    else ::operator delete(p, n, std::align_val_t(alignment));
}

/* a: the alignment said at release, b: whether by free_aligned_sized */
void wrong_alignment(struct trial t) {
    settle(t.size);
    void *p = t.b ? with_aligned_alloc(t.size) : with_aligned_new(t.size);
    fill(p, 0x53, t.size);
    note_subject(p);
    if (!t.bug) return said_alignment(p, t.size, 64, t.b);
    at_the_bug();
    said_alignment(p, t.size, t.a, t.b);
    missed();
}

/* delete and delete[] of what no interface allocated. */
template <Release release>
void invalid(struct trial t) {
    alignas(16) static char data[64];
    char *p = static_cast<char *>(::operator new(t.size)), *wrong = p + 16;
    if (t.a == 1) wrong = data + 16;
    if (t.a == 2) wrong = reinterpret_cast<char *>(0x1234567890);
    if (t.bug) {
        at_the_bug();
        release(wrong, t.size);
        missed();
    }
    ::operator delete(p);
}

/* A second release through an interface that knows no more of the chunk than the first. */
template <Allocate allocate, Release release>
void twice(struct trial t) {
    settle(t.size);
    void *p = allocate(t.size);
    note_subject(p);
    release(p, t.size);
    if (!t.bug) return;
    at_the_bug();
    release(p, t.size);
    missed();
}

// The size of an array of one class, deleted through a pointer to its smaller base.
struct Base {
    char bytes[8];
};
struct Derived : Base {
    char more[24];
};

void through_a_smaller_base(struct trial t) {
    Derived *derived = new Derived;
    note_subject(derived);
    if (!t.bug) {
        delete derived;
        return;
    }
    at_the_bug();
    delete static_cast<Base *>(derived);
    missed();
}

void new_array_with_plain_delete(struct trial t) {
    char *p = new char[t.size];
    if (!t.bug) {
        delete[] p;
        return;
    }
    at_the_bug();
    delete p;
    missed();
}

}  // namespace

extern const struct attack attacks[] = {
    {"malloc_delete", pair<with_malloc, by_free, by_delete>},
    {"malloc_delete_array", pair<with_malloc, by_free, by_delete_array>},
    {"malloc_sized_delete", pair<with_malloc, by_free, by_sized_delete>},
    {"malloc_nothrow_delete", pair<with_malloc, by_free, by_nothrow_delete>},
    {"malloc_aligned_delete", pair<with_malloc, by_free, by_aligned_delete>},
    {"calloc_delete", pair<with_calloc, by_free, by_delete>},
    {"realloc_delete", pair<with_realloc, by_free, by_delete>},
    {"memalign_delete", pair<with_memalign, by_free, by_delete>},
    {"memalign_delete_array", pair<with_memalign, by_free, by_delete_array>},
    {"memalign_aligned_delete", pair<with_memalign, by_free, by_aligned_delete>},
    {"aligned_alloc_delete", pair<with_aligned_alloc, by_free, by_delete>},
    {"posix_memalign_delete", pair<with_posix_memalign, by_free, by_delete>},
    {"valloc_delete", pair<with_valloc, by_free, by_delete>},
    {"new_free", pair<with_new, by_delete, by_free>},
    {"new_realloc", pair<with_new, by_delete, by_realloc>},
    {"new_free_sized", pair<with_new, by_delete, by_free_sized>},
    {"new_delete_array", pair<with_new, by_delete, by_delete_array>},
    {"new_sized_delete_array", pair<with_new, by_sized_delete, by_sized_delete_array>},
    {"new_aligned_delete", pair<with_new, by_delete, by_aligned_delete>},
    {"new_array_free", pair<with_new_array, by_delete_array, by_free>},
    {"new_array_delete", pair<with_new_array, by_delete_array, by_delete>},
    {"new_array_sized_delete", pair<with_new_array, by_sized_delete_array, by_sized_delete>},
    {"new_array_aligned_delete_array", pair<with_new_array, by_delete_array, by_aligned_delete_array>},
    {"nothrow_new_free", pair<with_nothrow_new, by_delete, by_free>},
    {"nothrow_new_delete_array", pair<with_nothrow_new, by_nothrow_delete, by_delete_array>},
    {"nothrow_new_array_delete", pair<with_nothrow_new_array, by_delete_array, by_delete>},
    {"aligned_new_free", pair<with_aligned_new, by_aligned_delete, by_free>},
    {"aligned_new_delete", pair<with_aligned_new, by_aligned_delete, by_delete>},
    {"aligned_new_delete_array", pair<with_aligned_new, by_aligned_delete, by_delete_array>},
    {"aligned_new_aligned_delete_array", pair<with_aligned_new, by_aligned_delete, by_aligned_delete_array>},
    {"aligned_new_array_free", pair<with_aligned_new_array, by_aligned_delete_array, by_free>},
    {"aligned_new_array_aligned_delete", pair<with_aligned_new_array, by_aligned_delete_array, by_aligned_delete>},
    {"expression_new_array_delete", new_array_with_plain_delete},

    {"sized_delete_1_more", pair<with_new, by_sized_delete, by_sized_delete>, 1},
    {"sized_delete_1_less", pair<with_new, by_sized_delete, by_sized_delete>, -1},
    {"sized_delete_much_more", pair<with_new, by_sized_delete, by_sized_delete>, 100000},
    {"sized_delete_array_1_more", pair<with_new_array, by_sized_delete_array, by_sized_delete_array>, 1},
    {"sized_delete_array_1_less", pair<with_new_array, by_sized_delete_array, by_sized_delete_array>, -1},
    {"aligned_sized_delete_1_more", pair<with_aligned_new, by_aligned_sized_delete, by_aligned_sized_delete>, 1},
    {"aligned_sized_delete_1_less", pair<with_aligned_new, by_aligned_sized_delete, by_aligned_sized_delete>, -1},
    {"through_a_smaller_base", through_a_smaller_base},
    {"free_sized_1_more", pair<with_malloc, by_free_sized, by_free_sized>, 1},
    {"free_sized_1_less", pair<with_malloc, by_free_sized, by_free_sized>, -1},
    {"free_sized_after_realloc", pair<with_realloc, by_free_sized, by_free_sized>, 8},
    {"free_aligned_sized_1_more", pair<with_aligned_alloc, by_free_aligned_sized, by_free_aligned_sized>, 1},
    {"free_aligned_sized_1_less", pair<with_aligned_alloc, by_free_aligned_sized, by_free_aligned_sized>, -1},
    {"free_aligned_sized_alignment_128", wrong_alignment, 128, 1},
    {"free_aligned_sized_alignment_32", wrong_alignment, 32, 1},
    {"aligned_delete_alignment_128", wrong_alignment, 128, 0},
    {"aligned_delete_alignment_32", wrong_alignment, 32, 0},

    {"delete_interior", invalid<by_delete>, 0},
    {"delete_global", invalid<by_delete>, 1},
    {"delete_nowhere", invalid<by_delete>, 2},
    {"delete_array_interior", invalid<by_delete_array>, 0},
    {"sized_delete_interior", invalid<by_sized_delete>, 0},
    {"free_sized_interior", invalid<by_free_sized>, 0},
    {"delete_twice", twice<with_new, by_delete>},
    {"sized_delete_twice", twice<with_new, by_sized_delete>},
    {"delete_array_twice", twice<with_new_array, by_delete_array>},
    {"aligned_delete_twice", twice<with_aligned_new, by_aligned_delete>},
    {"free_sized_twice", twice<with_malloc, by_free_sized>},
    {"free_aligned_sized_twice", twice<with_aligned_alloc, by_free_aligned_sized>},
    {},
};
