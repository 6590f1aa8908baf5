/* Measures calls of the C ABI: calls ROOT FREE_GROUP HELD_GROUP FREE_DEVICE prints one line of JSON. Each figure is the time of
 * one call in nanoseconds, the best of many short rounds. It opens the free group many times: do not run it where a VM may open it. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <vfio_probe.h>

/* A round takes milliseconds at most, so that another program rarely interrupts all of them. */
enum { ROUNDS = 200, CALLS = 200, SLOW_CALLS = 4 };

static vfp_root *root;
static vfp_watch *watch;
static const char *device;
static char enable[4096];
static uint32_t free_group, held_group;
static int failures;

static void peek(void) {
    int32_t result;
    failures += vfp_peek(root, free_group, &result, NULL) != VFP_OK;
}

static void probe(uint32_t group, int32_t expected) {
    vfp_occupancy result;
    failures += vfp_probe(root, group, sizeof result, &result, NULL) != VFP_OK || result.state != expected;
}

static void probe_free(void) { probe(free_group, VFP_STATE_FREE); }
static void probe_held(void) { probe(held_group, VFP_STATE_HELD); }

static void read_enable(void) {
    char text[16];
    FILE *file = fopen(enable, "re");
    failures += !file || !fgets(text, sizeof text, file);
    if (file) fclose(file);
}

static void watched(void) {
    vfp_watched_group group;
    failures += vfp_watch_group(watch, free_group, sizeof group, &group, NULL) != VFP_OK;
}

static void nodes(void) {
    vfp_device_node all[16];
    size_t count;
    failures += vfp_device_nodes(root, free_group, sizeof all[0], 16, all, &count, NULL) != VFP_OK;
}

static void hardware(void) {
    vfp_hardware read;
    failures += vfp_hardware_read(root, device, sizeof read, &read, NULL) != VFP_OK;
}

static void scan(void) {
    static vfp_device all[64];
    size_t count;
    failures += vfp_scan(root, sizeof all[0], 64, all, &count, NULL) != VFP_OK;
}

static void snapshot(void) {
    vfp_snapshot *taken = NULL;
    failures += vfp_snapshot_take(root, 0, &taken, NULL) != VFP_OK;
    vfp_snapshot_close(&taken);
}

static long long now(void) {
    struct timespec time;
    timespec_get(&time, TIME_UTC);
    return (long long)time.tv_sec * 1000000000 + time.tv_nsec;
}

static long long best(int calls, void (*call)(void)) {
    long long least = -1;
    int round, index;
    for (round = 0; round < ROUNDS; round++) {
        long long began = now(), took;
        for (index = 0; index < calls; index++) call();
        took = (now() - began) / calls;
        if (least < 0 || took < least) least = took;
    }
    return least;
}

int main(int argc, char **argv) {
    vfp_error error;
    if (argc != 5) {
        fprintf(stderr, "usage: calls ROOT FREE_GROUP HELD_GROUP FREE_DEVICE\n");
        return 64;
    }
    free_group = (uint32_t)strtoul(argv[2], NULL, 10);
    held_group = (uint32_t)strtoul(argv[3], NULL, 10);
    device = argv[4];
    snprintf(enable, sizeof enable, "%s/sys/bus/pci/devices/%s/enable", argv[1], device);
    if (vfp_root_open(argv[1], &root, &error) < 0 || vfp_watch_open(root, 0, NULL, &watch, &error) < 0 ||
        vfp_watch_wait(watch, VFP_WAIT_HELD, held_group, 20000, &error) < 0) {
        fprintf(stderr, "calls: %s\n", error.text);
        return 1;
    }
    printf("{\"language\":\"c\",\"enable_ns\":%lld,", best(CALLS, read_enable));
    printf("\"watch_ns\":%lld,\"peek_ns\":%lld,", best(CALLS, watched), best(CALLS, peek));
    printf("\"probe_free_ns\":%lld,\"probe_held_ns\":%lld,", best(CALLS, probe_free), best(CALLS, probe_held));
    printf("\"nodes_ns\":%lld,\"hardware_ns\":%lld,", best(CALLS, nodes), best(CALLS, hardware));
    printf("\"scan_ns\":%lld,\"snapshot_ns\":%lld}\n", best(SLOW_CALLS, scan), best(SLOW_CALLS, snapshot));
    vfp_watch_close(&watch);
    vfp_root_close(&root);
    return failures != 0;
}
