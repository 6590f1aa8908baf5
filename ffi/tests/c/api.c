/* Tests the results of every function on a simulated node: the kernel returns EBUSY for its held groups. */
#include "check.h"
#include "layout.h"
#include "node.h"
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>

static struct node node;
static vfp_root *root;

static const vfp_device *device_of(const vfp_device *devices, size_t count, const char *id) {
    size_t index;
    for (index = 0; index < count; index++) {
        if (strcmp(devices[index].id, id) == 0) return &devices[index];
    }
    return NULL;
}

static int32_t probed(uint32_t group) {
    vfp_occupancy occupancy;
    memset(&occupancy, 0xee, sizeof occupancy);
    CHECK(vfp_probe(root, group, sizeof occupancy, &occupancy, NULL) == VFP_OK);
    return occupancy.state;
}

static int32_t peeked(uint32_t group) {
    int32_t peek = -1;
    CHECK(vfp_peek(root, group, &peek, NULL) == VFP_OK);
    return peek;
}

static void library_matches_the_header(void) {
    CHECK(vfp_abi() == VFP_ABI);
    CHECK_TEXT(vfp_version(), getenv("EXPECTED_VERSION") ? getenv("EXPECTED_VERSION") : "(EXPECTED_VERSION is not set)");
}

static void header_has_the_version_of_the_library(void) {
    char version[64];
    snprintf(version, sizeof version, "%d.%d.%d", VFP_VERSION_MAJOR, VFP_VERSION_MINOR, VFP_VERSION_PATCH);
    CHECK_TEXT(version, VFP_VERSION_STRING);
    CHECK_TEXT(vfp_version(), VFP_VERSION_STRING);
}

static void scan_counts_devices_beyond_the_capacity(void) {
    vfp_device devices[16];
    size_t count = 99;
    CHECK(vfp_scan(root, sizeof devices[0], 0, NULL, &count, NULL) == VFP_TRUNCATED);
    CHECK(count == 8);
    memset(devices, 0xee, sizeof devices);
    CHECK(vfp_scan(root, sizeof devices[0], 3, devices, &count, NULL) == VFP_TRUNCATED);
    CHECK(count == 8);
    CHECK(strncmp(devices[2].id, "0000:", 5) == 0);
    CHECK((unsigned char)devices[3].id[0] == 0xee);
    CHECK(vfp_scan(root, sizeof devices[0], 16, devices, &count, NULL) == VFP_OK);
    CHECK(count == 8);
    CHECK((unsigned char)devices[8].id[0] == 0xee);
}

static void scan_fills_every_field_of_a_device(void) {
    vfp_device devices[16], again;
    const vfp_device *gpu, *vf;
    size_t count = 0;
    node_do(&node, "{\"add\":{\"address\":\"0000:f1:00.0\",\"group\":90,\"vendor\":4318,\"device\":9008,\"class\":197120,"
                   "\"numa_node\":-1,\"driver\":\"vfio-pci\",\"sriov_numvfs\":4}}");
    node_do(&node, "{\"add\":{\"address\":\"0000:f1:00.1\",\"group\":91,\"vendor\":4318,\"device\":9008,\"class\":197120,"
                   "\"numa_node\":1,\"driver\":\"vfio-pci\",\"physfn\":\"0000:f1:00.0\"}}");
    CHECK(vfp_scan(root, sizeof devices[0], 16, devices, &count, NULL) == VFP_OK);
    CHECK(count == 10);
    gpu = device_of(devices, count, "0000:1b:00.0");
    CHECK(gpu != NULL);
    if (gpu) {
        CHECK(gpu->status == VFP_OK && gpu->os_errno == 0);
        CHECK(gpu->vendor == 0x10de && gpu->device == 0x2330 && gpu->class_code == 0x030200);
        CHECK(gpu->subsystem_vendor == 0x10de && gpu->subsystem_device == 0x16c1);
        CHECK(gpu->group == 51 && gpu->numa_node == 0 && gpu->cdev >= 0);
        CHECK(gpu->kind == VFP_KIND_PCI && gpu->sriov == VFP_SRIOV_NONE && gpu->vfs == 0);
        CHECK_TEXT(gpu->driver, "vfio-pci");
        CHECK_TEXT(gpu->vgpu_type, "");
        CHECK_TEXT(gpu->parent, "");
        CHECK_TEXT(gpu->error_text, "");
    }
    gpu = device_of(devices, count, "0000:f1:00.0");
    CHECK(gpu && gpu->numa_node == -1 && gpu->sriov == VFP_SRIOV_PHYSICAL && gpu->vfs == 4);
    vf = device_of(devices, count, "0000:f1:00.1");
    CHECK(vf && vf->sriov == VFP_SRIOV_VIRTUAL && strcmp(vf->parent, "0000:f1:00.0") == 0);
    memset(&again, 0xee, sizeof again);
    CHECK(vfp_device_read(root, "0000:f1:00.1", sizeof again, &again, NULL) == VFP_OK);
    CHECK(vf && again.group == vf->group && again.cdev == -1);
    node_do(&node, "{\"remove\":{\"address\":\"0000:f1:00.1\"}}");
    node_do(&node, "{\"remove\":{\"address\":\"0000:f1:00.0\"}}");
}

