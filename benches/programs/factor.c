/* Tiny objects that die young: numbers are split into prime factors, each factor a list node, each
 * list compared and thrown away. Arguments: numbers per thread, threads. */
#include "common.h"
#include <pthread.h>

typedef struct factor {
    struct factor *next;
    uint32_t prime;
    uint32_t power;
} factor_t;

typedef struct {
    uint64_t numbers;
    uint64_t first;
    uint64_t checksum;
} job_t;

static factor_t *prepend(factor_t *list, uint32_t prime) {
    if (list != NULL && list->prime == prime) {
        list->power++;
        return list;
    }
    factor_t *node = must(malloc(sizeof *node));
    node->next = list;
    node->prime = prime;
    node->power = 1;
    return node;
}

static factor_t *factorise(uint32_t number) {
    factor_t *list = NULL;
    for (uint32_t prime = 2; prime < 64 && prime * prime <= number; prime += prime == 2 ? 1 : 2) {
        while (number % prime == 0) {
            list = prepend(list, prime);
            number /= prime;
        }
    }
    return number > 1 ? prepend(list, number) : list;
}

/* The factors two numbers share, as a list of its own. */
static factor_t *shared(const factor_t *left, const factor_t *right) {
    factor_t *list = NULL;
    for (; left != NULL; left = left->next) {
        for (const factor_t *other = right; other != NULL; other = other->next) {
            if (other->prime == left->prime) {
                list = prepend(list, left->prime);
            }
        }
    }
    return list;
}

static uint64_t release(factor_t *list) {
    uint64_t sum = 0;
    while (list != NULL) {
        factor_t *next = list->next;
        sum += (uint64_t)list->prime * list->power;
        free(list);
        list = next;
    }
    return sum;
}

static void *work(void *argument_) {
    job_t *job = argument_;
    factor_t *previous = NULL;
    for (uint64_t i = 0; i < job->numbers; i++) {
        factor_t *factors = factorise((uint32_t)(job->first + i * 6));
        job->checksum += release(shared(factors, previous));
        job->checksum += release(previous);
        previous = factors;
    }
    job->checksum += release(previous);
    return NULL;
}

int main(int argc, char **argv) {
    uint64_t numbers = argument(argc, argv, 1, 1000000);
    uint64_t threads = argument(argc, argv, 2, 1);
    job_t *jobs = must(calloc(threads, sizeof *jobs));
    pthread_t *handles = must(calloc(threads, sizeof *handles));
    for (uint64_t t = 0; t < threads; t++) {
        jobs[t] = (job_t){.numbers = numbers, .first = 30030 + t * 64};
        pthread_create(&handles[t], NULL, work, &jobs[t]);
    }
    uint64_t checksum = 0;
    for (uint64_t t = 0; t < threads; t++) {
        pthread_join(handles[t], NULL);
        checksum += jobs[t].checksum;
    }
    printf("checksum=%llu\n", (unsigned long long)checksum);
    free(jobs);
    free(handles);
    return 0;
}
