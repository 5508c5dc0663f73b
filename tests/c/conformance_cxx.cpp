// Every replaceable operator new and operator delete, as the C++ standard describes them.
#include "checks.h"

#include <cstdint>
#include <malloc.h>
#include <memory>
#include <new>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr std::size_t sizes[] = {0, 1, 8, 24, 100, 1000, 4096, 20000, 262144, 300000, 3000000};
constexpr std::size_t too_much[] = {PTRDIFF_MAX, static_cast<std::size_t>(PTRDIFF_MAX) + 1, SIZE_MAX - 4096,
                                    SIZE_MAX - 8, SIZE_MAX};

void use(void *p, std::size_t n) {
    EXPECT(p != nullptr);
    if (p) memset(p, 'x', n);
}

void plain_new_and_delete() {
    for (auto n : sizes) {
        void *p = ::operator new(n);
        use(p, n);
        EXPECT(aligned_to(p, __STDCPP_DEFAULT_NEW_ALIGNMENT__));
        ::operator delete(p);
        p = ::operator new(n);
        use(p, n);
        ::operator delete(p, n);
    }
}

void array_new_and_delete() {
    for (auto n : sizes) {
        void *p = ::operator new[](n);
        use(p, n);
        EXPECT(aligned_to(p, __STDCPP_DEFAULT_NEW_ALIGNMENT__));
        ::operator delete[](p);
        p = ::operator new[](n);
        use(p, n);
        ::operator delete[](p, n);
    }
}

void nothrow_new_and_delete() {
    for (auto n : sizes) {
        void *p = ::operator new(n, std::nothrow), *q = ::operator new[](n, std::nothrow);
        use(p, n);
        use(q, n);
        ::operator delete(p, std::nothrow);
        ::operator delete[](q, std::nothrow);
        p = ::operator new(n, std::nothrow);
        q = ::operator new[](n, std::nothrow);
        ::operator delete(p);
        ::operator delete[](q, n);
    }
}

template <typename Each>
void each_alignment(Each each) {
    for (std::size_t a = 1; a <= std::size_t(1) << 20; a *= 2)
        for (auto n : sizes) each(a, n, std::align_val_t(a));
}

void aligned_new_and_delete() {
    each_alignment([](std::size_t a, std::size_t n, std::align_val_t align) {
        void *p = ::operator new(n, align), *q = ::operator new(n, align);
        use(p, n);
        EXPECT(aligned_to(p, a) && aligned_to(q, a));
        ::operator delete(p, align);
        ::operator delete(q, n, align);
    });
}

void aligned_array_new_and_delete() {
    each_alignment([](std::size_t a, std::size_t n, std::align_val_t align) {
        void *p = ::operator new[](n, align), *q = ::operator new[](n, align);
        use(p, n);
        EXPECT(aligned_to(p, a) && aligned_to(q, a));
        ::operator delete[](p, align);
        ::operator delete[](q, n, align);
    });
}

void aligned_nothrow_new_and_delete() {
    each_alignment([](std::size_t a, std::size_t n, std::align_val_t align) {
        void *p = ::operator new(n, align, std::nothrow), *q = ::operator new[](n, align, std::nothrow);
        use(p, n);
        use(q, n);
        EXPECT(aligned_to(p, a) && aligned_to(q, a));
        ::operator delete(p, align, std::nothrow);
        ::operator delete[](q, align, std::nothrow);
    });
}

void delete_of_null_does_nothing() {
    const auto align = std::align_val_t(64);
    ::operator delete(nullptr);
    ::operator delete[](nullptr);
    ::operator delete(nullptr, std::size_t(8));
    ::operator delete[](nullptr, std::size_t(8));
    ::operator delete(nullptr, std::nothrow);
    ::operator delete[](nullptr, std::nothrow);
    ::operator delete(nullptr, align);
    ::operator delete[](nullptr, align);
    ::operator delete(nullptr, std::size_t(8), align);
    ::operator delete[](nullptr, std::size_t(8), align);
    ::operator delete(nullptr, align, std::nothrow);
    ::operator delete[](nullptr, align, std::nothrow);
}

void new_of_nothing_returns_distinct_pointers() {
    void *p = ::operator new(0), *q = ::operator new(0), *r = ::operator new[](0), *s = ::operator new[](0);
    EXPECT(p && q && r && s && p != q && r != s && p != r && q != s && p != s && q != r);
    ::operator delete(p);
    ::operator delete(q);
    ::operator delete[](r);
    ::operator delete[](s);
}

template <typename Call>
bool throws_bad_alloc(Call call) {
    try {
        call();
    } catch (const std::bad_alloc &) {
        return true;
    }
    return false;
}

void new_throws_bad_alloc_when_it_fails() {
    for (auto n : too_much) {
        EXPECT(throws_bad_alloc([=] { return ::operator new(n); }));
        EXPECT(throws_bad_alloc([=] { return ::operator new[](n); }));
        EXPECT(throws_bad_alloc([=] { return ::operator new(n, std::align_val_t(64)); }));
        EXPECT(throws_bad_alloc([=] { return ::operator new[](n, std::align_val_t(64)); }));
    }
}

