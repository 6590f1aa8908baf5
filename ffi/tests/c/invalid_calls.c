/* Tests invalid calls: each returns a status and an error message that names the argument, and none crashes. */
#include "check.h"
#include "node.h"
#include <stdint.h>
#include <sys/stat.h>
#include <vfio_probe.h>

static struct node node;
static vfp_root *root;

static vfp_error error;

/* Checks the status and the error message of a failed call, and prints both for the log. */
static void refused(vfp_status status, vfp_status expected, const char *text) {
    CHECK(status == expected);
    CHECK(error.status == status);
    CHECK_TEXT(error.text, text);
    printf("%-12s %s\n", vfp_status_text(status), error.text);
    memset(&error, 0, sizeof error);
}

static void null_arguments_are_refused_by_name(void) {
    vfp_device device;
    vfp_occupancy occupancy;
    vfp_event event;
    size_t count = 7;
    int32_t peek = 7;
    vfp_root *none = NULL;
    vfp_watch *watch = NULL;
    vfp_snapshot *snapshot = NULL;
    refused(vfp_root_open("/", NULL, &error), VFP_INVALID, "out_root: must not be NULL");
    refused(vfp_scan(NULL, sizeof device, 1, &device, &count, &error), VFP_INVALID, "root: the handle is NULL or closed");
    refused(vfp_scan(root, sizeof device, 1, &device, NULL, &error), VFP_INVALID, "out_count: must not be NULL");
    refused(vfp_scan(root, sizeof device, 1, NULL, &count, &error), VFP_INVALID,
            "out_devices: must not be NULL because capacity is greater than 0");
    refused(vfp_device_read(root, NULL, sizeof device, &device, &error), VFP_INVALID, "id: must not be NULL");
    refused(vfp_device_read(root, "0000:1b:00.0", sizeof device, NULL, &error), VFP_INVALID, "out_device: must not be NULL");
    refused(vfp_group_read(root, 51, sizeof(vfp_group), NULL, &error), VFP_INVALID, "out_group: must not be NULL");
    refused(vfp_members(root, 51, sizeof(vfp_member), 0, NULL, NULL, &error), VFP_INVALID, "out_count: must not be NULL");
    refused(vfp_peek(root, 51, NULL, &error), VFP_INVALID, "out_peek: must not be NULL");
    refused(vfp_has_group_nodes(root, NULL, &error), VFP_INVALID, "out_has_nodes: must not be NULL");
    refused(vfp_peek(NULL, 51, &peek, &error), VFP_INVALID, "root: the handle is NULL or closed");
    refused(vfp_probe(root, 51, sizeof occupancy, NULL, &error), VFP_INVALID, "out_occupancy: must not be NULL");
    refused(vfp_probe_within(root, 51, 1, sizeof occupancy, NULL, &error), VFP_INVALID, "out_occupancy: must not be NULL");
    refused(vfp_holders(root, NULL, 1, sizeof(vfp_holder), 0, NULL, &count, 0, NULL, &error), VFP_INVALID,
            "groups: must not be NULL because group_count is greater than 0");
    refused(vfp_names(NULL, NULL, 1, sizeof(vfp_name), NULL, &error), VFP_INVALID, 
            "ids: must not be NULL because count is greater than 0");
    refused(vfp_watch_open(NULL, 0, NULL, &watch, &error), VFP_INVALID, "root: the handle is NULL or closed");
    refused(vfp_watch_open(root, 0, NULL, NULL, &error), VFP_INVALID, "out_watch: must not be NULL");
    refused(vfp_watch_next(NULL, sizeof event, &event, &error), VFP_INVALID, "watch: the handle is NULL or closed");
    refused(vfp_watch_set_assigned(NULL, NULL, 0, &error), VFP_INVALID, "watch: the handle is NULL or closed");
    refused(vfp_watch_groups(NULL, sizeof(vfp_watched_group), 0, NULL, &count, &error), VFP_INVALID, "watch: the handle is NULL or closed");
    refused(vfp_watch_devices(NULL, sizeof device, 0, NULL, &count, &error), VFP_INVALID, "watch: the handle is NULL or closed");
    refused(vfp_watch_holders(NULL, 1, sizeof(vfp_holder), 0, NULL, &count, 0, NULL, &error), VFP_INVALID,
            "watch: the handle is NULL or closed");
    refused(vfp_snapshot_take(NULL, 0, &snapshot, &error), VFP_INVALID, "root: the handle is NULL or closed");
    refused(vfp_snapshot_take(root, 0, NULL, &error), VFP_INVALID, "out_snapshot: must not be NULL");
    refused(vfp_snapshot_devices(NULL, sizeof device, 0, NULL, &count, &error), VFP_INVALID,
            "snapshot: the handle is NULL or closed");
    refused(vfp_snapshot_groups(NULL, sizeof(vfp_watched_group), 0, NULL, &count, &error), VFP_INVALID,
            "snapshot: the handle is NULL or closed");
    refused(vfp_snapshot_holders(NULL, 1, sizeof(vfp_holder), 0, NULL, &count, 0, NULL, &error), VFP_INVALID,
            "snapshot: the handle is NULL or closed");
    vfp_snapshot_close(NULL);
    vfp_snapshot_close(&snapshot);
    refused(vfp_watch_wait(NULL, VFP_WAIT_EVENT, VFP_ALL_GROUPS, 0, &error), VFP_INVALID, "watch: the handle is NULL or closed");
    refused(vfp_watch_group(NULL, 51, sizeof(vfp_watched_group), NULL, &error), VFP_INVALID, "watch: the handle is NULL or closed");
    refused(vfp_snapshot_group(NULL, 51, sizeof(vfp_watched_group), NULL, &error), VFP_INVALID,
            "snapshot: the handle is NULL or closed");
    refused(vfp_device_nodes(root, 51, sizeof(vfp_device_node), 0, NULL, NULL, &error), VFP_INVALID, "out_count: must not be NULL");
    refused(vfp_hardware_read(root, NULL, sizeof(vfp_hardware), NULL, &error), VFP_INVALID, "address: must not be NULL");
    refused(vfp_hardware_read(root, "0000:1b:00.0", sizeof(vfp_hardware), NULL, &error), VFP_INVALID,
            "out_hardware: must not be NULL");
    refused(vfp_watch_update(NULL, &error), VFP_INVALID, "watch: the handle is NULL or closed");
    refused(vfp_watch_next_queued(NULL, sizeof event, &event, &error), VFP_INVALID, "watch: the handle is NULL or closed");
    CHECK(vfp_watch_news(NULL) == 0);
    CHECK(vfp_watch_is_ready(NULL) == VFP_INVALID);
    CHECK(vfp_watch_fd(NULL) == VFP_INVALID);
    /* No other output was written, and a NULL out_error does not crash. */
    CHECK(count == 7 && peek == 7);
    CHECK(vfp_scan(NULL, 0, 0, NULL, NULL, NULL) == VFP_INVALID);
    vfp_root_close(NULL);
    vfp_root_close(&none);
    vfp_watch_close(NULL);
    vfp_watch_close(&watch);
}

