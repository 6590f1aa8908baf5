/* What a caller may do wrong: a status and a text that names the argument, never a crash. */
#include "check.h"
#include "node.h"
#include <stdint.h>
#include <sys/stat.h>
#include <vfio_probe.h>

static struct node node;
static vfp_root *root;

static vfp_error error;

/* Checks that the call was refused for the argument; prints how, for who reads the log. */
static void refused(vfp_status status, vfp_status expected, const char *text) {
    CHECK(status == expected);
    CHECK(error.status == status);
    CHECK_TEXT(error.text, text);
    printf("%-12s %s\n", vfp_status_text(status), error.text);
    memset(&error, 0, sizeof error);
}

static void null_where_something_is_needed(void) {
    vfp_device device;
    vfp_occupancy occupancy;
    vfp_event event;
    size_t count = 7;
    int32_t peek = 7;
    vfp_root *none = NULL;
    vfp_watch *watch = NULL;
    refused(vfp_root_open("/", NULL, &error), VFP_INVALID, "out_root: is NULL");
    refused(vfp_scan(NULL, sizeof device, 1, &device, &count, &error), VFP_INVALID, "root: is NULL, or closed");
    refused(vfp_scan(root, sizeof device, 1, &device, NULL, &error), VFP_INVALID, "out_count: is NULL");
    refused(vfp_scan(root, sizeof device, 1, NULL, &count, &error), VFP_INVALID,
            "out_devices: is NULL, but there is to be something in it");
    refused(vfp_device_read(root, NULL, sizeof device, &device, &error), VFP_INVALID, "id: is NULL");
    refused(vfp_device_read(root, "0000:1b:00.0", sizeof device, NULL, &error), VFP_INVALID, "out_device: is NULL");
    refused(vfp_group_read(root, 51, sizeof(vfp_group), NULL, &error), VFP_INVALID, "out_group: is NULL");
    refused(vfp_members(root, 51, sizeof(vfp_member), 0, NULL, NULL, &error), VFP_INVALID, "out_count: is NULL");
    refused(vfp_peek(root, 51, NULL, &error), VFP_INVALID, "out_peek: is NULL");
    refused(vfp_has_group_nodes(root, NULL, &error), VFP_INVALID, "out_has: is NULL");
    refused(vfp_peek(NULL, 51, &peek, &error), VFP_INVALID, "root: is NULL, or closed");
    refused(vfp_probe(root, 51, sizeof occupancy, NULL, &error), VFP_INVALID, "out_occupancy: is NULL");
    refused(vfp_probe_within(root, 51, 1, sizeof occupancy, NULL, &error), VFP_INVALID, "out_occupancy: is NULL");
    refused(vfp_holders(root, NULL, 1, sizeof(vfp_holder), 0, NULL, &count, 0, NULL, &error), VFP_INVALID,
            "groups: is NULL, but there is to be something in it");
    refused(vfp_names(NULL, NULL, 1, sizeof(vfp_name), NULL, &error), VFP_INVALID, "ids: is NULL, but there is to be something in it");
    refused(vfp_watch_open(NULL, 0, NULL, &watch, &error), VFP_INVALID, "root: is NULL, or closed");
    refused(vfp_watch_open(root, 0, NULL, NULL, &error), VFP_INVALID, "out_watch: is NULL");
    refused(vfp_watch_next(NULL, sizeof event, &event, &error), VFP_INVALID, "watch: is NULL, or closed");
    refused(vfp_watch_set_owned(NULL, NULL, 0, &error), VFP_INVALID, "watch: is NULL, or closed");
    refused(vfp_watch_groups(NULL, sizeof(vfp_watched), 0, NULL, &count, &error), VFP_INVALID, "watch: is NULL, or closed");
    refused(vfp_watch_devices(NULL, sizeof device, 0, NULL, &count, &error), VFP_INVALID, "watch: is NULL, or closed");
    refused(vfp_watch_holders(NULL, 1, sizeof(vfp_holder), 0, NULL, &count, 0, NULL, &error), VFP_INVALID,
            "watch: is NULL, or closed");
    CHECK(vfp_watch_fd(NULL) == VFP_INVALID);
    /* Nothing else was written, and no place for an error is no crash. */
    CHECK(count == 7 && peek == 7);
    CHECK(vfp_scan(NULL, 0, 0, NULL, NULL, NULL) == VFP_INVALID);
    vfp_root_close(NULL);
    vfp_root_close(&none);
    vfp_watch_close(NULL);
    vfp_watch_close(&watch);
}

