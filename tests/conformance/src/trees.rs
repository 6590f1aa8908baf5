//! The trees: one for each property that a device or group can have.

use std::io::Result;
use std::os::unix::fs::symlink;
use vfio_sim_node::mdev::Mdev;
use vfio_sim_node::trees::{self, GPU, OTHER, POD, Tree, on, running, with_two};
use vfio_sim_node::{Function, Hold, Node, VmSpec};

/// A tree: its name, its builder, and the properties that its name promises, as JSON pointers into the document and their
/// values. Without these properties the comparison would prove nothing.
pub(crate) struct Recipe {
    pub(crate) name: &'static str,
    pub(crate) build: fn() -> Result<Tree>,
    pub(crate) shows: &'static [(&'static str, &'static str)],
}

/// The name of a tree and its properties.
type Shows = (&'static str, &'static [(&'static str, &'static str)]);

const fn recipe(
    name: &'static str,
    build: fn() -> Result<Tree>,
    shows: &'static [(&'static str, &'static str)],
) -> Recipe {
    Recipe { name, build, shows }
}

/// The properties of the trees in [`trees::ALL`], one for each kind of device.
pub(crate) const KINDS: &[Shows] = &[
    (
        "GPUs on two NUMA nodes and one without a NUMA node",
        &[("/devices/1/numa_node", "1"), ("/devices/2/numa_node", "null")],
    ),
    ("before 6.1", &[("/devices/1/cdev", "null"), ("/groups/1/state", "free")]),
    ("variant drivers", &[("/devices/3/driver", "virtio_vfio_pci"), ("/devices/0/id", "10000:e1:1f.0")]),
    (
        "other vendors' GPUs, a NIC and a disk",
        &[("/devices/3/class", "67586"), ("/devices/1/vendor", "4098")],
    ),
    ("no IOMMU", &[("/devices/0/group", "null"), ("/devices/0/numa_node", "null")]),
    (
        "a kernel with cdevs",
        &[
            ("/devices/1/cdev", "1"),
            ("/groups/0/state", "free"),
            ("/unprobed/nodes/0/iommufd", "iommu"),
            ("/unprobed/nodes/0/devices/0/1", "vfio/devices/vfio0"),
        ],
    ),
    ("a VM that holds a GPU by its cdev", &[("/holders/0/via", "cdev"), ("/groups/0/state", "held")]),
    ("a cdev that is open and not bound", &[("/holders/0/via", "cdev"), ("/groups/0/state", "free")]),
    ("a kernel without group nodes", &[("/groups/0/state", "absent"), ("/groups/0/peek", "looks-free")]),
    ("a VM on a kernel without group nodes", &[("/groups/0/peek", "looks-held"), ("/holders/0/via", "cdev")]),
    ("a GPU with audio and USB-C in its group", &[("/groups/0/viable", "true"), ("/devices/3/group", "51")]),
    ("two GPUs in one group", &[("/devices/1/group", "51"), ("/groups/0/state", "free")]),
    ("not viable", &[("/groups/0/viable", "false"), ("/groups/0/offender_driver", "snd_hda_intel")]),
    ("virtual functions of a NIC", &[("/devices/2/sriov", "virtual"), ("/devices/4/parent", "0000:f2:00.0")]),
    ("a GPU with virtual functions enabled", &[("/devices/2/sriov", "physical"), ("/devices/2/vfs", "1")]),
    ("mediated devices", &[("/devices/0/kind", "mdev"), ("/groups/0/peek", "unavailable")]),
    ("a VM with a mediated device", &[("/groups/0/state", "held"), ("/groups/1/state", "free")]),
    (
        "virtual functions with a vGPU and without",
        &[("/devices/0/kind", "vendor-vf"), ("/devices/1/vgpu_type", "558")],
    ),
    ("extended memory", &[("/devices/1/driver", "nvgrace_gpu_vfio_pci")]),
    ("no device node", &[("/groups/0/state", "absent")]),
    (
        "a GPU that has fallen off the bus",
        &[("/groups/0/state", "free"), ("/unprobed/hardware/0/presence", "lost")],
    ),
    ("a lost GPU in D3cold", &[("/groups/0/state", "free")]),
];