void nothrow_new_returns_null_when_it_fails() {
    for (auto n : too_much) {
        EXPECT(::operator new(n, std::nothrow) == nullptr);
        EXPECT(::operator new[](n, std::nothrow) == nullptr);
        EXPECT(::operator new(n, std::align_val_t(64), std::nothrow) == nullptr);
        EXPECT(::operator new[](n, std::align_val_t(64), std::nothrow) == nullptr);
    }
}

int handler_calls;

// The third call gives up, which ends the loop that the standard asks for.
void give_up_at_the_third_call() {
    if (++handler_calls == 3) std::set_new_handler(nullptr);
}

template <typename Call>
int calls_of_the_handler(Call call) {
    handler_calls = 0;
    std::set_new_handler(give_up_at_the_third_call);
    call();
    std::set_new_handler(nullptr);
    return handler_calls;
}

void the_new_handler_is_called_until_it_is_gone() {
    EXPECT(calls_of_the_handler([] { EXPECT(throws_bad_alloc([] { return ::operator new(SIZE_MAX); })); }) == 3);
    EXPECT(calls_of_the_handler([] { EXPECT(throws_bad_alloc([] { return ::operator new[](SIZE_MAX); })); }) == 3);
    EXPECT(calls_of_the_handler(
               [] { EXPECT(throws_bad_alloc([] { return ::operator new(SIZE_MAX, std::align_val_t(64)); })); }) == 3);
}

void the_new_handler_is_called_for_nothrow_new_too() {
    EXPECT(calls_of_the_handler([] { EXPECT(::operator new(SIZE_MAX, std::nothrow) == nullptr); }) == 3);
    EXPECT(calls_of_the_handler([] { EXPECT(::operator new[](SIZE_MAX, std::nothrow) == nullptr); }) == 3);
}

struct GivenUp : std::bad_alloc {};
void throw_given_up() { throw GivenUp(); }

void what_the_new_handler_throws_reaches_the_caller() {
    std::set_new_handler(throw_given_up);
    bool reached = false;
    try {
        ::operator delete(::operator new(SIZE_MAX));
    } catch (const GivenUp &) {
        reached = true;
    }
    EXPECT(reached);
    EXPECT(::operator new(SIZE_MAX, std::nothrow) == nullptr);
    std::set_new_handler(nullptr);
}

void the_new_handler_is_not_called_when_memory_is_found() {
    EXPECT(calls_of_the_handler([] { ::operator delete(::operator new(100)); }) == 0);
}

void a_length_that_overflows_throws() {
    volatile std::size_t length = SIZE_MAX / 4;
    EXPECT(throws_bad_alloc([&] { return new std::uint64_t[length]; }));
}

struct alignas(256) Wide {
    char bytes[300];
};

void over_aligned_types_work_in_expressions_and_containers() {
    Wide *one = new Wide, *more = new Wide[7];
    EXPECT(aligned_to(one, 256) && aligned_to(more, 256));
    delete one;
    delete[] more;
    std::vector<Wide> wide(20);
    wide.resize(100);
    EXPECT(aligned_to(wide.data(), 256));
    auto shared = std::make_shared<Wide>();
    EXPECT(aligned_to(shared.get(), 256));
}

struct Noisy {
    static int alive;
    std::string text = std::string(50, 'n');
    Noisy() {
        if (alive == 5) throw 1;
        alive++;
    }
    ~Noisy() { alive--; }
};
int Noisy::alive;

void a_constructor_that_throws_frees_the_array() {
    bool thrown = false;
    try {
        delete[] new Noisy[10];
    } catch (int) {
        thrown = true;
    }
    EXPECT(thrown && Noisy::alive == 0);
}

void malloc_usable_size_knows_memory_from_new() {
    void *p = ::operator new(100), *q = ::operator new[](300000);
    EXPECT(malloc_usable_size(p) == 100 && malloc_usable_size(q) == 300000);
    ::operator delete(p);
    ::operator delete[](q);
}

const struct check checks[] = {
    CHECK(plain_new_and_delete),
    CHECK(array_new_and_delete),
    CHECK(nothrow_new_and_delete),
    CHECK(aligned_new_and_delete),
    CHECK(aligned_array_new_and_delete),
    CHECK(aligned_nothrow_new_and_delete),
    CHECK(delete_of_null_does_nothing),
    CHECK(new_of_nothing_returns_distinct_pointers),
    CHECK(new_throws_bad_alloc_when_it_fails),
    CHECK(nothrow_new_returns_null_when_it_fails),
    CHECK(the_new_handler_is_called_until_it_is_gone),
    CHECK(the_new_handler_is_called_for_nothrow_new_too),
    CHECK(what_the_new_handler_throws_reaches_the_caller),
    CHECK(the_new_handler_is_not_called_when_memory_is_found),
    CHECK(a_length_that_overflows_throws),
    CHECK(over_aligned_types_work_in_expressions_and_containers),
    CHECK(a_constructor_that_throws_frees_the_array),
    CHECK(malloc_usable_size_knows_memory_from_new),
    {},
};

}  // namespace

int main(int argc, char **argv) { return run_named(checks, argc, argv); }
