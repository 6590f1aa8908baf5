/* Eight threads share one root and one watch while VMs start and stop. */
#include "check.h"
#include "node.h"
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <vfio_probe.h>

enum { THREADS = 8 };

static struct node node;
static vfp_root *root;
static vfp_watch *watch;
static int rounds;

struct result {
    pthread_t thread;
    int number, wrong, events;
};

static void *work(void *argument) {
    struct result *result = (struct result *)argument;
    vfp_device devices[16];
    vfp_holder holders[16];
    vfp_watched_group groups[16];
    vfp_member members[4];
    vfp_scan_coverage coverage;
    vfp_occupancy occupancy;
    vfp_event event;
    vfp_error error;
    vfp_group group;
    size_t count = 0;
    int32_t peek;
    uint32_t numbers[8] = {51, 52, 53, 54, 55, 56, 57, 58};
    int round;
    for (round = 0; round < rounds; round++) {
        uint32_t mine = numbers[(result->number + round) % 8];
        result->wrong += vfp_scan(root, sizeof devices[0], 16, devices, &count, &error) != VFP_OK || count != 8;
        result->wrong += vfp_peek(root, mine, &peek, &error) != VFP_OK;
        result->wrong += vfp_group_read(root, mine, sizeof group, &group, &error) != VFP_OK || group.members != 1;
        result->wrong += vfp_members(root, mine, sizeof members[0], 4, members, &count, &error) != VFP_OK || count != 1;
        result->wrong += vfp_probe(root, mine, sizeof occupancy, &occupancy, &error) != VFP_OK;
        result->wrong += occupancy.state != VFP_STATE_FREE && occupancy.state != VFP_STATE_HELD;
        result->wrong += vfp_probe_within(root, mine, 5000, sizeof occupancy, &occupancy, &error) != VFP_OK;
        result->wrong += vfp_holders(root, numbers, 8, sizeof holders[0], 16, holders, &count, sizeof coverage, &coverage, &error) < 0;
        while (vfp_watch_next(watch, sizeof event, &event, &error) == VFP_OK) result->events++;
        result->wrong += vfp_watch_groups(watch, sizeof groups[0], 16, groups, &count, &error) < 0;
        result->wrong += vfp_watch_devices(watch, sizeof devices[0], 16, devices, &count, &error) < 0;
        result->wrong += vfp_watch_holders(watch, mine, sizeof holders[0], 16, holders, &count, 0, NULL, &error) < 0;
        result->wrong += vfp_watch_set_assigned(watch, &mine, 1, &error) != VFP_OK;
        result->wrong += vfp_watch_fd(watch) < 0;
    }
    return NULL;
}

static void eight_threads_share_a_root_and_a_watch(void) {
    struct result results[THREADS];
    vfp_watch_options options;
    int index, events = 0;
    memset(&options, 0, sizeof options);
    options.interval_ms = 5;
    options.flags = VFP_WATCH_PROBE;
    CHECK(vfp_watch_open(root, sizeof options, &options, &watch, NULL) == VFP_OK);
    memset(results, 0, sizeof results);
    for (index = 0; index < THREADS; index++) {
        results[index].number = index;
        if (pthread_create(&results[index].thread, NULL, work, &results[index])) node_die("pthread_create");
    }
    for (index = 0; index < 10; index++) {
        /* A probe of the library can make the open of a VM fail, on the simulated node too: such a VM is skipped. */
        char command[128];
        snprintf(command, sizeof command, "{\"start_vm\":{\"addresses\":[\"0000:%s:00.0\"]}}", index % 2 ? "1b" : "3d");
        fprintf(node.commands, "%s\n", command), fflush(node.commands);
        if (!fgets(node.reply, sizeof node.reply, node.replies)) node_die("read the reply of vfio-sim-node");
        if (strstr(node.reply, "pid")) node_kill_vm(&node, strtol(strchr(node.reply, ':') + 1, NULL, 10));
    }
    for (index = 0; index < THREADS; index++) {
        pthread_join(results[index].thread, NULL);
        CHECK(results[index].wrong == 0);
        events += results[index].events;
    }
    /* Each bound event was delivered to exactly one thread. */
    CHECK(events >= 8);
    vfp_watch_close(&watch);
}

