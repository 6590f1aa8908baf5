/* Drives a simulated node (tests/node): starts the program $VFIO_SIM_NODE and sends commands as JSON lines. */
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
    FILE *commands, *replies;
    char root[256];
    char reply[1024];
};

/* Ends the test program; the program has no summary line then, which is a failure. */
static inline void node_die(const char *what) {
    perror(what);
    exit(2);
}

/* Sends a command and returns its reply; ends the program if the reply is an error. */
static inline const char *node_do(struct node *node, const char *command) {
    fprintf(node->commands, "%s\n", command);
    fflush(node->commands);
    if (!fgets(node->reply, sizeof node->reply, node->replies)) node_die("read the reply of vfio-sim-node");
    if (strstr(node->reply, "\"error\"")) {
        fprintf(stderr, "%s: %s", command, node->reply);
        exit(2);
    }
    return node->reply;
}

/* Starts a node with an option (or NULL). `--eight-gpus` creates the groups 51 to 58. */
static inline struct node node_start(const char *option) {
    struct node node;
    int commands[2], replies[2];
    const char *program = getenv("VFIO_SIM_NODE");
    char *end;
    memset(&node, 0, sizeof node);
    if (!program) program = "vfio-sim-node";
    if (pipe(commands) || pipe(replies)) node_die("pipe");
    node.pid = fork();
    if (node.pid < 0) node_die("fork");
    if (node.pid == 0) {
        dup2(commands[0], 0);
        dup2(replies[1], 1);
        close(commands[0]), close(commands[1]), close(replies[0]), close(replies[1]);
        execlp(program, program, "serve", option, (char *)NULL);
        perror(program);
        _exit(2);
    }
    close(commands[0]), close(replies[1]);
    node.commands = fdopen(commands[1], "w");
    node.replies = fdopen(replies[0], "r");
    if (!node.commands || !node.replies) node_die("fdopen");
    if (!fgets(node.reply, sizeof node.reply, node.replies)) node_die("read the root of vfio-sim-node");
    if (sscanf(node.reply, "{\"root\":\"%255[^\"]", node.root) != 1) node_die(node.reply);
    end = strchr(node.root, '"');
    if (end) *end = 0;
    return node;
}

static inline void node_end(struct node *node) {
    fclose(node->commands);
    fclose(node->replies);
    waitpid(node->pid, NULL, 0);
}

/* Starts a VM with one function; returns its pid. */
static inline long node_start_vm(struct node *node, const char *address, int group_only) {
    char command[256];
    long pid = 0;
    snprintf(command, sizeof command,
             "{\"start_vm\":{\"addresses\":[\"%s\"],\"pod_uid\":\"4b5a1c7e-5b0a-4a57-9d3a-0123456789ab\",\"group_only\":%s}}",
             address, group_only ? "true" : "false");
    if (sscanf(node_do(node, command), "{\"pid\":%ld", &pid) != 1) node_die(node->reply);
    return pid;
}

static inline void node_kill_vm(struct node *node, long pid) {
    char command[64];
    snprintf(command, sizeof command, "{\"kill_vm\":{\"pid\":%ld}}", pid);
    node_do(node, command);
}

/* Returns how often processes other than the VMs opened a group. */
static inline long node_opens(struct node *node, unsigned group) {
    char command[64];
    long opens = -1;
    snprintf(command, sizeof command, "{\"opens\":{\"group\":%u}}", group);
    if (sscanf(node_do(node, command), "{\"opens\":%ld", &opens) != 1) node_die(node->reply);
    return opens;
}

#endif