static void unreadable_device_does_not_affect_others(void) {
    vfp_device devices[16];
    const vfp_device *unreadable;
    size_t count = 0;
    node_do(&node, "{\"add_gpu\":{\"address\":\"0000:f2:00.0\",\"group\":92,\"numa_node\":0}}");
    node_do(&node, "{\"write\":{\"path\":\"sys/bus/pci/devices/0000:f2:00.0/uevent\",\"content\":\"PCI_ID=zz\\n\"}}");
    CHECK(vfp_scan(root, sizeof devices[0], 16, devices, &count, NULL) == VFP_OK);
    CHECK(count == 9);
    unreadable = device_of(devices, count, "0000:f2:00.0");
    CHECK(unreadable && unreadable->status == VFP_MALFORMED);
    CHECK(unreadable && unreadable->group == VFP_NO_GROUP && unreadable->os_errno == 0);
    if (unreadable) CHECK_TEXT(unreadable->error_text, "0000:f2:00.0: uevent: unexpected content");
    if (unreadable) CHECK_TEXT(unreadable->error_path, "sys/bus/pci/devices/0000:f2:00.0/uevent");
    node_do(&node, "{\"remove\":{\"address\":\"0000:f2:00.0\"}}");
}

static void probe_and_peek_report_every_state(void) {
    vfp_occupancy occupancy;
    long vm;
    CHECK(peeked(51) == VFP_PEEK_LOOKS_FREE && probed(51) == VFP_STATE_FREE);
    vm = node_start_vm(&node, "0000:1b:00.0", 0);
    CHECK(peeked(51) == VFP_PEEK_LOOKS_HELD && probed(51) == VFP_STATE_HELD);
    CHECK(vfp_probe_within(root, 51, 2000, sizeof occupancy, &occupancy, NULL) == VFP_OK);
    CHECK(occupancy.state == VFP_STATE_HELD && occupancy.unknown_reason == VFP_UNKNOWN_NONE && occupancy.os_errno == 0);
    node_kill_vm(&node, vm);
    CHECK(probed(51) == VFP_STATE_FREE);
    vm = node_start_vm(&node, "0000:1b:00.0", 1);
    CHECK(peeked(51) == VFP_PEEK_LOOKS_FREE && probed(51) == VFP_STATE_HELD);
    node_kill_vm(&node, vm);
    CHECK(probed(4000) == VFP_STATE_ABSENT);
    /* A sysfs attribute without a store function refuses a write open, even for root (kernfs_fop_open()). */
    node_do(&node, "{\"link\":{\"path\":\"dev/vfio/93\",\"target\":\"/sys/kernel/uevent_seqnum\"}}");
    CHECK(vfp_probe(root, 93, sizeof occupancy, &occupancy, NULL) == VFP_OK);
    CHECK(occupancy.state == VFP_STATE_UNKNOWN && occupancy.unknown_reason == VFP_UNKNOWN_DENIED && occupancy.os_errno == 0);
    node_do(&node, "{\"link\":{\"path\":\"dev/vfio/94\",\"target\":\"/sys\"}}");
    CHECK(vfp_probe(root, 94, sizeof occupancy, &occupancy, NULL) == VFP_OK);
    CHECK(occupancy.state == VFP_STATE_UNKNOWN && occupancy.unknown_reason == VFP_UNKNOWN_ERRNO && occupancy.os_errno == EISDIR);
}

static void probe_times_out_at_its_deadline(void) {
    vfp_occupancy occupancy;
    CHECK(vfp_probe_within(root, 52, 0, sizeof occupancy, &occupancy, NULL) == VFP_OK);
    CHECK(occupancy.state == VFP_STATE_UNKNOWN && occupancy.unknown_reason == VFP_UNKNOWN_TIMED_OUT);
    CHECK(vfp_probe_within(root, 53, UINT32_MAX, sizeof occupancy, &occupancy, NULL) == VFP_OK);
    CHECK(occupancy.state == VFP_STATE_FREE && occupancy.unknown_reason == VFP_UNKNOWN_NONE);
}

static void only_a_probe_opens_the_group(void) {
    vfp_device devices[16];
    vfp_holder holders[4];
    vfp_group group;
    vfp_watch *watch = NULL;
    vfp_event event;
    size_t count;
    uint32_t number = 53;
    long before = node_opens(&node, 53);
    CHECK(vfp_scan(root, sizeof devices[0], 16, devices, &count, NULL) == VFP_OK);
    CHECK(peeked(53) == VFP_PEEK_LOOKS_FREE);
    CHECK(vfp_group_read(root, 53, sizeof group, &group, NULL) == VFP_OK);
    CHECK(vfp_holders(root, &number, 1, sizeof holders[0], 4, holders, &count, 0, NULL, NULL) == VFP_OK && count == 0);
    CHECK(vfp_watch_open(root, sizeof(vfp_watch_options), NULL, &watch, NULL) == VFP_OK);
    while (vfp_watch_next(watch, sizeof event, &event, NULL) == VFP_OK) {}
    vfp_watch_close(&watch);
    CHECK(node_opens(&node, 53) == before);
    CHECK(probed(53) == VFP_STATE_FREE);
    CHECK(node_opens(&node, 53) == before + 1);
}

