/*
 * vfio-probe: which VFIO devices of this host are free, and who holds the others.
 *
 * Generated from ffi/src/capi; do not edit.
 *
 * CONVENTIONS
 *
 * Results. A function that can fail returns a vfp_status: 0 or more for done, negative for failed. It writes results by
 * its out_* parameters, which come last. When it fails, nothing but *out_error is written, and records of an array that
 * had been filled before it failed; out_error may be NULL.
 *
 * Ownership. Nothing is to be freed but handles, by vfp_root_close() and vfp_watch_close(), which take the address of your
 * variable and make it NULL. The library keeps no pointer of yours after a call. Texts that a function returns are static.
 *
 * Texts. What you give is NUL-terminated bytes; a path may be any bytes. What you get is NUL-terminated ASCII in a
 * record's field, cut if it does not fit; only errors' texts and names from pci.ids may have other UTF-8 in them.
 *
 * Records. With every record or array goes its size: pass sizeof. Records grow at their end only: a program built with an
 * older header gets the part that it knows from a newer library; one built with a newer header gets 0 for what an older
 * library does not know. A field that cannot be known is 0, -1, VFP_NO_GROUP or "", as its comment says.
 *
 * Arrays. capacity counts records. At most that many are written, and *out_count tells how many there are: with a capacity
 * of 0 and NULL you only count. More than fit is VFP_MORE, which is no failure.
 *
 * Mistakes. NULL where something is needed, a size of 0 or of more than 4096, a capacity that no memory has, a text that is
 * no id: VFP_INVALID, with the argument's name in the error's text. A handle that was closed is NULL and so VFP_INVALID; one
 * that you copied before it was closed must not be used. A defect of the library that panics is VFP_PANIC, and says where
 * on stderr.
 *
 * Threads. Every function may be called from any thread at any time, also several with one handle; only closing a handle
 * needs the others to be out of it. vfp_probe_within() and watches that may probe start helper threads, at most four a root;
 * they block no exit. After a fork without exec the child must not use handles of its parent.
 *
 * Blocking. Calls read sysfs and proc, which takes microseconds to milliseconds. Only vfp_probe() can wait for the kernel
 * without bound. No signal is handled or masked.
 *
 * Privilege. Scans, peeks and watches without VFP_WATCH_PROBE need none and open no device. A probe needs write access to
 * /dev/vfio/<group>; holders of other users need CAP_SYS_PTRACE.
 */

#ifndef VFIO_PROBE_H
#define VFIO_PROBE_H

#include <stddef.h>
#include <stdint.h>

// A PCI function behind a driver built on vfio-pci-core.
#define VFP_KIND_PCI 0

// A mediated device.
#define VFP_KIND_MDEV 1

// A virtual function whose vendor's driver (`nvidia`) is itself a VFIO driver.
#define VFP_KIND_VENDOR_VF 2

// No part in SR-IOV.
#define VFP_SRIOV_NONE 0

// A physical function with virtual functions on.
#define VFP_SRIOV_PHYSICAL 1

// A virtual function.
#define VFP_SRIOV_VIRTUAL 2

// By the group's node.
#define VFP_VIA_GROUP 0

// By a device obtained from the group.
#define VFP_VIA_DEVICE 1

// By a device's own node, /dev/vfio/devices/vfioN.
#define VFP_VIA_CDEV 2

// No function of the group is enabled. A holder that has the group open but no device of it looks like this too.
#define VFP_PEEK_LOOKS_FREE 0

// A function of the group is enabled: somebody has its device open, or left the count behind.
#define VFP_PEEK_LOOKS_HELD 1

// Nobody has looked yet; only in vfp_watched.
#define VFP_PEEK_NONE -1

// There is no count to read: mediated devices, vendor virtual functions.
#define VFP_PEEK_BLIND 2

// It could not be told; neither free nor held.
#define VFP_STATE_UNKNOWN 0

// Nobody has the group.
#define VFP_STATE_FREE 1

// Some process has the group or a device of it open. From a probe: the kernel said EBUSY, and nothing else counts as this. From
// a watch also: VFP_EVIDENCE_ENABLE says that it rests on an enable count above its baseline.
#define VFP_STATE_HELD 2

