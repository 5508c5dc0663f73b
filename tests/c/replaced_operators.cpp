// Programs that replace some of the operators, as the C++ standard allows; those that they do not replace go by way of those that they do.
// Each chunk carries a header, so that one which goes past the replacement is noticed.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <unistd.h>
#include <vector>

static long taken, given_back, aligned_taken, aligned_given_back;
static const uint64_t OURS = 0x6f757273;

static void *with_header(size_t size) {
    auto *header = static_cast<uint64_t *>(malloc(size + 16));
    if (!header) throw std::bad_alloc();
    header[0] = OURS;
    return header + 2;
}

static void without_header(void *chunk) {
    auto *header = static_cast<uint64_t *>(chunk) - 2;
    if (header[0] != OURS) {
        puts("a chunk that went past the program's operator");
        _exit(1);
    }
    header[0] = 0;
    free(header);
}

void *operator new(size_t size) {
    taken++;
    if (size == SIZE_MAX / 2) throw std::bad_alloc();
    return with_header(size);
}

void operator delete(void *chunk) noexcept {
    if (!chunk) return;
    given_back++;
    without_header(chunk);
}

#ifdef ALIGNED
void *operator new(size_t size, std::align_val_t align) {
    aligned_taken++;
    auto *place = static_cast<char *>(aligned_alloc(size_t(align), (size + 2 * size_t(align) - 1) & -size_t(align)));
    if (!place) throw std::bad_alloc();
    return place;
}

void operator delete(void *chunk, std::align_val_t) noexcept {
    aligned_given_back++;
    free(chunk);
}
#endif

struct Plain {
    long numbers[10];
};

struct Destroyed {
    long number = 1;
    ~Destroyed() { number = 0; }
};

struct alignas(64) Aligned {
    long numbers[10];
};

#define EXPECT(n, m) \
    if (taken != (n) || given_back != (n) || aligned_taken != (m) || aligned_given_back != (m)) \
    printf("line %d: %ld taken, %ld given back; aligned: %ld, %ld\n", __LINE__, taken, given_back, aligned_taken, aligned_given_back)

int main() {
    delete new Plain;
    EXPECT(1, 0);
    delete[] new Plain[4];
    EXPECT(2, 0);
    delete[] new Destroyed[4];
    EXPECT(3, 0);
    delete new (std::nothrow) Plain;
    EXPECT(4, 0);
    delete[] new (std::nothrow) Plain[3];
    EXPECT(5, 0);
    ::operator delete(::operator new(100), std::nothrow);
    EXPECT(6, 0);
    ::operator delete[](::operator new[](100), std::nothrow);
    EXPECT(7, 0);
    ::operator delete(::operator new(100), size_t(100));
    EXPECT(8, 0);
    ::operator delete[](::operator new[](100), size_t(100));
    EXPECT(9, 0);
    { auto text = std::make_unique<std::string>(100, 'x'); }
    EXPECT(11, 0);
    { std::vector<int> numbers(1000); }
    EXPECT(12, 0);
    if (::operator new[](SIZE_MAX / 2, std::nothrow) != nullptr) puts("there is no such chunk");
    taken--;
    try {
        static_cast<void>(::operator new[](SIZE_MAX / 2));
        puts("nothing was thrown");
    } catch (const std::bad_alloc &) {
        taken--;
    }
    EXPECT(12, 0);
#ifdef ALIGNED
    delete new Aligned;
    delete[] new Aligned[2];
    delete new (std::nothrow) Aligned;
    delete[] new (std::nothrow) Aligned[2];
    ::operator delete(::operator new(100, std::align_val_t(64)), std::align_val_t(64), std::nothrow);
    ::operator delete[](::operator new[](100, std::align_val_t(64)), std::align_val_t(64), std::nothrow);
    ::operator delete(::operator new(100, std::align_val_t(64)), size_t(100), std::align_val_t(64));
    ::operator delete[](::operator new[](100, std::align_val_t(64)), size_t(100), std::align_val_t(64));
    EXPECT(12, 8);
#else
    /* Not replaced, and not by way of what is. */
    delete new Aligned;
    delete[] new (std::nothrow) Aligned[2];
    EXPECT(12, 0);
#endif
    puts("every chunk went through the program's operators");
    return 0;
}