static void every_offender_of_a_group_is_listed(void) {
    vfp_group group;
    vfp_member members[4];
    size_t count = 0, index, offenders = 0;
    node_do(&node, "{\"add\":{\"address\":\"0000:5f:00.1\",\"group\":54,\"class\":262912,\"driver\":\"snd_hda_intel\"}}");
    node_do(&node, "{\"add\":{\"address\":\"0000:5f:00.2\",\"group\":54,\"class\":787248,\"driver\":\"xhci_hcd\"}}");
    CHECK(vfp_group_read(root, 54, sizeof group, &group, NULL) == VFP_OK);
    CHECK(group.members == 3 && group.viable == 0 && group.offenders == 2);
    CHECK(vfp_members(root, 54, sizeof members[0], 4, members, &count, NULL) == VFP_OK && count == 3);
    for (index = 0; index < count; index++) {
        CHECK(members[index].offends == !members[index].vfio);
        offenders += (size_t)members[index].offends;
    }
    CHECK(offenders == 2);
    node_do(&node, "{\"remove\":{\"address\":\"0000:5f:00.2\"}}");
    node_do(&node, "{\"remove\":{\"address\":\"0000:5f:00.1\"}}");
}

static void group_names_the_offender_and_its_driver(void) {
    vfp_group group;
    vfp_member members[4];
    size_t count = 0, index;
    CHECK(vfp_group_read(root, 54, sizeof group, &group, NULL) == VFP_OK);
    CHECK(group.group == 54 && group.members == 1 && group.unreadable == 0 && group.viable == 1);
    CHECK_TEXT(group.offender, "");
    node_do(&node, "{\"add\":{\"address\":\"0000:5f:00.1\",\"group\":54,\"class\":262912,\"driver\":\"snd_hda_intel\"}}");
    CHECK(vfp_group_read(root, 54, sizeof group, &group, NULL) == VFP_OK);
    CHECK(group.members == 2 && group.viable == 0 && group.offenders == 1);
    CHECK_TEXT(group.offender, "0000:5f:00.1");
    CHECK_TEXT(group.offender_driver, "snd_hda_intel");
    CHECK(vfp_members(root, 54, sizeof members[0], 4, members, &count, NULL) == VFP_OK && count == 2);
    for (index = 0; index < count; index++) {
        int gpu = strcmp(members[index].name, "0000:5f:00.0") == 0;
        CHECK(members[index].status == VFP_OK && members[index].vfio == gpu);
        CHECK_TEXT(members[index].driver, gpu ? "vfio-pci" : "snd_hda_intel");
    }
    CHECK(vfp_members(root, 54, sizeof members[0], 1, members, &count, NULL) == VFP_TRUNCATED && count == 2);
    node_do(&node, "{\"remove\":{\"address\":\"0000:5f:00.1\"}}");
}

static void holder_is_reported_with_its_pod(void) {
    vfp_holder holders[4];
    vfp_scan_coverage coverage;
    size_t count = 0;
    uint32_t groups[] = {51, 52};
    long vm = node_start_vm(&node, "0000:3d:00.0", 0);
    memset(holders, 0xee, sizeof holders);
    CHECK(vfp_holders(root, groups, 2, sizeof holders[0], 4, holders, &count, sizeof coverage, &coverage, NULL) == VFP_OK);
    CHECK(count == 1 && coverage.processes == 2 && coverage.unreadable == 0 && coverage.unattributed == 0);
    CHECK(coverage.unsearched == 0 && coverage.pid_namespace == VFP_PID_NAMESPACE_HOST && coverage.complete == 1);
    CHECK(holders[0].group == 52 && (long)holders[0].pid == vm && holders[0].start_time > 0);
    /* The VM is a process of this user, which started after this test program's build. */
    CHECK(holders[0].uid == (uint32_t)geteuid() && holders[0].started > 1700000000 && holders[0].started <= (int64_t)time(NULL));
    CHECK(holders[0].via == VFP_VIA_GROUP);
    CHECK(holders[0].in_pod == VFP_IN_POD_YES);
    CHECK_TEXT(holders[0].command, "qemu-system-x86");
    CHECK_TEXT(holders[0].pod_uid, "4b5a1c7e-5b0a-4a57-9d3a-0123456789ab");
    CHECK(strlen(holders[0].container_id) == 64);
    node_kill_vm(&node, vm);
}

static void coverage_reports_a_foreign_pid_namespace(void) {
    vfp_scan_coverage coverage;
    uint32_t group = 51;
    size_t count = 7;
    node_do(&node, "{\"delete\":{\"path\":\"proc/1/ns/pid\"}}");
    node_do(&node, "{\"link\":{\"path\":\"proc/1/ns/pid\",\"target\":\"pid:[4026532178]\"}}");
    CHECK(vfp_holders(root, &group, 1, sizeof(vfp_holder), 0, NULL, &count, sizeof coverage, &coverage, NULL) == VFP_OK);
    CHECK(count == 0 && coverage.unreadable == 0);
    CHECK(coverage.pid_namespace == VFP_PID_NAMESPACE_FOREIGN && coverage.complete == 0);
    CHECK_TEXT(vfp_pid_namespace_text(coverage.pid_namespace), "foreign");
    node_do(&node, "{\"delete\":{\"path\":\"proc/1/ns/pid\"}}");
    node_do(&node, "{\"link\":{\"path\":\"proc/1/ns/pid\",\"target\":\"pid:[4026531836]\"}}");
}

