//! What is kept of the kubelet's lists: ids that can be this plugin's, and no more of anything than any node has.
//!
//! The checkpoint and pod resources show the devices of all plugins. The limits bound the memory of the whole process: with every
//! limit reached it stays below 64 MiB, because the ledger, its state file and the published assignments hold copies.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use vfio_plugin_policy::assignments::record::is_vfio_id;

/// Bytes of one text: a pod's name with its namespace has up to 317, a resource's name too.
const TEXT: usize = 512;
/// The limits of one list.
const LIST: Budget = Budget { pods: 16_384, entries: 2_048, ids: 8_192, text: 4 << 20 };

/// The resources that this plugin offers. The default is that they are not known, so each resource can be one of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct OfferedResources(Option<Arc<BTreeSet<Arc<str>>>>);

/// What a list has too much of. The list is then not used at all: a part of it would show that pods have ended.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Limit {
    /// Pods.
    Pods,
    /// Containers with devices of this plugin.
    Entries,
    /// Ids, device nodes and CDI names.
    Ids,
    /// Bytes, in one text or in all of them.
    Text,
    /// Values within each other.
    Depth,
}

/// Why a list is not used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// It is not of the expected form.
    Malformed,
    /// It has too much of something.
    Over(Limit),
}

/// How much more of everything is kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    pods: usize,
    entries: usize,
    ids: usize,
    text: usize,
}

impl OfferedResources {
    /// Returns these resources.
    pub(crate) fn known(resources: BTreeSet<Arc<str>>) -> Self {
        Self(Some(Arc::new(resources)))
    }

    /// Returns whether an id of a resource can be one of this plugin's.
    pub(crate) fn can_be_ours(&self, resource: &str, id: &str) -> bool {
        is_vfio_id(id, self.0.as_ref().is_none_or(|offered| offered.contains(resource)))
    }
}

impl Budget {
    /// Returns the limits of one list.
    pub(crate) fn of_a_list() -> Self {
        LIST
    }

    /// Counts a pod and its name or uid.
    pub(crate) fn pod(&mut self, name: &str) -> Result<(), Limit> {
        self.pods = self.pods.checked_sub(1).ok_or(Limit::Pods)?;
        self.text(name)
    }

    /// Counts a container with devices of one resource.
    pub(crate) fn entry(&mut self) -> Result<(), Limit> {
        self.entries = self.entries.checked_sub(1).ok_or(Limit::Entries)?;
        Ok(())
    }

    /// Adds an id, a device node or a CDI name, and counts it.
    pub(crate) fn insert(&mut self, set: &mut BTreeSet<String>, id: &str) -> Result<(), Limit> {
        if !set.contains(id) {
            self.ids = self.ids.checked_sub(1).ok_or(Limit::Ids)?;
            self.text(id)?;
            set.insert(id.to_owned());
        }
        Ok(())
    }

    /// Counts another text.
    pub(crate) fn text(&mut self, text: &str) -> Result<(), Limit> {
        let length = Some(text.len()).filter(|&length| length <= TEXT).ok_or(Limit::Text)?;
        self.text = self.text.checked_sub(length).ok_or(Limit::Text)?;
        Ok(())
    }
}

impl From<Limit> for Fault {
    fn from(limit: Limit) -> Self {
        Self::Over(limit)
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pods => write!(f, "more than {} pods", LIST.pods),
            Self::Entries => write!(f, "more than {} containers with devices of this plugin", LIST.entries),
            Self::Ids => write!(f, "more than {} device ids", LIST.ids),
            Self::Text => f.write_str("a text that is too long"),
            Self::Depth => f.write_str("too many values within each other"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_is_an_id_of_an_offered_resource_only() {
        let offered = OfferedResources::known(BTreeSet::from(["a/x".into()]));
        assert!(offered.can_be_ours("a/x", "51") && !offered.can_be_ours("b/x", "51"));
        assert!(offered.can_be_ours("b/x", "0000:1b:00.0"), "an address names the function");
        assert!(!offered.can_be_ours("a/x", "GPU-1"));
        assert!(OfferedResources::default().can_be_ours("b/x", "51"), "nothing is known yet");
    }

    #[test]
    fn each_limit_is_named() {
        let mut budget = Budget { pods: 1, entries: 1, ids: 2, text: 1000 };
        let mut set = BTreeSet::new();
        assert_eq!((budget.pod("a"), budget.pod("a")), (Ok(()), Err(Limit::Pods)));
        assert_eq!((budget.entry(), budget.entry()), (Ok(()), Err(Limit::Entries)));
        assert_eq!(budget.insert(&mut set, "a"), Ok(()));
        assert_eq!(budget.insert(&mut set, "a"), Ok(()), "a repeated id takes no memory");
        assert_eq!((budget.insert(&mut set, "b"), budget.insert(&mut set, "c")), (Ok(()), Err(Limit::Ids)));
        assert_eq!(budget.text(&"x".repeat(513)), Err(Limit::Text), "one text");
        assert_eq!(budget.text(&"x".repeat(512)), Ok(()));
        assert_eq!(budget.text(&"x".repeat(512)), Err(Limit::Text), "all texts");
    }
}
