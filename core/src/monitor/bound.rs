//! Follows the bound devices: which were bound, bound again, unbound, or wait for their holder to
//! be unbound.

use super::Change;
use super::baseline::EnableBaseline;
use super::descriptors::Descriptors;
use super::pass::{Pass, Scratch};
use crate::device::{Detail, Device, Kind};
use crate::error::{ErrorKind, Result};
use crate::id::GroupId;
use crate::peek::{EnableCount, Peek};
use crate::root::{KeptDirectory, Root};
use crate::scan::Bound;
use rustix::io::Errno;
use std::time::{Duration, Instant};

/// Interval of a refresh. It finds changes that no listing shows while no uevent arrives: a group
/// peer that was bound to a host driver, another type of a vGPU, another driver where no entry in
/// /sys/class/vfio-dev shows it.
const REFRESH: Duration = Duration::from_secs(30);
/// Interval of a refresh that also reads the records of functions with the same entry in
/// /sys/class/vfio-dev as before. Their driver and their group cannot have changed. A corrected
/// NUMA node can.
const READ_ALL: Duration = Duration::from_secs(300);

/// A device that is bound, or that the kernel is unbinding.
#[derive(Debug)]
pub struct Tracked {
    /// The record of the device. It has no driver while the kernel unbinds the device.
    pub device: Device,
    /// The driver link is gone and the group's device node still exists: the kernel's unbind waits
    /// for the holder (`vfio_unregister_group_dev`).
    pub unbinding: bool,
    pub(super) enable: EnableBaseline,
    /// The inode of the entry in /sys/class/vfio-dev. A different inode means that the device was
    /// bound again. None if the entry could not be listed.
    entry: Option<u64>,
    /// The latest listing contained the device.
    seen: bool,
}

impl Tracked {
    /// Returns whether the enable count was above 0 while a probe of this monitor had the group
    /// open. Such a count is left over from before the bind, so it does not mean that the device is
    /// held.
    #[must_use]
    pub fn enable_is_stale(&self) -> bool {
        self.enable.is_stale()
    }

    /// Returns whether a listed device was bound again since the previous pass. Without an inode,
    /// then or now, this is not known, and the inode does not count.
    fn is_rebound(&self, cdev: Option<u32>, entry: Option<u64>) -> bool {
        let replaced = self.entry.zip(entry).is_some_and(|(before, now)| before != now);
        self.unbinding || self.device.cdev != cdev || replaced
    }

    /// Returns whether a refresh can do without the record of a listed device. The entry in
    /// /sys/class/vfio-dev lives from the bind to the unbind (`vfio_register_group_dev`).
    fn stays_as_read(&self, entry: Option<u64>, detail: Detail) -> bool {
        let is_same = entry.is_some() && self.entry == entry;
        is_same && self.device.kind == Kind::Pci && detail == Detail::Identity
    }

    /// Takes a newly read record. Returns whether anything changed.
    fn update(&mut self, device: Device, entry: Option<u64>, changes: &mut Vec<Change>) -> bool {
        let rebound = self.is_rebound(device.cdev, entry);
        let differs = self.device != device;
        if rebound {
            self.enable.forget();
            self.unbinding = false;
            changes.extend([Change::Unbound(device.id), Change::Bound(device.id)]);
        } else if differs {
            changes.extend(device.group.map(Change::Changed));
        }
        self.device = device;
        self.entry = entry.or(self.entry);
        rebound || differs
    }

    /// Returns whether the kernel's unbind of an unlisted device waits for its holder. Then the
    /// function exists without a driver, and so does the group's device node (or its entry in
    /// sysfs, where /dev is not visible), if the kernel has group nodes.
    ///
    /// # Errors
    /// This process has no descriptor left, so it is not known.
    fn waits_for_holder(&self, root: &Root) -> Result<bool> {
        let (Some(address), Some(group)) = (self.device.id.pci(), self.device.group) else {
            return Ok(false);
        };
        let mut link = [0; 512];
        let driver = root.link(format_args!("sys/bus/pci/devices/{address}/driver"), &mut link).map(|_| ());
        let present = root.stat(format_args!("sys/bus/pci/devices/{address}")).is_ok();
        let node = root.stat(format_args!("dev/vfio/{group}")).is_ok()
            || root.stat(format_args!("sys/class/vfio/{group}")).is_ok()
            || !root.has_group_nodes();
        if driver != Err(Errno::NOENT) || !present || !node {
            return Ok(false);
        }
        // A group peer can keep the node as well. But `enable` of this device falls only when its
        // own holder leaves.
        match EnableCount::default().read(root, self.device.id) {
            Ok(count) => Ok(self.enable.is_exceeded_by(count)),
            Err(error) if error.is_shortage() => Err(error),
            Err(_) => Ok(false),
        }
    }
}