/// The other trees: states of groups, and malformed or unreadable files.
pub(crate) const OTHERS: &[Recipe] = &[
    recipe(
        "free",
        || on(Node::with_eight_gpus()?),
        &[
            ("/groups/7/state", "free"),
            ("/groups/0/peek", "looks-free"),
            ("/unprobed/events/16", "ready"),
            ("/unprobed/events/8", "freed 51"),
            ("/unprobed/waits/0/free", "true"),
            ("/unprobed/nodes/0/node", "vfio/51"),
            ("/unprobed/nodes/0/container", "vfio/vfio"),
            ("/unprobed/hardware/0/presence", "present"),
        ],
    ),
    recipe(
        "held by the VM of a pod",
        held,
        &[
            ("/groups/0/state", "held"),
            ("/groups/0/peek", "looks-held"),
            ("/holders/0/pod_uid", POD),
            ("/unprobed/events/15", "held 51"),
            ("/unprobed/waits/0/held", "true"),
        ],
    ),
    recipe(
        "held by a process without a pod",
        foreign,
        &[("/groups/0/state", "held"), ("/holders/0/pod_uid", "null")],
    ),
    recipe(
        "group open, no device of it",
        group_only,
        &[("/groups/0/state", "held"), ("/groups/0/peek", "looks-free"), ("/snapshot/0/evidence", "holder")],
    ),
    recipe(
        "two groups held by one VM",
        two_groups,
        &[("/holders/0/group", "51"), ("/holders/1/group", "52")],
    ),
    recipe(
        "unreadable processes",
        unreadable_process,
        &[("/coverage/processes", "3"), ("/coverage/unreadable", "1"), ("/coverage/complete", "false")],
    ),
    recipe("absent: no device node", absent, &[("/groups/0/state", "absent")]),
    recipe("denied", denied, &[("/groups/0/state", "unknown"), ("/groups/0/unknown_reason", "denied")]),
    recipe("other errno", other_errno, &[("/groups/0/unknown_reason", "errno"), ("/groups/0/errno", "21")]),
    recipe(
        "malformed attributes",
        malformed,
        &[("/errors/0/kind", "too-long"), ("/errors/3/kind", "malformed")],
    ),
    recipe(
        "entries without a valid name",
        nameless,
        &[("/errors/4/device", "null"), ("/devices/1/group", "52")],
    ),
    recipe(
        "unreadable attributes",
        unreadable,
        &[("/errors/0/device", GPU), ("/groups/0/peek", "unavailable")],
    ),
    recipe("two devices of one group", shared, &[("/devices/1/group", "51"), ("/groups/0/state", "held")]),
    recipe("unreadable members", unreadable_member, &[("/groups/0/unreadable", "2")]),
    recipe(
        "missing group",
        no_group,
        &[("/groups/0/error/kind", "missing"), ("/groups/0/error/group", "51")],
    ),
    recipe(
        "nothing bound",
        || on(Node::new()?),
        &[("/coverage/processes", "1"), ("/unprobed/events/0", "ready")],
    ),
    recipe("no sysfs", || without("sys"), &[("/error/kind", "missing")]),
    recipe(
        "a proc without processes",
        no_process,
        &[("/groups/0/state", "held"), ("/coverage/processes", "0"), ("/coverage/pid_namespace", "unknown")],
    ),
    recipe(
        "a foreign pid namespace",
        foreign_namespace,
        &[
            ("/coverage/pid_namespace", "foreign"),
            ("/coverage/unreadable", "0"),
            ("/coverage/complete", "false"),
        ],
    ),
    recipe(
        "two offenders in a group",
        two_offenders,
        &[
            ("/groups/0/offenders", "2"),
            ("/groups/0/viable", "false"),
            ("/groups/0/members/2/offends", "true"),
        ],
    ),
    recipe(
        "Kata outside of the pod's cgroup",
        || in_cgroup("0::/kata_overhead/ID"),
        &[("/holders/0/in_pod", "unknown"), ("/holders/0/container_id", ID), ("/holders/0/pod_uid", "null")],
    ),
    recipe(
        "Kata in the pod's cgroup",
        || in_cgroup("12:memory:/kubepods/podUID/kata_ID\n0::/system.slice/containerd.service"),
        IN_POD,
    ),
    recipe(
        "a nested kubelet",
        || {
            in_cgroup(
                "0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-podSLICE.slice/cri-containerd-ID.scope",
            )
        },
        IN_POD,
    ),
    recipe(
        "a runtime with cgroupfs below systemd",
        || in_cgroup("0::/kubepods-podSLICE.slice:cri-containerd:ID"),
        IN_POD,
    ),
    recipe(
        "a pod's name in a user's cgroup",
        || in_cgroup("0::/user.slice/user-1000.slice/kubepods/podUID/ID"),
        &[("/holders/0/in_pod", "no"), ("/holders/0/pod_uid", "null"), ("/holders/0/container_id", "null")],
    ),
];

const ID: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const IN_POD: &[(&str, &str)] =
    &[("/holders/0/in_pod", "yes"), ("/holders/0/pod_uid", POD), ("/holders/0/container_id", ID)];

/// A VM in a cgroup of this path, with UID, SLICE and ID for the pod's uid, its uid in a slice, and the container's id.
fn in_cgroup(path: &str) -> Result<Tree> {
    let path = path.replace("UID", POD).replace("SLICE", &POD.replace('-', "_")).replace("ID", ID);
    running(two()?.node, &VmSpec { cgroup: Some(path + "\n"), ..VmSpec::foreign(&[GPU]) })
}

fn foreign_namespace() -> Result<Tree> {
    let tree = two()?;
    tree.node.delete("proc/1/ns/pid")?;
    symlink("pid:[4026532178]", tree.node.root().join("proc/1/ns/pid"))?;
    Ok(tree)
}

