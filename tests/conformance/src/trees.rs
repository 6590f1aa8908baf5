//! The trees that are looked at: one for each thing that can be told of a device or group.

use std::io::Result;
use std::os::unix::fs::symlink;
use vfio_sim_node::mdev::Mdev;
use vfio_sim_node::{Function, Hold, Node, Vm, VmSpec};

/// A tree, with the machines that run on it.
pub(crate) struct Tree {
    pub(crate) node: Node,
    pub(crate) _machines: Vec<Vm>,
}

/// A tree's name, what makes it, and what makes it what it is called: places of the document and what is there. A tree that is
/// not what it is called would compare nothing.
pub(crate) struct Recipe {
    pub(crate) name: &'static str,
    pub(crate) build: fn() -> Result<Tree>,
    pub(crate) shows: &'static [(&'static str, &'static str)],
}

const fn recipe(
    name: &'static str,
    build: fn() -> Result<Tree>,
    shows: &'static [(&'static str, &'static str)],
) -> Recipe {
    Recipe { name, build, shows }
}

pub(crate) const ALL: &[Recipe] = &[
    recipe(
        "free",
        || on(Node::with_eight_gpus()?),
        &[("/groups/7/state", "free"), ("/groups/0/peek", "looks-free")],
    ),
    recipe(
        "held by a pod's machine",
        held,
        &[("/groups/0/state", "held"), ("/groups/0/peek", "looks-held"), ("/holders/0/pod_uid", POD)],
    ),
    recipe(
        "held by a process of no pod",
        foreign,
        &[("/groups/0/state", "held"), ("/holders/0/pod_uid", "null")],
    ),
    recipe(
        "group open, no device of it",
        group_only,
        &[("/groups/0/state", "held"), ("/groups/0/peek", "looks-free")],
    ),
    recipe("two groups, one machine", two_groups, &[("/holders/0/group", "51"), ("/holders/1/group", "52")]),
    recipe("held by way of a cdev", by_cdev, &[("/holders/0/via", "cdev")]),
    recipe(
        "processes that cannot be read",
        unreadable_process,
        &[("/looked/processes", "2"), ("/looked/unreadable", "1"), ("/looked/unattributed", "0")],
    ),
    recipe("absent: no node", absent, &[("/groups/0/state", "absent")]),
    recipe("denied", denied, &[("/groups/0/state", "unknown"), ("/groups/0/why", "denied")]),
    recipe("another errno", other_errno, &[("/groups/0/why", "errno"), ("/groups/0/errno", "21")]),
    recipe(
        "malformed attributes",
        malformed,
        &[("/broken/0/kind", "too-long"), ("/broken/3/kind", "malformed")],
    ),
    recipe(
        "entries that name nothing",
        nameless,
        &[("/broken/4/device", "null"), ("/devices/1/group", "52")],
    ),
    recipe("unreadable attributes", unreadable, &[("/broken/0/device", GPU), ("/groups/0/peek", "blind")]),
    recipe("two devices of one group", shared, &[("/devices/1/group", "51"), ("/groups/0/state", "held")]),
    recipe(
        "not viable",
        not_viable,
        &[("/groups/0/viable", "false"), ("/groups/0/offender_driver", "snd_hda_intel")],
    ),
    recipe("members that cannot be read", broken_member, &[("/groups/0/unreadable", "2")]),
    recipe(
        "a group that is not there",
        no_group,
        &[("/groups/0/error/kind", "missing"), ("/groups/0/error/group", "51")],
    ),
    recipe("mdev", mdev, &[("/devices/2/kind", "mdev"), ("/groups/2/peek", "blind")]),
    recipe(
        "SR-IOV",
        sriov,
        &[("/devices/2/sriov", "physical"), ("/devices/2/vfs", "2"), ("/devices/3/sriov", "virtual")],
    ),
    recipe(
        "vendor virtual functions",
        vendor_vf,
        &[("/devices/2/kind", "vendor-vf"), ("/devices/2/vgpu_type", "558")],
    ),
    recipe("no IOMMU, no NUMA", bare, &[("/devices/0/group", "null"), ("/devices/0/numa_node", "null")]),
    recipe(
        "variant drivers",
        variants,
        &[("/devices/3/driver", "virtio_vfio_pci"), ("/devices/0/id", "10000:e1:1f.0")],
    ),
    recipe(
        "before 6.1",
        || on(Node::new()?.without_vfio_class()?).and_then(with_two),
        &[("/devices/1/cdev", "null"), ("/groups/1/state", "free")],
    ),
    recipe("nothing bound", || on(Node::new()?), &[("/looked/processes", "0")]),
    recipe("no sysfs at all", || without("sys"), &[("/error/kind", "missing")]),
    recipe(
        "a proc without processes",
        no_process,
        &[("/groups/0/state", "held"), ("/looked/processes", "0")],
    ),
];

const GPU: &str = "0000:1b:00.0";
const IN_SYSFS: &str = "sys/bus/pci/devices/0000:1b:00.0";
const POD: &str = "4b5a1c7e-5b0a-4a57-9d3a-0123456789ab";

fn on(node: Node) -> Result<Tree> {
    Ok(Tree { node, _machines: Vec::new() })
}

