/* A simulated node (tests/node) that a C program drives: the program $VFIO_SIM_NODE, orders as JSON lines. */
#ifndef NODE_H
#define NODE_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

struct node {
    pid_t pid;
    FILE *orders, *replies;
    char root[256];
    char reply[1024];
};

/* The test cannot go on; its script sees that nothing was counted. */
static inline void node_die(const char *what) {
    perror(what);
    exit(2);
}

/* Sends an order and reads its reply, which is no error. */
static inline const char *node_do(struct node *node, const char *order) {
    fprintf(node->orders, "%s\n", order);
    fflush(node->orders);
    if (!fgets(node->reply, sizeof node->reply, node->replies)) node_die("the node's reply");
    if (strstr(node->reply, "\"error\"")) {
        fprintf(stderr, "%s: %s", order, node->reply);
        exit(2);
    }
    return node->reply;
}

/* Starts a node with the option (or NULL): `--eight-gpus` has groups 51 to 58. */
static inline struct node node_start(const char *option) {
    struct node node;
    int orders[2], replies[2];
    const char *program = getenv("VFIO_SIM_NODE");
    char *end;
    memset(&node, 0, sizeof node);
    if (!program) program = "vfio-sim-node";
    if (pipe(orders) || pipe(replies)) node_die("pipe");
    node.pid = fork();
    if (node.pid < 0) node_die("fork");
    if (node.pid == 0) {
        dup2(orders[0], 0);
        dup2(replies[1], 1);
        close(orders[0]), close(orders[1]), close(replies[0]), close(replies[1]);
        execlp(program, program, "serve", option, (char *)NULL);
        perror(program);
        _exit(2);
    }
    close(orders[0]), close(replies[1]);
    node.orders = fdopen(orders[1], "w");
    node.replies = fdopen(replies[0], "r");
    if (!node.orders || !node.replies) node_die("fdopen");
    if (!fgets(node.reply, sizeof node.reply, node.replies)) node_die("the node's root");
    if (sscanf(node.reply, "{\"root\":\"%255[^\"]", node.root) != 1) node_die(node.reply);
    end = strchr(node.root, '"');
    if (end) *end = 0;
    return node;
}

static inline void node_end(struct node *node) {
    fclose(node->orders);
    fclose(node->replies);
    waitpid(node->pid, NULL, 0);
}

/* Starts a machine with a function; its pid. */
static inline long node_start_vm(struct node *node, const char *address, int group_only) {
    char order[256];
    long pid = 0;
    snprintf(order, sizeof order,
             "{\"start_vm\":{\"addresses\":[\"%s\"],\"pod_uid\":\"4b5a1c7e-5b0a-4a57-9d3a-0123456789ab\",\"group_only\":%s}}",
             address, group_only ? "true" : "false");
    if (sscanf(node_do(node, order), "{\"pid\":%ld", &pid) != 1) node_die(node->reply);
    return pid;
}

static inline void node_kill_vm(struct node *node, long pid) {
    char order[64];
    snprintf(order, sizeof order, "{\"kill_vm\":{\"pid\":%ld}}", pid);
    node_do(node, order);
}

/* How often others than its machines have opened a group. */
static inline long node_opens(struct node *node, unsigned group) {
    char order[64];
    long opens = -1;
    snprintf(order, sizeof order, "{\"opens\":{\"group\":%u}}", group);
    if (sscanf(node_do(node, order), "{\"opens\":%ld", &opens) != 1) node_die(node->reply);
    return opens;
}

#endif