static void invalid_sizes_and_capacities_are_refused(void) {
    vfp_device device;
    vfp_occupancy occupancy;
    vfp_scan_coverage coverage;
    vfp_watch_options options;
    vfp_watch *watch = NULL;
    vfp_pci_id id = {0x10de, 0x2330};
    vfp_name name;
    size_t count = 0;
    const char *size = "size: must be sizeof the record", *capacity = "capacity: exceeds the address space";
    refused(vfp_scan(root, 0, 1, &device, &count, &error), VFP_INVALID, size);
    refused(vfp_scan(root, sizeof(void *), 1, &device, &count, &error), VFP_INVALID, size);
    refused(vfp_scan(root, sizeof device, SIZE_MAX, &device, &count, &error), VFP_INVALID, capacity);
    refused(vfp_scan(root, sizeof device, SIZE_MAX / sizeof device, &device, &count, &error), VFP_INVALID, capacity);
    refused(vfp_scan(root, SIZE_MAX, 1, &device, &count, &error), VFP_INVALID, size);
    refused(vfp_scan(root, 4097, 1, &device, &count, &error), VFP_INVALID, size);
    refused(vfp_probe(root, 51, SIZE_MAX, &occupancy, &error), VFP_INVALID, size);
    refused(vfp_watch_open(root, SIZE_MAX, &options, &watch, &error), VFP_INVALID, size);
    refused(vfp_names(NULL, &id, SIZE_MAX, sizeof name, &name, &error), VFP_INVALID, "count: exceeds the address space");
    refused(vfp_probe(root, 51, 4, &occupancy, &error), VFP_INVALID, size);
    refused(vfp_holders(root, NULL, 0, sizeof(vfp_holder), 0, NULL, &count, 1, &coverage, &error), VFP_INVALID,
            "coverage_size: must be sizeof the record");
    refused(vfp_holders(root, (const uint32_t *)(const void *)&device, SIZE_MAX, sizeof(vfp_holder), 0, NULL, &count, 0, NULL, &error),
            VFP_INVALID, "group_count: exceeds the address space");
    /* A count of 0 is valid. */
    CHECK(vfp_holders(root, NULL, 0, sizeof(vfp_holder), 0, NULL, &count, 0, NULL, NULL) == VFP_OK && count == 0);
    CHECK(vfp_names(NULL, NULL, 0, sizeof(vfp_name), NULL, &error) <= VFP_OK);
    memset(&error, 0, sizeof error);
}

