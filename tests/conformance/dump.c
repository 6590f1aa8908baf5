/* Prints all results of the C ABI for a tree as JSON, to be compared with the other languages: dump ROOT. With a second argument
 * it prints what calls report that open no group: dump ROOT unprobed. dump ROOT errors CALL ARGUMENT... makes calls with bad
 * input and prints a list of their reports. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <vfio_probe.h>

enum { MANY = 512 };

static const char *comma = "";

static void text(const char *value) {
    putchar('"');
    for (; *value; value++) {
        if (*value == '"' || *value == '\\') putchar('\\');
        putchar(*value);
    }
    putchar('"');
}

static void key(const char *name) {
    printf("%s\"%s\":", comma, name);
    comma = ",";
}

static void text_or_null(const char *name, const char *value) {
    key(name);
    if (*value) text(value);
    else printf("null");
}

static void number(const char *name, long long value) {
    key(name);
    printf("%lld", value);
}

static void number_or_null(const char *name, long long value, int absent) {
    key(name);
    if (absent) printf("null");
    else printf("%lld", value);
}

static void boolean(const char *name, int value) {
    key(name);
    printf(value ? "true" : "false");
}

static void open(const char *bracket) {
    printf("%s", bracket);
    comma = "";
}

static void end(const char *bracket) {
    printf("%s", bracket);
    comma = ",";
}

static void item(const char *bracket) {
    printf("%s", comma);
    open(bracket);
}

static void error_fields(const vfp_error *error) {
    text_or_null("device", error->device);
    number_or_null("group", error->group, error->group == VFP_NO_GROUP);
    text_or_null("kind", vfp_status_text(error->status));
    number("errno", error->os_errno);
    text_or_null("text", error->text);
}

static int fails(const vfp_error *error) {
    open("{");
    key("error");
    open("{");
    error_fields(error);
    puts("}}");
    return 0;
}

static int by_id(const void *left, const void *right) {
    return strcmp(((const vfp_device *)left)->id, ((const vfp_device *)right)->id);
}

static int by_error_text(const void *left, const void *right) {
    return strcmp(((const vfp_device *)left)->error_text, ((const vfp_device *)right)->error_text);
}

static int by_name(const void *left, const void *right) {
    return strcmp(((const vfp_member *)left)->name, ((const vfp_member *)right)->name);
}

static int by_number(const void *left, const void *right) {
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
    return (a > b) - (a < b);
}

static int by_group_and_pid(const void *left, const void *right) {
    const vfp_holder *a = (const vfp_holder *)left, *b = (const vfp_holder *)right;
    int groups = by_number(&a->group, &b->group);
    return groups ? groups : by_number(&a->pid, &b->pid);
}

static void device(const vfp_device *device) {
    item("{");
    text_or_null("id", device->id);
    number("vendor", device->vendor);
    number("device", device->device);
    number("subsystem_vendor", device->subsystem_vendor);
    number("subsystem_device", device->subsystem_device);
    number("class", device->class_code);
    text_or_null("driver", device->driver);
    number_or_null("group", device->group, device->group == VFP_NO_GROUP);
    number_or_null("numa_node", device->numa_node, device->numa_node < 0);
    text_or_null("sriov", vfp_sriov_text(device->sriov));
    number("vfs", device->vfs);
    number_or_null("cdev", device->cdev, device->cdev < 0);
    text_or_null("kind", vfp_kind_text(device->kind));
    text_or_null("vgpu_type", device->vgpu_type);
    text_or_null("parent", device->parent);
    end("}");
}

static void error_item(const vfp_device *device) {
    item("{");
    text_or_null("device", device->id);
    number_or_null("group", 0, 1);
    text_or_null("kind", vfp_status_text(device->status));
    number("errno", device->os_errno);
    text_or_null("text", device->error_text);
    end("}");
}

static void members(const vfp_root *root, uint32_t group) {
    static vfp_member all[MANY];
    size_t count = 0, index;
    if (vfp_members(root, group, sizeof all[0], MANY, all, &count, NULL) != VFP_OK) exit(2);
    qsort(all, count, sizeof all[0], by_name);
    key("members");
    open("[");
    for (index = 0; index < count; index++) {
        if (all[index].status != VFP_OK) continue;
        item("{");
        text_or_null("name", all[index].name);
        text_or_null("driver", all[index].driver);
        boolean("vfio", all[index].vfio);
        boolean("offends", all[index].offends);
        end("}");
    }
    end("]");
    key("errors");
    open("[");
    for (index = 0; index < count; index++) {
        if (all[index].status == VFP_OK) continue;
        item("");
        text(all[index].error_text);
        comma = ",";
    }
    end("]");
}

static void group(const vfp_root *root, uint32_t number_of) {
    vfp_group read;
    vfp_occupancy occupancy;
    vfp_error error;
    int32_t peek;
    item("{");
    number("group", number_of);
    if (vfp_probe(root, number_of, sizeof occupancy, &occupancy, NULL) < 0) exit(2);
    text_or_null("state", vfp_state_text(occupancy.state));
    text_or_null("unknown_reason", occupancy.unknown_reason == VFP_UNKNOWN_NONE ? "" : vfp_unknown_reason_text(occupancy.unknown_reason));
    number("errno", occupancy.os_errno);
    if (vfp_group_read(root, number_of, sizeof read, &read, &error) < 0) {
        key("error");
        open("{");
        error_fields(&error);
        end("}");
        end("}");
        return;
    }
    boolean("viable", read.viable);
    number("unreadable", read.unreadable);
    text_or_null("offender", read.offender);
    text_or_null("offender_driver", read.offender_driver);
    number("offenders", read.offenders);
    members(root, number_of);
    key("peek");
    if (vfp_peek(root, number_of, &peek, &error) < 0) {
        open("{");
        error_fields(&error);
        end("}");
    } else {
        text(vfp_peek_text(peek));
    }
    end("}");
}

static int holders(const vfp_root *root, const uint32_t *groups, size_t group_count) {
    static vfp_holder all[MANY];
    vfp_scan_coverage coverage;
    size_t count = 0, index;
    if (vfp_holders(root, groups, group_count, sizeof all[0], MANY, all, &count, sizeof coverage, &coverage, NULL) != VFP_OK) return -1;
    qsort(all, count, sizeof all[0], by_group_and_pid);
    key("holders");
    open("[");
    for (index = 0; index < count; index++) {
        item("{");
        number("group", all[index].group);
        number("pid", all[index].pid);
        number("start_time", (long long)all[index].start_time);
        number_or_null("started", all[index].started, all[index].started < 0);
        number_or_null("uid", all[index].uid, all[index].uid == VFP_NO_UID);
        text_or_null("command", all[index].command);
        text_or_null("via", vfp_via_text(all[index].via));
        text_or_null("in_pod", vfp_in_pod_text(all[index].in_pod));
        text_or_null("pod_uid", all[index].pod_uid);
        text_or_null("container_id", all[index].container_id);
        end("}");
    }
    end("]");
    key("coverage");
    open("{");
    number("processes", coverage.processes);
    number("unreadable", coverage.unreadable);
    number("unattributed", coverage.unattributed);
    number("unsearched", coverage.unsearched);
    text_or_null("pid_namespace", vfp_pid_namespace_text(coverage.pid_namespace));
    boolean("complete", coverage.complete);
    end("}");
    return 0;
}

static void snapshot(const vfp_root *root) {
    static vfp_watched_group groups[MANY];
    static vfp_holder all[MANY];
    vfp_snapshot *taken = NULL;
    size_t group_count = 0, count = 0, index, holder;
    if (vfp_snapshot_take(root, 0, &taken, NULL) != VFP_OK) exit(2);
    if (vfp_snapshot_groups(taken, sizeof groups[0], MANY, groups, &group_count, NULL) != VFP_OK) exit(2);
    key("snapshot");
    open("[");
    for (index = 0; index < group_count; index++) {
        uint32_t of = groups[index].group;
        if (vfp_snapshot_holders(taken, of, sizeof all[0], MANY, all, &count, 0, NULL, NULL) != VFP_OK) exit(2);
        item("{");
        number("group", of);
        text_or_null("state", vfp_state_text(groups[index].state));
        text_or_null("evidence", vfp_evidence_text(groups[index].evidence));
        key("holders");
        open("[");
        for (holder = 0; holder < count; holder++) {
            item("");
            printf("%u", all[holder].pid);
            comma = ",";
        }
        end("]");
        end("}");
    }
    end("]");
    vfp_snapshot_close(&taken);
}

static int by_text(const void *left, const void *right) { return strcmp(left, right); }

/* The events up to VFP_EVENT_READY, sorted; it is the last. */
static int events(vfp_watch *watch) {
    static char lines[2 * MANY][80];
    vfp_event event;
    size_t count = 0, index;
    for (;;) {
        vfp_status status = vfp_watch_wait(watch, VFP_WAIT_EVENT, VFP_ALL_GROUPS, 20000, NULL);
        if (status == VFP_OK) status = vfp_watch_next(watch, sizeof event, &event, NULL);
        if (status != VFP_OK || count == 2 * MANY) return -1;
        if (event.kind == VFP_EVENT_READY) break;
        if (*event.device) snprintf(lines[count++], sizeof lines[0], "%s %s", vfp_event_text(event.kind), event.device);
        else snprintf(lines[count++], sizeof lines[0], "%s %u", vfp_event_text(event.kind), event.group);
    }
    qsort(lines, count, sizeof lines[0], by_text);
    key("events");
    open("[");
    for (index = 0; index < count; index++) {
        item("");
        text(lines[index]);
        comma = ",";
    }
    item("");
    text("ready");
    end("]");
    boolean("ready", vfp_watch_is_ready(watch));
    return 0;
}