struct waiter {
    pthread_t thread;
    int32_t condition;
    uint32_t group;
    vfp_status status;
    /* The kernel's number of the thread; 0 until it runs. */
    long id;
};

static void *wait_for_condition(void *argument) {
    struct waiter *waiter = (struct waiter *)argument;
    vfp_error error;
    __atomic_store_n(&waiter->id, syscall(SYS_gettid), __ATOMIC_RELEASE);
    waiter->status = vfp_watch_wait(watch, waiter->condition, waiter->group, 20000, &error);
    return NULL;
}

/* Returns whether the thread sleeps in the kernel (proc(5), stat). */
static int sleeps(const struct waiter *waiter) {
    char path[64], stat[256] = "", *name_end;
    long id = __atomic_load_n(&waiter->id, __ATOMIC_ACQUIRE);
    FILE *file;
    snprintf(path, sizeof path, "/proc/self/task/%ld/stat", id);
    if (id == 0 || !(file = fopen(path, "r"))) return 0;
    if (!fgets(stat, sizeof stat, file)) stat[0] = 0;
    fclose(file);
    name_end = strrchr(stat, ')');
    return name_end && name_end[1] == ' ' && name_end[2] == 'S';
}

/* The waits need no lock: events are taken and states are read meanwhile. */
static void other_threads_use_a_watch_while_one_waits(void) {
    vfp_watch_options options;
    struct waiter waiters[2];
    vfp_watched_group group;
    vfp_event event;
    vfp_error error;
    int index, held = 0;
    long vm;
    memset(&options, 0, sizeof options);
    options.interval_ms = 50;
    CHECK(vfp_watch_open(root, sizeof options, &options, &watch, NULL) == VFP_OK);
    CHECK(vfp_watch_wait(watch, VFP_WAIT_FREE, 53, 20000, &error) == VFP_OK);
    for (index = 0; index < 2; index++) {
        memset(&waiters[index], 0, sizeof waiters[index]);
        waiters[index].condition = VFP_WAIT_HELD, waiters[index].group = 53;
        if (pthread_create(&waiters[index].thread, NULL, wait_for_condition, &waiters[index])) node_die("pthread_create");
    }
    for (index = 0; index < 2; index++) {
        while (!sleeps(&waiters[index])) sched_yield();
    }
    /* Both threads wait now; a lock during the wait would stop these calls for 20 s. */
    CHECK(vfp_watch_group(watch, 53, VFP_RECORD(group), NULL) == VFP_OK && group.state == VFP_STATE_FREE);
    CHECK(vfp_watch_set_assigned(watch, NULL, 0, NULL) == VFP_OK);
    vm = node_start_vm(&node, "0000:4e:00.0", 0);
    while (!held && vfp_watch_wait(watch, VFP_WAIT_EVENT, VFP_ALL_GROUPS, 20000, NULL) == VFP_OK) {
        while (vfp_watch_next(watch, VFP_RECORD(event), NULL) == VFP_OK) held += event.kind == VFP_EVENT_HELD;
    }
    CHECK(held == 1);
    for (index = 0; index < 2; index++) {
        pthread_join(waiters[index].thread, NULL);
        CHECK(waiters[index].status == VFP_OK);
    }
    node_kill_vm(&node, vm);
    vfp_watch_close(&watch);
}