// There is no node, or no device behind it.
#define VFP_STATE_ABSENT 3

// Of a state that is known.
#define VFP_WHY_NONE 0

// The open was denied: EPERM by the device cgroup, EACCES by the node's mode. Says nothing about a holder.
#define VFP_WHY_DENIED 1

// No answer within the deadline.
#define VFP_WHY_LATE 2

// Another errno, in `os_errno`.
#define VFP_WHY_ERRNO 3

// Nobody has asked yet.
#define VFP_WHY_NOT_ASKED 4

// No group: of a device without IOMMU, an error that is about no group, an event that is about a device.
#define VFP_NO_GROUP UINT32_MAX

// The ABI's number in this header. It grows by one when a program built against an older header must not run with the
// library; it does not when functions are added or records grow.
#define VFP_ABI 1

// A device was bound to a VFIO driver, or is seen for the first time.
#define VFP_EVENT_BOUND 1

// A device is no longer bound.
#define VFP_EVENT_UNBOUND 2

// A group became held.
#define VFP_EVENT_HELD 3

// A group became free.
#define VFP_EVENT_FREED 4

// Something else about a group changed: its node, its members, its holders.
#define VFP_EVENT_CHANGED 5

// Kernel events were lost; everything was read anew.
#define VFP_EVENT_RESCAN 6

// The watch may open groups: once each at first sight, afterwards only where a look cannot tell. **A machine that opens a
// free group in that moment gets EBUSY**; name the groups that machines are about to open with vfp_watch_set_owned().
#define VFP_WATCH_PROBE 1

// Do not listen to the kernel's uevents: what they tell at once is then found within the interval.
#define VFP_WATCH_NO_UEVENTS 2

// Do not look for holders, nor wait for their exits.
#define VFP_WATCH_NO_HOLDERS 4

// It rests on nothing yet.
#define VFP_EVIDENCE_NONE 0

// It rests on an open of the group's node.
#define VFP_EVIDENCE_OPEN 1

// It rests on the enable counts of the group's functions.
#define VFP_EVIDENCE_ENABLE 2

// It rests on the presence of the node.
#define VFP_EVIDENCE_NODE 3

// A directory that holds sys, dev and proc: `/`, a host's tree mounted into a container, or a test's folder. Any number of
// threads may use one at the same time.
typedef struct vfp_root vfp_root;

// Follows all devices of a root. Its functions may be called from any thread; they wait for one another, never long.
typedef struct vfp_watch vfp_watch;

// What a function returns. Negative: it failed, and `out_error` says why. Numbers that this header does not name may come
// from a newer library: treat them by their sign.
typedef int32_t vfp_status;

// A device that is bound to a VFIO driver.
typedef struct vfp_device {
  // PCI address (`0000:3b:00.0`) or mdev uuid; "" for a broken entry that names none.
  char id[40];
  // VFP_OK, or why this device could not be read: then only `id`, `os_errno` and `problem` say anything. One bad device
  // never costs another.
  vfp_status status;
  // The kernel's errno for a broken device, else 0.
  int32_t os_errno;
  // PCI vendor id; of a mediated device its parent's, 0 when the parent is no PCI function.
  uint16_t vendor;
  // PCI device id; of a mediated device its parent's.
  uint16_t device;
  // PCI subsystem vendor id, 0 for none.
  uint16_t subsystem_vendor;
  // PCI subsystem id, 0 for none.
  uint16_t subsystem_device;
  // PCI class, 24 bits: 0x030200 is a 3D controller.
  uint32_t class_code;
  // IOMMU group, or VFP_NO_GROUP.
  uint32_t group;
  // NUMA node, -1 for unknown.
  int32_t numa_node;
  // N of its /dev/vfio/devices/vfioN, -1 for none.
  int32_t cdev;
  // VFP_KIND_*.
  int32_t kind;
  // VFP_SRIOV_*.
  int32_t sriov;
  // How many virtual functions a physical one has on, else 0.
  uint32_t vfs;
  // Its driver; "" while the kernel is unbinding it.
  char driver[40];
  // The mdev type (`nvidia-35`) or a vendor VF's vGPU type number, else "".
  char vgpu_type[72];
  // The parent's address of a mediated device or a virtual function, else "".
  char parent[24];
  // Of a broken device what is wrong, for people; else "".
  char problem[160];
} vfp_device;

