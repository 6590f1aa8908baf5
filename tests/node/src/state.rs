//! What the node knows beside its files, and what the kernel does when a group is taken and given back.

use crate::device_nodes::Kernel;
use crate::function::Function;
use crate::group_node::{GroupNode, OpenCounter};
use crate::machine::{Hold, Vm, VmProgram, VmSpec};
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
pub(crate) struct Shared {
    pub(crate) root: PathBuf,
    pub(crate) opens: Arc<OpenCounter>,
    state: Mutex<State>,
    folder: Mutex<tempfile::TempDir>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) functions: BTreeMap<String, Function>,
    /// The groups of mediated devices.
    pub(crate) mdevs: BTreeMap<String, u32>,
    /// N of each device's vfioN.
    pub(crate) cdevs: BTreeMap<String, u32>,
    /// Devices' own nodes, by that number.
    pub(crate) cdev_nodes: BTreeMap<u32, GroupNode>,
    pub(crate) groups: BTreeMap<u32, GroupNode>,
    pub(crate) held: BTreeSet<u32>,
    pub(crate) kernel: Kernel,
    /// Class entries that have been removed.
    pub(crate) gone: u64,
    /// Functions whose device a machine has open.
    enabled: BTreeSet<String>,
    /// What each machine has, by its pid.
    machines: BTreeMap<u32, Machine>,
}

/// What a machine has taken.
struct Taken {
    groups: BTreeSet<u32>,
    descriptors: Vec<OwnedFd>,
}

#[derive(Debug)]
struct Machine {
    groups: BTreeSet<u32>,
    enabled: Vec<String>,
}

impl State {
    /// Whether something keeps the group's node: a bound member, or a holder's device.
    pub(crate) fn keeps_node(&self, group: u32) -> bool {
        let bound = |function: &Function| {
            function.group == Some(group)
                && (function.has_vfio_driver() || self.enabled.contains(&function.address))
        };
        self.functions.values().any(bound) || self.mdevs.values().any(|known| *known == group)
    }

    /// Whether an open of the device raises its count, as vfio-pci-core does; a vendor's own driver does not.
    fn counts(&self, address: &str) -> bool {
        self.functions.get(address).is_none_or(|function| function.driver.as_deref() != Some("nvidia"))
    }

    fn group_of(&self, address: &str) -> Result<u32> {
        let function = self.functions.get(address).and_then(|function| function.group);
        function.or_else(|| self.mdevs.get(address).copied()).ok_or_else(|| missing(address))
    }

    /// Opens what a machine opens for its devices, all or none, and keeps others out of their groups.
    fn take(&mut self, spec: &VmSpec) -> Result<Taken> {
        let by_group = self.kernel.groups && matches!(spec.hold, Hold::Device | Hold::GroupOnly);
        let mut groups = BTreeMap::new();
        let mut cdevs = Vec::new();
        for address in &spec.addresses {
            let group = self.group_of(address)?;
            if !by_group {
                let node = self.cdevs.get(address).and_then(|number| self.cdev_nodes.get_mut(number));
                cdevs.push(node.ok_or_else(|| missing(address))?.open()?);
                // A bind of a device that is in use, where no group tells (`vfio_df_open`).
                if spec.hold != Hold::CdevUnbound && self.enabled.contains(address) {
                    return Err(Error::from_raw_os_error(Errno::INVAL.raw_os_error()));
                }
            }
            if let (true, Entry::Vacant(place)) =
                (self.kernel.groups && spec.hold != Hold::CdevUnbound, groups.entry(group))
            {
                place.insert(self.groups.get_mut(&group).ok_or_else(|| missing(address))?.open()?);
            }
        }
        // Open first: exclusive mode keeps out who comes later, also ourselves. A bound device does so too
        // (`vfio_device_block_group`).
        for group in groups.keys() {
            self.groups.get(group).map_or(Ok(()), GroupNode::hold)?;
            self.held.insert(*group);
        }
        let taken = groups.keys().copied().collect();
        let descriptors = if by_group { groups.into_values().collect() } else { cdevs };
        Ok(Taken { groups: taken, descriptors })
    }