fn with_two(tree: Tree) -> Result<Tree> {
    tree.node.add(Function::gpu(GPU, 51, 0))?;
    tree.node.add(Function::gpu("0000:3d:00.0", 52, 1))?;
    Ok(tree)
}

fn two() -> Result<Tree> {
    with_two(on(Node::new()?)?)
}

fn running(node: Node, machine: &VmSpec) -> Result<Tree> {
    let vm = node.start_vm(machine)?;
    Ok(Tree { node, _machines: vec![vm] })
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
    running(two()?.node, &VmSpec::of_pod(POD, &[GPU.to_owned(), "0000:3d:00.0".to_owned()]))
}

/// The machine's descriptor is the one that the device's own node has, too: told by its number, as /dev/full is here.
fn by_cdev() -> Result<Tree> {
    let tree = two()?;
    let cdevs = tree.node.root().join("dev/vfio/devices");
    std::fs::create_dir(&cdevs)?;
    symlink("/dev/full", cdevs.join("vfio0"))?;
    let pid = std::process::id();
    let folder = tree.node.root().join(format!("proc/{pid}"));
    std::fs::create_dir_all(folder.join("fd"))?;
    symlink("/dev/full", folder.join("fd/3"))?;
    symlink(format!("/proc/{pid}/stat"), folder.join("stat"))?;
    Ok(tree)
}

/// A process whose descriptors can be listed and not looked at, as without CAP_SYS_PTRACE.
fn unreadable_process() -> Result<Tree> {
    let tree = held()?;
    let fds = tree.node.root().join("proc/99999999/fd");
    std::fs::create_dir_all(&fds)?;
    symlink("3", fds.join("3"))?;
    Ok(tree)
}

fn absent() -> Result<Tree> {
    let tree = two()?;
    tree.node.delete("dev/vfio/51")?;
    Ok(tree)
}

/// An attribute that nobody may write refuses even root (`kernfs_fop_open`).
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

fn not_viable() -> Result<Tree> {
    let tree = two()?;
    tree.node.add(Function { driver: Some("pcieport".into()), ..Function::new("0000:1a:00.0", 51) })?;
    tree.node.add(Function { driver: Some("snd_hda_intel".into()), ..Function::new("0000:1b:00.1", 51) })?;
    Ok(tree)
}

fn broken_member() -> Result<Tree> {
    let tree = not_viable()?;
    let link = tree.node.root().join("sys/bus/pci/devices/0000:1b:00.1/driver");
    std::fs::remove_file(&link)?;
    std::fs::create_dir(&link)?;
    // Of another name than a function's, and with more characters than an error has room for.
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

fn mdev() -> Result<Tree> {
    let tree = two()?;
    tree.node.add_mdev(&Mdev {
        uuid: "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001".to_owned(),
        parent: GPU.to_owned(),
        kind: "nvidia-35".to_owned(),
        group: 70,
        cdev: Some(20),
    })?;
    Ok(tree)
}

fn sriov() -> Result<Tree> {
    let tree = two()?;
    tree.node.add(Function { sriov_numvfs: Some(2), ..Function::gpu("0000:f1:00.0", 90, -1) })?;
    for function in 1..=2 {
        tree.node.add(Function {
            physfn: Some("0000:f1:00.0".into()),
            ..Function::gpu(&format!("0000:f1:00.{function}"), 90 + function, 1)
        })?;
    }
    Ok(tree)
}

fn vendor_vf() -> Result<Tree> {
    let tree = two()?;
    for (function, kind) in [(1, "558"), (2, "0")] {
        let address = format!("0000:f1:00.{function}");
        tree.node.add(Function {
            physfn: Some(GPU.into()),
            driver: Some("nvidia".into()),
            ..Function::gpu(&address, 90 + function, 1)
        })?;
        let folder = tree.node.root().join("sys/bus/pci/devices").join(address).join("nvidia");
        std::fs::create_dir(&folder)?;
        std::fs::write(folder.join("current_vgpu_type"), format!("{kind}\n"))?;
    }
    Ok(tree)
}

fn bare() -> Result<Tree> {
    let tree = two()?;
    tree.node.delete(&format!("{IN_SYSFS}/iommu_group"))?;
    tree.node.delete(&format!("{IN_SYSFS}/numa_node"))?;
    Ok(tree)
}

fn variants() -> Result<Tree> {
    let tree = on(Node::new()?)?;
    let drivers = ["nvgrace_gpu_vfio_pci", "mlx5_vfio_pci", "xe-vfio-pci", "virtio_vfio_pci"];
    for (function, driver) in (0..).zip(drivers) {
        tree.node.add(
            Function::gpu(&format!("10000:e1:1f.{function}"), 60 + function, 1).with_driver(Some(driver)),
        )?;
    }
    Ok(tree)
}

fn without(folder: &str) -> Result<Tree> {
    let tree = two()?;
    tree.node.delete(folder)?;
    Ok(tree)
}

/// A tree whose proc has not even an entry for whoever looks.
fn no_process() -> Result<Tree> {
    let tree = held()?;
    tree.node.delete("proc")?;
    std::fs::create_dir(tree.node.root().join("proc"))?;
    Ok(tree)
}