static void wait(vfp_watch *watch, uint32_t of) {
    item("{");
    number("group", of);
    boolean("free", vfp_watch_wait(watch, VFP_WAIT_FREE, of, 0, NULL) == VFP_OK);
    boolean("held", vfp_watch_wait(watch, VFP_WAIT_HELD, of, 0, NULL) == VFP_OK);
    end("}");
}

static const char *node_of_kind(const vfp_device_node *all, size_t count, int32_t kind) {
    for (; count > 0; all++, count--) if (all->kind == kind) return all->path;
    return "";
}

static void nodes(const vfp_root *root, uint32_t of) {
    static vfp_device_node all[MANY];
    vfp_error error;
    size_t count = 0, index;
    item("{");
    number("group", of);
    if (vfp_device_nodes(root, of, sizeof all[0], MANY, all, &count, &error) < 0) {
        key("error");
        open("{");
        error_fields(&error);
        end("}");
    } else {
        text_or_null("container", node_of_kind(all, count, VFP_NODE_CONTAINER));
        text_or_null("node", node_of_kind(all, count, VFP_NODE_GROUP));
        text_or_null("iommufd", node_of_kind(all, count, VFP_NODE_IOMMUFD));
        key("devices");
        open("[");
        for (index = 0; index < count; index++) {
            if (all[index].kind != VFP_NODE_CDEV || !*all[index].path) continue;
            item("[");
            text(all[index].device);
            putchar(',');
            text(all[index].path);
            end("]");
        }
        end("]");
    }
    end("}");
}