/* The same group many times: each holder is reported once. */
static void repeated_groups_report_a_holder_once(void) {
    enum { MANY = 100000 };
    static uint32_t groups[MANY];
    vfp_holder holders[4];
    size_t count = 0, index;
    long vm = node_start_vm(&node, "0000:3d:00.0", 0);
    for (index = 0; index < MANY; index++) groups[index] = 52;
    CHECK(vfp_holders(root, groups, MANY, VFP_ARRAY(holders), &count, 0, NULL, NULL) == VFP_OK);
    CHECK(count == 1 && (long)holders[0].pid == vm);
    node_kill_vm(&node, vm);
}

static void device_nodes_of_both_modes_are_listed(void) {
    struct node other = node_start("--cdevs");
    vfp_root *there = NULL;
    vfp_device_node nodes[8];
    size_t count = 0;
    node_do(&other, "{\"add_gpu\":{\"address\":\"0000:1b:00.0\",\"group\":51,\"numa_node\":0}}");
    CHECK(vfp_root_open(other.root, &there, NULL) == VFP_OK);
    CHECK(vfp_device_nodes(there, 51, VFP_ARRAY(nodes), &count, NULL) == VFP_OK && count == 4);
    CHECK(nodes[0].kind == VFP_NODE_CONTAINER && nodes[1].kind == VFP_NODE_GROUP);
    CHECK(nodes[2].kind == VFP_NODE_IOMMUFD && nodes[3].kind == VFP_NODE_CDEV);
    CHECK_TEXT(nodes[0].path, "vfio/vfio");
    CHECK_TEXT(nodes[1].path, "vfio/51");
    CHECK_TEXT(nodes[2].path, "iommu");
    CHECK_TEXT(nodes[3].path, "vfio/devices/vfio0");
    CHECK_TEXT(nodes[3].device, "0000:1b:00.0");
    CHECK_TEXT(vfp_node_text(nodes[3].kind), "cdev");
    CHECK(vfp_device_nodes(there, 51, sizeof nodes[0], 0, NULL, &count, NULL) == VFP_TRUNCATED && count == 4);
    vfp_root_close(&there);
    node_end(&other);
    /* Without iommufd, the device has no node of its own. */
    CHECK(vfp_device_nodes(root, 51, VFP_ARRAY(nodes), &count, NULL) == VFP_OK && count == 3);
    CHECK(nodes[0].kind == VFP_NODE_CONTAINER && nodes[1].kind == VFP_NODE_GROUP);
    CHECK(nodes[2].kind == VFP_NODE_CDEV && nodes[2].path[0] == 0);
    CHECK(vfp_device_nodes(root, 4000, VFP_ARRAY(nodes), &count, NULL) == VFP_MISSING);
}

/* Writes a file of the node in place. */
static void write_bytes(const char *path, const void *bytes, size_t size) {
    char whole[512];
    FILE *file;
    snprintf(whole, sizeof whole, "%s/%s", node.root, path);
    file = fopen(whole, "w");
    CHECK(file != NULL && fwrite(bytes, 1, size, file) == size);
    if (file) fclose(file);
}

static void hardware_is_lost_and_counts_fatal_errors(void) {
    const char *device = "sys/bus/pci/devices/0000:1b:00.0", *errors = "DLP 1\nTOTAL_ERR_FATAL 3\n";
    vfp_hardware hardware;
    unsigned char ones[64];
    char config[64], path[128];
    FILE *file;
    memset(&hardware, 0xee, sizeof hardware);
    CHECK(vfp_hardware_read(root, "0000:1b:00.0", VFP_RECORD(hardware), NULL) == VFP_OK);
    CHECK(hardware.presence == VFP_PRESENCE_PRESENT && hardware.fatal_errors == VFP_NO_ERROR_COUNT && hardware.reserved == 0);
    snprintf(path, sizeof path, "%s/aer_dev_fatal", device);
    write_bytes(path, errors, strlen(errors));
    snprintf(path, sizeof path, "%s/config", device);
    {
        char whole[512];
        snprintf(whole, sizeof whole, "%s/%s", node.root, path);
        file = fopen(whole, "r");
        CHECK(file != NULL && fread(config, 1, sizeof config, file) == sizeof config);
        if (file) fclose(file);
    }
    memset(ones, 0xff, sizeof ones);
    write_bytes(path, ones, sizeof ones);
    CHECK(vfp_hardware_read(root, "0000:1b:00.0", VFP_RECORD(hardware), NULL) == VFP_OK);
    CHECK(hardware.presence == VFP_PRESENCE_LOST && hardware.fatal_errors == 3);
    CHECK_TEXT(vfp_presence_text(hardware.presence), "lost");
    write_bytes(path, config, sizeof config);
}

