//! Keeps the state behind the files of the tree, and does what the kernel does when a VM opens and closes devices.

use crate::device_nodes::KernelConfig;
use crate::function::Function;
use crate::group_node::{GroupNode, OpenCounter};
use crate::vm::{Hold, Vm, VmProgram, VmSpec};
use rustix::io::Errno;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Error, ErrorKind, Result};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Debug)]
pub(crate) struct NodeInner {
    pub(crate) root: PathBuf,
    pub(crate) opens: Arc<OpenCounter>,
    state: Mutex<KernelState>,
    dir: Mutex<tempfile::TempDir>,
}

#[derive(Debug, Default)]
pub(crate) struct KernelState {
    pub(crate) functions: BTreeMap<String, Function>,
    /// The group of each mediated device, by uuid.
    pub(crate) mdevs: BTreeMap<String, u32>,
    /// N of each device's `vfioN`, by address or uuid.
    pub(crate) cdevs: BTreeMap<String, u32>,
    /// The cdevs, by that number.
    pub(crate) cdev_nodes: BTreeMap<u32, GroupNode>,
    pub(crate) groups: BTreeMap<u32, GroupNode>,
    pub(crate) held: BTreeSet<u32>,
    pub(crate) config: KernelConfig,
    /// The number of removed class entries.
    pub(crate) gone: u64,
    /// Functions with a device that a VM has open.
    enabled: BTreeSet<String>,
    /// Running VMs, by pid.
    vms: BTreeMap<u32, RunningVm>,
}

/// What a VM has opened.
struct Opened {
    groups: BTreeSet<u32>,
    descriptors: Vec<OwnedFd>,
}

#[derive(Debug)]
struct RunningVm {
    groups: BTreeSet<u32>,
    enabled: Vec<String>,
}

impl KernelState {
    /// Returns true if a bound member or an open device keeps the group's device node.
    pub(crate) fn keeps_node(&self, group: u32) -> bool {
        let bound = |function: &Function| {
            function.group == Some(group)
                && (function.has_vfio_driver() || self.enabled.contains(&function.address))
        };
        self.functions.values().any(bound) || self.mdevs.values().any(|known| *known == group)
    }

    /// Returns true if an open of the device raises its `enable`: in vfio-pci-core it does, in a vendor's own driver
    /// it does not.
    fn counts_opens(&self, address: &str) -> bool {
        self.functions.get(address).is_none_or(|function| function.driver.as_deref() != Some("nvidia"))
    }

    fn group_of(&self, address: &str) -> Result<u32> {
        let function = self.functions.get(address).and_then(|function| function.group);
        function.or_else(|| self.mdevs.get(address).copied()).ok_or_else(|| missing(address))
    }

    /// Opens everything that the VM needs, all or nothing, and locks other openers out of its groups.
    fn open_for(&mut self, spec: &VmSpec) -> Result<Opened> {
        let by_group = self.config.groups && matches!(spec.hold, Hold::Device | Hold::GroupOnly);
        let mut groups = BTreeMap::new();
        let mut cdevs = Vec::new();
        for address in &spec.addresses {
            let group = self.group_of(address)?;
            if !by_group {
                let node = self.cdevs.get(address).and_then(|number| self.cdev_nodes.get_mut(number));
                cdevs.push(node.ok_or_else(|| missing(address))?.open()?);
                // EINVAL, as for a bind of a device that is in use where no group locks it (`vfio_df_open`).
                if spec.hold != Hold::CdevUnbound && self.enabled.contains(address) {
                    return Err(Error::from_raw_os_error(Errno::INVAL.raw_os_error()));
                }
            }
            if let (true, Entry::Vacant(place)) =
                (self.config.groups && spec.hold != Hold::CdevUnbound, groups.entry(group))
            {
                place.insert(self.groups.get_mut(&group).ok_or_else(|| missing(address))?.open()?);
            }
        }
        // All opens come before exclusive mode, which locks out every later opener, this process too. A device that
        // is bound to an iommufd also locks its group (`vfio_device_block_group`).
        for group in groups.keys() {
            self.groups.get(group).map_or(Ok(()), GroupNode::hold)?;
            self.held.insert(*group);
        }
        let taken = groups.keys().copied().collect();
        let descriptors = if by_group { groups.into_values().collect() } else { cdevs };
        Ok(Opened { groups: taken, descriptors })
    }