static void swapped_size_and_capacity_are_refused(void) {
    static vfp_device devices[400];
    vfp_watched_group group;
    vfp_snapshot *snapshot = NULL;
    vfp_name names[2];
    vfp_pci_id ids[2] = {{0x10de, 0x2330}, {0x10de, 0xffff}};
    size_t count = 7;
    const char *swapped = "size: must be sizeof the record; it and the number of records are swapped";
    refused(vfp_scan(root, 400, sizeof devices[0], devices, &count, &error), VFP_INVALID, swapped);
    refused(vfp_scan(root, 1024, sizeof devices[0], devices, &count, &error), VFP_INVALID, swapped);
    refused(vfp_members(root, 51, 780, sizeof(vfp_member), (vfp_member *)(void *)devices, &count, &error), VFP_INVALID, swapped);
    refused(vfp_names(NULL, ids, sizeof names[0], 2, names, &error), VFP_INVALID, swapped);
    CHECK(vfp_snapshot_take(root, 0, &snapshot, NULL) == VFP_OK);
    refused(vfp_snapshot_groups(snapshot, 200, sizeof group, &group, &count, &error), VFP_INVALID, swapped);
    CHECK(count == 7);
    /* No multiple of the alignment, and an older size that no release had. */
    refused(vfp_snapshot_groups(snapshot, sizeof group + 4, 1, &group, &count, &error), VFP_INVALID, "size: must be sizeof the record");
    refused(vfp_scan(root, sizeof devices[0] - 4, 1, devices, &count, &error), VFP_INVALID, "size: must be sizeof the record");
    vfp_snapshot_close(&snapshot);
    CHECK(vfp_scan(root, VFP_ARRAY(devices), &count, &error) == VFP_OK && count == 8);
}

/* The handles and outputs of the calls below. */
static vfp_watch *no_group_watch;
static vfp_snapshot *no_group_snapshot;
static size_t unused_count;

static vfp_status call_group_read(uint32_t group) { vfp_group out; return vfp_group_read(root, group, VFP_RECORD(out), &error); }
static vfp_status call_members(uint32_t group) { return vfp_members(root, group, sizeof(vfp_member), 0, NULL, &unused_count, &error); }
static vfp_status call_peek(uint32_t group) { int32_t peek; return vfp_peek(root, group, &peek, &error); }
static vfp_status call_probe(uint32_t group) { vfp_occupancy out; return vfp_probe(root, group, VFP_RECORD(out), &error); }
static vfp_status call_probe_within(uint32_t group) {
    vfp_occupancy out;
    return vfp_probe_within(root, group, 10, VFP_RECORD(out), &error);
}
static vfp_status call_holders(uint32_t group) {
    uint32_t groups[2] = {51, group};
    return vfp_holders(root, groups, 2, sizeof(vfp_holder), 0, NULL, &unused_count, 0, NULL, &error);
}
static vfp_status call_device_nodes(uint32_t group) {
    return vfp_device_nodes(root, group, sizeof(vfp_device_node), 0, NULL, &unused_count, &error);
}
static vfp_status call_snapshot_group(uint32_t group) {
    vfp_watched_group out;
    return vfp_snapshot_group(no_group_snapshot, group, VFP_RECORD(out), &error);
}
static vfp_status call_snapshot_holders(uint32_t group) {
    return vfp_snapshot_holders(no_group_snapshot, group, sizeof(vfp_holder), 0, NULL, &unused_count, 0, NULL, &error);
}
static vfp_status call_watch_group(uint32_t group) {
    vfp_watched_group out;
    return vfp_watch_group(no_group_watch, group, VFP_RECORD(out), &error);
}
static vfp_status call_watch_holders(uint32_t group) {
    return vfp_watch_holders(no_group_watch, group, sizeof(vfp_holder), 0, NULL, &unused_count, 0, NULL, &error);
}
static vfp_status call_watch_wait(uint32_t group) { return vfp_watch_wait(no_group_watch, VFP_WAIT_FREE, group, 0, &error); }
static vfp_status call_watch_wait_held(uint32_t group) { return vfp_watch_wait(no_group_watch, VFP_WAIT_HELD, group, 0, &error); }
static vfp_status call_watch_wait_event(uint32_t group) { return vfp_watch_wait(no_group_watch, VFP_WAIT_EVENT, group, 0, &error); }
static vfp_status call_watch_set_assigned(uint32_t group) {
    uint32_t groups[2] = {51, group};
    return vfp_watch_set_assigned(no_group_watch, groups, 2, &error);
}