static void hardware(const vfp_root *root, const char *address) {
    vfp_hardware read;
    vfp_error error;
    vfp_status status = vfp_hardware_read(root, address, sizeof read, &read, &error);
    if (status == VFP_INVALID) return; /* A mediated device. */
    item("{");
    text_or_null("device", address);
    if (status < 0) {
        key("error");
        open("{");
        error_fields(&error);
        end("}");
    } else {
        text_or_null("presence", vfp_presence_text(read.presence));
        number_or_null("fatal_errors", (long long)read.fatal_errors, read.fatal_errors == VFP_NO_ERROR_COUNT);
    }
    end("}");
}

static int unprobed(const vfp_root *root, const vfp_device *devices, size_t device_count, const uint32_t *groups, size_t group_count) {
    static vfp_watched_group taken_groups[MANY];
    vfp_watch *watch = NULL;
    vfp_snapshot *taken = NULL;
    size_t count = 0, index;
    if (vfp_watch_open(root, 0, NULL, &watch, NULL) < 0) return 2;
    if (vfp_snapshot_take(root, 0, &taken, NULL) != VFP_OK) return 2;
    if (vfp_snapshot_groups(taken, sizeof taken_groups[0], MANY, taken_groups, &count, NULL) != VFP_OK) return 2;
    open("{");
    if (events(watch) < 0) return 2;
    key("waits");
    open("[");
    for (index = 0; index < group_count; index++) wait(watch, groups[index]);
    end("]");
    key("snapshot");
    open("[");
    for (index = 0; index < count; index++) {
        item("");
        printf("%u", taken_groups[index].group);
        comma = ",";
    }
    end("]");
    key("nodes");
    open("[");
    for (index = 0; index < group_count; index++) nodes(root, groups[index]);
    end("]");
    key("hardware");
    open("[");
    for (index = 0; index < device_count; index++) hardware(root, devices[index].id);
    end("]");
    puts("}");
    vfp_snapshot_close(&taken);
    vfp_watch_close(&watch);
    return 0;
}