// Why a function failed. This record never grows: no size goes with it. Written only on failure; `out_error` may be NULL.
typedef struct vfp_error {
  // The status that the function returned.
  vfp_status status;
  // The kernel's errno, 0 where no system call failed.
  int32_t os_errno;
  // The group that it is about, or VFP_NO_GROUP.
  uint32_t group;
  // 0.
  uint32_t reserved;
  // The device that it is about, or "".
  char device[40];
  // What went wrong, for people: one line without a newline, cut if it does not fit.
  char text[200];
} vfp_error;

// What a look at all members of a group tells.
typedef struct vfp_group {
  // The group's number.
  uint32_t group;
  // How many members could be read.
  uint32_t members;
  // How many could not; viability is that of the others.
  uint32_t unreadable;
  // 1 if VFIO can use the group (VFIO_GROUP_FLAGS_VIABLE), else 0. An open of it succeeds either way.
  int32_t viable;
  // The member whose driver makes it not viable, else "".
  char offender[72];
  // That driver, else "".
  char offender_driver[40];
} vfp_group;

// A member of a group: one function, or what another bus calls its devices.
typedef struct vfp_member {
  // Its name in the group's folder: a PCI address, an mdev uuid, ...
  char name[72];
  // VFP_OK, or why it could not be read: then only `name`, `os_errno` and `problem` say anything.
  vfp_status status;
  // The kernel's errno for a broken member, else 0.
  int32_t os_errno;
  // 1 if its driver is a VFIO driver, else 0.
  int32_t vfio;
  // Its driver, or "".
  char driver[40];
  // Of a broken member what is wrong, for people; else "".
  char problem[160];
} vfp_member;

// A process that has a group, or a device of it, open.
typedef struct vfp_holder {
  // Its start in clock ticks after boot (proc(5), stat field 22): with the pid it names a process for ever.
  uint64_t start_time;
  // The group that it holds.
  uint32_t group;
  // Its number in the root's proc.
  uint32_t pid;
  // VFP_VIA_*.
  int32_t via;
  // 0.
  uint32_t reserved;
  // Its command name, at most 15 characters, as it chose it; what is not printable ASCII is `?`.
  char command[24];
  // The uid of the pod that its cgroup names, else "".
  char pod_uid[40];
  // The container that its cgroup names, 64 hex digits, else "".
  char container_id[72];
} vfp_holder;

// How far a look for holders reached. "Not found" is never "nobody" while `unreadable` or `unattributed` is not 0.
typedef struct vfp_looked {
  // Processes seen.
  uint32_t processes;
  // Of these, those whose descriptors could not be read: other users' without CAP_SYS_PTRACE.
  uint32_t unreadable;
  // Device descriptors whose device the kernel does not tell (before 6.18).
  uint32_t unattributed;
  // 0.
  uint32_t reserved;
} vfp_looked;

// A device model.
typedef struct vfp_pci_id {
  // PCI vendor id.
  uint16_t vendor;
  // PCI device id.
  uint16_t device;
} vfp_pci_id;

// A device model's name.
typedef struct vfp_name {
  // As the file has it (`GH100 [H100 SXM5 80GB]`), UTF-8 without control characters, cut if it does not fit; "" if it has
  // none.
  char text[160];
} vfp_name;

// The answer of an open.
typedef struct vfp_occupancy {
  // VFP_STATE_*.
  int32_t state;
  // VFP_WHY_*: why it is VFP_STATE_UNKNOWN.
  int32_t why;
  // The errno of VFP_WHY_ERRNO, else 0.
  int32_t os_errno;
  // 0.
  int32_t reserved;
} vfp_occupancy;

// Settings of a watch; all 0 are the defaults.
typedef struct vfp_watch_options {
  // Milliseconds between two looks, 0 for 1000.
  uint32_t interval_ms;
  // Milliseconds that an open may take before it counts as unanswered, 0 for 1000.
  uint32_t probe_deadline_ms;
  // VFP_WATCH_* added up.
  uint32_t flags;
  // 0.
  uint32_t reserved;
} vfp_watch_options;