/* The test `header` checks that this table has every function of the header with a group among its parameters. */
static const struct {
    const char *name;
    vfp_status (*call)(uint32_t group);
    const char *text;
} group_calls[] = {
#define NO_GROUP "group: must not be VFP_NO_GROUP; a device without an IOMMU has no group"
#define NO_GROUPS "groups: must not contain VFP_NO_GROUP; a device without an IOMMU has no group"
    {"vfp_group_read", call_group_read, NO_GROUP},
    {"vfp_members", call_members, NO_GROUP},
    {"vfp_peek", call_peek, NO_GROUP},
    {"vfp_probe", call_probe, NO_GROUP},
    {"vfp_probe_within", call_probe_within, NO_GROUP},
    {"vfp_holders", call_holders, NO_GROUPS},
    {"vfp_device_nodes", call_device_nodes, NO_GROUP},
    {"vfp_snapshot_group", call_snapshot_group, NO_GROUP},
    {"vfp_snapshot_holders", call_snapshot_holders, NO_GROUP},
    {"vfp_watch_group", call_watch_group, NO_GROUP},
    {"vfp_watch_holders", call_watch_holders, NO_GROUP},
    {"vfp_watch_wait", call_watch_wait, NO_GROUP},
    {"vfp_watch_wait", call_watch_wait_held, NO_GROUP},
    {"vfp_watch_wait", call_watch_wait_event, "group: must be VFP_ALL_GROUPS for VFP_WAIT_EVENT"},
    {"vfp_watch_set_assigned", call_watch_set_assigned, NO_GROUPS},
};

static void no_group_is_refused_by_every_call(void) {
    size_t index;
    CHECK(vfp_watch_open(root, 0, NULL, &no_group_watch, NULL) == VFP_OK);
    CHECK(vfp_snapshot_take(root, 0, &no_group_snapshot, NULL) == VFP_OK);
    for (index = 0; index < sizeof group_calls / sizeof group_calls[0]; index++) {
        printf("%s: ", group_calls[index].name);
        refused(group_calls[index].call(VFP_NO_GROUP), VFP_INVALID, group_calls[index].text);
    }
    refused(call_watch_wait_event(51), VFP_INVALID, "group: must be VFP_ALL_GROUPS for VFP_WAIT_EVENT");
    refused(vfp_watch_wait(no_group_watch, 99, 51, 0, &error), VFP_INVALID, "condition: must be a VFP_WAIT_* value");
    vfp_snapshot_close(&no_group_snapshot);
    vfp_watch_close(&no_group_watch);
}