/* A process of Kata: its cgroup has a container and no pod. It has only the group open. */
static void snapshot_shows_a_holder_without_a_probe(void) {
    vfp_snapshot *snapshot = NULL;
    vfp_device devices[16];
    vfp_watched_group groups[16];
    vfp_holder holders[4];
    vfp_scan_coverage coverage;
    size_t count = 0;
    long before = node_opens(&node, 52), vm = node_start_vm(&node, "0000:3d:00.0", 1);
    char order[256];
    snprintf(order, sizeof order, "{\"write\":{\"path\":\"proc/%ld/cgroup\",\"content\":\"0::/kata_overhead/"
                                  "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\\n\"}}", vm);
    node_do(&node, order);
    CHECK(vfp_snapshot_take(root, 0, &snapshot, NULL) == VFP_OK);
    CHECK(vfp_snapshot_devices(snapshot, sizeof devices[0], 16, devices, &count, NULL) == VFP_OK && count == 8);
    CHECK_TEXT(devices[0].id, "0000:1b:00.0");
    CHECK(vfp_snapshot_groups(snapshot, sizeof groups[0], 16, groups, &count, NULL) == VFP_OK && count == 8);
    CHECK(groups[1].group == 52 && groups[1].state == VFP_STATE_HELD && groups[1].evidence == VFP_EVIDENCE_HOLDER);
    CHECK(groups[1].peek == VFP_PEEK_LOOKS_FREE && groups[1].viable == 1 && groups[1].offenders == 0 && groups[1].state_age_ms == 0);
    CHECK(groups[0].state == VFP_STATE_FREE && groups[0].evidence == VFP_EVIDENCE_ENABLE);
    CHECK(vfp_snapshot_holders(snapshot, 52, sizeof holders[0], 4, holders, &count, sizeof coverage, &coverage, NULL) == VFP_OK);
    CHECK(count == 1 && (long)holders[0].pid == vm && holders[0].in_pod == VFP_IN_POD_UNKNOWN && coverage.complete == 1);
    CHECK_TEXT(holders[0].pod_uid, "");
    CHECK(strlen(holders[0].container_id) == 64);
    CHECK(vfp_snapshot_holders(snapshot, 51, sizeof holders[0], 4, holders, &count, 0, NULL, NULL) == VFP_OK && count == 0);
    CHECK(vfp_snapshot_holders(snapshot, VFP_ALL_GROUPS, sizeof holders[0], 4, holders, &count, 0, NULL, NULL) == VFP_OK && count == 1);
    CHECK(node_opens(&node, 52) == before);
    vfp_snapshot_close(&snapshot);
    CHECK(snapshot == NULL);
    CHECK(vfp_snapshot_take(root, 2000, &snapshot, NULL) == VFP_OK);
    CHECK(vfp_snapshot_groups(snapshot, sizeof groups[0], 16, groups, &count, NULL) == VFP_OK && count == 8);
    CHECK(groups[1].state == VFP_STATE_HELD && groups[1].evidence == VFP_EVIDENCE_OPEN);
    CHECK(groups[0].state == VFP_STATE_FREE && groups[0].evidence == VFP_EVIDENCE_OPEN);
    vfp_snapshot_close(&snapshot);
    node_kill_vm(&node, vm);
}

static void names_come_from_pci_ids(void) {
    vfp_pci_id ids[2] = {{0x10de, 0x2330}, {0x10de, 0xffff}};
    vfp_name names[2];
    char path[512];
    FILE *file;
    snprintf(path, sizeof path, "%s/pci.ids", node.root);
    file = fopen(path, "w");
    CHECK(file != NULL);
    if (!file) return;
    fputs("10de  NVIDIA Corporation\n\t2330  GH100 [H100 SXM5 80GB]\n", file);
    fclose(file);
    CHECK(vfp_names(path, ids, 2, sizeof names[0], names, NULL) == VFP_OK);
    CHECK_TEXT(names[0].text, "GH100 [H100 SXM5 80GB]");
    CHECK_TEXT(names[1].text, "");
}

/* Waits for an event about a group or device and drops earlier events; returns 0 after 10 s without an event. */
static int wait_for(vfp_watch *watch, int32_t kind, uint32_t group, const char *device) {
    int attempt;
    for (attempt = 0; attempt < 1000; attempt++) {
        vfp_event event;
        vfp_error error;
        struct pollfd fd;
        vfp_status status = vfp_watch_next(watch, sizeof event, &event, &error);
        if (status == VFP_OK) {
            if (event.kind == kind && event.group == group && strcmp(event.device, device) == 0) return 1;
            continue;
        }
        if (status != VFP_NO_EVENT) {
            fprintf(stderr, "watch: %s\n", error.text);
            return 0;
        }
        fd.fd = vfp_watch_fd(watch), fd.events = POLLIN, fd.revents = 0;
        if (poll(&fd, 1, 10000) == 0) return 0;
    }
    return 0;
}

