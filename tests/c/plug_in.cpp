// Loaded by plug_in_host.c with a C++ runtime of its own: what its failing operator new throws it can catch.
#include <cstdio>
#include <initializer_list>
#include <new>

static int called;

static void gives_up() {
    called++;
    std::set_new_handler(nullptr);
}

static void throws() {
    called++;
    std::set_new_handler(nullptr);
    throw std::bad_alloc();
}

static const std::size_t too_much = std::size_t(200) << 20;

/// Calls `allocate`, which must fail; counts the calls of the new handler.
template <typename Allocate> static const char *outcome(Allocate allocate, void (*handler)()) {
    called = 0;
    std::set_new_handler(handler);
    try {
        return allocate() == nullptr ? "null" : "memory";
    } catch (const std::bad_alloc &) {
        return "bad_alloc";
    }
}

extern "C" int plug_in() {
    for (auto handler : {gives_up, throws}) {
        std::printf("new: %s, ", outcome([] { return ::operator new(too_much); }, handler));
        std::printf("%d; ", called);
        std::printf("new[]: %s, ", outcome([] { return ::operator new[](too_much); }, handler));
        std::printf("%d; ", called);
        std::printf("nothrow: %s, ", outcome([] { return ::operator new(too_much, std::nothrow); }, handler));
        std::printf("%d; ", called);
        auto aligned = [] { return ::operator new(too_much, std::align_val_t(64), std::nothrow); };
        std::printf("aligned nothrow: %s, ", outcome(aligned, handler));
        std::printf("%d\n", called);
    }
    int *fits = new (std::nothrow) int(7);
    bool right = fits != nullptr && *fits == 7;
    delete fits;
    return right ? 0 : 1;
}
