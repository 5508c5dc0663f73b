/* What placement costs the program itself: a list or a tree is built, then walked again and again.
 * In an aged heap a quarter as many chunks are freed in random order first, so that nodes land among
 * recycled slots as well as fresh ones.
 * Arguments: list|tree, nodes, walks, whether to age. Prints the time of the walks alone. */
#include "common.h"

typedef struct node {
    struct node *left, *right;
    uint64_t key;
    char payload[24];
} node_t;

static node_t *new_node(uint64_t key) {
    node_t *node = must(malloc(sizeof *node));
    *node = (node_t){.key = key};
    return node;
}

static node_t *build_list(uint64_t nodes) {
    node_t *first = new_node(0);
    node_t *last = first;
    for (uint64_t i = 1; i < nodes; i++) {
        last->right = new_node(i);
        last = last->right;
    }
    return first;
}

/* Built in the order in which it is walked, as a parser builds its tree. */
static node_t *build_tree(uint64_t first, uint64_t nodes) {
    if (nodes == 0) {
        return NULL;
    }
    uint64_t below = (nodes - 1) / 2;
    node_t *node = new_node(first);
    node->left = build_tree(first + 1, below);
    node->right = build_tree(first + 1 + below, nodes - 1 - below);
    return node;
}

static uint64_t walk_list(const node_t *node) {
    uint64_t sum = 0;
    for (; node != NULL; node = node->right) {
        sum += node->key;
    }
    return sum;
}

static uint64_t walk_tree(const node_t *node) {
    return node == NULL ? 0 : node->key + walk_tree(node->left) + walk_tree(node->right);
}

static void free_tree(node_t *node) {
    while (node != NULL) {
        node_t *right = node->right;
        free_tree(node->left);
        free(node);
        node = right;
    }
}

static void age(uint64_t nodes) {
    rng_t rng = rng_new(13);
    size_t count = nodes / 4;
    void **old = must(malloc(count * sizeof *old));
    for (size_t i = 0; i < count; i++) {
        old[i] = must(malloc(16 + rng_below(&rng, 100)));
    }
    for (size_t i = count; i > 1; i--) {
        size_t other = rng_below(&rng, i);
        void *swapped = old[i - 1];
        old[i - 1] = old[other];
        old[other] = swapped;
    }
    for (size_t i = 0; i < count; i++) {
        free(old[i]);
    }
    free(old);
}

int main(int argc, char **argv) {
    int tree = argc > 1 && strcmp(argv[1], "tree") == 0;
    uint64_t nodes = argument(argc, argv, 2, 2000000);
    uint64_t walks = argument(argc, argv, 3, 20);
    if (argument(argc, argv, 4, 0) != 0) {
        age(nodes);
    }
    node_t *first = tree ? build_tree(0, nodes) : build_list(nodes);
    double start = seconds();
    uint64_t sum = 0;
    for (uint64_t i = 0; i < walks; i++) {
        sum += tree ? walk_tree(first) : walk_list(first);
    }
    printf("walk_seconds=%.4f\n", seconds() - start);
    if (sum != walks * (nodes * (nodes - 1) / 2)) {
        fputs("a node lost its contents\n", stderr);
        abort();
    }
    free_tree(first);
    return 0;
}