static void errors_keep_whole_paths(void) {
    static char path[4096], expected[4400];
    vfp_root *other = NULL;
    vfp_hardware hardware;
    vfp_group group;
    vfp_pci_id id = {0x10de, 0x2330};
    vfp_name name;
    size_t used = 0;
    while (used + 201 < sizeof path) {
        path[used++] = '/';
        memset(path + used, 'p', 199);
        used += 199;
    }
    memcpy(path + used - 5, "\xc3\xa4\n", 3);
    path[used - 2] = 0;
    snprintf(expected, sizeof expected, "root directory %.*s\xc3\xa4\\n: No such file or directory", (int)(used - 5), path);
    CHECK(vfp_root_open(path, &other, &error) == VFP_MISSING);
    /* The path itself is as it was passed. */
    CHECK_TEXT(error.path, path);
    refused(error.status, VFP_MISSING, expected);
    CHECK(strlen(expected) > 4000);
    CHECK(vfp_root_open("/nowhere\xff\n", &other, &error) == VFP_MISSING);
    CHECK_TEXT(error.path, "/nowhere\xff\n");
    CHECK(vfp_names("/nowhere/pci-ids-of-more-than-32-bytes-\xc3\xa4", &id, 1, VFP_RECORD(name), &error) == VFP_MISSING);
    CHECK_TEXT(error.path, "/nowhere/pci-ids-of-more-than-32-bytes-\xc3\xa4");
    CHECK(vfp_group_read(root, 4000, VFP_RECORD(group), &error) == VFP_MISSING);
    CHECK_TEXT(error.path, "sys/kernel/iommu_groups/4000");
    CHECK(vfp_peek(root, VFP_NO_GROUP, NULL, &error) == VFP_INVALID);
    CHECK_TEXT(error.path, "");
    CHECK(vfp_hardware_read(root, "0000:77:00.0", VFP_RECORD(hardware), &error) == VFP_MISSING);
    CHECK(error.group == VFP_NO_GROUP);
    refused(error.status, VFP_MISSING, "0000:77:00.0: no such device on the pci bus");
    refused(vfp_hardware_read(root, "4b5a1c7e-5b0a-4a57-9d3a-0123456789ab", VFP_RECORD(hardware), &error), VFP_INVALID,
            "address: must be a PCI address such as 0000:3b:00.0");
}

static void invalid_texts_are_refused(void) {
    vfp_device device;
    vfp_root *other = NULL;
    static char huge[1 << 20];
    const char *not_an_id = "id: must be a PCI address such as 0000:3b:00.0 or an mdev UUID";
    refused(vfp_device_read(root, "", sizeof device, &device, &error), VFP_INVALID, not_an_id);
    refused(vfp_device_read(root, "\xff\xfe", sizeof device, &device, &error), VFP_INVALID, not_an_id);
    refused(vfp_device_read(root, "../../etc/passwd", sizeof device, &device, &error), VFP_INVALID, not_an_id);
    memset(huge, 'a', sizeof huge - 1);
    refused(vfp_device_read(root, huge, sizeof device, &device, &error), VFP_INVALID, not_an_id);
    refused(vfp_device_read(root, "0000:77:00.0", sizeof device, &device, &error), VFP_MISSING,
            "0000:77:00.0: no such device on the pci bus");
    refused(vfp_root_open("/nowhere\xff", &other, &error), VFP_MISSING,
            "root directory /nowhere\xef\xbf\xbd: No such file or directory");
    CHECK(vfp_root_open(huge, &other, &error) == VFP_TOO_LONG && other == NULL);
    CHECK(strlen(error.text) < sizeof error.text);
    CHECK(vfp_root_open("/etc/passwd", &other, &error) == VFP_SYSTEM && other == NULL);
}

static void missing_things_return_missing(void) {
    vfp_group group;
    vfp_member member;
    vfp_device device;
    char fifo[300];
    vfp_pci_id id = {0x10de, 0x2330};
    vfp_name name;
    size_t count;
    int32_t peek;
    vfp_root *empty = NULL;
    refused(vfp_group_read(root, 4000, sizeof group, &group, &error), VFP_MISSING,
            "group 4000: no such IOMMU group");
    CHECK(vfp_members(root, 4000, sizeof member, 1, &member, &count, &error) == VFP_MISSING);
    CHECK(error.group == 4000 && error.os_errno == 2);
    CHECK(vfp_peek(root, 4000, &peek, &error) == VFP_MISSING);
    CHECK(vfp_device_read(root, "0000:77:00.0", sizeof device, &device, &error) == VFP_MISSING);
    CHECK_TEXT(error.device, "0000:77:00.0");
    CHECK(error.group == VFP_NO_GROUP);
    /* A read of these files would block or never end. */
    refused(vfp_names("/dev/zero", &id, 1, sizeof name, &name, &error), VFP_MALFORMED, "pci.ids /dev/zero: not a regular file");
    snprintf(fifo, sizeof fifo, "%s/fifo", node.root);
    CHECK(mkfifo(fifo, 0600) == 0);
    CHECK(vfp_names(fifo, &id, 1, sizeof name, &name, &error) == VFP_MALFORMED);
    CHECK(strstr(error.text, fifo) != NULL && strstr(error.text, "not a regular file") != NULL);
    refused(vfp_names("/nowhere/pci.ids", &id, 1, sizeof name, &name, &error), VFP_MISSING,
            "pci.ids /nowhere/pci.ids: No such file or directory");
    CHECK(vfp_root_open("/proc/self/fd", &empty, NULL) == VFP_OK);
    CHECK(vfp_scan(empty, sizeof(vfp_device), 0, NULL, &count, &error) == VFP_MISSING);
    vfp_root_close(&empty);
}

