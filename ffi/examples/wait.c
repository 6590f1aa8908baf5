/* Says who holds a group, by a snapshot, and waits until the group is free. Opens no device.
 *
 * wait GROUP SECONDS [ROOT]       ROOT is the directory with sys, dev and proc (default /)
 *
 * cc wait.c $(pkg-config --cflags --libs vfio-probe) -o wait
 */
#include <stdio.h>
#include <stdlib.h>
#include <vfio_probe.h>

static int fail(const vfp_error *error) {
    fprintf(stderr, "wait: %s\n", error->text);
    return 1;
}

/* Prints the state of the group and its holders. Returns 0, or -1 with an error. */
static int print_state(vfp_root *root, uint32_t group, vfp_error *error) {
    vfp_snapshot *snapshot = NULL;
    vfp_watched_group state;
    vfp_holder holders[8];
    vfp_scan_coverage coverage;
    size_t count = 0, index;
    if (vfp_snapshot_take(root, 0, &snapshot, error) < 0) return -1;
    if (vfp_snapshot_group(snapshot, group, VFP_RECORD(state), error) < 0 ||
        vfp_snapshot_holders(snapshot, group, VFP_ARRAY(holders), &count, VFP_RECORD(coverage), error) < 0) {
        vfp_snapshot_close(&snapshot);
        return -1;
    }
    printf("group %u is %s", group, vfp_state_text(state.state));
    for (index = 0; index < count && index < 8; index++) {
        printf(", pid %u (%s)", holders[index].pid, holders[index].command);
        if (holders[index].uid != VFP_NO_UID) printf(" of user %u", holders[index].uid);
    }
    printf("\n");
    fflush(stdout);
    vfp_snapshot_close(&snapshot);
    return 0;
}

int main(int argc, char **argv) {
    vfp_root *root = NULL;
    vfp_watch *watch = NULL;
    vfp_error error;
    vfp_status status;
    uint32_t group;
    if (argc < 3 || argc > 4) {
        fprintf(stderr, "usage: wait GROUP SECONDS [ROOT]\n");
        return 64;
    }
    group = (uint32_t)strtoul(argv[1], NULL, 10);
    if (vfp_root_open(argc > 3 ? argv[3] : "/", &root, &error) < 0) return fail(&error);
    if (print_state(root, group, &error) < 0 || vfp_watch_open(root, 0, NULL, &watch, &error) < 0) {
        vfp_root_close(&root);
        return fail(&error);
    }
    vfp_root_close(&root);
    status = vfp_watch_wait(watch, VFP_WAIT_FREE, group, (uint32_t)strtoul(argv[2], NULL, 10) * 1000, &error);
    vfp_watch_close(&watch);
    if (status < 0) return fail(&error);
    printf("group %u is %s\n", group, status == VFP_OK ? "free" : "not free in time");
    return status == VFP_OK ? 0 : 2;
}