    fn give_back(&mut self, groups: &BTreeSet<u32>) {
        for group in groups {
            if let Some(node) = self.groups.get(group) {
                let _ = node.release();
            }
            self.held.remove(group);
        }
    }
}

impl Shared {
    pub(crate) fn new(folder: tempfile::TempDir) -> Result<Self> {
        let opens = Arc::new(OpenCounter::new()?);
        Ok(Self {
            root: folder.path().to_owned(),
            opens,
            state: Mutex::default(),
            folder: Mutex::new(folder),
        })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn keep(&self) {
        self.folder.lock().unwrap_or_else(PoisonError::into_inner).disable_cleanup(true);
    }

    pub(crate) fn start(self: &Arc<Self>, program: &VmProgram, link: &Path, spec: &VmSpec) -> Result<Vm> {
        // In one piece: of two that want a group at the same time one gets EBUSY.
        let mut state = self.lock();
        let Taken { groups, descriptors } = state.take(spec)?;
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
                state.give_back(&groups);
                return Err(error);
            }
        };
        let opens_device = matches!(spec.hold, Hold::Device | Hold::Cdev);
        let enabled = if opens_device { spec.addresses.clone() } else { Vec::new() };
        for address in &enabled {
            state.enabled.insert(address.clone());
            if state.counts(address) {
                self.set_enable(address, true);
            }
        }
        state.machines.insert(child.id(), Machine { groups, enabled });
        drop(state);
        Vm::watch(self, child, spec.teardown)
    }

    /// Its entry in proc: everything is the real process', but the cgroup, which is not ours to choose.
    fn show_process(&self, child: &Child, spec: &VmSpec) -> Result<()> {
        let pid = child.id();
        let folder = self.root.join(format!("proc/{pid}"));
        fs::create_dir_all(&folder)?;
        let container = spec.container_id.clone().unwrap_or_else(|| format!("{pid:064x}"));
        let cgroup = spec.pod_uid.as_ref().map_or("0::/system.slice/foreign.service\n".to_owned(), |uid| {
            let slice = format!("kubepods-burstable-pod{}.slice", uid.replace('-', "_"));
            format!("0::/kubepods.slice/kubepods-burstable.slice/{slice}/cri-containerd-{container}.scope\n")
        });
        fs::write(folder.join("cgroup"), cgroup)?;
        for name in ["fd", "fdinfo", "stat", "comm", "status"] {
            symlink(format!("/proc/{pid}/{name}"), folder.join(name))?;
        }
        Ok(())
    }

    /// A machine's groups are free again, in the kernel's order: the count falls first, then the group can be opened.
    /// Nothing if that was done already.
    pub(crate) fn release(&self, pid: u32) {
        let mut state = self.lock();
        let Some(machine) = state.machines.remove(&pid) else { return };
        for address in &machine.enabled {
            state.enabled.remove(address);
            if state.counts(address) {
                self.set_enable(address, false);
            }
        }
        state.give_back(&machine.groups);
        for group in machine.groups {
            self.drop_node(&mut state, group);
        }
    }

    /// Takes a process out of proc.
    pub(crate) fn forget(&self, pid: u32) {
        let _ = fs::remove_dir_all(self.root.join(format!("proc/{pid}")));
    }

    /// In place and in one write: sysfs never shows an empty attribute, and readers keep the file open.
    fn set_enable(&self, address: &str, on: bool) {
        let path = self.root.join("sys/devices/pci0000:00").join(address).join("enable");
        if let Ok(file) = fs::OpenOptions::new().write(true).open(path) {
            let _ = file.write_all_at(if on { b"1\n" } else { b"0\n" }, 0);
        }
    }
}

pub(crate) fn missing(address: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("{address}: not in this state on this node"))
}
