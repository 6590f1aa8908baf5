//! What the node knows beside its files, and what the kernel does when a group is taken and given back.

use crate::function::Function;
use crate::group_node::{GroupNode, OpenCounter};
use crate::machine::{Hold, Vm, VmProgram, VmSpec};
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
    pub(crate) cdevs: BTreeMap<String, u32>,
    pub(crate) groups: BTreeMap<u32, GroupNode>,
    pub(crate) held: BTreeSet<u32>,
    pub(crate) without_class: bool,
    /// Functions whose device a machine has open.
    enabled: BTreeSet<String>,
    /// What each machine has, by its pid.
    machines: BTreeMap<u32, Machine>,
}

#[derive(Debug)]
struct Machine {
    groups: BTreeSet<u32>,
    enabled: Vec<String>,
}

impl State {
    /// Whether something keeps the group's node: a bound member, or a holder's device.
    pub(crate) fn keeps_node(&self, group: u32) -> bool {
        self.functions.values().any(|function| {
            function.group == Some(group)
                && (function.has_vfio_driver() || self.enabled.contains(&function.address))
        })
    }

    /// Opens the groups of the functions as a VM would, all or none. From then on others get EBUSY.
    fn take(&mut self, addresses: &[String]) -> Result<BTreeMap<u32, OwnedFd>> {
        let mut groups = BTreeMap::new();
        for address in addresses {
            let group = self.functions.get(address).and_then(|function| function.group);
            let group = group.ok_or_else(|| missing(address))?;
            if let Entry::Vacant(place) = groups.entry(group) {
                place.insert(self.groups.get_mut(&group).ok_or_else(|| missing(address))?.open()?);
            }
        }
        // Open first: exclusive mode keeps out who comes later, also ourselves.
        for group in groups.keys() {
            self.groups.get(group).map_or(Ok(()), GroupNode::hold)?;
            self.held.insert(*group);
        }
        Ok(groups)
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
        let taken = state.take(&spec.addresses)?;
        let groups: BTreeSet<u32> = taken.keys().copied().collect();
        let started = program.spawn(link, taken.into_values().collect()).and_then(|mut child| {
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
        let enabled = if spec.hold == Hold::Device { spec.addresses.clone() } else { Vec::new() };
        for address in &enabled {
            state.enabled.insert(address.clone());
            self.set_enable(address, true);
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
            self.set_enable(address, false);
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

    /// Removes the node of a group that nothing keeps.
    pub(crate) fn drop_node(&self, state: &mut State, group: u32) {
        if !state.keeps_node(group) && state.groups.remove(&group).is_some() {
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

pub(crate) fn missing(address: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("{address}: not in this state on this node"))
}