/* Shows each byte that is not printable ASCII as %FF. */
static void path_or_null(const char *path) {
    key("path");
    if (!*path) {
        printf("null");
        return;
    }
    putchar('"');
    for (; *path; path++) {
        if (*path == '"' || *path == '\\') putchar('\\');
        if (*path < ' ' || *path > '~') printf("%%%02X", (unsigned char)*path);
        else putchar(*path);
    }
    putchar('"');
}

static void result(const char *value) {
    item("{");
    text_or_null("result", value);
    end("}");
}

/* Returns the state of a probe, and why it is not known. */
static const char *state_of(const vfp_occupancy *occupancy) {
    static char shown[80];
    if (occupancy->state != VFP_STATE_UNKNOWN) return vfp_state_text(occupancy->state);
    if (occupancy->unknown_reason == VFP_UNKNOWN_ERRNO) snprintf(shown, sizeof shown, "unknown, errno %d", occupancy->os_errno);
    else snprintf(shown, sizeof shown, "unknown, %s", vfp_unknown_reason_text(occupancy->unknown_reason));
    return shown;
}

static vfp_status error_of_scan(const vfp_root *root, const char *id, vfp_error *error) {
    static vfp_device all[MANY];
    size_t count = 0, index;
    vfp_status status = vfp_scan(root, VFP_ARRAY(all), &count, error);
    for (index = 0; status == VFP_OK && index < count; index++) {
        if (all[index].status == VFP_OK || strcmp(all[index].id, id) != 0) continue;
        error->status = all[index].status, error->os_errno = all[index].os_errno, error->group = VFP_NO_GROUP;
        snprintf(error->device, sizeof error->device, "%s", id);
        snprintf(error->text, sizeof error->text, "%s", all[index].error_text);
        snprintf(error->path, sizeof error->path, "%s", all[index].error_path);
        return error->status;
    }
    return status;
}

/* Makes a call and reports its result or its error; null if C has no such call. */
static void bad_input(const char *path, const char *call, const char *argument) {
    static vfp_device device_record;
    static vfp_device_node all_nodes[MANY];
    static vfp_holder all_holders[MANY];
    static vfp_error error;
    const char *shown = "";
    char words[80];
    vfp_root *root = NULL;
    vfp_watch *watch = NULL;
    vfp_group group_record;
    vfp_watched_group watched;
    vfp_occupancy occupancy;
    vfp_hardware hardware_record;
    vfp_pci_id model = {0x10de, 0x2330};
    vfp_name name;
    vfp_status status;
    size_t count = 0;
    int32_t peek = 0;
    uint32_t of = (uint32_t)strtoul(argument, NULL, 10);
    if (vfp_root_open(path, &root, NULL) != VFP_OK) exit(2);
    if (!strcmp(call, "open")) {
        vfp_root *opened = NULL;
        status = vfp_root_open(argument, &opened, &error);
        vfp_root_close(&opened);
    } else if (!strcmp(call, "names")) {
        status = vfp_names(argument, &model, 1, VFP_RECORD(name), &error);
    } else if (!strcmp(call, "device")) {
        status = vfp_device_read(root, argument, VFP_RECORD(device_record), &error);
    } else if (!strcmp(call, "hardware")) {
        status = vfp_hardware_read(root, argument, VFP_RECORD(hardware_record), &error);
    } else if (!strcmp(call, "scan")) {
        status = error_of_scan(root, argument, &error);
    } else if (!strcmp(call, "group")) {
        status = vfp_group_read(root, of, VFP_RECORD(group_record), &error);
    } else if (!strcmp(call, "members")) {
        status = vfp_members(root, of, sizeof(vfp_member), 0, NULL, &count, &error);
    } else if (!strcmp(call, "peek")) {
        status = vfp_peek(root, of, &peek, &error);
        shown = vfp_peek_text(peek);
    } else if (!strcmp(call, "probe")) {
        status = vfp_probe(root, of, VFP_RECORD(occupancy), &error);
        if (status == VFP_OK) shown = state_of(&occupancy);
    } else if (!strcmp(call, "nodes")) {
        status = vfp_device_nodes(root, of, VFP_ARRAY(all_nodes), &count, &error);
        snprintf(words, sizeof words, "group node %s", status == VFP_OK ? node_of_kind(all_nodes, count, VFP_NODE_GROUP) : "");
        if (status == VFP_OK && !*node_of_kind(all_nodes, count, VFP_NODE_GROUP)) strcat(words, "none");
        shown = words;
    } else if (!strcmp(call, "holders")) {
        status = vfp_holders(root, &of, 1, VFP_ARRAY(all_holders), &count, 0, NULL, &error);
    } else if (!strcmp(call, "watch_group")) {
        if (vfp_watch_open(root, 0, NULL, &watch, NULL) != VFP_OK) exit(2);
        if (vfp_watch_wait(watch, VFP_WAIT_EVENT, VFP_ALL_GROUPS, 20000, NULL) != VFP_OK) exit(2);
        status = vfp_watch_group(watch, of, VFP_RECORD(watched), &error);
    } else if (!strcmp(call, "wait_free")) {
        if (vfp_watch_open(root, 0, NULL, &watch, NULL) != VFP_OK) exit(2);
        status = vfp_watch_wait(watch, VFP_WAIT_FREE, of, 0, &error);
        shown = status == VFP_OK ? "true" : "false";
    } else if (!strcmp(call, "closed_root")) {
        vfp_root_close(&root);
        status = vfp_peek(root, 51, &peek, &error);
    } else if (!strcmp(call, "closed_watch")) {
        status = vfp_watch_devices(watch, sizeof device_record, 0, NULL, &count, &error);
    } else if (!strcmp(call, "swapped")) {
        status = vfp_scan(root, MANY, sizeof device_record, &device_record, &count, &error);
    } else {
        item("null");
        comma = ",";
        vfp_root_close(&root);
        return;
    }
    if (status >= 0) {
        result(shown);
    } else {
        item("{");
        text_or_null("type", vfp_status_text(status));
        error_fields(&error);
        path_or_null(error.path);
        end("}");
    }
    vfp_watch_close(&watch);
    vfp_root_close(&root);
}