// What a watch tells.
typedef struct vfp_event {
  // VFP_EVENT_*.
  int32_t kind;
  // The group that was held, freed or changed, or VFP_NO_GROUP.
  uint32_t group;
  // The device that was bound or unbound, or "".
  char device[40];
} vfp_event;

// A group as a watch knows it.
typedef struct vfp_watched {
  // For how many milliseconds it has been in this state.
  uint64_t for_ms;
  // The group's number.
  uint32_t group;
  // VFP_STATE_*.
  int32_t state;
  // VFP_WHY_*.
  int32_t why;
  // The errno of VFP_WHY_ERRNO, else 0.
  int32_t os_errno;
  // VFP_EVIDENCE_*.
  int32_t evidence;
  // VFP_PEEK_*: the latest look without opening, VFP_PEEK_NONE before the first.
  int32_t peek;
  // How many members the group has, bound to VFIO or not.
  uint32_t members;
  // 1 if VFIO can use the group, else 0.
  int32_t viable;
  // The member whose driver makes it not viable, else "".
  char offender[72];
  // That driver, else "".
  char offender_driver[40];
} vfp_watched;

// Done.
#define VFP_OK 0

// Done as far as the array or buffer allowed: the count says how much room all of it needs.
#define VFP_MORE 1

// There is nothing new.
#define VFP_NOTHING 2

// An argument that makes no sense: NULL, a size of 0, a text that is no id. The error's text names it.
#define VFP_INVALID -1

// What was asked for is not there (ENOENT, ENODEV, ENXIO).
#define VFP_MISSING -2

// The kernel does not let us (EACCES, EPERM).
#define VFP_DENIED -3

// It is there, but its content is not what the kernel writes.
#define VFP_MALFORMED -4

// It is longer than the kernel's limit for it.
#define VFP_TOO_LONG -5

// Any other errno.
#define VFP_SYSTEM -6

// A defect of this library, caught before it could harm the caller; please report it.
#define VFP_PANIC -7

// Asked for something that only a newer library knows.
#define VFP_UNSUPPORTED -8

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// Tells all bound devices, in no particular order: the first `capacity` of them are written, all are counted.
//
// Opens no device and needs no privilege; reads sysfs, some 10 system calls a device. Fails when the bound devices cannot be
// listed at all; a device that cannot be read is a record with a `status`. VFP_MORE: call again with room for `*out_count`,
// and mind that devices may have come meanwhile.
vfp_status vfp_scan(const struct vfp_root *root,
                    size_t size,
                    size_t capacity,
                    struct vfp_device *out_devices,
                    size_t *out_count,
                    struct vfp_error *out_error);

// Tells one device by its id, whatever it is bound to; `cdev` stays -1, which only a scan knows.
//
// Fails with VFP_INVALID for a text that is no id, VFP_MISSING for a device that is not there, and as the kernel says.
vfp_status vfp_device_read(const struct vfp_root *root,
                           const char *id,
                           size_t size,
                           struct vfp_device *out_device,
                           struct vfp_error *out_error);

// Looks at a group's members and tells whether VFIO can use it. Opens no device, needs no privilege.
//
// Fails with VFP_MISSING when there is no such group.
vfp_status vfp_group_read(const struct vfp_root *root,
                          uint32_t group,
                          size_t size,
                          struct vfp_group *out_group,
                          struct vfp_error *out_error);

// Tells all members of a group, in no particular order: the first `capacity` of them are written, all are counted.
//
// Fails with VFP_MISSING when there is no such group; VFP_MORE as vfp_scan().
vfp_status vfp_members(const struct vfp_root *root,
                       uint32_t group,
                       size_t size,
                       size_t capacity,
                       struct vfp_member *out_members,
                       size_t *out_count,
                       struct vfp_error *out_error);

// Tells which processes hold the groups: the first `capacity` of them are written, all are counted. `out_looked`, which may
// be NULL, gets how far the look reached.
//
// Reads proc of all processes: milliseconds on a busy host, so ask when something changed. Opens no device; other users'
// processes need CAP_SYS_PTRACE. Fails when proc cannot be listed; VFP_MORE as vfp_scan().
vfp_status vfp_holders(const struct vfp_root *root,
                       const uint32_t *groups,
                       size_t group_count,
                       size_t size,
                       size_t capacity,
                       struct vfp_holder *out_holders,
                       size_t *out_count,
                       size_t looked_size,
                       struct vfp_looked *out_looked,
                       struct vfp_error *out_error);

