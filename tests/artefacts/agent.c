/* Prints which device nodes a VM could get now and who holds the others, then waits until a group is free: agent ROOT GROUP. */
#include <stdio.h>
#include <stdlib.h>
#include <vfio_probe.h>

enum { MANY = 64 };

static int fail(const vfp_error *error) {
    fprintf(stderr, "agent: %s\n", error->text);
    return 1;
}

static vfp_status print_nodes(const vfp_root *root, uint32_t group, vfp_error *error) {
    vfp_device_node nodes[MANY];
    size_t count = 0, index;
    vfp_status status = vfp_device_nodes(root, group, VFP_ARRAY(nodes), &count, error);
    if (status != VFP_OK) return status;
    printf("group %u free:", group);
    for (index = 0; index < count; index++) if (*nodes[index].path) printf(" %s", nodes[index].path);
    putchar('\n');
    return VFP_OK;
}

static vfp_status print_holders(const vfp_snapshot *snapshot, const vfp_watched_group *group, vfp_error *error) {
    vfp_holder holders[MANY];
    size_t count = 0, index;
    vfp_status status = vfp_snapshot_holders(snapshot, group->group, VFP_ARRAY(holders), &count, 0, NULL, error);
    for (index = 0; status == VFP_OK && index < count; index++) {
        printf("group %u held (%s) by %u %s uid %u since %lld\n", group->group, vfp_evidence_text(group->evidence),
               holders[index].pid, holders[index].command, holders[index].uid, (long long)holders[index].started);
    }
    return status;
}

int main(int argc, char **argv) {
    vfp_root *root = NULL;
    vfp_snapshot *snapshot = NULL;
    vfp_watch *watch = NULL;
    vfp_watched_group groups[MANY];
    vfp_error error;
    size_t count = 0, index;
    vfp_status status;
    if (argc != 3) return 64;
    uint32_t wanted = (uint32_t)strtoul(argv[2], NULL, 10);
    if (vfp_root_open(argv[1], &root, &error) < 0 || vfp_snapshot_take(root, 0, &snapshot, &error) < 0 ||
        vfp_snapshot_groups(snapshot, VFP_ARRAY(groups), &count, &error) < 0) {
        return fail(&error);
    }
    for (index = 0; index < count && index < MANY; index++) {
        uint32_t group = groups[index].group;
        if (groups[index].state == VFP_STATE_FREE) status = print_nodes(root, group, &error);
        else if (groups[index].state == VFP_STATE_HELD) status = print_holders(snapshot, &groups[index], &error);
        else status = printf("group %u %s\n", group, vfp_state_text(groups[index].state)) > 0 ? VFP_OK : VFP_SYSTEM;
        if (status < 0) return fail(&error);
    }
    vfp_snapshot_close(&snapshot);
    printf("waiting for group %u\n", wanted);
    fflush(stdout);
    if (vfp_watch_open(root, 0, NULL, &watch, &error) < 0) return fail(&error);
    status = vfp_watch_wait(watch, VFP_WAIT_FREE, wanted, 30000, &error);
    if (status < 0) return fail(&error);
    printf("group %u %s\n", wanted, status == VFP_OK ? "free" : "still held");
    vfp_watch_close(&watch);
    vfp_root_close(&root);
    return 0;
}