static void *take_events(void *argument) {
    struct waiter *waiter = (struct waiter *)argument;
    vfp_event event;
    __atomic_store_n(&waiter->id, syscall(SYS_gettid), __ATOMIC_RELEASE);
    do {
        waiter->status = vfp_watch_wait(watch, VFP_WAIT_EVENT, VFP_ALL_GROUPS, 20000, NULL);
        /* Another thread may have taken the event. */
        if (waiter->status != VFP_OK || vfp_watch_next(watch, VFP_RECORD(event), NULL) != VFP_OK) event.kind = 0;
    } while (waiter->status == VFP_OK && !(event.kind == VFP_EVENT_FREED && event.group == waiter->group));
    return NULL;
}

/* The timer of this watch never expires during the test, so a wait that missed its news would time out. */
static void one_change_ends_the_waits_of_all_threads(void) {
    vfp_watch_options options;
    int round, index;
    memset(&options, 0, sizeof options);
    options.interval_ms = 3600 * 1000;
    CHECK(vfp_watch_open(root, sizeof options, &options, &watch, NULL) == VFP_OK);
    CHECK(vfp_watch_wait(watch, VFP_WAIT_FREE, 53, 20000, NULL) == VFP_OK);
    for (round = 0; round < 10; round++) {
        struct waiter waiters[THREADS];
        char command[128];
        memset(waiters, 0, sizeof waiters);
        for (index = 0; index < THREADS; index++) {
            waiters[index].condition = VFP_WAIT_FREE, waiters[index].group = (uint32_t)(90 + round);
            if (pthread_create(&waiters[index].thread, NULL, index ? wait_for_condition : take_events, &waiters[index])) {
                node_die("pthread_create");
            }
        }
        /* In every other round the threads may still be about to wait. */
        for (index = 0; index < THREADS && round % 2; index++) {
            while (!sleeps(&waiters[index])) sched_yield();
        }
        snprintf(command, sizeof command, "{\"add_gpu\":{\"address\":\"0000:f%d:00.0\",\"group\":%d,\"numa_node\":0}}",
                 round, 90 + round);
        node_do(&node, command);
        /* The watch saw the group's node before the device was there, perhaps. Now it is: a pass finds it. */
        snprintf(command, sizeof command, "{\"write\":{\"path\":\"dev/vfio/signal-%d\",\"content\":\"\"}}", round);
        node_do(&node, command);
        for (index = 0; index < THREADS; index++) {
            pthread_join(waiters[index].thread, NULL);
            CHECK(waiters[index].status == VFP_OK);
        }
    }
    vfp_watch_close(&watch);
    for (round = 0; round < 10; round++) {
        char command[64];
        snprintf(command, sizeof command, "{\"remove\":{\"address\":\"0000:f%d:00.0\"}}", round);
        node_do(&node, command);
    }
}

/* Polls the descriptor of the watch as the only thread, and takes no event: it updates the watch and reads the state. */
static void *poll_the_watch(void *argument) {
    struct waiter *waiter = (struct waiter *)argument;
    vfp_watched_group group;
    struct pollfd polled;
    polled.fd = vfp_watch_fd(watch), polled.events = POLLIN;
    __atomic_store_n(&waiter->id, syscall(SYS_gettid), __ATOMIC_RELEASE);
    do {
        polled.revents = 0;
        if (poll(&polled, 1, 20000) != 1) return NULL;
        if (vfp_watch_update(watch, NULL) != VFP_OK) return NULL;
    } while (vfp_watch_group(watch, waiter->group, VFP_RECORD(group), NULL) != VFP_OK || group.state != VFP_STATE_FREE);
    waiter->status = VFP_OK;
    return NULL;
}