// Looks up `count` models in one pass over a pci.ids file, and writes a name for each into `out_names`, in their order.
// NULL as `path` is the first of /usr/pci.ids, /usr/share/misc/pci.ids and /usr/share/hwdata/pci.ids. A model that the file
// does not name gets "".
//
// Fails as the open or a read of the file does, and for what is no regular file or longer than 64 MiB. Reads up to 1.5 MB
// of an ordinary one: ask for all models at once, and keep the answer.
vfp_status vfp_names(const char *path,
                     const struct vfp_pci_id *ids,
                     size_t count,
                     size_t size,
                     struct vfp_name *out_names,
                     struct vfp_error *out_error);

// Whether the kernel has nodes for groups: 1, or 0 for one without CONFIG_VFIO_GROUP, where a probe of any group answers
// VFP_STATE_ABSENT and a peek is what tells. Opens nothing.
vfp_status vfp_has_group_nodes(const struct vfp_root *root,
                               int32_t *out_has,
                               struct vfp_error *out_error);

// Looks at a group without opening it: sysfs `enable` of its functions. Needs no device node and no privilege, disturbs
// nobody. A single look knows no baseline: a count may be left over from before the bind; a watch knows.
//
// Fails with VFP_MISSING when there is no such group.
vfp_status vfp_peek(const struct vfp_root *root, uint32_t group, int32_t *out_peek, struct vfp_error *out_error);

// Opens the group's node for a moment. While it is open **another process' own open fails with EBUSY**: do not call this in
// a loop on a free group, and never on one that a virtual machine is about to open. A held group is not disturbed.
//
// Can block for seconds, while the kernel resets a device of the group: see vfp_probe_within(). Whatever the open says is
// VFP_OK with a state; the call fails only for its arguments.
vfp_status vfp_probe(const struct vfp_root *root,
                     uint32_t group,
                     size_t size,
                     struct vfp_occupancy *out_occupancy,
                     struct vfp_error *out_error);

// The same on a helper thread, waiting at most `timeout_ms` milliseconds for the answer: later it is VFP_STATE_UNKNOWN with
// VFP_WHY_LATE. At most one open a group and four in all are under way at once in a root; who asks for a group whose open is
// under way already, for another caller or because it hangs, is told VFP_WHY_LATE at once.
//
// After VFP_WHY_LATE an open that has begun goes on and **may have the group for a moment later**, even when the root was
// closed; one that has not begun is not made any more. A `timeout_ms` of 0 is always late.
vfp_status vfp_probe_within(const struct vfp_root *root,
                            uint32_t group,
                            uint32_t timeout_ms,
                            size_t size,
                            struct vfp_occupancy *out_occupancy,
                            struct vfp_error *out_error);

// Opens a root. NULL as `path` is `/`. Give it back with vfp_root_close(); watches that come from it outlive it.
//
// Fails with VFP_MISSING or VFP_DENIED. Does not block.
vfp_status vfp_root_open(const char *path, struct vfp_root **out_root, struct vfp_error *out_error);

// Closes a root and makes `*root` NULL, so that a second close does nothing and a later use is VFP_INVALID. No other thread
// may be in a call with it. Waits for no open that hangs in the kernel.
void vfp_root_close(struct vfp_root **root);

// The library's VFP_ABI, for programs that load it by hand: the linker sees to it by the soname.
uint32_t vfp_abi(void);

// The library's version, `MAJOR.MINOR.PATCH`, NUL-terminated and static: never free it.
const char *vfp_version(void);

// Begins to watch; NULL as `options` is the defaults, `size` their sizeof. Give it back with vfp_watch_close(); the root may
// be closed before.
//
// Nothing is read yet: the first vfp_watch_next() takes stock and tells every device as bound, every held group as held.
// Sources that cannot be had (uevents in a user namespace, inotify without /dev/vfio) are done without: everything is found
// all the same, only later. Fails when no descriptor can be had.
vfp_status vfp_watch_open(const struct vfp_root *root,
                          size_t size,
                          const struct vfp_watch_options *options,
                          struct vfp_watch **out_watch,
                          struct vfp_error *out_error);