fn two_offenders() -> Result<Tree> {
    let tree = two()?;
    for (address, driver) in [("0000:1b:00.1", "snd_hda_intel"), ("0000:1b:00.2", "xhci_hcd")] {
        tree.node.add(Function::new(address, 51).with_driver(Some(driver)))?;
    }
    Ok(tree)
}

const IN_SYSFS: &str = "sys/bus/pci/devices/0000:1b:00.0";

fn two() -> Result<Tree> {
    on(with_two(Node::new()?)?)
}

fn held() -> Result<Tree> {
    running(Node::with_eight_gpus()?, &VmSpec::of_pod(POD, &[GPU.to_owned()]))
}

fn foreign() -> Result<Tree> {
    running(Node::with_eight_gpus()?, &VmSpec::foreign(&[GPU]))
}

fn group_only() -> Result<Tree> {
    running(two()?.node, &VmSpec { hold: Hold::GroupOnly, ..VmSpec::foreign(&[GPU]) })
}

fn two_groups() -> Result<Tree> {
    running(two()?.node, &VmSpec::of_pod(POD, &[GPU.to_owned(), OTHER.to_owned()]))
}

/// A process with descriptors that can be listed but not read, as without CAP_SYS_PTRACE.
fn unreadable_process() -> Result<Tree> {
    let tree = held()?;
    let process = tree.node.root().join("proc/99999999");
    std::fs::create_dir_all(&process)?;
    // A file cannot be listed, also by root.
    std::fs::write(process.join("fd"), "")?;
    Ok(tree)
}

fn absent() -> Result<Tree> {
    let tree = two()?;
    tree.node.delete("dev/vfio/51")?;
    Ok(tree)
}

/// A sysfs attribute without a store function refuses a write open, even for root (`kernfs_fop_open`).
fn denied() -> Result<Tree> {
    let tree = absent()?;
    symlink("/sys/kernel/uevent_seqnum", tree.node.root().join("dev/vfio/51"))?;
    Ok(tree)
}

fn other_errno() -> Result<Tree> {
    let tree = absent()?;
    std::fs::create_dir(tree.node.root().join("dev/vfio/51"))?;
    Ok(tree)
}

fn malformed() -> Result<Tree> {
    let node = Node::with_eight_gpus()?;
    let devices = "sys/bus/pci/devices";
    node.write(&format!("{devices}/0000:1b:00.0/uevent"), [0xff; 5000])?;
    node.write(&format!("{devices}/0000:3d:00.0/uevent"), "PCI_ID=zz:1\nPCI_CLASS=\nDRIVER\n")?;
    node.replace_by_fifo(&format!("{devices}/0000:4e:00.0/uevent"))?;
    node.write(&format!("{devices}/0000:bd:00.0/numa_node"), "everywhere\n")?;
    on(node)
}

fn nameless() -> Result<Tree> {
    let tree = two()?;
    let class = tree.node.root().join("sys/class/vfio-dev");
    symlink("loop", class.join("loop"))?;
    symlink("../../devices/pci0000:00/nonsense/vfio-dev/vfio98", class.join("vfio98"))?;
    std::fs::write(class.join("a\"quote\\"), "")?;
    std::fs::write(class.join("vfio\u{fffd}"), "")?;
    std::fs::write(class.join("x".repeat(200)), "")?;
    Ok(tree)
}

fn unreadable() -> Result<Tree> {
    let tree = two()?;
    tree.node.make_unreadable(&format!("{IN_SYSFS}/uevent"))?;
    tree.node.make_unreadable("sys/bus/pci/devices/0000:3d:00.0/enable")?;
    Ok(tree)
}

fn shared() -> Result<Tree> {
    let tree = two()?;
    tree.node.add(Function::gpu("0000:1b:00.1", 51, 0))?;
    running(tree.node, &VmSpec::of_pod(POD, &["0000:1b:00.1".to_owned()]))
}

fn unreadable_member() -> Result<Tree> {
    let tree = trees::by_name("not viable")?;
    let link = tree.node.root().join("sys/bus/pci/devices/0000:1b:00.1/driver");
    std::fs::remove_file(&link)?;
    std::fs::create_dir(&link)?;
    // A member that is not a PCI function, with a name longer than the field of an error.
    let uuid = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";
    tree.node.add_mdev(&Mdev {
        uuid: uuid.to_owned(),
        parent: GPU.to_owned(),
        kind: "nvidia-35".to_owned(),
        group: 51,
        cdev: None,
    })?;
    let link = tree.node.root().join("sys/bus/mdev/devices").join(uuid).join("driver");
    std::fs::remove_file(&link)?;
    std::fs::create_dir(&link)?;
    Ok(tree)
}

fn no_group() -> Result<Tree> {
    let tree = two()?;
    tree.node.delete("sys/kernel/iommu_groups/51")?;
    Ok(tree)
}

fn without(directory: &str) -> Result<Tree> {
    let tree = two()?;
    tree.node.delete(directory)?;
    Ok(tree)
}

/// A tree with an empty proc.
fn no_process() -> Result<Tree> {
    let tree = held()?;
    tree.node.delete("proc")?;
    std::fs::create_dir(tree.node.root().join("proc"))?;
    Ok(tree)
}
