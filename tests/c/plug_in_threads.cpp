// A plug-in that starts a thread while it is loaded, and waits for it. The loader's lock is held meanwhile: what the thread does must not
// need it.
#include <cstdio>
#include <memory>
#include <new>
#include <thread>

static void use_every_operator() {
    struct alignas(64) Aligned {
        char bytes[64];
    };
    for (int i = 0; i < 2; i++) {
        delete new int;
        delete[] new int[10];
        delete new (std::nothrow) int;
        delete[] new (std::nothrow) int[10];
        delete new Aligned;
        delete[] new Aligned[2];
        delete new (std::nothrow) Aligned;
        delete[] new (std::nothrow) Aligned[2];
        ::operator delete(::operator new(10), std::nothrow);
        ::operator delete[](::operator new[](10), std::nothrow);
        ::operator delete(::operator new(10), size_t(10));
        ::operator delete[](::operator new[](10), size_t(10));
    }
}

static struct Loaded {
    Loaded() { std::thread(use_every_operator).join(); }
} loaded;

extern "C" int plug_in() {
    puts("loaded");
    return 0;
}