// Closes a watch with its descriptor and makes `*watch` NULL, as vfp_root_close(). Can take some 20 ms, in which the kernel
// ends an inotify instance.
void vfp_watch_close(struct vfp_watch **watch);

// The descriptor to poll: readable when vfp_watch_next() may have news. Do not read or close it; it belongs to the watch.
// VFP_INVALID for NULL.
int32_t vfp_watch_fd(const struct vfp_watch *watch);

// Tells the next event: VFP_OK with one, VFP_NOTHING when there is none for now (then poll the descriptor). Call it until
// then, since events may wait here while the descriptor is not readable.
//
// Never waits. It may look at everything once (some 20 system calls with 8 devices) and, where a group became held, at all
// processes; the first call, which takes stock, reads everything once. Fails when the bound devices cannot be listed, once for each look that could not; the watch goes on, and what
// was known stays.
vfp_status vfp_watch_next(struct vfp_watch *watch,
                          size_t size,
                          struct vfp_event *out_event,
                          struct vfp_error *out_error);

// Names all groups that are given to machines: those are never opened, whatever the options. Replaces the last such list.
vfp_status vfp_watch_set_owned(struct vfp_watch *watch,
                               const uint32_t *groups,
                               size_t group_count,
                               struct vfp_error *out_error);

// Tells all groups that have a bound device, by number: the first `capacity` of them are written, all are counted. What the
// latest vfp_watch_next() knew: reads nothing. VFP_MORE as vfp_scan().
vfp_status vfp_watch_groups(const struct vfp_watch *watch,
                            size_t size,
                            size_t capacity,
                            struct vfp_watched *out_groups,
                            size_t *out_count,
                            struct vfp_error *out_error);

// Tells all bound devices, and those that could not be read, as vfp_scan() does; what the latest vfp_watch_next() knew:
// reads nothing, and does not know `sriov`, `vfs` and a virtual function's `parent`.
vfp_status vfp_watch_devices(const struct vfp_watch *watch,
                             size_t size,
                             size_t capacity,
                             struct vfp_device *out_devices,
                             size_t *out_count,
                             struct vfp_error *out_error);

// Tells the known holders of a held group, as vfp_holders() does; what the latest vfp_watch_next() knew: reads nothing.
// No holder, and 0 processes in `out_looked`: nobody looked, or the group is not held.
vfp_status vfp_watch_holders(const struct vfp_watch *watch,
                             uint32_t group,
                             size_t size,
                             size_t capacity,
                             struct vfp_holder *out_holders,
                             size_t *out_count,
                             size_t looked_size,
                             struct vfp_looked *out_looked,
                             struct vfp_error *out_error);

// The word for a VFP_* status: `ok`, `missing`, ...; `?` for a number that this library does not know.
const char *vfp_status_text(vfp_status status);

// The word for a VFP_KIND_*: `pci`, `mdev`, `vendor-vf`, or `?`.
const char *vfp_kind_text(int32_t kind);

// The word for a VFP_SRIOV_*: `none`, `physical`, `virtual`, or `?`.
const char *vfp_sriov_text(int32_t sriov);

// The word for a VFP_PEEK_*: `looks-free`, `looks-held`, `blind`, `none`, or `?`.
const char *vfp_peek_text(int32_t peek);

// The word for a VFP_STATE_*: `free`, `held`, `absent`, `unknown`, or `?`.
const char *vfp_state_text(int32_t state);

// The word for a VFP_WHY_*: `none`, `denied`, `late`, `errno`, `not-asked`, or `?`.
const char *vfp_why_text(int32_t why);

// The word for a VFP_EVIDENCE_*: `none`, `open`, `enable`, `node`, or `?`.
const char *vfp_evidence_text(int32_t evidence);

// The word for a VFP_VIA_*: `group`, `device`, `cdev`, or `?`.
const char *vfp_via_text(int32_t via);

// The word for a VFP_EVENT_*: `bound`, `unbound`, `held`, `freed`, `changed`, `rescan`, or `?`.
const char *vfp_event_text(int32_t event);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* VFIO_PROBE_H */