static void sizes_and_capacities(void) {
    vfp_device device;
    vfp_occupancy occupancy;
    vfp_looked looked;
    vfp_watch_options options;
    vfp_watch *watch = NULL;
    vfp_pci_id id = {0x10de, 0x2330};
    vfp_name name;
    size_t count = 0;
    const char *size = "size: must be the sizeof of the record", *capacity = "capacity: is more than fits into memory";
    refused(vfp_scan(root, 0, 1, &device, &count, &error), VFP_INVALID, size);
    refused(vfp_scan(root, sizeof(void *), 1, &device, &count, &error), VFP_INVALID, size);
    refused(vfp_scan(root, sizeof device, SIZE_MAX, &device, &count, &error), VFP_INVALID, capacity);
    refused(vfp_scan(root, sizeof device, SIZE_MAX / sizeof device, &device, &count, &error), VFP_INVALID, capacity);
    refused(vfp_scan(root, SIZE_MAX, 1, &device, &count, &error), VFP_INVALID, size);
    refused(vfp_scan(root, 4097, 1, &device, &count, &error), VFP_INVALID, size);
    refused(vfp_probe(root, 51, SIZE_MAX, &occupancy, &error), VFP_INVALID, size);
    refused(vfp_watch_open(root, SIZE_MAX, &options, &watch, &error), VFP_INVALID, size);
    refused(vfp_names(NULL, &id, SIZE_MAX, sizeof name, &name, &error), VFP_INVALID, "count: is more than fits into memory");
    refused(vfp_probe(root, 51, 4, &occupancy, &error), VFP_INVALID, size);
    refused(vfp_holders(root, NULL, 0, sizeof(vfp_holder), 0, NULL, &count, 1, &looked, &error), VFP_INVALID,
            "looked_size: must be the sizeof of the record");
    refused(vfp_holders(root, (const uint32_t *)(const void *)&device, SIZE_MAX, sizeof(vfp_holder), 0, NULL, &count, 0, NULL, &error),
            VFP_INVALID, "group_count: is more than fits into memory");
    /* None at all is no mistake. */
    CHECK(vfp_holders(root, NULL, 0, sizeof(vfp_holder), 0, NULL, &count, 0, NULL, NULL) == VFP_OK && count == 0);
    CHECK(vfp_names(NULL, NULL, 0, sizeof(vfp_name), NULL, &error) <= VFP_OK);
    memset(&error, 0, sizeof error);
}

static void texts(void) {
    vfp_device device;
    vfp_root *other = NULL;
    static char huge[1 << 20];
    const char *no_id = "id: is neither a PCI address like 0000:3b:00.0 nor an mdev uuid";
    refused(vfp_device_read(root, "", sizeof device, &device, &error), VFP_INVALID, no_id);
    refused(vfp_device_read(root, "\xff\xfe", sizeof device, &device, &error), VFP_INVALID, no_id);
    refused(vfp_device_read(root, "../../etc/passwd", sizeof device, &device, &error), VFP_INVALID, no_id);
    memset(huge, 'a', sizeof huge - 1);
    refused(vfp_device_read(root, huge, sizeof device, &device, &error), VFP_INVALID, no_id);
    refused(vfp_device_read(root, "0000:77:00.0", sizeof device, &device, &error), VFP_MISSING,
            "0000:77:00.0: uevent: No such file or directory (os error 2)");
    refused(vfp_root_open("/nowhere\xff", &other, &error), VFP_MISSING,
            "root directory (entry \"/nowhere?\"): No such file or directory (os error 2)");
    CHECK(vfp_root_open(huge, &other, &error) == VFP_TOO_LONG && other == NULL);
    CHECK(strlen(error.text) < sizeof error.text);
    CHECK(vfp_root_open("/etc/passwd", &other, &error) == VFP_SYSTEM && other == NULL);
}

