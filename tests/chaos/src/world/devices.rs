//! Binds and unbinds functions, starts and stops foreign VMs, and notes what the plugin may do because of it.

use super::{Foreign, HUNG_TEARDOWN, World};
use std::time::{Duration, Instant};
use vfio_sim_node::{Hold, VmSpec};

/// The plugin has checked a group this long after it could first see it: several intervals.
const FIRST_CHECK: Duration = Duration::from_millis(500);

impl World {
    /// Starts a VM that belongs to no pod.
    pub(crate) fn start_foreign(&mut self, address: &str, hold: Hold) -> anyhow::Result<()> {
        let spec = VmSpec { hold, teardown: HUNG_TEARDOWN, ..VmSpec::foreign(&[address]) };
        let vm = self.node.start_vm(&spec)?;
        let groups: Vec<u32> = self.group_of(address).into_iter().collect();
        groups.iter().for_each(|group| self.note_change(*group));
        self.note_held(&groups);
        let (hung, unattributable, ended_unlisted) = (false, false, None);
        self.foreign.push(Foreign { hung, hold, unattributable, ended_unlisted, vm, groups });
        Ok(())
    }

    /// Ends a foreign VM. Its groups can be opened when this returns.
    pub(crate) fn stop_foreign(&mut self, index: usize) {
        let Foreign { vm, groups, .. } = self.foreign.remove(index);
        drop(vm);
        self.release(&groups);
    }

    /// Unbinds a function. While its device is held, the kernel's unbind waits for the holder.
    pub(crate) fn unbind(&mut self, address: &str) -> anyhow::Result<()> {
        self.node.unbind(address)?;
        if let Some(group) = self.bound.remove(address) {
            self.unbound.insert(address.to_owned(), group);
            self.note_change(group);
        }
        Ok(())
    }

    /// Binds a function again. Returns false while the unbind still waits for a holder.
    pub(crate) fn bind(&mut self, address: &str) -> anyhow::Result<bool> {
        let Some(&group) = self.unbound.get(address) else { return Ok(false) };
        if self.node.is_held(group) {
            return Ok(false);
        }
        self.node.bind(address, "vfio-pci")?;
        self.unbound.remove(address);
        self.bound.insert(address.to_owned(), group);
        self.rebound.insert(address.to_owned());
        if self.bound.values().filter(|of| **of == group).count() == 1 {
            self.changes.recreated_nodes.insert(group);
        }
        self.first_seen.insert(group, Instant::now());
        self.note_change(group);
        Ok(true)
    }

    /// Notes that a VM has opened groups. The plugin probes a group if `enable` is raised at its first check, because the
    /// count could be stale.
    pub(super) fn note_held(&mut self, groups: &[u32]) {
        for group in groups {
            if self.first_seen.get(group).is_some_and(|seen| seen.elapsed() < FIRST_CHECK) {
                self.seen_busy.insert(*group);
            }
        }
    }

    /// Notes that the plugin may open a group one more time.
    pub(super) fn allow_open(&mut self, group: u32) {
        *self.changes.may_be_opened.entry(group).or_default() += 1;
    }

    /// Notes an event after which the health of a group's devices may change once.
    pub(super) fn note_change(&mut self, group: u32) {
        *self.changes.may_change.entry(group).or_default() += 1;
    }

    /// Notes that groups are free now, or assigned to another pod.
    pub(super) fn release(&mut self, groups: &[u32]) {
        for &group in groups {
            self.note_change(group);
            *self.changes.released.entry(group).or_default() += 1;
            if self.seen_busy.remove(&group) {
                self.changes.freed_after_busy.push(group);
            }
        }
    }
}