/// All bound devices.
pub(super) struct BoundDevices {
    /// Sorted by id.
    pub(super) devices: Vec<Tracked>,
    /// The entries of /sys/class/vfio-dev at the latest pass. Empty if the next pass must list the
    /// devices in any case.
    entries: Vec<(u32, u64)>,
    /// When the next refresh is due.
    refresh_at: Instant,
    /// The next refresh from then on reads all records.
    read_all_at: Instant,
    /// The devices of each group, as places in `devices`. Sorted by group.
    places: Vec<(GroupId, usize)>,
    descriptors: Descriptors,
    /// /sys/class/vfio-dev.
    class: KeptDirectory,
}

impl BoundDevices {
    /// Peeks at a group: compares the enable count of each of its tracked devices with its baseline.
    pub(super) fn peek(&mut self, root: &Root, group: GroupId) -> Result<Peek> {
        let mut peek = Peek::Unavailable;
        let first = self.places.partition_point(|&(other, _)| other < group);
        for &(_, place) in self.places.iter().skip(first).take_while(|&&(other, _)| other == group) {
            let Some(tracked) = self.devices.get_mut(place) else { continue };
            // The host driver enables the virtual functions of a vendor itself, not on behalf of a VM.
            if tracked.device.kind == Kind::VendorVf {
                continue;
            }
            let was_open = tracked.enable.is_open();
            let keep = was_open || self.descriptors.may_open();
            let peeked = tracked.enable.peek(root, tracked.device.id, keep);
            self.descriptors.count(was_open, tracked.enable.is_open());
            peek = match (peek, peeked?) {
                (Peek::LooksHeld, _) | (_, Peek::LooksHeld) => Peek::LooksHeld,
                (Peek::LooksFree, _) | (_, Peek::LooksFree) => Peek::LooksFree,
                (Peek::Unavailable, Peek::Unavailable) => Peek::Unavailable,
            };
        }
        Ok(peek)
    }

    pub(super) fn new(now: Instant) -> Self {
        Self {
            devices: Vec::new(),
            entries: Vec::new(),
            refresh_at: now + REFRESH,
            read_all_at: now + READ_ALL,
            places: Vec::new(),
            descriptors: Descriptors::default(),
            class: KeptDirectory::default(),
        }
    }

    /// Makes the next pass read everything again.
    pub(super) fn read_all(&mut self, now: Instant) {
        (self.refresh_at, self.read_all_at) = (now, now);
    }

    /// Returns whether a refresh is due.
    pub(super) fn refresh_is_due(&self, now: Instant) -> bool {
        now >= self.refresh_at
    }

    /// Notes the places of the devices and the open descriptors, after devices were added, removed
    /// or read again. Closes those of groups that are not watched.
    pub(super) fn index(&mut self, is_watched: impl Fn(GroupId) -> bool) {
        let places = self.devices.iter().enumerate();
        self.places.clear();
        self.places.extend(places.filter_map(|(place, tracked)| Some((tracked.device.group?, place))));
        self.places.sort_unstable();
        // Counts from 0, with the limit of now.
        self.descriptors = Descriptors::default();
        for tracked in self.devices.iter_mut().filter(|tracked| tracked.enable.is_open()) {
            if tracked.device.group.is_some_and(&is_watched) && self.descriptors.may_open() {
                self.descriptors.count(false, true);
            } else {
                tracked.enable.close();
            }
        }
    }

    /// Returns the number of `enable` attributes that are kept open, and the largest that may be.
    pub(super) fn descriptors(&self) -> (usize, usize) {
        let mut descriptors = self.descriptors;
        (descriptors.open, descriptors.limit())
    }

    /// Returns the devices of a group.
    pub(super) fn devices_of(&self, group: GroupId) -> impl Iterator<Item = &Tracked> {
        let first = self.places.partition_point(|&(other, _)| other < group);
        let of_group = self.places.iter().skip(first).take_while(move |&&(other, _)| other == group);
        of_group.filter_map(|&(_, place)| self.devices.get(place))
    }

    /// Lists the bound devices and reads the records of new and changed ones. Returns whether
    /// groups may have changed.
    ///
    /// If the class directory has the same entries as before, one system call is enough.
    ///
    /// # Errors
    /// The bound devices cannot be listed. Then no device changes.
    pub(super) fn update(&mut self, detail: Detail, pass: &mut Pass<'_>) -> Result<bool> {
        let refresh = self.refresh_is_due(pass.now);
        // The errors are those of the latest reading, so each of their devices is read again.
        let read_all = refresh && (pass.now >= self.read_all_at || !pass.errors.as_slice().is_empty());
        if !self.must_list(refresh, pass) {
            return Ok(false);
        }
        self.list(pass)?;
        if refresh {
            self.refresh_at = pass.now + REFRESH;
            pass.errors.clear();
        }
        if read_all {
            self.read_all_at = pass.now + READ_ALL;
        }
        for error in pass.scratch.failed.drain(..) {
            pass.errors.add(error);
        }
        for tracked in &mut self.devices {
            tracked.seen = false;
        }
        pass.scratch.numa_nodes.clear();
        let listed = std::mem::take(&mut pass.scratch.listed);
        self.devices.reserve(listed.len().saturating_sub(self.devices.len()));
        let mut changed = refresh;
        for &bound in &listed {
            changed |= self.take_listed(bound, (refresh, read_all), detail, pass);
        }
        pass.scratch.listed = listed;
        changed |= self.drop_unlisted(pass.root, pass.changes);
        Ok(changed)
    }

