//! The stories: what happens to the plugin in a cluster, one file each.

use crate::{Cluster, Result};

mod scheduled;

/// A story. It starts in a cluster without pods and without the plugin.
#[derive(Clone, Copy, Debug)]
pub struct Story {
    /// The name, by which the command line selects it.
    pub name: &'static str,
    /// What happens, in one sentence.
    pub about: &'static str,
    /// Whether .ci/run runs it.
    pub quick: bool,
    /// Runs it.
    pub run: fn(&mut Cluster) -> Result,
}

/// All stories in their order.
pub const STORIES: &[Story] = &[Story {
    name: "scheduled",
    about: "four pods are scheduled, and each opens a group of its own",
    quick: true,
    run: scheduled::run,
}];
