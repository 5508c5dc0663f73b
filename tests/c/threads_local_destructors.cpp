// C++ thread_local objects whose destructors allocate and free, and touch thread_local objects that
// come to life only while the thread ends.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <unistd.h>
#include <vector>

static std::atomic<long> ended{0};

struct Late {
    std::vector<std::string> names{50, std::string(100, 'l')};
    ~Late() {
        std::string joined;
        for (const auto &name : names)
            joined += name;
        ended += joined.size() == 5000;
    }
};

static Late &late() {
    thread_local Late object;
    return object;
}

struct Early {
    std::map<int, std::unique_ptr<std::string>> table;
    ~Early() {
        for (int key = 0; key < 100; ++key)
            table[key] = std::make_unique<std::string>(static_cast<std::size_t>(key), 'e');
        late().names[0] = std::string(100, 'n');
        std::free(std::malloc(300000));
        delete[] new char[70000];
        ended += table.size() == 100;
    }
};

static thread_local Early early;

int main() {
    alarm(800);
    for (int round = 0; round < 100; ++round) {
        std::vector<std::thread> crew;
        for (int i = 0; i < 10; ++i)
            crew.emplace_back([i] {
                early.table[i] = std::make_unique<std::string>("x");
                auto *moved = new std::string(1000, 'm');
                std::thread([moved] { delete moved; }).join();
            });
        for (auto &thread : crew)
            thread.join();
    }
    if (ended != 2000) {
        std::printf("%ld destructors\n", ended.load());
        return 1;
    }
    std::puts("every destructor ran");
}
