// What a C++ program asks of an allocator: containers, strings, exceptions that cross threads,
// over-aligned objects, arrays with destructors.
#include <cstdint>
#include <cstdio>
#include <exception>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <stdexcept>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

struct alignas(128) Wide {
    std::uint64_t values[16] = {};
};

struct Failure : std::runtime_error {
    Failure(int place, const std::string &why)
        : std::runtime_error(why + std::to_string(place)), history(place % 50, why) {}
    std::vector<std::string> history;
};

static std::size_t descend(int depth, std::string so_far) {
    auto held = std::make_unique<std::string>(so_far + std::to_string(depth));
    if (depth == 0)
        throw Failure(static_cast<int>(held->size()), *held);
    return descend(depth - 1, *held) + held->size();
}

static std::size_t work(int place) {
    std::map<std::string, std::vector<int>> ordered;
    std::unordered_map<int, std::shared_ptr<std::string>> hashed;
    std::size_t caught = 0;
    for (int round = 0; round < 20000; ++round) {
        ordered["key" + std::to_string(round % 301)].push_back(round * place);
        hashed[round % 199] = std::make_shared<std::string>(round % 90, 'x');
        if (round % 20 == 0) {
            try {
                descend(round % 12, "d");
            } catch (const Failure &failure) {
                caught += failure.history.size() + std::string(failure.what()).size();
            }
        }
        auto wide = std::make_unique<Wide[]>(1 + round % 3);
        if (reinterpret_cast<std::uintptr_t>(wide.get()) % alignof(Wide) != 0)
            throw std::logic_error("a misaligned array");
    }
    for (const auto &entry : ordered)
        caught += std::accumulate(entry.second.begin(), entry.second.end(), std::size_t{0});
    for (int key = 0; key < 199; ++key)
        caught += hashed[key]->size();
    return caught;
}

int main() {
    std::vector<std::size_t> results(8);
    std::vector<std::thread> crew;
    std::mutex lock;
    std::vector<std::exception_ptr> carried;
    for (int place = 0; place < 8; ++place)
        crew.emplace_back([&, place] {
            results[place] = work(place);
            try {
                descend(place, "thread");
            } catch (...) {
                std::lock_guard<std::mutex> held(lock);
                carried.push_back(std::current_exception());
            }
        });
    for (auto &thread : crew)
        thread.join();
    for (std::size_t result : results)
        std::printf("%zu\n", result);

    std::map<std::string, int> seen;
    for (const auto &pointer : carried) {
        try {
            std::rethrow_exception(pointer);
        } catch (const std::exception &failure) {
            ++seen[failure.what()];
        }
    }
    for (const auto &entry : seen)
        std::printf("%s %d\n", entry.first.c_str(), entry.second);

    auto later = std::async(std::launch::async, [] { return descend(3, "async"); });
    try {
        later.get();
    } catch (const Failure &failure) {
        std::printf("%s\n", failure.what());
    }
    try {
        std::vector<char> impossible(static_cast<std::size_t>(PTRDIFF_MAX) - 1);
        std::printf("allocated %zu bytes\n", impossible.size());
    } catch (const std::bad_alloc &) {
        std::printf("bad_alloc\n");
    }
}
