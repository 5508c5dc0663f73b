/* A library for a server that was never built for it: a thread of its own reads from the FIFO named by SOAK_ORDERS. At a 'c' it
   commits every bug in children of the server and writes how many were noticed to the file named by SOAK_ANSWERS; at a 'd'
   it commits a double free in the server itself. */
#include <fcntl.h>
#include <pthread.h>

#include "soak_bugs.h"

static int from = -1;
static FILE *to;

static void *obey(void *unused) {
    char order;
    (void)unused;
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
    const char *orders = getenv("SOAK_ORDERS"), *answers = getenv("SOAK_ANSWERS");
    if (!orders || !answers)
        abort();
    /* Here, because the server will write its title over the environment. */
    from = open(orders, O_RDWR | O_CLOEXEC);
    to = fopen(answers, "ae");
    /* The server's signals are for its own threads. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    if (from < 0 || !to || pthread_create(&thread, NULL, obey, NULL) != 0)
        abort();
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}
