//! Groups that Allocates under way are about to give away, so that no two of them give away the same one.
//!
//! The kubelet admits one pod after the other, but creates containers at the same time, and may call Allocate there too
//! (`GetDeviceRunContainerOptions`).

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use vfio_probe::GroupId;

/// All claims. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Claims(Arc<Mutex<BTreeSet<GroupId>>>);

/// What one Allocate has claimed; given back when dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    claims: Claims,
    groups: Vec<GroupId>,
}

impl Claims {
    /// A claim of nothing yet.
    pub(crate) fn begin(&self) -> Claim {
        Claim { claims: self.clone(), groups: Vec::new() }
    }

    fn with<T>(&self, change: impl FnOnce(&mut BTreeSet<GroupId>) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Claim {
    /// Claims a group; false if another Allocate has it. Claiming one's own again is fine.
    pub(crate) fn take(&mut self, group: GroupId) -> bool {
        if self.groups.contains(&group) {
            return true;
        }
        let taken = self.claims.with(|groups| groups.insert(group));
        if taken {
            self.groups.push(group);
        }
        taken
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.with(|groups| groups.retain(|group| !self.groups.contains(group)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_claimed_by_one_at_a_time() {
        let claims = Claims::default();
        let (mut first, mut second) = (claims.begin(), claims.begin());
        assert!(first.take(GroupId(51)) && first.take(GroupId(51)));
        assert!(!second.take(GroupId(51)) && second.take(GroupId(52)));
        drop(first);
        assert!(second.take(GroupId(51)));
    }
}
