/*
 * vfio-probe: reports which VFIO devices of this host are free and which processes hold the
 * others.
 *
 * Generated from ffi/vfio_probe.h.in and ffi/src/capi; do not edit.
 *
 * EXAMPLE
 *
 *     #include <stdio.h>
 *     #include <vfio_probe.h>
 *
 *     int main(int argc, char *argv[]) {
 *         static vfp_device devices[256];
 *         vfp_root *root = NULL;
 *         vfp_snapshot *snapshot = NULL;
 *         vfp_error error;
 *         size_t count = 0, index;
 *         if (vfp_root_open(argc > 1 ? argv[1] : "/", &root, &error) < 0 ||
 *             vfp_snapshot_take(root, 0, &snapshot, &error) < 0 ||
 *             vfp_snapshot_devices(snapshot, VFP_ARRAY(devices), &count, &error) < 0) {
 *             fprintf(stderr, "%s\n", error.text);
 *             return 1;
 *         }
 *         for (index = 0; index < count && index < 256; index++) {
 *             vfp_watched_group group;
 *             if (vfp_snapshot_group(snapshot, devices[index].group, VFP_RECORD(group), NULL) < 0)
 *                 continue;
 *             printf("%s %s\n", devices[index].id, vfp_state_text(group.state));
 *         }
 *         vfp_snapshot_close(&snapshot);
 *         vfp_root_close(&root);
 *         return 0;
 *     }
 *
 * CONVENTIONS
 *
 * Results. A function that can fail returns a vfp_status: 0 or greater on success, negative on
 * failure. Results are written through the out_* parameters, which come last. A failed call writes
 * *out_error and no other result; records of an array may have been filled before the failure.
 * out_error may be NULL.
 *
 * Handles. Only handles are closed, with vfp_root_close(), vfp_snapshot_close() and
 * vfp_watch_close(). They take the address of your variable and set it to NULL. The library keeps
 * no pointer of the caller after a call. Returned texts are static.
 *
 * Texts. Arguments are NUL-terminated; a path may contain any other byte. Texts in records are
 * NUL-terminated ASCII, truncated to the field. Error messages and names from pci.ids are UTF-8
 * without control characters.
 *
 * Records. Every record or array is passed with the size of one record. VFP_RECORD(record) passes
 * the size and the address of a variable, VFP_ARRAY(array) the size of an element, the number of
 * elements and the array. Records only grow at their end. A program built with an older header
 * receives the fields that it knows. A program built with a newer header receives 0 in the fields
 * that an older library does not know. An unknown value is 0, -1, VFP_NO_GROUP, VFP_NO_UID or "",
 * as the comment of the field says.
 *
 * Arrays. capacity counts records. At most that many are written, and *out_count is set to the
 * number of records that exist. If they do not fit, the call returns VFP_TRUNCATED, which is not a
 * failure. To count only, pass 0 and NULL.
 *
 * Groups. A group is the number of an IOMMU group. VFP_NO_GROUP stands in records about no group.
 * As an argument it is invalid. VFP_ALL_GROUPS is an argument where the function's comment says so.
 *
 * Invalid arguments. A call returns VFP_INVALID for NULL where a value is required, a text that is
 * not an id, VFP_NO_GROUP as a group, and a capacity beyond the address space. It also returns
 * VFP_INVALID for a size that no version of the header had, up to 4096: a size below the record's
 * that is no earlier size of it, one that is not a multiple of the record's alignment, and any such
 * size together with a capacity that is the record's size, because the two were swapped. The error
 * message starts with the name of the argument. A closed handle is NULL, so it is VFP_INVALID too.
 * Do not use a copy of a handle after the handle was closed. If the library panics because of a
 * bug, the call returns VFP_PANIC, and stderr shows the place.
 *
 * Threads. Any thread may call any function at any time, also several threads with one handle. Only
 * the close of a handle requires that no other call uses it. Probes with a timeout, also those of a
 * snapshot or a watch, start helper threads, at most four per root, and a watch searches for
 * holders on a thread of its own; none delays the exit of the process. After a fork without exec
 * the child must not use handles of its parent.
 *
 * Blocking. Calls read sysfs and proc, which takes microseconds to milliseconds. Only
 * vfp_watch_wait() waits for something to happen. While the kernel resets a device, vfp_probe()
 * waits for it without a limit and vfp_hardware_read() for up to a minute. The library neither
 * handles nor masks signals.
 *
 * Privileges. Scans, peeks, snapshots without probes and watches without VFP_WATCH_PROBE need no
 * privilege and open no device. A probe needs write access to /dev/vfio/<group>. Holders of other
 * users need CAP_SYS_PTRACE.
 */

#ifndef VFIO_PROBE_H
#define VFIO_PROBE_H

#include <stddef.h>
#include <stdint.h>

/* The version of this header. vfp_version() returns that of the library. */
#define VFP_VERSION_MAJOR 0
#define VFP_VERSION_MINOR 1
#define VFP_VERSION_PATCH 0
#define VFP_VERSION_STRING "0.1.0"

/*
 * Pass a record or an array with its size. The argument is a variable, not a pointer:
 *
 *     vfp_group_read(root, 51, VFP_RECORD(group), &error)
 *     vfp_scan(root, VFP_ARRAY(devices), &count, &error)
 */
#define VFP_RECORD(record) sizeof(record), &(record)
#define VFP_ARRAY(array) sizeof(array)[0], sizeof(array) / sizeof(array)[0], (array)