static void what_is_not_there(void) {
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
            "group 4000: iommu_groups/devices: No such file or directory (os error 2)");
    CHECK(vfp_members(root, 4000, sizeof member, 1, &member, &count, &error) == VFP_MISSING);
    CHECK(error.group == 4000 && error.os_errno == 2);
    CHECK(vfp_peek(root, VFP_NO_GROUP, &peek, &error) == VFP_MISSING);
    CHECK(vfp_device_read(root, "0000:77:00.0", sizeof device, &device, &error) == VFP_MISSING);
    CHECK_TEXT(error.device, "0000:77:00.0");
    CHECK(error.group == VFP_NO_GROUP);
    /* What would make a reader wait for ever. */
    refused(vfp_names("/dev/zero", &id, 1, sizeof name, &name, &error), VFP_MALFORMED, "pci.ids: not a regular file");
    snprintf(fifo, sizeof fifo, "%s/fifo", node.root);
    CHECK(mkfifo(fifo, 0600) == 0);
    refused(vfp_names(fifo, &id, 1, sizeof name, &name, &error), VFP_MALFORMED, "pci.ids: not a regular file");
    refused(vfp_names("/nowhere/pci.ids", &id, 1, sizeof name, &name, &error), VFP_MISSING,
            "pci.ids: No such file or directory (os error 2)");
    CHECK(vfp_root_open("/proc/self/fd", &empty, NULL) == VFP_OK);
    CHECK(vfp_scan(empty, sizeof(vfp_device), 0, NULL, &count, &error) == VFP_MISSING);
    vfp_root_close(&empty);
}

static void closed_handles(void) {
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
    refused(vfp_scan(other, sizeof(vfp_device), 0, NULL, &count, &error), VFP_INVALID, "root: is NULL, or closed");
    refused(vfp_watch_next(watch, sizeof event, &event, &error), VFP_INVALID, "watch: is NULL, or closed");
}

static void flags_of_a_newer_header(void) {
    vfp_watch_options options;
    vfp_watch *watch = NULL;
    memset(&options, 0, sizeof options);
    options.flags = 1u << 31;
    CHECK(vfp_watch_open(root, sizeof options, &options, &watch, &error) == VFP_UNSUPPORTED && watch == NULL);
    CHECK(strstr(error.text, "options.flags") != NULL);
    options.flags = 0, options.reserved = 1;
    CHECK(vfp_watch_open(root, sizeof options, &options, &watch, &error) == VFP_UNSUPPORTED && watch == NULL);
    refused(vfp_watch_open(root, 4, &options, &watch, &error), VFP_INVALID, "size: must be the sizeof of the record");
    CHECK_TEXT(vfp_status_text(12345), "?");
    CHECK_TEXT(vfp_state_text(INT32_MIN), "?");
}

static void a_tree_that_vanishes(void) {
    vfp_watch *watch = NULL;
    vfp_event event;
    int events = 0;
    vfp_status status;
    CHECK(vfp_watch_open(root, sizeof(vfp_watch_options), NULL, &watch, NULL) == VFP_OK);
    node_do(&node, "{\"delete\":{\"path\":\"sys\"}}");
    while ((status = vfp_watch_next(watch, sizeof event, &event, &error)) == VFP_OK && events < 100) events++;
    CHECK(status == VFP_MISSING && events == 0);
    /* Said once a look, so that a loop until VFP_NOTHING ends. */
    CHECK(vfp_watch_next(watch, sizeof event, &event, NULL) == VFP_NOTHING);
    printf("%-12s %s\n", vfp_status_text(status), error.text);
    vfp_watch_close(&watch);
}

int main(void) {
    node = node_start("--eight-gpus");
    if (vfp_root_open(node.root, &root, NULL) != VFP_OK) return 2;
    RUN(null_where_something_is_needed);
    RUN(sizes_and_capacities);
    RUN(texts);
    RUN(what_is_not_there);
    RUN(closed_handles);
    RUN(flags_of_a_newer_header);
    RUN(a_tree_that_vanishes);
    vfp_root_close(&root);
    node_end(&node);
    return tests_end();
}