static int bad_inputs(int argc, char **argv) {
    int index;
    open("[");
    for (index = 3; index + 1 < argc; index += 2) bad_input(argv[1], argv[index], argv[index + 1]);
    puts("]");
    return 0;
}

int main(int argc, char **argv) {
    static vfp_device devices[MANY], unreadable[MANY];
    static uint32_t groups[MANY];
    vfp_root *root = NULL;
    vfp_error error;
    size_t count = 0, index, readable = 0, unreadable_count = 0, group_count = 0;
    int32_t has_nodes = 0;
    if (argc > 3 && !strcmp(argv[2], "errors")) return bad_inputs(argc, argv);
    if (argc != 2 && argc != 3) return 64;
    if (vfp_root_open(argv[1], &root, &error) < 0) return fails(&error);
    if (vfp_scan(root, sizeof devices[0], MANY, devices, &count, &error) < 0) return fails(&error);
    if (count > MANY) return 2;
    for (index = 0; index < count; index++) {
        if (devices[index].status != VFP_OK) unreadable[unreadable_count++] = devices[index];
        else devices[readable++] = devices[index];
    }
    qsort(devices, readable, sizeof devices[0], by_id);
    qsort(unreadable, unreadable_count, sizeof unreadable[0], by_error_text);
    for (index = 0; index < readable; index++) {
        if (devices[index].group != VFP_NO_GROUP) groups[group_count++] = devices[index].group;
    }
    qsort(groups, group_count, sizeof groups[0], by_number);
    count = 0;
    for (index = 0; index < group_count; index++) {
        if (count == 0 || groups[count - 1] != groups[index]) groups[count++] = groups[index];
    }
    if (argc == 3) return unprobed(root, devices, readable, groups, count);
    if (vfp_has_group_nodes(root, &has_nodes, &error) < 0) return fails(&error);
    open("{");
    boolean("group_nodes", has_nodes);
    key("devices");
    open("[");
    for (index = 0; index < readable; index++) device(&devices[index]);
    end("]");
    key("errors");
    open("[");
    for (index = 0; index < unreadable_count; index++) error_item(&unreadable[index]);
    end("]");
    key("groups");
    open("[");
    for (index = 0; index < count; index++) group(root, groups[index]);
    end("]");
    if (holders(root, groups, count) < 0) return 2;
    snapshot(root);
    puts("}");
    vfp_root_close(&root);
    return 0;
}
