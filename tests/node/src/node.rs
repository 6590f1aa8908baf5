//! The node itself: functions that are added, bound, unbound and held, as a tree of files.

use crate::capabilities::drop_sys_admin;
use crate::function::Function;
use crate::group_node::GroupNode;
use crate::machine::{Hold, Vm, VmProgram, VmSpec};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A simulated node. Its folder goes when it is dropped.
#[derive(Debug)]
pub struct Node {
    shared: Arc<Shared>,
    program: VmProgram,
}

#[derive(Debug)]
pub(crate) struct Shared {
    root: PathBuf,
    state: Mutex<State>,
    _folder: Option<tempfile::TempDir>,
}

#[derive(Debug, Default)]
struct State {
    functions: BTreeMap<String, Function>,
    cdevs: BTreeMap<String, u32>,
    groups: BTreeMap<u32, GroupNode>,
    held: BTreeSet<u32>,
    /// Functions whose device a machine has open.
    enabled: BTreeSet<String>,
    without_class: bool,
}

impl Node {
    /// An empty node. Drops CAP_SYS_ADMIN from the calling thread, without which EBUSY would not bite.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn new() -> Result<Self> {
        drop_sys_admin()?;
        let folder = tempfile::Builder::new().prefix("vfio-node-").tempdir()?;
        let root = folder.path().to_owned();
        for path in [
            "sys/bus/pci/devices",
            "sys/bus/pci/drivers/vfio-pci",
            "sys/class/vfio-dev",
            "sys/class/vfio",
            "sys/kernel/iommu_groups",
            "sys/devices/pci0000:00",
            "dev/vfio",
            "proc",
            "bin",
            "run",
            "var/lib/kubelet/device-plugins",
            "var/lib/kubelet/pod-resources",
        ] {
            fs::create_dir_all(root.join(path))?;
        }
        symlink("/dev/null", root.join("dev/vfio/vfio"))?;
        symlink("/proc/self", root.join("proc/self"))?;
        let shared = Shared { root, state: Mutex::default(), _folder: Some(folder) };
        Ok(Self { shared: Arc::new(shared), program: VmProgram::default() })
    }

    /// The same without /sys/class/vfio-dev, as kernels before 6.1.
    ///
    /// # Errors
    /// The folder cannot be removed.
    pub fn without_vfio_class(self) -> Result<Self> {
        fs::remove_dir_all(self.root().join("sys/class/vfio-dev"))?;
        self.shared.lock().without_class = true;
        Ok(self)
    }

    /// The same with another program as virtual machine.
    #[must_use]
    pub fn with_vm_program(self, program: VmProgram) -> Self {
        Self { program, ..self }
    }

    /// An 8-GPU node: `0000:1b:00.0` and on, groups 51 to 58, four on NUMA node 0 and four on 1.
    ///
    /// # Errors
    /// As [`Node::add`].
    pub fn with_eight_gpus() -> Result<Self> {
        let node = Self::new()?;
        for (index, bus) in [0x1b, 0x3d, 0x4e, 0x5f, 0x9b, 0xbd, 0xce, 0xdf].into_iter().enumerate() {
            let (group, numa) = (51 + u32::try_from(index).unwrap_or(0), i32::from(index >= 4));
            node.add(Function::gpu(&format!("0000:{bus:02x}:00.0"), group, numa))?;
        }
        Ok(node)
    }

    /// The folder that stands for `/`.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.shared.root
    }

    /// The kubelet's folder for device plugins.
    #[must_use]
    pub fn kubelet_dir(&self) -> PathBuf {
        self.root().join("var/lib/kubelet/device-plugins")
    }

    /// The kubelet's pod resources socket.
    #[must_use]
    pub fn pod_resources_socket(&self) -> PathBuf {
        self.root().join("var/lib/kubelet/pod-resources/kubelet.sock")
    }

    /// A folder for the plugin's own socket.
    #[must_use]
    pub fn run_dir(&self) -> PathBuf {
        self.root().join("run")
    }

    /// Puts a function into the tree, bound if it names a driver.
    ///
    /// # Errors
    /// The tree cannot be written.
    pub fn add(&self, mut function: Function) -> Result<()> {
        let driver = function.driver.take();
        let (root, address) = (self.root(), function.address.clone());
        let folder = root.join("sys/devices/pci0000:00").join(&address);
        fs::create_dir_all(&folder)?;
        for (name, text) in [
            ("vendor", format!("0x{:04x}\n", function.vendor)),
            ("device", format!("0x{:04x}\n", function.device)),
            ("class", format!("0x{:06x}\n", function.class)),
            ("subsystem_vendor", format!("0x{:04x}\n", function.subsystem.0)),
            ("subsystem_device", format!("0x{:04x}\n", function.subsystem.1)),
            ("numa_node", format!("{}\n", function.numa_node)),
            ("enable", "0\n".to_owned()),
            ("power_state", "D3hot\n".to_owned()),
            ("uevent", function.uevent()),
        ] {
            fs::write(folder.join(name), text)?;
        }
        symlink(
            format!("../../../devices/pci0000:00/{address}"),
            root.join("sys/bus/pci/devices").join(&address),
        )?;
        if let Some(group) = function.group {
            let members = root.join(format!("sys/kernel/iommu_groups/{group}/devices"));
            fs::create_dir_all(&members)?;
            symlink(format!("../../../../devices/pci0000:00/{address}"), members.join(&address))?;
            symlink(format!("../../../kernel/iommu_groups/{group}"), folder.join("iommu_group"))?;
        }
        if let Some(physfn) = &function.physfn {
            symlink(format!("../{physfn}"), folder.join("physfn"))?;
        }
        if let Some(count) = function.sriov_numvfs {
            fs::write(folder.join("sriov_numvfs"), format!("{count}\n"))?;
        }
        self.shared.lock().functions.insert(address.clone(), function);
        driver.map_or(Ok(()), |driver| self.bind(&address, &driver))
    }

    /// Adds functions that nobody is interested in, each in a group of its own from 10,000 on.
    ///
    /// # Errors
    /// As [`Node::add`].
    pub fn add_unbound_functions(&self, count: u32) -> Result<()> {
        for index in 0..count {
            let (domain, bus, device, function) =
                (1 + (index >> 16), index >> 8 & 0xff, index >> 3 & 0x1f, index & 7);
            self.add(Function::new(
                &format!("{domain:04x}:{bus:02x}:{device:02x}.{function}"),
                10_000 + index,
            ))?;
        }
        Ok(())
    }

    /// Binds a function to a driver; with a VFIO driver its group gets a node.
    ///
    /// # Errors
    /// There is no such function, it is bound, or the tree cannot be written.
    pub fn bind(&self, address: &str, driver: &str) -> Result<()> {
        let mut state = self.shared.lock();
        let state = &mut *state;
        let function = state.functions.get_mut(address).ok_or_else(|| missing(address))?;
        if function.driver.is_some() {
            return Err(Error::new(ErrorKind::AlreadyExists, format!("{address} is bound")));
        }
        function.driver = Some(driver.to_owned());
        let root = self.root();
        let folder = root.join("sys/devices/pci0000:00").join(address);
        fs::write(folder.join("uevent"), function.uevent())?;
        let driver_folder = root.join("sys/bus/pci/drivers").join(driver);
        fs::create_dir_all(&driver_folder)?;
        symlink(format!("../../../../devices/pci0000:00/{address}"), driver_folder.join(address))?;
        let vfio = driver.contains("vfio") || driver == "nvidia";
        if let (true, Some(group)) = (vfio, function.group) {
            if !state.groups.contains_key(&group) {
                let node = GroupNode::new()?;
                let class = root.join(format!("sys/class/vfio/{group}"));
                fs::create_dir_all(&class)?;
                fs::write(class.join("dev"), node.number()?)?;
                symlink(node.path(), root.join(format!("dev/vfio/{group}")))?;
                state.groups.insert(group, node);
            }
            if !state.without_class {
                let cdev =
                    (0..).find(|number| !state.cdevs.values().any(|used| used == number)).unwrap_or(u32::MAX);
                state.cdevs.insert(address.to_owned(), cdev);
                fs::create_dir_all(folder.join(format!("vfio-dev/vfio{cdev}")))?;
                symlink(
                    format!("../../devices/pci0000:00/{address}/vfio-dev/vfio{cdev}"),
                    root.join(format!("sys/class/vfio-dev/vfio{cdev}")),
                )?;
            }
        }
        // Last, as `really_probe` links before it calls the driver but nobody looks at half a bind.
        symlink(format!("../../../bus/pci/drivers/{driver}"), folder.join("driver"))
    }

    /// Unbinds a function. While a machine has its device open the kernel's unbind waits: driver link and `vfio-dev`
    /// go at once, the group's node and `enable` when the holder leaves.
    ///
    /// # Errors
    /// There is no such function, it is not bound, or the tree cannot be written.
    pub fn unbind(&self, address: &str) -> Result<()> {
        let mut state = self.shared.lock();
        let function = state.functions.get_mut(address).ok_or_else(|| missing(address))?;
        let driver = function.driver.take().ok_or_else(|| missing(address))?;
        let group = function.group;
        let uevent = function.uevent();
        let root = self.root();
        let folder = root.join("sys/devices/pci0000:00").join(address);
        fs::remove_file(folder.join("driver"))?;
        fs::remove_file(root.join("sys/bus/pci/drivers").join(driver).join(address))?;
        fs::write(folder.join("uevent"), uevent)?;
        if let Some(cdev) = state.cdevs.remove(address) {
            fs::remove_file(root.join(format!("sys/class/vfio-dev/vfio{cdev}")))?;
            fs::remove_dir_all(folder.join("vfio-dev"))?;
        }
        if let Some(group) = group {
            self.shared.drop_node(&mut state, group);
        }
        Ok(())
    }

    /// Takes a function out of the tree.
    ///
    /// # Errors
    /// There is no such function, or the tree cannot be written.
    pub fn remove(&self, address: &str) -> Result<()> {
        let bound =
            self.shared.lock().functions.get(address).ok_or_else(|| missing(address))?.driver.is_some();
        if bound {
            self.unbind(address)?;
        }
        let function = self.shared.lock().functions.remove(address);
        fs::remove_file(self.root().join("sys/bus/pci/devices").join(address))?;
        if let Some(group) = function.and_then(|function| function.group) {
            fs::remove_file(self.root().join(format!("sys/kernel/iommu_groups/{group}/devices/{address}")))?;
        }
        fs::remove_dir_all(self.root().join("sys/devices/pci0000:00").join(address))
    }

    /// Starts a virtual machine, which opens the groups of its functions.
    ///
    /// # Errors
    /// EBUSY, as QEMU gets it, when one of them is held; ENOENT when one has no node.
    pub fn start_vm(&self, spec: &VmSpec) -> Result<Vm> {
        let mut groups = BTreeMap::new();
        {
            let mut state = self.shared.lock();
            for address in &spec.addresses {
                let group = state.functions.get(address).and_then(|function| function.group);
                let group = group.ok_or_else(|| missing(address))?;
                if !groups.contains_key(&group) {
                    let node = state.groups.get_mut(&group).ok_or_else(|| missing(address))?;
                    groups.insert(group, node.open()?);
                }
            }
        }
        // The link's name becomes the process' command name (`begin_new_exec`).
        let link = self.root().join("bin/qemu-system-x86");
        if !link.exists() {
            symlink(&self.program.path, &link)?;
        }
        Vm::start(&self.shared, &self.program, &link, spec, groups.into_iter().collect())
    }

    /// How often others than its machines have opened a group with success.
    #[must_use]
    pub fn opens(&self, group: u32) -> u64 {
        self.shared.lock().groups.get_mut(&group).map_or(0, GroupNode::opens)
    }

    /// Whether a machine holds the group.
    #[must_use]
    pub fn is_held(&self, group: u32) -> bool {
        self.shared.lock().held.contains(&group)
    }

    /// Writes a file of the tree, in place.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) -> Result<()> {
        fs::write(self.root().join(path), content)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn held_by(&self, pid: u32, spec: &VmSpec, groups: &[u32]) -> Result<()> {
        let folder = self.root.join(format!("proc/{pid}"));
        fs::create_dir_all(&folder)?;
        for name in ["fd", "fdinfo", "stat", "comm", "status"] {
            symlink(format!("/proc/{pid}/{name}"), folder.join(name))?;
        }
        let cgroup = spec.pod_uid.as_ref().map_or("0::/system.slice/foreign.service\n".to_owned(), |uid| {
            let slice = uid.replace('-', "_");
            format!("0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{slice}.slice/cri-containerd-{pid:064x}.scope\n")
        });
        fs::write(folder.join("cgroup"), cgroup)?;
        let mut state = self.lock();
        for group in groups {
            state.groups.get(group).map_or(Ok(()), GroupNode::hold)?;
            state.held.insert(*group);
        }
        if spec.hold == Hold::Device {
            for address in &spec.addresses {
                state.enabled.insert(address.clone());
                self.set_enable(address, true);
            }
        }
        Ok(())
    }

    /// In the kernel's order: the count falls first, then the group can be opened.
    pub(crate) fn released_by(&self, pid: u32, spec: &VmSpec, groups: &[u32]) {
        let mut state = self.lock();
        for address in &spec.addresses {
            if state.enabled.remove(address) {
                self.set_enable(address, false);
            }
        }
        for group in groups {
            if let Some(node) = state.groups.get(group) {
                let _ = node.release();
            }
            state.held.remove(group);
            self.drop_node(&mut state, *group);
        }
        let _ = fs::remove_dir_all(self.root.join(format!("proc/{pid}")));
    }

    /// Removes the node of a group that no bound function and no holder's device keeps.
    fn drop_node(&self, state: &mut State, group: u32) {
        let kept = state.functions.values().any(|function| {
            let bound =
                function.driver.as_ref().is_some_and(|driver| driver.contains("vfio") || driver == "nvidia");
            function.group == Some(group) && (bound || state.enabled.contains(&function.address))
        });
        if !kept && state.groups.remove(&group).is_some() {
            let _ = fs::remove_file(self.root.join(format!("dev/vfio/{group}")));
            let _ = fs::remove_dir_all(self.root.join(format!("sys/class/vfio/{group}")));
        }
    }

    /// In place and in one write: sysfs never shows an empty attribute, and readers keep the file open.
    fn set_enable(&self, address: &str, on: bool) {
        let path = self.root.join("sys/devices/pci0000:00").join(address).join("enable");
        if let Ok(file) = fs::OpenOptions::new().write(true).open(path) {
            let _ = file.write_all_at(if on { b"1\n" } else { b"0\n" }, 0);
        }
    }
}

fn missing(address: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("{address}: not in this state on this node"))
}