static void watch_reports_bound_held_freed_and_unbound(void) {
    vfp_watch_options options;
    vfp_watch *watch = NULL;
    vfp_watched_group groups[16];
    vfp_device devices[16];
    vfp_holder holder;
    vfp_scan_coverage coverage;
    size_t count = 0;
    long vm;
    memset(&options, 0, sizeof options);
    options.interval_ms = 20;
    CHECK(vfp_watch_open(root, sizeof options, &options, &watch, NULL) == VFP_OK);
    CHECK(vfp_watch_fd(watch) >= 0);
    CHECK(wait_for(watch, VFP_EVENT_BOUND, VFP_NO_GROUP, "0000:df:00.0"));
    vm = node_start_vm(&node, "0000:4e:00.0", 0);
    CHECK(wait_for(watch, VFP_EVENT_HELD, 53, ""));
    CHECK(vfp_watch_holders(watch, 53, sizeof holder, 1, &holder, &count, sizeof coverage, &coverage, NULL) == VFP_OK);
    CHECK(count == 1 && (long)holder.pid == vm && coverage.processes == 2);
    CHECK(vfp_watch_groups(watch, sizeof groups[0], 16, groups, &count, NULL) == VFP_OK && count == 8);
    CHECK(groups[2].group == 53 && groups[2].state == VFP_STATE_HELD && groups[2].evidence == VFP_EVIDENCE_ENABLE);
    CHECK(groups[2].peek == VFP_PEEK_LOOKS_HELD && groups[2].members == 1);
    CHECK(groups[2].viable == 1 && groups[2].state_age_ms < 60000 && groups[3].state == VFP_STATE_FREE);
    node_kill_vm(&node, vm);
    CHECK(wait_for(watch, VFP_EVENT_FREED, 53, ""));
    CHECK(vfp_watch_holders(watch, 53, sizeof holder, 1, &holder, &count, sizeof coverage, &coverage, NULL) == VFP_OK);
    CHECK(count == 0 && coverage.processes == 0);
    node_do(&node, "{\"unbind\":{\"address\":\"0000:df:00.0\"}}");
    CHECK(wait_for(watch, VFP_EVENT_UNBOUND, VFP_NO_GROUP, "0000:df:00.0"));
    CHECK(vfp_watch_devices(watch, sizeof devices[0], 16, devices, &count, NULL) == VFP_OK && count == 7);
    node_do(&node, "{\"bind\":{\"address\":\"0000:df:00.0\",\"driver\":\"vfio-pci\"}}");
    CHECK(wait_for(watch, VFP_EVENT_BOUND, VFP_NO_GROUP, "0000:df:00.0"));
    vfp_watch_close(&watch);
    CHECK(watch == NULL);
}

/* At the start each group is held or freed, and ready comes once, last. */
static void ready_follows_the_first_events(void) {
    vfp_watch *watch = NULL;
    vfp_event event;
    vfp_watched_group group;
    int bound = 0, held = 0, freed = 0, ready = 0, after = 0;
    long vm = node_start_vm(&node, "0000:4e:00.0", 0);
    CHECK(vfp_watch_open(root, 0, NULL, &watch, NULL) == VFP_OK && vfp_watch_is_ready(watch) == 0);
    CHECK(vfp_watch_group(watch, 53, VFP_RECORD(group), NULL) == VFP_MISSING);
    while (!ready && vfp_watch_wait(watch, VFP_WAIT_EVENT, VFP_ALL_GROUPS, 10000, NULL) == VFP_OK) {
        CHECK(vfp_watch_next(watch, VFP_RECORD(event), NULL) == VFP_OK);
        bound += event.kind == VFP_EVENT_BOUND, held += event.kind == VFP_EVENT_HELD;
        freed += event.kind == VFP_EVENT_FREED, ready += event.kind == VFP_EVENT_READY;
        after += event.kind == VFP_EVENT_CHANGED;
    }
    CHECK(bound == 8 && held == 1 && freed == 7 && ready == 1 && after == 0);
    CHECK(vfp_watch_is_ready(watch) == 1);
    CHECK(vfp_watch_group(watch, 53, VFP_RECORD(group), NULL) == VFP_OK && group.state == VFP_STATE_HELD);
    CHECK(vfp_watch_group(watch, 4000, VFP_RECORD(group), NULL) == VFP_MISSING);
    vfp_watch_close(&watch);
    node_kill_vm(&node, vm);
}

/* Without a device, ready comes with nothing before it. */
static void ready_comes_alone_without_devices(void) {
    struct node other = node_start("--cdevs");
    vfp_root *there = NULL;
    vfp_watch *watch = NULL;
    vfp_event event;
    CHECK(vfp_root_open(other.root, &there, NULL) == VFP_OK);
    CHECK(vfp_watch_open(there, 0, NULL, &watch, NULL) == VFP_OK);
    CHECK(vfp_watch_next(watch, VFP_RECORD(event), NULL) == VFP_OK && event.kind == VFP_EVENT_READY);
    CHECK_TEXT(vfp_event_text(event.kind), "ready");
    CHECK(event.group == VFP_NO_GROUP && event.device[0] == 0);
    CHECK(vfp_watch_wait(watch, VFP_WAIT_FREE, 51, 0, NULL) == VFP_TIMED_OUT);
    vfp_watch_close(&watch);
    vfp_root_close(&there);
    node_end(&other);
}

