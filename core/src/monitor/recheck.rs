//! Checks the members of some groups again in each pass.
//!
//! The listing of a pass shows which devices are bound to VFIO drivers. It does not show that a
//! group peer was bound to a driver of the host, or that a function was added to a group. The kernel
//! reports both by uevents, which a pod with `hostUsers: false` does not get. So each pass reads the
//! drivers of some peers, and lists some groups if uevents are not heard.

use super::bound::Tracked;
use super::groups::{Group, relist};
use super::pass::Pass;
use crate::root::last_component;
use rustix::io::Errno;

/// A pass checks the peers of this many groups, or of more: see [`PASSES_FOR_PEERS`].
const GROUPS_WITH_PEERS: usize = 16;
/// The peers of all groups are checked once in so many passes.
const PASSES_FOR_PEERS: usize = 4;
/// A pass lists this many groups, so that its cost stays the same on a node with many.
const LISTS: usize = 4;

/// Where the next pass continues, as places in the list of groups.
#[derive(Debug, Default)]
pub(super) struct Recheck {
    peers: usize,
    lists: usize,
}

impl Recheck {
    /// Checks the drivers of the peers that are due, in watched groups. Allocates nothing unless one
    /// has changed.
    ///
    /// Costs one system call for each peer that is not bound to a VFIO driver, of 16 groups or a
    /// quarter.
    pub(super) fn peers(&mut self, groups: &mut [Group], devices: &[Tracked], pass: &mut Pass<'_>) {
        let with_peers = groups.iter().filter(|group| is_exposed(group)).count();
        let mut budget = with_peers.min(GROUPS_WITH_PEERS.max(with_peers.div_ceil(PASSES_FOR_PEERS)));
        // The budget is not larger than the number of these groups, so the search ends.
        while budget > 0 {
            let Some(group) = next(&mut self.peers, groups) else { break };
            if is_exposed(group) {
                budget -= 1;
                if peers_differ(group, pass) {
                    relist(group, devices, pass);
                }
            }
        }
    }

    /// Lists the groups that are due, if they are watched. Allocates nothing unless the members of a
    /// group have changed. Costs three system calls for each of the four groups.
    pub(super) fn members(&mut self, groups: &mut [Group], devices: &[Tracked], pass: &mut Pass<'_>) {
        for _ in 0..groups.len().min(LISTS) {
            if let Some(group) = next(&mut self.lists, groups).filter(|group| group.watched) {
                relist(group, devices, pass);
            }
        }
    }
}

/// Returns whether a bind could make the group not viable without a change of the bound devices.
fn is_exposed(group: &Group) -> bool {
    group.watched && group.has_untracked
}

/// Returns the group at a place, and moves the place to the next one, from the last to the first.
fn next<'a>(place: &mut usize, groups: &'a mut [Group]) -> Option<&'a mut Group> {
    let now = if *place < groups.len() { *place } else { 0 };
    *place = now + 1;
    groups.get_mut(now)
}

/// Returns whether a member that is bound to no VFIO driver has another driver than before. What
/// cannot be read does not differ.
fn peers_differ(group: &Group, pass: &Pass<'_>) -> bool {
    let mut buffer = [0; 512];
    group.members.iter().filter(|member| !member.vfio).any(|member| {
        let link = format_args!("sys/kernel/iommu_groups/{}/devices/{}/driver", group.id, member.name);
        match pass.root.link(link, &mut buffer) {
            Ok(link) => member.driver.is_none_or(|driver| driver.as_bytes() != last_component(link)),
            Err(Errno::NOENT) => member.driver.is_some(),
            Err(_) => false,
        }
    })
}
