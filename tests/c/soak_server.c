/* A library for a server that was never built for it: a thread of its own reads from the FIFO named by SOAK_ORDERS. At a 'c' it
   commits every bug in children of the server and writes how many were noticed to the file named by SOAK_ANSWERS; at a 'd'
   it commits a double free in the server itself. */
#include <fcntl.h>
#include <pthread.h>

#include "soak_bugs.h"

static const char *orders, *answers;

static void *obey(void *unused) {
    (void)unused;
    int from = open(orders, O_RDWR | O_CLOEXEC);
    FILE *to = fopen(answers, "ae");
    char order;
    if (from < 0 || !to)
        abort();
    while (read(from, &order, 1) == 1) {
        if (order == 'd')
            double_free();
        fprintf(to, "%d of %d\n", noticed_bugs(), BUGS);
        fflush(to);
    }
    abort();
}

__attribute__((constructor)) static void start(void) {
    sigset_t all, before;
    pthread_t thread;
    orders = getenv("SOAK_ORDERS");
    answers = getenv("SOAK_ANSWERS");
    /* The server's signals are for its own threads. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    if (!orders || !answers || pthread_create(&thread, NULL, obey, NULL) != 0)
        abort();
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}