static void closed_handles_are_refused(void) {
    vfp_root *other = NULL;
    vfp_watch *watch = NULL;
    vfp_event event;
    size_t count;
    CHECK(vfp_root_open(node.root, &other, NULL) == VFP_OK);
    CHECK(vfp_watch_open(other, sizeof(vfp_watch_options), NULL, &watch, NULL) == VFP_OK);
    vfp_root_close(&other);
    vfp_root_close(&other);
    vfp_watch_close(&watch);
    vfp_watch_close(&watch);
    CHECK(other == NULL && watch == NULL);
    refused(vfp_scan(other, sizeof(vfp_device), 0, NULL, &count, &error), VFP_INVALID, "root: the handle is NULL or closed");
    refused(vfp_watch_next(watch, sizeof event, &event, &error), VFP_INVALID, "watch: the handle is NULL or closed");
}

static void flags_of_a_newer_header_are_unsupported(void) {
    vfp_watch_options options;
    vfp_watch *watch = NULL;
    memset(&options, 0, sizeof options);
    options.flags = 1u << 31;
    CHECK(vfp_watch_open(root, sizeof options, &options, &watch, &error) == VFP_UNSUPPORTED && watch == NULL);
    CHECK(strstr(error.text, "options.flags") != NULL);
    options.flags = 0, options.reserved = 1;
    CHECK(vfp_watch_open(root, sizeof options, &options, &watch, &error) == VFP_UNSUPPORTED && watch == NULL);
    refused(vfp_watch_open(root, 4, &options, &watch, &error), VFP_INVALID, "size: must be sizeof the record");
    CHECK_TEXT(vfp_status_text(12345), "?");
    CHECK_TEXT(vfp_state_text(INT32_MIN), "?");
}

static void watch_of_a_deleted_tree_fails_once_per_pass(void) {
    vfp_watch *watch = NULL;
    vfp_event event;
    int events = 0;
    vfp_status status;
    CHECK(vfp_watch_open(root, sizeof(vfp_watch_options), NULL, &watch, NULL) == VFP_OK);
    node_do(&node, "{\"delete\":{\"path\":\"sys\"}}");
    while ((status = vfp_watch_next(watch, sizeof event, &event, &error)) == VFP_OK && events < 100) events++;
    CHECK(status == VFP_MISSING && events == 0);
    /* Reported once per pass, so that a loop until VFP_NO_EVENT ends. */
    CHECK(vfp_watch_next(watch, sizeof event, &event, NULL) == VFP_NO_EVENT);
    printf("%-12s %s\n", vfp_status_text(status), error.text);
    CHECK(vfp_watch_is_ready(watch) == 0);
    vfp_watch_close(&watch);
    /* Also by a wait, which can be called again. */
    CHECK(vfp_watch_open(root, sizeof(vfp_watch_options), NULL, &watch, NULL) == VFP_OK);
    CHECK(vfp_watch_wait(watch, VFP_WAIT_FREE, 51, 5000, &error) == VFP_MISSING);
    CHECK(vfp_watch_wait(watch, VFP_WAIT_FREE, 51, 0, &error) == VFP_TIMED_OUT);
    vfp_watch_close(&watch);
    CHECK(vfp_watch_open(root, sizeof(vfp_watch_options), NULL, &watch, NULL) == VFP_OK);
    CHECK(vfp_watch_wait(watch, VFP_WAIT_EVENT, VFP_ALL_GROUPS, 5000, &error) == VFP_MISSING);
    vfp_watch_close(&watch);
}

int main(void) {
    node = node_start("--eight-gpus");
    if (vfp_root_open(node.root, &root, NULL) != VFP_OK) return 2;
    RUN(null_arguments_are_refused_by_name);
    RUN(invalid_sizes_and_capacities_are_refused);
    RUN(swapped_size_and_capacity_are_refused);
    RUN(no_group_is_refused_by_every_call);
    RUN(errors_keep_whole_paths);
    RUN(invalid_texts_are_refused);
    RUN(missing_things_return_missing);
    RUN(closed_handles_are_refused);
    RUN(flags_of_a_newer_header_are_unsupported);
    RUN(watch_of_a_deleted_tree_fails_once_per_pass);
    vfp_root_close(&root);
    node_end(&node);
    return tests_end();
}
