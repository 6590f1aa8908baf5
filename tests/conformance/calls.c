/* Measures calls of the C ABI: calls ROOT FREE_GROUP HELD_GROUP prints one line of JSON. Each figure is the time of one
 * call in nanoseconds, the best of five rounds. It opens the free group many times: do not run it where a VM may open it. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <vfio_probe.h>

enum { ROUNDS = 5, CALLS = 20000 };

static vfp_root *root;
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

static long long now(void) {
    struct timespec time;
    timespec_get(&time, TIME_UTC);
    return (long long)time.tv_sec * 1000000000 + time.tv_nsec;
}

static long long best(void (*call)(void)) {
    long long least = -1;
    int round, index;
    for (round = 0; round < ROUNDS; round++) {
        long long began = now(), took;
        for (index = 0; index < CALLS; index++) call();
        took = (now() - began) / CALLS;
        if (least < 0 || took < least) least = took;
    }
    return least;
}

int main(int argc, char **argv) {
    vfp_error error;
    if (argc != 4) {
        fprintf(stderr, "usage: calls ROOT FREE_GROUP HELD_GROUP\n");
        return 64;
    }
    if (vfp_root_open(argv[1], &root, &error) < 0) {
        fprintf(stderr, "calls: %s\n", error.text);
        return 1;
    }
    free_group = (uint32_t)strtoul(argv[2], NULL, 10);
    held_group = (uint32_t)strtoul(argv[3], NULL, 10);
    printf("{\"language\":\"c\",\"peek_ns\":%lld,", best(peek));
    printf("\"probe_free_ns\":%lld,\"probe_held_ns\":%lld}\n", best(probe_free), best(probe_held));
    vfp_root_close(&root);
    return failures != 0;
}