/* An update takes in what has changed and leaves the events; the count of news says whether it found something. */
static void update_counts_news_and_leaves_the_events(void) {
    vfp_watch_options options;
    vfp_watch *watch = NULL;
    vfp_event event;
    uint64_t news;
    int bound = 0, ready = 0, taken = 0;
    memset(&options, 0, sizeof options);
    /* An hour: only the test itself makes passes. */
    options.interval_ms = 3600 * 1000;
    CHECK(vfp_watch_open(root, VFP_RECORD(options), &watch, NULL) == VFP_OK);
    CHECK(vfp_watch_news(watch) == 0);
    CHECK(vfp_watch_next_queued(watch, VFP_RECORD(event), NULL) == VFP_NO_EVENT);
    CHECK(vfp_watch_is_ready(watch) == 0);
    while (!vfp_watch_is_ready(watch)) CHECK(vfp_watch_update(watch, NULL) == VFP_OK);
    news = vfp_watch_news(watch);
    CHECK(news == 17);
    CHECK(vfp_watch_update(watch, NULL) == VFP_OK && vfp_watch_news(watch) == news);
    while (vfp_watch_next_queued(watch, VFP_RECORD(event), NULL) == VFP_OK) {
        taken++, bound += event.kind == VFP_EVENT_BOUND, ready += event.kind == VFP_EVENT_READY;
    }
    CHECK(taken == 17 && bound == 8 && ready == 1);
    CHECK(vfp_watch_news(watch) == news);
    node_do(&node, "{\"add_gpu\":{\"address\":\"0000:e7:00.0\",\"group\":197,\"numa_node\":0}}");
    /* A change in /dev/vfio makes a pass, after the device is there. */
    node_do(&node, "{\"write\":{\"path\":\"dev/vfio/signal\",\"content\":\"\"}}");
    CHECK(vfp_watch_next_queued(watch, VFP_RECORD(event), NULL) == VFP_NO_EVENT);
    CHECK(vfp_watch_wait(watch, VFP_WAIT_FREE, 197, 20000, NULL) == VFP_OK);
    CHECK(vfp_watch_news(watch) == news + 2);
    CHECK(vfp_watch_next_queued(watch, VFP_RECORD(event), NULL) == VFP_OK && event.kind == VFP_EVENT_BOUND);
    CHECK(vfp_watch_next(watch, VFP_RECORD(event), NULL) == VFP_OK && event.kind == VFP_EVENT_FREED);
    vfp_watch_close(&watch);
    node_do(&node, "{\"remove\":{\"address\":\"0000:e7:00.0\"}}");
    node_do(&node, "{\"delete\":{\"path\":\"dev/vfio/signal\"}}");
}

/* The caller waits for both states of a VM's group, and the events stay queued. */
static void wait_ends_when_a_group_is_held_or_free(void) {
    vfp_watch_options options;
    vfp_watch *watch = NULL;
    vfp_event event;
    int held = 0, freed = 0;
    long vm;
    memset(&options, 0, sizeof options);
    options.interval_ms = 20;
    CHECK(vfp_watch_open(root, sizeof options, &options, &watch, NULL) == VFP_OK);
    CHECK(vfp_watch_wait(watch, VFP_WAIT_FREE, 53, 10000, NULL) == VFP_OK);
    CHECK(vfp_watch_is_ready(watch) == 1);
    CHECK(vfp_watch_wait(watch, VFP_WAIT_HELD, 53, 50, NULL) == VFP_TIMED_OUT);
    vm = node_start_vm(&node, "0000:4e:00.0", 0);
    CHECK(vfp_watch_wait(watch, VFP_WAIT_HELD, 53, VFP_NO_TIMEOUT, NULL) == VFP_OK);
    node_kill_vm(&node, vm);
    CHECK(vfp_watch_wait(watch, VFP_WAIT_FREE, 53, 10000, NULL) == VFP_OK);
    while (vfp_watch_next(watch, VFP_RECORD(event), NULL) == VFP_OK) {
        held += event.kind == VFP_EVENT_HELD && event.group == 53;
        freed += event.kind == VFP_EVENT_FREED && event.group == 53;
    }
    CHECK(held == 1 && freed == 2);
    vfp_watch_close(&watch);
}

static void on_alarm(int number) {
    (void)number;
}

/* As poll(2), so that a program can leave a wait without a limit. */
static void signal_handler_ends_a_wait(void) {
    vfp_watch *watch = NULL;
    vfp_error error;
    struct sigaction action;
    struct itimerval often;
    vfp_status status;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_alarm;
    CHECK(sigaction(SIGALRM, &action, NULL) == 0);
    CHECK(vfp_watch_open(root, 0, NULL, &watch, NULL) == VFP_OK);
    /* Again and again: a signal between two polls does not end the wait. */
    memset(&often, 0, sizeof often);
    often.it_value.tv_usec = often.it_interval.tv_usec = 70000;
    CHECK(setitimer(ITIMER_REAL, &often, NULL) == 0);
    status = vfp_watch_wait(watch, VFP_WAIT_HELD, 53, VFP_NO_TIMEOUT, &error);
    CHECK(status == VFP_SYSTEM && error.os_errno == EINTR);
    memset(&often, 0, sizeof often);
    CHECK(setitimer(ITIMER_REAL, &often, NULL) == 0);
    vfp_watch_close(&watch);
}

static void probing_watch_leaves_assigned_groups_alone(void) {
    vfp_watch_options options;
    vfp_watch *watch = NULL;
    uint32_t assigned = 55;
    long before_55 = node_opens(&node, 55), before_56 = node_opens(&node, 56);
    int attempt;
    memset(&options, 0, sizeof options);
    options.interval_ms = 20;
    options.flags = VFP_WATCH_PROBE | VFP_WATCH_NO_UEVENTS;
    CHECK(vfp_watch_open(root, sizeof options, &options, &watch, NULL) == VFP_OK);
    CHECK(vfp_watch_set_assigned(watch, &assigned, 1, NULL) == VFP_OK);
    for (attempt = 0; attempt < 1000 && node_opens(&node, 56) == before_56; attempt++) {
        vfp_event event;
        while (vfp_watch_next(watch, sizeof event, &event, NULL) == VFP_OK) {}
        poll(NULL, 0, 10);
    }
    CHECK(node_opens(&node, 56) == before_56 + 1);
    CHECK(node_opens(&node, 55) == before_55);
    vfp_watch_close(&watch);
}

