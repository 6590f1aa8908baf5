//! Named trees: one node for each kind of device and each kind of kernel.

use crate::mdev::Mdev;
use crate::{Function, Hold, Node, Vm, VmSpec};
use std::fs;
use std::io::{Error, Result};

/// A node and the VMs that run on it.
#[derive(Debug)]
pub struct Tree {
    /// The node.
    pub node: Node,
    /// The VMs. They end when the tree is dropped.
    pub vms: Vec<Vm>,
}

/// A tree's name and the function that creates it.
pub type Recipe = (&'static str, fn() -> Result<Tree>);

/// All trees, in the order of docs/device-kinds.md.
pub const ALL: &[Recipe] = &[
    ("GPUs on two NUMA nodes and one without a NUMA node", numa),
    ("before 6.1", before_6_1),
    ("variant drivers", variant_drivers),
    ("other vendors' GPUs, a NIC and a disk", other_vendors),
    ("no IOMMU", no_iommu),
    ("a kernel with cdevs", cdevs),
    ("a VM that holds a GPU by its cdev", cdev_bound),
    ("a cdev that is open and not bound", cdev_unbound),
    ("a kernel without group nodes", no_groups),
    ("a VM on a kernel without group nodes", no_groups_held),
    ("a GPU with audio and USB-C in its group", companions),
    ("two GPUs in one group", shared_group),
    ("not viable", not_viable),
    ("virtual functions of a NIC", virtual_functions),
    ("a GPU with virtual functions enabled", physical_function),
    ("mediated devices", mdevs),
    ("a VM with a mediated device", mdev_held),
    ("virtual functions with a vGPU and without", vendor_functions),
    ("extended memory", extended_memory),
    ("no device node", no_node),
    ("a GPU that has fallen off the bus", lost),
    ("a lost GPU in D3cold", lost_asleep),
];

/// Creates the tree with this name.
///
/// # Errors
/// There is no such tree, or it cannot be created.
pub fn by_name(name: &str) -> Result<Tree> {
    let recipe = ALL.iter().find(|(known, _)| *known == name);
    recipe.ok_or_else(|| Error::other(format!("no such tree: {name}")))?.1()
}

/// The first GPU of most trees.
pub const GPU: &str = "0000:1b:00.0";
/// The second GPU.
pub const OTHER: &str = "0000:3d:00.0";
/// A pod's uid.
pub const POD: &str = "4b5a1c7e-5b0a-4a57-9d3a-0123456789ab";

/// Returns a tree without VMs.
///
/// # Errors
/// None.
pub fn on(node: Node) -> Result<Tree> {
    Ok(Tree { node, vms: Vec::new() })
}

/// Starts one VM and returns the tree.
///
/// # Errors
/// See [`Node::start_vm`].
pub fn running(node: Node, spec: &VmSpec) -> Result<Tree> {
    let vm = node.start_vm(spec)?;
    Ok(Tree { node, vms: vec![vm] })
}

/// Adds two GPUs to a node: group 51 on NUMA node 0, group 52 on NUMA node 1.
///
/// # Errors
/// See [`Node::add`].
pub fn with_two(node: Node) -> Result<Node> {
    node.add(Function::gpu(GPU, 51, 0))?;
    node.add(Function::gpu(OTHER, 52, 1))?;
    Ok(node)
}

fn two() -> Result<Node> {
    with_two(Node::new()?)
}

fn numa() -> Result<Tree> {
    let node = two()?;
    node.add(Function::gpu("0000:4e:00.0", 53, -1))?;
    on(node)
}

fn before_6_1() -> Result<Tree> {
    on(with_two(Node::new()?.without_vfio_class()?)?)
}

fn variant_drivers() -> Result<Tree> {
    let node = Node::new()?;
    let drivers = ["nvgrace_gpu_vfio_pci", "mlx5_vfio_pci", "xe-vfio-pci", "virtio_vfio_pci"];
    for (function, driver) in (0..).zip(drivers) {
        let gpu = Function::gpu(&format!("10000:e1:1f.{function}"), 60 + function, 1);
        node.add(gpu.with_driver(Some(driver)))?;
    }
    on(node)
}

fn other_vendors() -> Result<Tree> {
    let node = two()?;
    for (address, group, vendor, device, class) in [
        ("0000:05:00.0", 61, 0x8086, 0x56c0, 0x03_8000),
        ("0000:06:00.0", 62, 0x1002, 0x74a1, 0x12_0000),
        ("0000:07:00.0", 63, 0x15b3, 0x101d, 0x02_0000),
        ("0000:08:00.0", 64, 0x144d, 0xa80a, 0x01_0802),
    ] {
        let driver = Some("vfio-pci".to_owned());
        node.add(Function { vendor, device, class, driver, ..Function::new(address, group) })?;
    }
    on(node)
}

fn no_iommu() -> Result<Tree> {
    let node = two()?;
    node.delete(&format!("sys/bus/pci/devices/{GPU}/iommu_group"))?;
    node.delete(&format!("sys/bus/pci/devices/{GPU}/numa_node"))?;
    on(node)
}

fn cdevs() -> Result<Tree> {
    on(with_two(Node::new()?.with_cdevs()?)?)
}

fn cdev_bound() -> Result<Tree> {
    let spec = VmSpec::of_pod(POD, &[GPU.to_owned()]);
    running(cdevs()?.node, &VmSpec { hold: Hold::Cdev, ..spec })
}

fn cdev_unbound() -> Result<Tree> {
    running(cdevs()?.node, &VmSpec { hold: Hold::CdevUnbound, ..VmSpec::foreign(&[GPU]) })
}

fn no_groups() -> Result<Tree> {
    on(with_two(Node::new()?.without_group_nodes()?)?)
}

fn no_groups_held() -> Result<Tree> {
    running(no_groups()?.node, &VmSpec::foreign(&[GPU]))
}

fn companions() -> Result<Tree> {
    let node = with_two(Node::new()?.with_cdevs()?)?;
    for (function, device, class) in [(1, 0x10f7, 0x04_0300), (2, 0x1ad6, 0x0c_0330), (3, 0x1ad7, 0x0c_8000)]
    {
        let address = format!("0000:1b:00.{function}");
        node.add(Function { class, ..Function::gpu(&address, 51, 0).with_device(device) })?;
    }
    // A root port without ACS shares its group with the functions below it.
    node.add(Function {
        vendor: 0x8086,
        class: 0x06_0400,
        ..Function::new("0000:1a:01.0", 51).with_driver(Some("pcieport"))
    })?;
    on(node)
}

fn shared_group() -> Result<Tree> {
    let node = two()?;
    node.add(Function::gpu("0000:1c:00.0", 51, 0))?;
    on(node)
}

fn not_viable() -> Result<Tree> {
    let node = two()?;
    node.add(Function { driver: Some("pcieport".into()), ..Function::new("0000:1a:00.0", 51) })?;
    node.add(Function { driver: Some("snd_hda_intel".into()), ..Function::new("0000:1b:00.1", 51) })?;
    on(node)
}

fn virtual_functions() -> Result<Tree> {
    let node = two()?;
    for (card, group) in [("0000:f1:00", 90), ("0000:f2:00", 94)] {
        let physical = format!("{card}.0");
        node.add(Function {
            vendor: 0x15b3,
            device: 0x101d,
            sriov_numvfs: Some(2),
            ..Function::new(&physical, group).with_driver(Some("mlx5_core"))
        })?;
        for function in 1..=2 {
            node.add(Function {
                vendor: 0x15b3,
                device: 0x101e,
                numa_node: 1,
                physfn: Some(physical.clone()),
                ..Function::new(&format!("{card}.{function}"), group + function).with_driver(Some("vfio-pci"))
            })?;
        }
    }
    on(node)
}

fn physical_function() -> Result<Tree> {
    let node = two()?;
    node.add(Function { sriov_numvfs: Some(1), ..Function::gpu("0000:f1:00.0", 90, -1) })?;
    node.add(Function { physfn: Some("0000:f1:00.0".into()), ..Function::gpu("0000:f1:00.1", 91, 1) })?;
    on(node)
}

const MDEVS: [(&str, &str, u32); 3] = [
    ("83b8f4f2-509f-382f-3c1e-e6bfe0fa1001", "nvidia-222", 70),
    ("83b8f4f2-509f-382f-3c1e-e6bfe0fa1002", "nvidia-222", 71),
    ("83b8f4f2-509f-382f-3c1e-e6bfe0fa1003", "nvidia-35", 72),
];

fn mdevs() -> Result<Tree> {
    let node = Node::new()?;
    node.add(Function::gpu(GPU, 51, 1).with_driver(Some("nvidia")))?;
    for (uuid, kind, group) in MDEVS {
        node.add_mdev(&Mdev {
            uuid: uuid.to_owned(),
            parent: GPU.to_owned(),
            kind: kind.to_owned(),
            group,
            cdev: Some(group),
        })?;
    }
    let name = format!("sys/bus/pci/devices/{GPU}/mdev_supported_types/nvidia-222/name");
    node.write(&name, "GRID T4-1Q\n")?;
    on(node)
}

fn mdev_held() -> Result<Tree> {
    running(mdevs()?.node, &VmSpec::foreign(&[MDEVS[0].0]))
}

fn vendor_functions() -> Result<Tree> {
    let node = Node::new()?;
    node.add(Function { sriov_numvfs: Some(3), ..Function::gpu(GPU, 51, 1).with_driver(Some("nvidia")) })?;
    for (function, kind) in [(1, "1414"), (2, "558"), (3, "0")] {
        let address = format!("0000:1b:00.{function}");
        node.add(Function {
            physfn: Some(GPU.into()),
            ..Function::gpu(&address, 90 + function, 1).with_driver(Some("nvidia"))
        })?;
        let dir = node.root().join("sys/bus/pci/devices").join(address).join("nvidia");
        fs::create_dir(&dir)?;
        fs::write(dir.join("current_vgpu_type"), format!("{kind}\n"))?;
        let types = "ID    : vGPU Name\n1414  : NVIDIA H200X-1-18C\n1428  : NVIDIA H200X-141C\n";
        fs::write(dir.join("creatable_vgpu_types"), types)?;
    }
    on(node)
}

/// Two GPUs share one extended memory, a third has its own.
fn extended_memory() -> Result<Tree> {
    let node = Node::new()?;
    let gpus = ["0009:01:00.0", "0019:01:00.0", "0029:01:00.0"];
    for (group, address) in (60..).zip(gpus) {
        let gpu = Function::gpu(address, group, 0).with_device(0x2342);
        node.add(gpu.with_driver(Some("nvgrace_gpu_vfio_pci")))?;
    }
    for (name, gpus) in [("egm4", &gpus[..2]), ("egm5", &gpus[2..])] {
        let dir = node.root().join("sys/class/egm").join(name);
        fs::create_dir_all(&dir)?;
        fs::write(dir.join("dev"), "240:4\n")?;
        fs::write(dir.join("gpu_devices"), gpus.join(" ") + "\n")?;
    }
    on(node)
}

fn no_node() -> Result<Tree> {
    let node = two()?;
    node.delete("dev/vfio/51")?;
    on(node)
}

fn lost() -> Result<Tree> {
    let node = two()?;
    node.set_lost(GPU, true)?;
    on(node)
}

/// Reading its configuration space would wake it.
fn lost_asleep() -> Result<Tree> {
    let node = two()?;
    node.set_lost(GPU, true)?;
    node.set_power_state(GPU, "D3cold")?;
    on(node)
}