/* The poller and four waiting threads learn of each change, whichever call reads it. The timer never expires. */
static void a_polled_watch_shows_what_the_waits_of_others_have_read(void) {
    enum { WAITING = 4 };
    vfp_watch_options options;
    struct pollfd polled;
    vfp_event event;
    int round, index;
    memset(&options, 0, sizeof options);
    options.interval_ms = 3600 * 1000;
    CHECK(vfp_watch_open(root, sizeof options, &options, &watch, NULL) == VFP_OK);
    polled.fd = vfp_watch_fd(watch), polled.events = POLLIN, polled.revents = 0;
    CHECK(vfp_watch_wait(watch, VFP_WAIT_FREE, 53, 20000, NULL) == VFP_OK);
    CHECK(poll(&polled, 1, 0) == 1);
    CHECK(vfp_watch_next_queued(watch, VFP_RECORD(event), NULL) == VFP_OK && poll(&polled, 1, 0) == 1);
    CHECK(vfp_watch_update(watch, NULL) == VFP_OK && poll(&polled, 1, 0) == 0);
    for (round = 0; round < 10; round++) {
        struct waiter threads[WAITING + 1];
        char command[128];
        memset(threads, 0, sizeof threads);
        for (index = 0; index <= WAITING; index++) {
            threads[index].condition = VFP_WAIT_FREE, threads[index].group = (uint32_t)(90 + round);
            threads[index].status = VFP_TIMED_OUT;
            if (pthread_create(&threads[index].thread, NULL, index ? wait_for_condition : poll_the_watch, &threads[index])) {
                node_die("pthread_create");
            }
        }
        /* In every other round the threads may still be about to wait. */
        for (index = 0; index <= WAITING && round % 2; index++) {
            while (!sleeps(&threads[index])) sched_yield();
        }
        snprintf(command, sizeof command, "{\"add_gpu\":{\"address\":\"0000:f%d:00.0\",\"group\":%d,\"numa_node\":0}}",
                 round, 90 + round);
        node_do(&node, command);
        /* The watch saw the group's node before the device was there, perhaps. Now it is: a pass finds it. */
        snprintf(command, sizeof command, "{\"write\":{\"path\":\"dev/vfio/polled-%d\",\"content\":\"\"}}", round);
        node_do(&node, command);
        for (index = 0; index <= WAITING; index++) {
            pthread_join(threads[index].thread, NULL);
            CHECK(threads[index].status == VFP_OK);
        }
    }
    vfp_watch_close(&watch);
    for (round = 0; round < 10; round++) {
        char command[64];
        snprintf(command, sizeof command, "{\"remove\":{\"address\":\"0000:f%d:00.0\"}}", round);
        node_do(&node, command);
    }
}

static void *open_and_close(void *argument) {
    int *wrong = (int *)argument, round;
    for (round = 0; round < rounds; round++) {
        vfp_root *own = NULL;
        vfp_watch *own_watch = NULL;
        vfp_event event;
        *wrong += vfp_root_open(node.root, &own, NULL) != VFP_OK;
        *wrong += vfp_watch_open(own, sizeof(vfp_watch_options), NULL, &own_watch, NULL) != VFP_OK;
        vfp_root_close(&own);
        *wrong += vfp_watch_next(own_watch, sizeof event, &event, NULL) != VFP_OK;
        vfp_watch_close(&own_watch);
    }
    return NULL;
}

static void threads_open_and_close_their_own_handles(void) {
    pthread_t threads[THREADS];
    int wrong[THREADS] = {0}, index;
    for (index = 0; index < THREADS; index++) {
        if (pthread_create(&threads[index], NULL, open_and_close, &wrong[index])) node_die("pthread_create");
    }
    for (index = 0; index < THREADS; index++) {
        pthread_join(threads[index], NULL);
        CHECK(wrong[index] == 0);
    }
}

int main(int argc, char **argv) {
    rounds = argc > 1 ? atoi(argv[1]) : 50;
    node = node_start("--eight-gpus");
    if (vfp_root_open(node.root, &root, NULL) != VFP_OK) return 2;
    RUN(eight_threads_share_a_root_and_a_watch);
    RUN(other_threads_use_a_watch_while_one_waits);
    RUN(one_change_ends_the_waits_of_all_threads);
    RUN(a_polled_watch_shows_what_the_waits_of_others_have_read);
    RUN(threads_open_and_close_their_own_handles);
    vfp_root_close(&root);
    node_end(&node);
    return tests_end();
}