    /// Compares the entries of the class directory with those of the previous pass.
    fn must_list(&mut self, refresh: bool, pass: &mut Pass<'_>) -> bool {
        let Scratch { buffer, entries, .. } = &mut *pass.scratch;
        pass.root.bound_entries(&mut self.class, buffer, entries);
        let unchanged = !self.entries.is_empty() && self.entries == *entries;
        std::mem::swap(&mut self.entries, entries);
        !unchanged || refresh || self.devices.iter().any(|tracked| tracked.unbinding)
    }

    fn list(&mut self, pass: &mut Pass<'_>) -> Result<()> {
        let Scratch { buffer, listed, failed, .. } = &mut *pass.scratch;
        listed.clear();
        failed.clear();
        let mut take = |bound| match bound {
            Ok(bound) => listed.push(bound),
            Err(error) => failed.push(error),
        };
        let walked = if self.entries.is_empty() {
            pass.root.bound_in(&mut self.class, buffer, take)
        } else {
            // `must_list` has listed the directory just now.
            self.entries.iter().for_each(|&(number, _)| take(pass.root.bound_entry(number)));
            Ok(())
        };
        if walked.is_err() || !failed.is_empty() {
            // An entry was not understood yet, so the next pass lists again.
            self.entries.clear();
        }
        walked
    }

    /// Takes one listed device. Returns whether groups may have changed.
    fn take_listed(
        &mut self,
        bound: Bound,
        (refresh, read_all): (bool, bool),
        detail: Detail,
        pass: &mut Pass<'_>,
    ) -> bool {
        let place = self.devices.binary_search_by_key(&bound.id, |tracked| tracked.device.id);
        let entry =
            self.entries.iter().find(|(number, _)| Some(*number) == bound.cdev).map(|(_, inode)| *inode);
        if let Some(tracked) = place.ok().and_then(|index| self.devices.get_mut(index)) {
            tracked.seen = true;
            let is_known = !refresh || !read_all && tracked.stays_as_read(entry, detail);
            if is_known && !tracked.is_rebound(bound.cdev, entry) {
                tracked.entry = entry.or(tracked.entry);
                return false;
            }
        } else if !refresh && pass.errors.concern(bound.id) {
            return false; // The latest reading failed. The next refresh tries again.
        }
        let Some(device) = self.read(bound, detail, pass) else { return false };
        match place {
            Ok(index) => {
                self.devices.get_mut(index).is_some_and(|tracked| tracked.update(device, entry, pass.changes))
            }
            Err(index) => {
                let enable = EnableBaseline::default();
                self.devices.insert(index, Tracked { device, unbinding: false, enable, entry, seen: true });
                pass.changes.push(Change::Bound(bound.id));
                true
            }
        }
    }

    /// Reads the record of a listed device. Returns none if that fails; a known device keeps its
    /// old record then.
    fn read(&mut self, bound: Bound, detail: Detail, pass: &mut Pass<'_>) -> Option<Device> {
        match pass.root.device_with(bound.id, detail, &mut pass.scratch.numa_nodes) {
            Ok(device) => Some(Device { cdev: bound.cdev, ..device }),
            // The device was removed between listing and reading. That is no error; the next pass
            // lists again.
            Err(error) if error.kind == ErrorKind::Missing => {
                self.entries.clear();
                None
            }
            // This process has no descriptor left. The next pass tries again.
            Err(error) if error.is_shortage() => {
                self.entries.clear();
                None
            }
            Err(error) => {
                pass.errors.add(error);
                None
            }
        }
    }

    /// Drops the devices that are no longer listed, except those whose unbind waits for a holder.
    /// Returns whether any device changed.
    fn drop_unlisted(&mut self, root: &Root, changes: &mut Vec<Change>) -> bool {
        let mut changed = false;
        let entries = &mut self.entries;
        self.devices.retain_mut(|tracked| {
            if tracked.seen {
                return true;
            }
            let Ok(waits) = tracked.waits_for_holder(root) else {
                // Not known is not unbound. The next pass lists again.
                entries.clear();
                return true;
            };
            if !waits {
                changed = true;
                changes.push(Change::Unbound(tracked.device.id));
            } else if !tracked.unbinding {
                changed = true;
                tracked.unbinding = true;
                tracked.device.driver = None;
                changes.extend(tracked.device.group.map(Change::Changed));
            }
            waits
        });
        changed
    }
}
