/* A workload with a model of its memory, in which the system refuses calls of the allocator: the
   environment's FAULTS=KINDS:AT:LENGTH has LENGTH calls (0: all) of the kinds fail from the AT-th one on.
   KINDS are letters: m mmap, p mprotect, a madvise, r remap, u munmap. The functions below take the place
   of libc's for the preloaded library; libc's own calls do not pass here.

   Whatever fails, malloc returns NULL and sets ENOMEM, no chunk loses a byte, free keeps errno, nothing
   hangs; and once the system relents, everything works again. Prints how many calls there were. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* System calls without libc, which would touch errno. */
static long raw(long number, long a, long b, long c, long d, long e, long f) {
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "0"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

static char kinds[8];
static long first_fault, last_fault;
static atomic_long calls;
static atomic_int known, relented;

/* The first call comes before libc has an environment. */
static void read_schedule(void) {
    static char text[65536];
    long file = raw(SYS_open, (long)"/proc/self/environ", O_RDONLY, 0, 0, 0, 0);
    long length = 0, part;
    while (length < (long)sizeof text - 1 &&
           (part = raw(SYS_read, file, (long)(text + length), (long)sizeof text - 1 - length, 0, 0, 0)) > 0)
        length += part;
    raw(SYS_close, file, 0, 0, 0, 0, 0);
    for (char *at = text; at < text + length; at += strlen(at) + 1) {
        if (strncmp(at, "FAULTS=", 7) != 0)
            continue;
        at += 7;
        for (int i = 0; i < 7 && *at != ':'; i++)
            kinds[i] = *at++;
        long numbers[2] = {0, 0};
        for (int i = 0; i < 2; i++)
            for (at++; *at >= '0' && *at <= '9'; at++)
                numbers[i] = numbers[i] * 10 + *at - '0';
        first_fault = numbers[0];
        last_fault = numbers[1] ? numbers[0] + numbers[1] - 1 : INT64_MAX;
    }
}

static int refused(char kind) {
    if (!atomic_exchange(&known, 1))
        read_schedule();
    if (atomic_load(&relented) || !memchr(kinds, kind, sizeof kinds))
        return 0;
    long number = atomic_fetch_add(&calls, 1) + 1;
    return first_fault && number >= first_fault && number <= last_fault;
}

static long finish(char kind, long number, long a, long b, long c, long d, long e, long f) {
    long result = refused(kind) ? -ENOMEM : raw(number, a, b, c, d, e, f);
    if (result < 0 && result > -4096) {
        errno = (int)-result;
        return -1;
    }
    return result;
}

void *mmap(void *at, size_t bytes, int protection, int flags, int file, off_t offset) {
    return (void *)finish('m', SYS_mmap, (long)at, (long)bytes, protection, flags, file, offset);
}

int mprotect(void *at, size_t bytes, int protection) {
    return (int)finish('p', SYS_mprotect, (long)at, (long)bytes, protection, 0, 0, 0);
}

int madvise(void *at, size_t bytes, int advice) {
    return (int)finish('a', SYS_madvise, (long)at, (long)bytes, advice, 0, 0, 0);
}

void *mremap(void *at, size_t bytes, size_t new_bytes, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    void *to = flags & MREMAP_FIXED ? va_arg(rest, void *) : NULL;
    va_end(rest);
    return (void *)finish('r', SYS_mremap, (long)at, (long)bytes, (long)new_bytes, flags, (long)to, 0);
}

int munmap(void *at, size_t bytes) {
    return (int)finish('u', SYS_munmap, (long)at, (long)bytes, 0, 0, 0, 0);
}

static void demand(int holds, const char *what, int line) {
    if (holds)
        return;
    char text[256];
    int length = snprintf(text, sizeof text, "line %d: not so: %s (errno %d, call %ld)\n", line, what, errno, calls);
    raw(SYS_write, 1, (long)text, length, 0, 0, 0);
    _exit(1);
}
#define DEMAND(condition) demand(condition, #condition, __LINE__)

enum { CHUNKS = 200, STEPS = 1200, APART = 16411 };

struct chunk {
    unsigned char *at;
    size_t size;
    unsigned char mark;
};

struct model {
    struct chunk chunks[CHUNKS];
    uint32_t state;
};

static uint32_t draw(struct model *model) {
    model->state = model->state * 1103515245 + 12345;
    return model->state >> 8;
}

static size_t draw_size(struct model *model) {
    static const size_t bounds[] = {16, 100, 1000, 1000, 20000, 70000, 260000, 600000, 1500000, 5000000};
    uint32_t kind = draw(model) % 64;
    return draw(model) % bounds[kind < 60 ? kind % 8 : kind == 60 ? 9 : 8];
}

static unsigned char byte(const struct chunk *chunk, size_t place) {
    return (unsigned char)(chunk->mark + place * 7);
}

/* Both edges, and a byte here and there. */
static int marked(size_t size, size_t place) {
    return place < 40 || place + 40 >= size || place % APART == 0;
}
static size_t next_marked(size_t size, size_t place) {
    place++;
    while (place < size && !marked(size, place))
        place += place % APART ? APART - place % APART : 1;
    return size > 40 && place > size - 40 && place - APART < size - 40 && !marked(size, place) ? size - 40 : place;
}

static void fill(struct chunk *chunk, size_t from) {
    for (size_t place = from; place < chunk->size; place = next_marked(chunk->size, place))
        chunk->at[place] = byte(chunk, place);
    for (size_t place = chunk->size < 40 ? 0 : chunk->size - 40; place < chunk->size; place++)
        chunk->at[place] = byte(chunk, place);
}

static void verify(const struct chunk *chunk) {
    for (size_t place = 0; place < chunk->size; place = next_marked(chunk->size, place))
        DEMAND(chunk->at[place] == byte(chunk, place));
    for (size_t place = chunk->size < 40 ? 0 : chunk->size - 40; place < chunk->size; place++)
        DEMAND(chunk->at[place] == byte(chunk, place));
}

static void verify_all(struct model *model) {
    for (int i = 0; i < CHUNKS; i++)
        if (model->chunks[i].at) {
            verify(&model->chunks[i]);
            DEMAND(malloc_usable_size(model->chunks[i].at) >= model->chunks[i].size);
        }
}

static void give_back(struct chunk *chunk) {
    if (!chunk->at)
        return;
    verify(chunk);
    errno = 4321;
    free(chunk->at);
    DEMAND(errno == 4321);
    chunk->at = NULL;
}

static void resize(struct model *model, struct chunk *chunk, size_t size) {
    struct chunk old = *chunk;
    errno = 0;
    unsigned char *moved = realloc(old.at, size);
    if (!moved) {
        DEMAND(errno == ENOMEM);
        verify(&old);
        return;
    }
    size_t kept = old.size < size ? old.size : size;
    for (size_t place = 0; place < kept; place = next_marked(old.size, place))
        DEMAND(moved[place] == byte(&old, place));
    *chunk = (struct chunk){moved, size, (unsigned char)draw(model)};
    fill(chunk, 0);
}

static void allocate(struct model *model, struct chunk *chunk, size_t size) {
    uint32_t kind = draw(model) % 8, align = 16u << draw(model) % 10;
    give_back(chunk);
    errno = 0;
    void *at = NULL;
    switch (kind) {
    case 0:
        at = calloc(1, size);
        if (at)
            for (size_t place = 0; place < size; place = next_marked(size, place))
                DEMAND(((unsigned char *)at)[place] == 0);
        break;
    case 1:
        at = aligned_alloc(align, size);
        DEMAND((uintptr_t)at % align == 0);
        break;
    case 2: {
        int error = posix_memalign(&at, align, size);
        DEMAND(error == (at ? 0 : ENOMEM));
        errno = error;
        break;
    }
    default:
        at = malloc(size);
    }
    if (!at) {
        DEMAND(errno == ENOMEM);
        return;
    }
    *chunk = (struct chunk){at, size, (unsigned char)draw(model)};
    fill(chunk, 0);
}

static void step(struct model *model) {
    struct chunk *chunk = &model->chunks[draw(model) % CHUNKS];
    size_t size = draw_size(model);
    switch (draw(model) % 4) {
    case 0:
        give_back(chunk);
        break;
    case 1:
        if (chunk->at && size) {
            resize(model, chunk, size);
            break;
        }
        /* fall through */
    default:
        allocate(model, chunk, size);
    }
}

static void drop_all(struct model *model) {
    for (int i = 0; i < CHUNKS; i++)
        give_back(&model->chunks[i]);
}

/* A thread allocates before it has a cache, and ends. */
static void *thread(void *seed) {
    struct model *model = mmap(NULL, sizeof *model, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (model == MAP_FAILED)
        return NULL;
    model->state = (uint32_t)(uintptr_t)seed;
    for (int i = 0; i < 60; i++)
        step(model);
    drop_all(model);
    munmap(model, sizeof *model);
    return NULL;
}

static void run_thread(uint32_t seed) {
    pthread_t id;
    if (pthread_create(&id, NULL, thread, (void *)(uintptr_t)seed) == 0)
        pthread_join(id, NULL);
}

static void run_child(struct model *model) {
    pid_t pid = fork();
    if (pid == 0) {
        alarm(800);
        verify_all(model);
        for (int i = 0; i < 60; i++)
            step(model);
        drop_all(model);
        _exit(0);
    }
    int status = 0;
    DEMAND(pid > 0 && waitpid(pid, &status, 0) == pid);
    DEMAND(status == 0);
}

/* One chunk that grows as a reader's buffer does. */
static void grow(struct model *model) {
    struct chunk chunk = {NULL, 0, 1};
    allocate(model, &chunk, 200000);
    for (size_t size = 300000; chunk.at && size < 3000000; size += size / 3)
        resize(model, &chunk, size);
    if (chunk.at)
        resize(model, &chunk, 500000);
    give_back(&chunk);
}

int main(void) {
    static struct model model;
    int (*check_heap)(void) = (int (*)(void))dlsym(RTLD_DEFAULT, "testudo_check_heap");
    DEMAND(check_heap != NULL);
    alarm(800);
    model.state = 2024;
    for (int i = 1; i <= STEPS; i++) {
        step(&model);
        if (i % 150 == 0) {
            verify_all(&model);
            grow(&model);
            run_thread((uint32_t)i);
            malloc_trim(0);
            run_child(&model);
        }
    }
    long count = atomic_load(&calls);
    atomic_store(&relented, 1);
    DEMAND(check_heap() == 0);
    verify_all(&model);
    for (int i = 0; i < CHUNKS; i++) {
        allocate(&model, &model.chunks[i], draw_size(&model));
        DEMAND(model.chunks[i].at != NULL);
    }
    run_thread(7);
    run_child(&model);
    drop_all(&model);
    malloc_trim(0);
    DEMAND(check_heap() == 0);
    char text[64];
    int length = snprintf(text, sizeof text, "the contract held in %ld calls\n", count);
    DEMAND(write(1, text, (size_t)length) == length);
    return 0;
}
