// Allocation at odd moments: before main, after it, while threads end, while libraries come and go.
#include "checks.h"

#include <csetjmp>
#include <csignal>
#include <dlfcn.h>
#include <malloc.h>
#include <memory>
#include <pthread.h>
#include <string>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

namespace {

char *from_the_constructor;
std::string *from_a_static_initialiser = new std::string(1000, 'i');

__attribute__((constructor(101))) void early() {
    from_the_constructor = static_cast<char *>(malloc(100));
    memset(from_the_constructor, 'c', 100);
    free(malloc(300000));
}

void memory_from_before_main_is_sound() {
    EXPECT(all_are(from_the_constructor, 'c', 100));
    EXPECT(*from_a_static_initialiser == std::string(1000, 'i'));
    from_the_constructor = static_cast<char *>(realloc(from_the_constructor, 5000));
    EXPECT(all_are(from_the_constructor, 'c', 100));
    free(from_the_constructor);
    delete from_a_static_initialiser;
}

// What is wrong after main ends the process with 99: the checks' own count is passed on before.
void *freed_at_exit;

__attribute__((destructor(101))) void late() {
    void *p = malloc(200);
    memset(p, 'd', 200);
    p = realloc(p, 300000);
    if (!all_are(static_cast<char *>(p), 'd', 200)) _exit(99);
    free(p);
    free(freed_at_exit);
}

void at_exit() {
    char *p = static_cast<char *>(calloc(10, 100));
    if (!all_zero(p, 1000)) _exit(99);
    free(p);
    freed_at_exit = malloc(4096);
}

struct Static {
    std::vector<int> numbers;
    ~Static() {
        numbers.resize(100000);
        for (int n : numbers)
            if (n) _exit(99);
    }
};
Static destroyed_after_main;

void exit_handlers_and_destructors_can_allocate_and_free() {
    freed_at_exit = malloc(100);
    destroyed_after_main.numbers.resize(10);
    EXPECT(atexit(at_exit) == 0);
}

struct AtThreadEnd {
    std::vector<std::unique_ptr<std::string>> strings;
    ~AtThreadEnd() {
        for (int i = 0; i < 100; i++) strings.push_back(std::make_unique<std::string>(500, 't'));
        strings.clear();
        free(malloc(300000));
    }
};
thread_local AtThreadEnd thread_end;

void thread_local_destructors_can_allocate_and_free() {
    for (int i = 0; i < 50; i++) std::thread([] { thread_end.strings.push_back(std::make_unique<std::string>(300, 's')); }).join();
}

pthread_key_t key;
int rounds_left;

// Sets itself again, so that it also runs in the last round of destructors, after all others.
void at_key_destruction(void *value) {
    free(value);
    void *p = malloc(64);
    memset(p, 'k', 64);
    free(p);
    if (--rounds_left > 0) pthread_setspecific(key, malloc(128));
}

void *with_key(void *) {
    pthread_setspecific(key, malloc(32));
    return malloc(500);
}

void key_destructors_can_allocate_and_free_in_every_round() {
    EXPECT(pthread_key_create(&key, at_key_destruction) == 0);
    for (int i = 0; i < 50; i++) {
        rounds_left = 4;
        pthread_t thread;
        void *left_behind;
        EXPECT(pthread_create(&thread, nullptr, with_key, nullptr) == 0);
        EXPECT(pthread_join(thread, &left_behind) == 0);
        free(left_behind);
    }
}

void libraries_can_be_loaded_and_unloaded() {
    const char *const names[] = {"libm.so.6", "librt.so.1", "libutil.so.1", "libresolv.so.2", "libanl.so.1"};
    for (int round = 0; round < 20; round++)
        for (auto name : names) {
            void *library = dlopen(name, RTLD_NOW);
            EXPECT(library != nullptr);
            void *p = malloc(100);
            if (library) EXPECT(dlclose(library) == 0);
            free(p);
        }
}

void a_failed_dlopen_leaves_its_message() {
    EXPECT(dlopen("/nowhere/libnothing.so", RTLD_NOW) == nullptr);
    const char *message = dlerror();
    EXPECT(message && strstr(message, "libnothing.so"));
    EXPECT(dlsym(RTLD_DEFAULT, "no_such_symbol_anywhere") == nullptr);
    EXPECT(dlerror() != nullptr);
}

void a_thread_can_free_what_another_allocated() {
    std::vector<char *> chunks(5000);
    std::thread([&] {
        for (std::size_t i = 0; i < chunks.size(); i++) memset(chunks[i] = static_cast<char *>(malloc(i % 700)), 'o', i % 700);
    }).join();
    for (std::size_t i = 0; i < chunks.size(); i++) EXPECT(all_are(chunks[i], 'o', i % 700));
    std::thread([&] {
        for (auto chunk : chunks) free(chunk);
    }).join();
}

void a_forked_child_can_use_and_free_its_parents_memory() {
    char *p = static_cast<char *>(malloc(1000));
    memset(p, 'f', 1000);
    for (int i = 0; i < 20; i++) {
        pid_t child = fork();
        if (child == 0) {
            bool sound = all_are(p, 'f', 1000);
            free(p);
            std::vector<std::string> strings(100, std::string(200, 'z'));
            _exit(sound && strings[99][199] == 'z' ? 0 : 1);
        }
        int status;
        EXPECT(waitpid(child, &status, 0) == child && status == 0);
    }
    free(p);
}

void forking_while_threads_allocate_does_not_hang() {
    volatile bool stop = false;
    std::vector<std::thread> threads;
    for (int i = 0; i < 3; i++)
        threads.emplace_back([&] {
            while (!stop) {
                free(malloc(40));
                free(malloc(5000));
                free(malloc(300000));
            }
        });
    for (int i = 0; i < 100; i++) {
        pid_t child = fork();
        if (child == 0) {
            alarm(800);
            for (int j = 0; j < 100; j++) {
                free(malloc(40));
                free(malloc(5000));
                free(malloc(300000));
            }
            _exit(0);
        }
        int status;
        EXPECT(waitpid(child, &status, 0) == child && status == 0);
    }
    stop = true;
    for (auto &thread : threads) thread.join();
}

// On a stack that holds little more than the signal frame itself.
char small_stack[65536];
volatile bool handled;

void on_signal(int) {
    void *p = malloc(100);
    memset(p, 1, 100);
    free(p);
    handled = true;
}

void a_signal_handler_on_an_alternate_stack_can_allocate() {
    stack_t stack = {};
    stack.ss_sp = small_stack;
    stack.ss_size = sizeof small_stack;
    sigaltstack(&stack, nullptr);
    struct sigaction action = {};
    action.sa_handler = on_signal;
    action.sa_flags = SA_ONSTACK;
    sigaction(SIGUSR1, &action, nullptr);
    raise(SIGUSR1);
    EXPECT(handled);
}

const struct check checks[] = {
    CHECK(memory_from_before_main_is_sound),
    CHECK(exit_handlers_and_destructors_can_allocate_and_free),
    CHECK(thread_local_destructors_can_allocate_and_free),
    CHECK(key_destructors_can_allocate_and_free_in_every_round),
    CHECK(libraries_can_be_loaded_and_unloaded),
    CHECK(a_failed_dlopen_leaves_its_message),
    CHECK(a_thread_can_free_what_another_allocated),
    CHECK(a_forked_child_can_use_and_free_its_parents_memory),
    CHECK(forking_while_threads_allocate_does_not_hang),
    CHECK(a_signal_handler_on_an_alternate_stack_can_allocate),
    {},
};

}  // namespace

int main(int argc, char **argv) { return run_named(checks, argc, argv); }