#ifdef __cplusplus
extern "C" {
#endif

/* ==== Status and errors ==== */

/*
 * The result of a function: 0 or greater on success, negative on failure; out_error then
 * describes the failure. A newer library may return values that this header does not name:
 * evaluate those by their sign.
 */
typedef int32_t vfp_status;

/* The call succeeded. */
#define VFP_OK 0

/*
 * The call succeeded, but the array is too small: *out_count is the number of records that
 * exist.
 */
#define VFP_TRUNCATED 1

/* There is no event at present (vfp_watch_next()). */
#define VFP_NO_EVENT 2

/* The time was up before the condition was true (vfp_watch_wait()). */
#define VFP_TIMED_OUT 3

/*
 * An argument is invalid: NULL, a size of 0, a text that is not an id. The error text names the
 * argument.
 */
#define VFP_INVALID (-1)

/* The device, group, file or directory does not exist (ENOENT, ENODEV, ENXIO). */
#define VFP_MISSING (-2)

/* The kernel denied the access (EACCES, EPERM). */
#define VFP_DENIED (-3)

/* The content of a file is not in the format that the kernel writes. */
#define VFP_MALFORMED (-4)

/* A text exceeds the kernel's limit for it (E2BIG, ENAMETOOLONG). */
#define VFP_TOO_LONG (-5)

/* A system call failed with any other errno. */
#define VFP_SYSTEM (-6)

/* The library panicked because of a bug. The panic was caught; please report it. */
#define VFP_PANIC (-7)

/* The call uses an option or flag that only a newer library supports. */
#define VFP_UNSUPPORTED (-8)

/*
 * No group: in the record of a device without an IOMMU, an error without a group, an event about
 * a device. As an argument it is invalid in every call.
 */
#define VFP_NO_GROUP UINT32_MAX

/*
 * All groups: an argument of vfp_snapshot_holders(), and of vfp_watch_wait() for
 * VFP_WAIT_EVENT. No group has this number: the kernel's numbers end at INT_MAX.
 */
#define VFP_ALL_GROUPS 4294967294

/*
 * The description of a failure. This record never grows, so it is passed without a size. It is
 * written on failure only, and a text in it only up to its NUL; out_error may be NULL.
 */
typedef struct vfp_error {
  /* The status that the function returned. */
  vfp_status status;
  /* The kernel's errno, or 0 if no system call failed. */
  int32_t os_errno;
  /* The group concerned, or VFP_NO_GROUP. */
  uint32_t group;
  /* Always 0. */
  uint32_t reserved;
  /* The device concerned, or "". */
  char device[40];
  /*
   * Error message for people: one line of UTF-8 without control characters. A path in it is
   * whole.
   */
  char text[4552];
  /*
   * The file or directory concerned, or "". A path that the caller passed is as it was, also if
   * it is not UTF-8. Any other is relative to the root, as in
   * sys/bus/pci/devices/0000:3b:00.0/numa_node. Truncated to the field.
   */
  char path[4096];
} vfp_error;

/* ==== Root ==== */

/*
 * A directory that contains sys, dev and proc: /, a host's root file system mounted into a
 * container, or a test tree. Any number of threads may use a root at the same time.
 */
typedef struct vfp_root vfp_root;

/*
 * Opens a root; NULL as path means /. Close it with vfp_root_close(). Watches of the root
 * outlive it.
 *
 * Returns VFP_MISSING, VFP_DENIED, VFP_TOO_LONG or VFP_SYSTEM (ENOTDIR and others) if the
 * directory cannot be opened. Does not block.
 */
vfp_status vfp_root_open(const char *path, vfp_root **out_root, vfp_error *out_error);

/*
 * Closes a root and sets *root to NULL: a second close has no effect, and a later use returns
 * VFP_INVALID. No other thread may be in a call with the root. Does not wait for an outstanding
 * probe that hangs in the kernel.
 */
void vfp_root_close(vfp_root **root);

/* ==== Devices ==== */

/* A PCI function bound to a driver built on vfio-pci-core. */
#define VFP_KIND_PCI 0

/* A mediated device. */
#define VFP_KIND_MDEV 1

/* A virtual function with a vendor driver (nvidia) that is itself a VFIO driver. */
#define VFP_KIND_VENDOR_VF 2

/* The function has no SR-IOV role. */
#define VFP_SRIOV_NONE 0

/* A physical function with enabled virtual functions. */
#define VFP_SRIOV_PHYSICAL 1

/* A virtual function. */
#define VFP_SRIOV_VIRTUAL 2

/* A device that is bound to a VFIO driver. */
typedef struct vfp_device {
  /*
   * PCI address (0000:3b:00.0) or mdev UUID; "" for an unreadable entry without a valid
   * name.
   */
  char id[40];
  /*
   * VFP_OK, or the reason why this device could not be read. In that case only id,
   * os_errno, error_text and error_path are set. An unreadable device does not affect the
   * other records.
   */
  vfp_status status;
  /* The kernel's errno if the device could not be read, else 0. */
  int32_t os_errno;
  /*
   * PCI vendor id. For a mediated device: that of its parent, or 0 if the parent is not a PCI
   * function.
   */
  uint16_t vendor;
  /* PCI device id. For a mediated device: that of its parent. */
  uint16_t device;
  /* PCI subsystem vendor id, 0 for none. */
  uint16_t subsystem_vendor;
  /* PCI subsystem id, 0 for none. */
  uint16_t subsystem_device;
  /* PCI class code, 24 bits; 0x030200 is a 3D controller. */
  uint32_t class_code;
  /* IOMMU group, or VFP_NO_GROUP without an IOMMU. */
  uint32_t group;
  /* NUMA node, or -1 if the kernel does not know it. */
  int32_t numa_node;
  /*
   * N of the device's character device /dev/vfio/devices/vfioN, or -1 for none (kernels before
   * 6.1).
   */
  int32_t cdev;
  /* A VFP_KIND_* value. */
  int32_t kind;
  /* A VFP_SRIOV_* value. */
  int32_t sriov;
  /* Number of enabled virtual functions of a physical function, else 0. */
  uint32_t vfs;
  /* Driver name; "" while the kernel unbinds the device. */
  char driver[40];
  /*
   * The mdev type (nvidia-35) or the vGPU type number of a vendor's virtual function, else
   * "".
   */
  char vgpu_type[72];
  /* PCI address of the parent of a mediated device or virtual function, else "". */
  char parent[24];
  /* Error message if the device could not be read, else "". */
  char error_text[320];
  /* As path of vfp_error, if the device could not be read, else "". */
  char error_path[320];
} vfp_device;

/*
 * Lists all devices that are bound to a VFIO driver, in no particular order. Writes the first
 * capacity records and sets *out_count to the number of devices.
 *
 * Opens no device and needs no privilege. Reads sysfs: about 10 system calls per device. Fails
 * if the bound devices cannot be listed. A device that cannot be read is a record with a
 * negative status. On VFP_TRUNCATED call again with room for *out_count records; the number
 * may have grown in the meantime.
 */
vfp_status vfp_scan(const vfp_root *root,
                    size_t size,
                    size_t capacity,
                    vfp_device *out_devices,
                    size_t *out_count,
                    vfp_error *out_error);

/*
 * Reads one device by its id, bound to a VFIO driver or not. cdev is -1: only vfp_scan() sets
 * it.
 *
 * Returns VFP_INVALID if id is neither a PCI address nor a UUID, VFP_MISSING if there is no
 * such device, and VFP_DENIED or VFP_SYSTEM if sysfs cannot be read. Opens no device and needs
 * no privilege.
 */
vfp_status vfp_device_read(const vfp_root *root,
                           const char *id,
                           size_t size,
                           vfp_device *out_device,
                           vfp_error *out_error);

/* ==== Groups ==== */

/* An IOMMU group as sysfs describes it. */
typedef struct vfp_group {
  /* Group number. */
  uint32_t group;
  /* Number of members that could be read. */
  uint32_t members;
  /* Number of members that could not be read. viable is computed without them. */
  uint32_t unreadable;
  /*
   * 1 if VFIO can use the group (VFIO_GROUP_FLAGS_VIABLE), else 0. The group can be opened in
   * both cases.
   */
  int32_t viable;
  /* First member with a driver that makes the group not viable, else "". */
  char offender[72];
  /* Driver of offender, else "". */
  char offender_driver[40];
  /*
   * Number of members that make the group not viable. vfp_members() lists them: offends is
   * 1.
   */
  uint32_t offenders;
} vfp_group;

/* A member of a group: a PCI function, a mediated device, or a device of another bus. */
typedef struct vfp_member {
  /* Name in the group's devices directory: a PCI address, an mdev UUID, ... */
  char name[72];
  /*
   * VFP_OK, or the reason why the member could not be read. In that case only name,
   * os_errno, error_text and error_path are set.
   */
  vfp_status status;
  /* The kernel's errno if the member could not be read, else 0. */
  int32_t os_errno;
  /* 1 if driver is a VFIO driver, else 0. */
  int32_t vfio;
  /* Driver name, or "" for none. */
  char driver[40];
  /* Error message if the member could not be read, else "". */
  char error_text[320];
  /* As path of vfp_error, if the member could not be read, else "". */
  char error_path[320];
  /* 1 if the member makes the group not viable, else 0. */
  int32_t offends;
} vfp_member;

/*
 * Reads a group: the number of its members and whether VFIO can use it. Opens no device and
 * needs no privilege.
 *
 * Returns VFP_MISSING if there is no such group.
 */
vfp_status vfp_group_read(const vfp_root *root,
                          uint32_t group,
                          size_t size,
                          vfp_group *out_group,
                          vfp_error *out_error);

/*
 * Lists the members of a group, in no particular order. Writes the first capacity records and
 * sets *out_count to the number of members. Opens no device and needs no privilege.
 *
 * Returns VFP_MISSING if there is no such group, and VFP_TRUNCATED as vfp_scan() does.
 */
vfp_status vfp_members(const vfp_root *root,
                       uint32_t group,
                       size_t size,
                       size_t capacity,
                       vfp_member *out_members,
                       size_t *out_count,
                       vfp_error *out_error);

/* ==== Peek and probe ==== */

/*
 * No function of the group is enabled. A process that has the group open but no device of it is
 * not visible to a peek.
 */
#define VFP_PEEK_LOOKS_FREE 0

/*
 * A function of the group is enabled: a process has the device open, or the enable count is
 * left over from a previous driver.
 */
#define VFP_PEEK_LOOKS_HELD 1

/* The watch has not peeked at the group yet; only in vfp_watched_group. */
#define VFP_PEEK_NONE (-1)

/* The group has no enable count: mediated devices and vendor virtual functions. */
#define VFP_PEEK_UNAVAILABLE 2

/* The state is unknown: neither free nor held. unknown_reason says why. */
#define VFP_STATE_UNKNOWN 0

/* No process has the group open. */
#define VFP_STATE_FREE 1

/*
 * A process has the group or a device of it open. A probe reports this for EBUSY only. A watch
 * also reports it for an enable count above its baseline (VFP_EVIDENCE_ENABLE).
 */
#define VFP_STATE_HELD 2

/* The group has no device node, or no device behind the node (ENOENT, ENXIO, ENODEV). */
#define VFP_STATE_ABSENT 3

/* The state is not VFP_STATE_UNKNOWN. */
#define VFP_UNKNOWN_NONE 0

/*
 * The kernel denied the open: EPERM from the device cgroup, EACCES from the file mode. The group
 * may be free or held.
 */
#define VFP_UNKNOWN_DENIED 1

/* The open did not return before the deadline. */
#define VFP_UNKNOWN_TIMED_OUT 2

/* The open failed with another errno, which os_errno holds. */
#define VFP_UNKNOWN_ERRNO 3

/* The watch has not probed the group yet, or the snapshot does not probe. */
#define VFP_UNKNOWN_NOT_PROBED 4

/* The occupancy of a group: the result of a probe. */
typedef struct vfp_occupancy {
  /* A VFP_STATE_* value. */
  int32_t state;
  /* A VFP_UNKNOWN_* value: the reason for VFP_STATE_UNKNOWN, else VFP_UNKNOWN_NONE. */
  int32_t unknown_reason;
  /* The errno for VFP_UNKNOWN_ERRNO, else 0. */
  int32_t os_errno;
  /* Always 0. */
  int32_t reserved;
} vfp_occupancy;

/*
 * Sets *out_has_nodes to 1 if the kernel has device nodes for groups, and to 0 if it was built
 * without CONFIG_VFIO_GROUP. Without group nodes every probe returns VFP_STATE_ABSENT; use a
 * peek instead. Opens no device.
 */
vfp_status vfp_has_group_nodes(const vfp_root *root,
                               int32_t *out_has_nodes,
                               vfp_error *out_error);

/*
 * Peeks at a group: reads the sysfs attribute enable of its functions. Opens no device, needs
 * no device node and no privilege, and disturbs no other process. A single peek has no baseline,
 * so a count that is left over from before the bind looks held. A watch keeps baselines.
 *
 * Returns VFP_MISSING if there is no such group.
 */
vfp_status vfp_peek(const vfp_root *root,
                    uint32_t group,
                    int32_t *out_peek,
                    vfp_error *out_error);

/*
 * Probes a group: opens its device node and closes it at once. While a probe has a free group
 * open, the open of another process fails with EBUSY: do not probe a free group in a loop, and
 * do not probe a group that a VM may be about to open. A probe of a held group does not disturb
 * the holder.
 *
 * Blocks for seconds while the kernel resets a device of the group; vfp_probe_within() has a
 * deadline. The call returns VFP_OK with a state for every result of the open. It fails only for
 * invalid arguments.
 */
vfp_status vfp_probe(const vfp_root *root,
                     uint32_t group,
                     size_t size,
                     vfp_occupancy *out_occupancy,
                     vfp_error *out_error);

/*
 * Probes a group on a helper thread and waits at most timeout_ms milliseconds. Without a
 * result by then the state is VFP_STATE_UNKNOWN with VFP_UNKNOWN_TIMED_OUT. A root has at most
 * one outstanding probe per group and four in all. If the group already has an outstanding
 * probe, of another caller or one that hangs, the call times out at once.
 *
 * After VFP_UNKNOWN_TIMED_OUT a probe that has started continues and may open the group for a
 * moment later, even after the root was closed. A probe that has not started is dropped. A
 * timeout_ms of 0 usually times out.
 */
vfp_status vfp_probe_within(const vfp_root *root,
                            uint32_t group,
                            uint32_t timeout_ms,
                            size_t size,
                            vfp_occupancy *out_occupancy,
                            vfp_error *out_error);

/* ==== Holders ==== */

/* A descriptor of the group's device node, /dev/vfio/N. */
#define VFP_VIA_GROUP 0

/* A device descriptor obtained from the group (VFIO_GROUP_GET_DEVICE_FD). */
#define VFP_VIA_DEVICE 1

/* A descriptor of the device's own character device, /dev/vfio/devices/vfioN. */
#define VFP_VIA_CDEV 2

/*
 * It is unknown whether the process is in a pod: it is in the sandbox of a container runtime and
 * its cgroup names no pod, as a VM of Kata, or its cgroup cannot be read. It never shows that a
 * pod has ended.
 */
#define VFP_IN_POD_UNKNOWN 0

/* The process is in no pod. */
#define VFP_IN_POD_NO 1

/* The process is in the pod pod_uid. */
#define VFP_IN_POD_YES 2

/* proc does not show its pid namespace, or hides the processes of other users. */
#define VFP_PID_NAMESPACE_UNKNOWN 0

/* proc shows the host's pid namespace, which contains every process. */
#define VFP_PID_NAMESPACE_HOST 1

/* proc shows another pid namespace, as in a container. Processes outside of it are invisible. */
#define VFP_PID_NAMESPACE_FOREIGN 2

/* The user of a process is unknown. */
#define VFP_NO_UID UINT32_MAX

/* A process that has a group or a device of it open. */
typedef struct vfp_holder {
  /*
   * Start time in clock ticks after boot (proc(5), stat field 22). Together with pid it
   * identifies the process until the next boot.
   */
  uint64_t start_time;
  /*
   * The same as seconds since 1970 by the wall clock, or -1. It follows corrections of the
   * clock, as ps(1) does.
   */
  int64_t started;
  /* The held group. */
  uint32_t group;
  /* Process id in the pid namespace of the root's proc. */
  uint32_t pid;
  /* Effective user id in the user namespace of this process, or VFP_NO_UID. */
  uint32_t uid;
  /* A VFP_VIA_* value: the kind of descriptor. */
  int32_t via;
  /* A VFP_IN_POD_* value. */
  int32_t in_pod;
  /* Always 0. */
  uint32_t reserved;
  /*
   * Command name (/proc/PID/comm), at most 15 characters. The process can change it.
   * Characters other than printable ASCII are replaced by ?.
   */
  char command[24];
  /* UID of the pod in the name of the process's cgroup for VFP_IN_POD_YES, else "". */
  char pod_uid[40];
  /* Container id in the name of the process's cgroup, 64 hex digits, else "". */
  char container_id[72];
} vfp_holder;

/*
 * The coverage of a scan for holders. The list of holders may be incomplete unless complete is
 * 1.
 */
typedef struct vfp_scan_coverage {
  /* Number of processes in proc. */
  uint32_t processes;
  /*
   * Number of these processes with descriptors that could not be read. Processes of other
   * users need CAP_SYS_PTRACE.
   */
  uint32_t unreadable;
  /*
   * Number of open VFIO device descriptors for which the kernel does not report the device
   * (kernels before 6.18).
   */
  uint32_t unattributed;
  /*
   * Number of processes that were not searched, because the budget of the scan ended. 0 for
   * vfp_holders().
   */
  uint32_t unsearched;
  /* A VFP_PID_NAMESPACE_* value: the pid namespace that was scanned. */
  int32_t pid_namespace;
  /* 1 if an empty list of holders means that no process holds the group, else 0. */
  int32_t complete;
} vfp_scan_coverage;

/*
 * Finds the processes that hold any of the groups. Writes the first capacity records and sets
 * *out_count to the number of records; a process that holds two groups has two. out_coverage
 * receives the coverage of the scan and may be NULL.
 *
 * Reads /proc of all processes, which takes milliseconds on a busy host: pass all groups in one
 * call, and call when something changed. Opens no device. Processes of other users need
 * CAP_SYS_PTRACE. Fails if proc cannot be listed. Returns VFP_TRUNCATED as vfp_scan() does.
 */
vfp_status vfp_holders(const vfp_root *root,
                       const uint32_t *groups,
                       size_t group_count,
                       size_t size,
                       size_t capacity,
                       vfp_holder *out_holders,
                       size_t *out_count,
                       size_t coverage_size,
                       vfp_scan_coverage *out_coverage,
                       vfp_error *out_error);

/* ==== State of a group, in snapshots and watches ==== */

/* There is no evidence yet. */
#define VFP_EVIDENCE_NONE 0

/* A probe: an open of the group's device node. */
#define VFP_EVIDENCE_OPEN 1

/* A peek: the enable counts of the group's functions. */
#define VFP_EVIDENCE_ENABLE 2

/* The presence or absence of the device node. */
#define VFP_EVIDENCE_NODE 3

/* A process in /proc that has the group or a device of it open. */
#define VFP_EVIDENCE_HOLDER 4

/* The state of a group as a watch knows it, or as a snapshot contains it. */
typedef struct vfp_watched_group {
  /* Time since the group entered this state, in milliseconds. 0 in a snapshot. */
  uint64_t state_age_ms;
  /* Group number. */
  uint32_t group;
  /* A VFP_STATE_* value. */
  int32_t state;
  /* A VFP_UNKNOWN_* value: the reason for VFP_STATE_UNKNOWN, else VFP_UNKNOWN_NONE. */
  int32_t unknown_reason;
  /* The errno for VFP_UNKNOWN_ERRNO, else 0. */
  int32_t os_errno;
  /* A VFP_EVIDENCE_* value: the observation that the state is based on. */
  int32_t evidence;
  /* A VFP_PEEK_* value: the latest peek, or VFP_PEEK_NONE before the first. */
  int32_t peek;
  /* Number of members of the group, bound to a VFIO driver or not. */
  uint32_t members;
  /* 1 if VFIO can use the group, else 0. */
  int32_t viable;
  /* First member with a driver that makes the group not viable, else "". */
  char offender[72];
  /* Driver of offender, else "". */
  char offender_driver[40];
  /*
   * Number of members that make the group not viable. vfp_members() lists them: offends is
   * 1.
   */
  uint32_t offenders;
  /* Always 0. */
  uint32_t reserved;
} vfp_watched_group;

/* ==== Snapshot ==== */

/*
 * All bound devices at one moment, with their groups and holders. It never changes. Its
 * functions may be called from any thread and read nothing of the host.
 */
typedef struct vfp_snapshot vfp_snapshot;

/*
 * Reads all bound devices with their groups and the holders of these. Close the snapshot with
 * vfp_snapshot_close(). The root may be closed earlier.
 *
 * A probe_timeout_ms of 0 opens no device: a process in proc that has a group open shows
 * that it is held (VFP_EVIDENCE_HOLDER), and otherwise a peek decides (VFP_EVIDENCE_ENABLE).
 * Another value probes each group too, as vfp_probe_within() does with that timeout, after the
 * scan for holders. Reads /proc of all processes, which takes milliseconds on a busy host. Fails
 * if the bound devices cannot be listed.
 */
vfp_status vfp_snapshot_take(const vfp_root *root,
                             uint32_t probe_timeout_ms,
                             vfp_snapshot **out_snapshot,
                             vfp_error *out_error);

/* Closes a snapshot and sets *snapshot to NULL, as vfp_root_close() does. */
void vfp_snapshot_close(vfp_snapshot **snapshot);

/*
 * Lists the devices of a snapshot, ordered by id, as vfp_scan() does. What could not be read
 * follows them, as records with a negative status: also a member of a group, or proc, with
 * an id of "".
 */
vfp_status vfp_snapshot_devices(const vfp_snapshot *snapshot,
                                size_t size,
                                size_t capacity,
                                vfp_device *out_devices,
                                size_t *out_count,
                                vfp_error *out_error);

/*
 * Lists the groups of a snapshot, ordered by number, as vfp_watch_groups() does. state_age_ms
 * is 0.
 */
vfp_status vfp_snapshot_groups(const vfp_snapshot *snapshot,
                               size_t size,
                               size_t capacity,
                               vfp_watched_group *out_groups,
                               size_t *out_count,
                               vfp_error *out_error);

/*
 * Returns the state of one group of a snapshot, as vfp_snapshot_groups() does. Returns
 * VFP_MISSING if the snapshot has no such group: it has no bound device.
 */
vfp_status vfp_snapshot_group(const vfp_snapshot *snapshot,
                              uint32_t group,
                              size_t size,
                              vfp_watched_group *out_group,
                              vfp_error *out_error);

/*
 * Lists the holders of a group of a snapshot, ordered by pid, as vfp_holders() does;
 * VFP_ALL_GROUPS as group means those of all groups. out_coverage receives the coverage of the
 * scan and may be NULL. Lists none for a group that the snapshot does not contain.
 */
vfp_status vfp_snapshot_holders(const vfp_snapshot *snapshot,
                                uint32_t group,
                                size_t size,
                                size_t capacity,
                                vfp_holder *out_holders,
                                size_t *out_count,
                                size_t coverage_size,
                                vfp_scan_coverage *out_coverage,
                                vfp_error *out_error);

/* ==== Watch ==== */

/* A device was bound to a VFIO driver, or the watch found a bound device for the first time. */
#define VFP_EVENT_BOUND 1

/* A device is no longer bound to a VFIO driver. */
#define VFP_EVENT_UNBOUND 2

/* A group became held. */
#define VFP_EVENT_HELD 3

/* A group became free, or the watch found it free. */
#define VFP_EVENT_FREED 4

/*
 * The device node, the members or the holders of a group changed, or the watch found the group
 * neither free nor held.
 */
#define VFP_EVENT_CHANGED 5

/*
 * Events were lost: the kernel dropped some, or more than 1024 were queued during a wait. The
 * watch is up to date; read its state.
 */
#define VFP_EVENT_RESCAN 6

/*
 * The watch has read everything once. Comes once, after the events of the devices and groups
 * that it found; without an event before it, no device is bound.
 */
#define VFP_EVENT_READY 7

/*
 * The watch may probe groups: each group once at discovery, later only where a peek is not
 * conclusive. A VM that opens a free group during a probe gets EBUSY: pass groups that VMs may
 * be about to open to vfp_watch_set_assigned().
 */
#define VFP_WATCH_PROBE 1

/* Do not listen to kernel uevents. Bind and unbind are then found at the next interval. */
#define VFP_WATCH_NO_UEVENTS 2

/* Do not search for holders, and do not wait for their exits. */
#define VFP_WATCH_NO_HOLDERS 4

/* Settings of a watch. 0 in a field is its default. */
typedef struct vfp_watch_options {
  /* Interval between two peeks in milliseconds; 0 means 1000. */
  uint32_t interval_ms;
  /* Deadline of a probe in milliseconds; 0 means 1000. */
  uint32_t probe_deadline_ms;
  /* VFP_WATCH_* flags, combined with |. */
  uint32_t flags;
  /* Must be 0. */
  uint32_t reserved;
} vfp_watch_options;

/* An event of a watch. */
typedef struct vfp_event {
  /* A VFP_EVENT_* value. */
  int32_t kind;
  /* The group of a held, freed or changed event, else VFP_NO_GROUP. */
  uint32_t group;
  /* The device of a bound or unbound event, else "". */
  char device[40];
} vfp_event;

/*
 * Watches all devices of a root. Its functions may be called from any thread; concurrent calls
 * wait for each other.
 */
typedef struct vfp_watch vfp_watch;

/*
 * Creates a watch. size is sizeof(vfp_watch_options); NULL as options means the defaults.
 * Close the watch with vfp_watch_close(). The root may be closed earlier.
 *
 * Does not read anything. The first calls of vfp_watch_next() report every bound device as
 * bound, and every group as held, freed or changed; VFP_EVENT_READY follows. A source that is
 * not available (uevents in a user namespace, inotify without /dev/vfio) is left out; changes
 * are then found at the next interval. Fails if no file descriptor is available. Returns
 * VFP_UNSUPPORTED for unknown options.
 */
vfp_status vfp_watch_open(const vfp_root *root,
                          size_t size,
                          const vfp_watch_options *options,
                          vfp_watch **out_watch,
                          vfp_error *out_error);

/*
 * Closes a watch and its descriptor and sets *watch to NULL, as vfp_root_close() does. Takes
 * up to about 20 ms, in which the kernel ends an inotify instance (fsnotify_destroy_group()).
 */
void vfp_watch_close(vfp_watch **watch);

/*
 * Returns the descriptor to poll: it is readable when vfp_watch_next() may return an event. The
 * descriptor belongs to the watch: do not read or close it. Returns VFP_INVALID for NULL.
 *
 * News that the waits of other threads have taken in makes it readable too. It stays so until a
 * call of yours has taken in the news: vfp_watch_next() or vfp_watch_update(). So it is for one
 * thread; all others wait by vfp_watch_wait() and take events by vfp_watch_next_queued().
 */
int32_t vfp_watch_fd(const vfp_watch *watch);

/*
 * Returns the next event: VFP_OK with an event, or VFP_NO_EVENT. Call it until it returns
 * VFP_NO_EVENT before you poll the descriptor: events may be queued while the descriptor is not
 * readable.
 *
 * Never waits for an event. A call may run one pass over all groups (about 20 system calls with
 * 8 devices); a thread of the watch searches for holders. The first call reads everything
 * once. Fails if the bound devices cannot be listed, once for each failed pass; the watch keeps
 * its state and continues.
 */
vfp_status vfp_watch_next(vfp_watch *watch,
                          size_t size,
                          vfp_event *out_event,
                          vfp_error *out_error);

/*
 * Takes in what has changed, as vfp_watch_next() does, but takes no event: VFP_OK. The events stay
 * queued; if there are more than 1024, one VFP_EVENT_RESCAN takes their place.
 *
 * With vfp_watch_news() this is the step of a wait for anything: after it, evaluate your own
 * condition if the count has changed, then poll vfp_watch_fd(). Fails as vfp_watch_next() does.
 */
vfp_status vfp_watch_update(vfp_watch *watch, vfp_error *out_error);

/*
 * Returns the next event that is queued: VFP_OK with an event, or VFP_NO_EVENT. As
 * vfp_watch_next(), but reads nothing of the host, so it reports no failed pass either.
 */
vfp_status vfp_watch_next_queued(vfp_watch *watch,
                                 size_t size,
                                 vfp_event *out_event,
                                 vfp_error *out_error);

/*
 * Returns the number of events that the watch has queued so far, taken or not. While it stays the
 * same, so does everything that an event reports. Reads nothing of the host. Returns 0 for NULL.
 */
uint64_t vfp_watch_news(const vfp_watch *watch);

/*
 * Returns 1 if the watch has read everything once, so that vfp_watch_groups() and the others
 * list all of it, else 0. VFP_EVENT_READY is or was among the events then. Returns VFP_INVALID
 * for NULL.
 */
int32_t vfp_watch_is_ready(const vfp_watch *watch);

/*
 * Sets the groups that are assigned to VMs. The watch never probes them, whatever its options.
 * Replaces the previous set.
 */
vfp_status vfp_watch_set_assigned(vfp_watch *watch,
                                  const uint32_t *groups,
                                  size_t group_count,
                                  vfp_error *out_error);

/* Until the group is known to be free. A group without a bound device is not free. */
#define VFP_WAIT_FREE 1

/* Until the group is known to be held. */
#define VFP_WAIT_HELD 2

/* Until there is an event. group is VFP_ALL_GROUPS. */
#define VFP_WAIT_EVENT 3

/* As timeout_ms of vfp_watch_wait(): without a limit. */
#define VFP_NO_TIMEOUT UINT32_MAX

/*
 * Waits until a condition is true: VFP_OK, or until timeout_ms milliseconds have passed:
 * VFP_TIMED_OUT. condition is a VFP_WAIT_* value. A timeout of 0 checks without a wait,
 * VFP_NO_TIMEOUT waits without a limit.
 *
 * The condition is checked when the watch is ready, and then after each event. The call reads
 * the host as vfp_watch_next() does. Events stay queued for vfp_watch_next(); if there are more
 * than 1024, one VFP_EVENT_RESCAN takes their place. After VFP_WAIT_EVENT the next
 * vfp_watch_next() returns the event, unless another thread has taken it.
 *
 * Other threads may use the watch during the wait, and wait themselves: whichever call reads a
 * change first, all waits check their conditions at once, and vfp_watch_fd() becomes readable.
 * After a wait for events, take them by vfp_watch_next_queued(). Do not close the watch while a
 * call waits: let the call end first, for example by a short timeout.
 *
 * The first wait creates two more descriptors, and so does each further wait at the same time. If
 * the process has none left, the call polls vfp_watch_fd(), as only one thread can. A call with a
 * timeout of 0 is no wait: it takes the news of vfp_watch_fd(), as vfp_watch_next() does.
 *
 * Fails as vfp_watch_next() does, for a pass that could not list the bound devices; call again
 * to wait on. Returns VFP_SYSTEM with EINTR in os_errno if a signal handler has run during the
 * call's poll(2). A signal just before it is missed, so a program that ends by a handler waits
 * with a timeout, or polls vfp_watch_fd() beside a signalfd.
 */
vfp_status vfp_watch_wait(vfp_watch *watch,
                          int32_t condition,
                          uint32_t group,
                          uint32_t timeout_ms,
                          vfp_error *out_error);

/*
 * Lists the groups that have a bound device, ordered by number, in the state of the latest
 * vfp_watch_next(). Writes the first capacity records and sets *out_count to the number of
 * groups. Reads nothing of the host. Returns VFP_TRUNCATED as vfp_scan() does.
 */
vfp_status vfp_watch_groups(const vfp_watch *watch,
                            size_t size,
                            size_t capacity,
                            vfp_watched_group *out_groups,
                            size_t *out_count,
                            vfp_error *out_error);

/*
 * Returns the state of one group, as vfp_watch_groups() does. Reads nothing of the host, so it
 * costs less than a microsecond. Returns VFP_MISSING if the watch knows no such group: it has no
 * bound device, or the watch is not ready (vfp_watch_is_ready()).
 */
vfp_status vfp_watch_group(const vfp_watch *watch,
                           uint32_t group,
                           size_t size,
                           vfp_watched_group *out_group,
                           vfp_error *out_error);

/*
 * Lists the bound devices and those that could not be read, as vfp_scan() does, in the state of
 * the latest vfp_watch_next(). Reads nothing of the host. sriov, vfs and the parent of a
 * virtual function are not set.
 */
vfp_status vfp_watch_devices(const vfp_watch *watch,
                             size_t size,
                             size_t capacity,
                             vfp_device *out_devices,
                             size_t *out_count,
                             vfp_error *out_error);

/*
 * Lists the known holders of a held group, as vfp_holders() does, in the state of the latest
 * vfp_watch_next(). Reads nothing of the host. If processes of out_coverage is 0, the group
 * is not held or was not searched for holders.
 */
vfp_status vfp_watch_holders(const vfp_watch *watch,
                             uint32_t group,
                             size_t size,
                             size_t capacity,
                             vfp_holder *out_holders,
                             size_t *out_count,
                             size_t coverage_size,
                             vfp_scan_coverage *out_coverage,
                             vfp_error *out_error);

/* ==== Device nodes and hardware ==== */

/* vfio/vfio, which a VM in group mode opens. */
#define VFP_NODE_CONTAINER 0

/*
 * vfio/N, the group's own node, which a VM in group mode opens. Without an IOMMU
 * vfio/noiommu-N.
 */
#define VFP_NODE_GROUP 1

/* iommu, which a VM in iommufd mode opens. */
#define VFP_NODE_IOMMUFD 2

/* vfio/devices/vfioN, the node of one device, which a VM in iommufd mode opens. */
#define VFP_NODE_CDEV 3

/* A device node that a VM needs. */
typedef struct vfp_device_node {
  /* A VFP_NODE_* value. */
  int32_t kind;
  /* Always 0. */
  uint32_t reserved;
  /*
   * Path relative to /dev; "" for a device that has no node of its own, as without
   * CONFIG_VFIO_DEVICE_CDEV.
   */
  char path[48];
  /* The device of a VFP_NODE_CDEV, else "". */
  char device[40];
} vfp_device_node;

/*
 * Lists the device nodes that the kernel has for a group: what a VM needs to use its devices.
 * Writes the first capacity records and sets *out_count to their number.
 *
 * There are two ways. A VM in group mode opens the nodes of VFP_NODE_CONTAINER and
 * VFP_NODE_GROUP. A VM in iommufd mode opens the node of VFP_NODE_IOMMUFD and the VFP_NODE_CDEV
 * of each device that it uses. A mode is possible if the list has all nodes of it. The list has
 * one VFP_NODE_CDEV for each member that is bound to a VFIO driver.
 *
 * Opens no node and needs no privilege; reads sysfs, so /dev need not be visible. Returns
 * VFP_MISSING if there is no such group, and VFP_TRUNCATED as vfp_scan() does. Do not keep the
 * result: the kernel reuses the numbers of devices.
 */
vfp_status vfp_device_nodes(const vfp_root *root,
                            uint32_t group,
                            size_t size,
                            size_t capacity,
                            vfp_device_node *out_nodes,
                            size_t *out_count,
                            vfp_error *out_error);

/*
 * The registers were not read: the read would have woken the function or the bridge above it, or
 * the kernel does not report their power states (before 5.11).
 */
#define VFP_PRESENCE_NOT_CHECKED 0

/* The function responds. */
#define VFP_PRESENCE_PRESENT 1

/* The registers read as all ones: the function, or a bridge above it, has fallen off the bus. */
#define VFP_PRESENCE_LOST 2

/* The kernel does not count the errors of this function. */
#define VFP_NO_ERROR_COUNT UINT64_MAX

/* The state of a function's hardware. */
typedef struct vfp_hardware {
  /* Number of fatal PCIe errors since the function was added, or VFP_NO_ERROR_COUNT. */
  uint64_t fatal_errors;
  /* A VFP_PRESENCE_* value. */
  int32_t presence;
  /* Always 0. */
  uint32_t reserved;
} vfp_hardware;

/*
 * Reads whether the hardware of a PCI function responds, and how many fatal PCIe errors it had.
 * address is a PCI address; a mediated device has no hardware of its own.
 *
 * Reads the first registers of the function (/sys/bus/pci/devices/ADDRESS/config), unless that
 * would wake a device. Blocks while the kernel resets the function, for seconds. Returns
 * VFP_INVALID if address is no PCI address, and VFP_MISSING if there is no such function.
 */
vfp_status vfp_hardware_read(const vfp_root *root,
                             const char *address,
                             size_t size,
                             vfp_hardware *out_hardware,
                             vfp_error *out_error);

/* ==== Names of device models ==== */

/* A device model by its PCI ids. */
typedef struct vfp_pci_id {
  /* PCI vendor id. */
  uint16_t vendor;
  /* PCI device id. */
  uint16_t device;
} vfp_pci_id;

/* The name of a device model. */
typedef struct vfp_name {
  /*
   * Name as in pci.ids (GH100 [H100 SXM5 80GB]): UTF-8 without control characters, truncated
   * to the field; "" if the model has no name.
   */
  char text[160];
} vfp_name;

/*
 * Looks up the names of count device models and writes one for each into out_names, in the
 * same order. A model without a name gets "".
 *
 * If path is NULL, the names come from the table in the library: the pci.ids of 2025-07-11.
 * Then the call reads no file and does not block. Otherwise they come from the pci.ids file
 * path only, which one call reads once (about 1.5 MB): pass all models in one call.
 * Distributions install the file as /usr/share/misc/pci.ids or /usr/share/hwdata/pci.ids.
 *
 * Returns VFP_MISSING, VFP_DENIED or VFP_SYSTEM if the file cannot be opened or read, and
 * VFP_MALFORMED if it is not a regular file or is larger than 64 MiB.
 */
vfp_status vfp_names(const char *path,
                     const vfp_pci_id *ids,
                     size_t count,
                     size_t size,
                     vfp_name *out_names,
                     vfp_error *out_error);

/* ==== Words for constants ==== */

/*
 * Returns the word for a vfp_status: ok, missing, and so on, or ? for a number that the
 * library does not know.
 */
const char *vfp_status_text(vfp_status status);

/* Returns the word for a VFP_KIND_*: pci, mdev, vendor-vf, or ?. */
const char *vfp_kind_text(int32_t kind);

/* Returns the word for a VFP_SRIOV_*: none, physical, virtual, or ?. */
const char *vfp_sriov_text(int32_t sriov);

/* Returns the word for a VFP_PEEK_*: looks-free, looks-held, unavailable, none, or ?. */
const char *vfp_peek_text(int32_t peek);

/* Returns the word for a VFP_STATE_*: free, held, absent, unknown, or ?. */
const char *vfp_state_text(int32_t state);

/*
 * Returns the word for a VFP_UNKNOWN_*: none, denied, timed-out, errno, not-probed, or
 * ?.
 */
const char *vfp_unknown_reason_text(int32_t unknown_reason);

/* Returns the word for a VFP_EVIDENCE_*: none, open, enable, node, holder, or ?. */
const char *vfp_evidence_text(int32_t evidence);

/* Returns the word for a VFP_VIA_*: group, device, cdev, or ?. */
const char *vfp_via_text(int32_t via);

/* Returns the word for a VFP_IN_POD_*: yes, no, unknown, or ?. */
const char *vfp_in_pod_text(int32_t in_pod);

/* Returns the word for a VFP_PID_NAMESPACE_*: host, foreign, unknown, or ?. */
const char *vfp_pid_namespace_text(int32_t pid_namespace);

/*
 * Returns the word for a VFP_EVENT_*: bound, unbound, held, freed, changed, rescan,
 * ready, or ?.
 */
const char *vfp_event_text(int32_t event);

/* Returns the word for a VFP_NODE_*: container, group, iommufd, cdev, or ?. */
const char *vfp_node_text(int32_t node);

/* Returns the word for a VFP_PRESENCE_*: present, lost, not-checked, or ?. */
const char *vfp_presence_text(int32_t presence);

/* ==== Version of the library ==== */

/*
 * Number of the ABI that this header describes. It changes when programs built with an older
 * header are incompatible. It does not change when functions are added or records grow.
 */
#define VFP_ABI 1

/*
 * Returns VFP_ABI of the library, for programs that load it with dlopen(). The dynamic linker
 * compares it by the soname.
 */
uint32_t vfp_abi(void);

/* Returns the version of the library, MAJOR.MINOR.PATCH. The text is static: do not free it. */
const char *vfp_version(void);

#ifdef __cplusplus
}
#endif

#endif
