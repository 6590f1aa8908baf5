/* A node agent: prints the events of the VFIO devices of this host, with the holders of held groups. It waits in an epoll
 * loop for the descriptor of a watch.
 *
 * agent [--root DIR] [--interval MS]       runs until SIGINT or SIGTERM
 *
 * cc agent.c $(pkg-config --cflags --libs vfio-probe) -o agent
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* epoll, signalfd */
#endif
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>
#include <vfio_probe.h>

/* Prints the ids of the devices of a group. */
static void print_devices(vfp_watch *watch, uint32_t group) {
    static vfp_device devices[1024];
    size_t count = 0, index;
    if (vfp_watch_devices(watch, sizeof devices[0], 1024, devices, &count, NULL) < 0) return;
    for (index = 0; index < count && index < 1024; index++) {
        if (devices[index].status == VFP_OK && devices[index].group == group) printf(" %s", devices[index].id);
    }
}

static void print_holders(vfp_watch *watch, uint32_t group) {
    vfp_holder holders[8];
    vfp_scan_coverage coverage;
    size_t count = 0, index;
    if (vfp_watch_holders(watch, group, sizeof holders[0], 8, holders, &count, sizeof coverage, &coverage, NULL) < 0) return;
    for (index = 0; index < count && index < 8; index++) {
        printf(" by pid %u (%s)", holders[index].pid, holders[index].command);
        if (holders[index].pod_uid[0]) printf(" of pod %s", holders[index].pod_uid);
    }
    /* The list may be incomplete: print the coverage of the scan. */
    if (count == 0) printf(" by an unknown process (%u of %u processes unreadable)", coverage.unreadable, coverage.processes);
}

/* Prints all queued events. Returns 0 to continue, -1 if stdout is closed. */
static int take_events(vfp_watch *watch) {
    for (;;) {
        vfp_event event;
        vfp_error error;
        vfp_status status = vfp_watch_next(watch, sizeof event, &event, &error);
        if (status == VFP_NO_EVENT) break;
        if (status < 0) {
            /* The watch continues: a host that cannot be read now may be readable later. */
            fprintf(stderr, "agent: %s\n", error.text);
            break;
        }
        printf("%s", vfp_event_text(event.kind));
        if (event.group != VFP_NO_GROUP) {
            printf(" group %u", event.group);
            print_devices(watch, event.group);
        } else if (event.device[0]) {
            printf(" %s", event.device);
        }
        if (event.kind == VFP_EVENT_HELD) print_holders(watch, event.group);
        printf("\n");
    }
    /* The reader of our output closed the pipe: a normal end. */
    return fflush(stdout) == 0 ? 0 : -1;
}

static int add(int poll, int fd) {
    struct epoll_event event;
    memset(&event, 0, sizeof event);
    event.events = EPOLLIN;
    event.data.fd = fd;
    return epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event);
}

int main(int argc, char **argv) {
    const char *directory = "/";
    vfp_watch_options options;
    vfp_root *root = NULL;
    vfp_watch *watch = NULL;
    vfp_error error;
    sigset_t end;
    int poll, signals, index, result = 1;
    memset(&options, 0, sizeof options);
    for (index = 1; index + 1 < argc; index += 2) {
        if (strcmp(argv[index], "--root") == 0) directory = argv[index + 1];
        else if (strcmp(argv[index], "--interval") == 0) options.interval_ms = (uint32_t)strtoul(argv[index + 1], NULL, 10);
        else break;
    }
    if (index != argc) {
        fprintf(stderr, "usage: agent [--root DIR] [--interval MS]\n");
        return 64;
    }
    if (vfp_root_open(directory, &root, &error) < 0 ||
        vfp_watch_open(root, sizeof options, &options, &watch, &error) < 0) {
        fprintf(stderr, "agent: %s\n", error.text);
        vfp_root_close(&root);
        return 1;
    }
    /* The watch does not need the root handle. */
    vfp_root_close(&root);
    sigemptyset(&end);
    sigaddset(&end, SIGINT);
    sigaddset(&end, SIGTERM);
    sigprocmask(SIG_BLOCK, &end, NULL);
    signals = signalfd(-1, &end, SFD_CLOEXEC);
    poll = epoll_create1(EPOLL_CLOEXEC);
    if (signals < 0 || poll < 0 || add(poll, signals) || add(poll, vfp_watch_fd(watch))) {
        perror("agent");
        vfp_watch_close(&watch);
        return 1;
    }
    while (take_events(watch) == 0) {
        struct epoll_event event;
        int ready = epoll_wait(poll, &event, 1, -1);
        if (ready < 0 && errno != EINTR) {
            perror("agent: epoll_wait");
            break;
        }
        if (ready > 0 && event.data.fd == signals) {
            result = 0;
            break;
        }
    }
    vfp_watch_close(&watch);
    close(poll);
    close(signals);
    return result;
}