    fn release_groups(&mut self, groups: &BTreeSet<u32>) {
        for group in groups {
            if let Some(node) = self.groups.get(group) {
                let _ = node.release();
            }
            self.held.remove(group);
        }
    }
}

impl NodeInner {
    pub(crate) fn new(dir: tempfile::TempDir) -> Result<Self> {
        let opens = Arc::new(OpenCounter::new()?);
        Ok(Self { root: dir.path().to_owned(), opens, state: Mutex::default(), dir: Mutex::new(dir) })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, KernelState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn keep(&self) {
        self.dir.lock().unwrap_or_else(PoisonError::into_inner).disable_cleanup(true);
    }

    pub(crate) fn start(self: &Arc<Self>, program: &VmProgram, link: &Path, spec: &VmSpec) -> Result<Vm> {
        // The lock is held throughout: if two VMs want the same group at the same time, one of them gets EBUSY.
        let mut state = self.lock();
        let Opened { groups, descriptors } = state.open_for(spec)?;
        let started = program.spawn(link, descriptors).and_then(|mut child| {
            let shown = self.show_process(&child, spec);
            if shown.is_err() {
                let _ = child.kill();
                let _ = child.wait();
            }
            shown.map(|()| child)
        });
        let child = match started {
            Ok(child) => child,
            Err(error) => {
                state.release_groups(&groups);
                return Err(error);
            }
        };
        let opens_device = matches!(spec.hold, Hold::Device | Hold::Cdev);
        let enabled = if opens_device { spec.addresses.clone() } else { Vec::new() };
        for address in &enabled {
            state.enabled.insert(address.clone());
            if state.counts_opens(address) {
                self.set_enable(address, true);
            }
        }
        state.vms.insert(child.id(), RunningVm { groups, enabled });
        drop(state);
        Vm::watch(self, child, spec.teardown)
    }

    /// Creates the process's entry in the tree's proc: links to the real /proc, and a cgroup file of its own.
    fn show_process(&self, child: &Child, spec: &VmSpec) -> Result<()> {
        let pid = child.id();
        let dir = self.root.join(format!("proc/{pid}"));
        fs::create_dir_all(&dir)?;
        let container = spec.container_id.clone().unwrap_or_else(|| format!("{pid:064x}"));
        let of_pod =
            || {
                spec.pod_uid.as_ref().map_or("0::/system.slice/foreign.service\n".to_owned(), |uid| {
            let slice = format!("kubepods-burstable-pod{}.slice", uid.replace('-', "_"));
            format!("0::/kubepods.slice/kubepods-burstable.slice/{slice}/cri-containerd-{container}.scope\n")
        })
            };
        fs::write(dir.join("cgroup"), spec.cgroup.clone().unwrap_or_else(of_pod))?;
        for name in ["fd", "fdinfo", "stat", "comm", "status"] {
            symlink(format!("/proc/{pid}/{name}"), dir.join(name))?;
        }
        Ok(())
    }

    /// Releases the groups of a VM in the kernel's order: first `enable` falls, then the group can be opened. Does
    /// nothing if they are released already.
    pub(crate) fn release(&self, pid: u32) {
        let mut state = self.lock();
        let Some(vm) = state.vms.remove(&pid) else { return };
        for address in &vm.enabled {
            state.enabled.remove(address);
            if state.counts_opens(address) {
                self.set_enable(address, false);
            }
        }
        state.release_groups(&vm.groups);
        for group in vm.groups {
            self.drop_node(&mut state, group);
        }
    }

    /// Removes a process from the tree's proc.
    pub(crate) fn forget(&self, pid: u32) {
        let _ = fs::remove_dir_all(self.root.join(format!("proc/{pid}")));
    }

    /// Writes `enable` in place and with one write: an attribute of sysfs is never empty, and readers keep the file
    /// open.
    fn set_enable(&self, address: &str, on: bool) {
        let path = self.root.join("sys/devices/pci0000:00").join(address).join("enable");
        if let Ok(file) = fs::OpenOptions::new().write(true).open(path) {
            let _ = file.write_all_at(if on { b"1\n" } else { b"0\n" }, 0);
        }
    }
}

/// Returns the error for a device that does not exist, or is not in the state that the caller needs.
pub(crate) fn missing(address: &str) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!("{address}: this node has no such device in the state that is needed"),
    )
}