static void watch_without_holders_lists_none(void) {
    vfp_watch_options options;
    vfp_watch *watch = NULL;
    vfp_holder holder;
    vfp_scan_coverage coverage;
    size_t count = 7;
    long vm = node_start_vm(&node, "0000:4e:00.0", 0);
    memset(&options, 0, sizeof options);
    options.flags = VFP_WATCH_NO_HOLDERS;
    CHECK(vfp_watch_open(root, sizeof options, &options, &watch, NULL) == VFP_OK);
    CHECK(wait_for(watch, VFP_EVENT_HELD, 53, ""));
    CHECK(vfp_watch_holders(watch, 53, sizeof holder, 1, &holder, &count, sizeof coverage, &coverage, NULL) == VFP_OK);
    CHECK(count == 0 && coverage.processes == 0);
    vfp_watch_close(&watch);
    node_kill_vm(&node, vm);
}

/* The watch shares the state of the root. */
static void watch_outlives_its_root(void) {
    vfp_root *other = NULL;
    vfp_watch *watch = NULL;
    CHECK(vfp_root_open(node.root, &other, NULL) == VFP_OK);
    CHECK(vfp_watch_open(other, sizeof(vfp_watch_options), NULL, &watch, NULL) == VFP_OK);
    vfp_root_close(&other);
    CHECK(other == NULL);
    CHECK(wait_for(watch, VFP_EVENT_BOUND, VFP_NO_GROUP, "0000:1b:00.0"));
    vfp_watch_close(&watch);
}

struct newer_device {
    vfp_device known;
    uint32_t added;
    char more[60];
};

/* No release has had smaller records yet. */
static void newer_record_sizes_work(void) {
    struct newer_device newer[16];
    size_t count = 0, index, byte;
    memset(newer, 0xee, sizeof newer);
    CHECK(vfp_scan(root, sizeof newer[0], 15, &newer[0].known, &count, NULL) == VFP_OK && count == 8);
    for (index = 0; index < count; index++) {
        CHECK(newer[index].known.vendor == 0x10de && newer[index].added == 0);
        for (byte = 0; byte < sizeof newer[0].more; byte++) CHECK(newer[index].more[byte] == 0);
    }
    CHECK(newer[8].added == 0xeeeeeeee);
}

/* A kernel without CONFIG_VFIO_GROUP. */
static void kernel_without_group_nodes_is_detected(void) {
    struct node other = node_start("--without-groups");
    vfp_root *there = NULL;
    int32_t has = -1;
    CHECK(vfp_has_group_nodes(root, &has, NULL) == VFP_OK && has == 1);
    CHECK(vfp_root_open(other.root, &there, NULL) == VFP_OK);
    CHECK(vfp_has_group_nodes(there, &has, NULL) == VFP_OK && has == 0);
    vfp_root_close(&there);
    node_end(&other);
}

static void newer_option_sizes_work(void) {
    struct {
        vfp_watch_options known;
        uint32_t added;
    } newer;
    vfp_error error;
    vfp_watch *watch = NULL;
    memset(&newer, 0, sizeof newer);
    CHECK(vfp_watch_open(root, sizeof newer, &newer.known, &watch, NULL) == VFP_OK);
    vfp_watch_close(&watch);
    newer.added = 1;
    CHECK(vfp_watch_open(root, sizeof newer, &newer.known, &watch, &error) == VFP_UNSUPPORTED && watch == NULL);
    CHECK(strstr(error.text, "options") != NULL);
}

int main(void) {
    node = node_start("--eight-gpus");
    if (vfp_root_open(node.root, &root, NULL) != VFP_OK) return 2;
    RUN(library_matches_the_header);
    RUN(header_has_the_version_of_the_library);
    RUN(scan_counts_devices_beyond_the_capacity);
    RUN(scan_fills_every_field_of_a_device);
    RUN(unreadable_device_does_not_affect_others);
    RUN(probe_and_peek_report_every_state);
    RUN(probe_times_out_at_its_deadline);
    RUN(only_a_probe_opens_the_group);
    RUN(group_names_the_offender_and_its_driver);
    RUN(every_offender_of_a_group_is_listed);
    RUN(holder_is_reported_with_its_pod);
    RUN(repeated_groups_report_a_holder_once);
    RUN(device_nodes_of_both_modes_are_listed);
    RUN(hardware_is_lost_and_counts_fatal_errors);
    RUN(coverage_reports_a_foreign_pid_namespace);
    RUN(snapshot_shows_a_holder_without_a_probe);
    RUN(names_come_from_pci_ids);
    RUN(watch_reports_bound_held_freed_and_unbound);
    RUN(ready_follows_the_first_events);
    RUN(ready_comes_alone_without_devices);
    RUN(update_counts_news_and_leaves_the_events);
    RUN(wait_ends_when_a_group_is_held_or_free);
    RUN(signal_handler_ends_a_wait);
    RUN(probing_watch_leaves_assigned_groups_alone);
    RUN(watch_without_holders_lists_none);
    RUN(watch_outlives_its_root);
    RUN(kernel_without_group_nodes_is_detected);
    RUN(newer_record_sizes_work);
    RUN(newer_option_sizes_work);
    vfp_root_close(&root);
    node_end(&node);
    return tests_end();
}
