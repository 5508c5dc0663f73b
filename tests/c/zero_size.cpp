// Accesses through pointers that were asked for with no bytes behind them.
#include "driver.h"

#include <cstdlib>
#include <malloc.h>
#include <new>

namespace {

char *made_by(long maker) {
    void *p = nullptr;
    switch (maker) {
        case 0: return static_cast<char *>(malloc(0));
        case 1: return static_cast<char *>(calloc(0, 8));
        case 2: return static_cast<char *>(realloc(nullptr, 0));
        case 3: return static_cast<char *>(aligned_alloc(64, 0));
        case 4: return posix_memalign(&p, 4096, 0) ? nullptr : static_cast<char *>(p);
        case 5: return static_cast<char *>(::operator new(0));
        case 6: return static_cast<char *>(::operator new[](0));
        case 7: return static_cast<char *>(::operator new(0, std::align_val_t(256)));
        case 8: return static_cast<char *>(reallocarray(nullptr, 0, 16));
    }
    return nullptr;
}

void release(long maker, char *p) {
    if (maker == 5) return ::operator delete(p);
    if (maker == 6) return ::operator delete[](p);
    if (maker == 7) return ::operator delete(p, std::align_val_t(256));
    free(p);
}

// a: what made the pointer, b: how far behind it, c: whether to write
void access(struct trial t) {
    char *others[20];
    for (auto &other : others) other = made_by(t.a);
    char *p = made_by(t.a);
    if (!p) broken("no pointer");
    for (auto other : others)
        if (other == p) broken("two live pointers are the same");
    note_subject(p);
    if (t.bug) {
        volatile char *at = p + t.b;
        at_the_bug();
        if (t.c) *at = 1;
        else (void)*at;
        missed();
    }
    release(t.a, p);
    for (auto other : others) release(t.a, other);
}

}  // namespace

#define EACH_ACCESS(name, maker) \
    {name "_read", access, maker, 0, 0}, {name "_write", access, maker, 0, 1}, {name "_write_behind", access, maker, 8, 1}

extern const struct attack attacks[] = {
    EACH_ACCESS("malloc", 0),         EACH_ACCESS("calloc", 1),         EACH_ACCESS("realloc", 2),
    EACH_ACCESS("aligned_alloc", 3),  EACH_ACCESS("posix_memalign", 4), EACH_ACCESS("new", 5),
    EACH_ACCESS("new_array", 6),      EACH_ACCESS("aligned_new", 7),    EACH_ACCESS("reallocarray", 8),
    {},
};
