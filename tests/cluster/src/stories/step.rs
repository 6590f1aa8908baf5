//! One step of a story: waits until the three sources agree on the figures that the story expects.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::sources::{Api, Disagreement, Exceptions, Figures, Group, NodeSources, compare};
use crate::{Cluster, Result};

/// The prefix of all resources in the stories.
pub(super) const PREFIX: &str = "nvidia.com/";
/// The name of the node.
pub(super) const NODE: &str = "node1";
/// The time for the sources to agree. The kubelet reports its node's status every ten seconds, and a pod takes up to a minute to
/// start on an emulated node under load.
const LIMIT: Duration = Duration::from_secs(600);

/// What must hold after an event.
#[derive(Clone, Debug)]
pub(super) struct Step {
    text: String,
    allocatable: i64,
    requested: i64,
    held: usize,
    exceptions: Exceptions,
    disagreements: Vec<Disagreement>,
}

/// What the sources said when a step ended.
#[derive(Clone, Debug)]
pub(super) struct State {
    /// The API server's view.
    pub(super) api: Api,
    /// The kubelet's and the kernel's.
    pub(super) node: NodeSources,
}

impl Step {
    /// A step after which the node has so many allocatable devices, pods request so many, and processes hold so many groups.
    #[must_use]
    pub(super) fn new(text: &str, allocatable: i64, requested: i64, held: usize) -> Self {
        let (exceptions, disagreements) = Default::default();
        Self { text: text.into(), allocatable, requested, held, exceptions, disagreements }
    }

    /// A pod of the default namespace opens nothing.
    #[must_use]
    pub(super) fn idle(mut self, pods: &[&str]) -> Self {
        self.exceptions.idle = pods.iter().map(|pod| format!("default/{pod}")).collect::<BTreeSet<_>>();
        self
    }

    /// The kubelet is stopped.
    #[must_use]
    pub(super) fn kubelet_away(mut self) -> Self {
        self.exceptions.kubelet_away = true;
        self
    }

    /// The sources disagree, in exactly this way: a fault that the story shows.
    #[must_use]
    pub(super) fn disagrees(mut self, disagreements: Vec<Disagreement>) -> Self {
        self.disagreements = disagreements;
        self
    }

    /// Waits until the step holds and prints it with the figures.
    ///
    /// # Errors
    ///
    /// Fails at the deadline, with the figures and disagreements of the last attempt.
    pub(super) fn settle(&self, cluster: &Cluster) -> Result<State> {
        let (figures, state) = cluster.wait(&self.text, LIMIT, |cluster| {
            // Opens could make the open of a starting VM fail, so they come when everything else agrees.
            self.check(cluster, false)?;
            self.check(cluster, true).map(Some)
        })?;
        cluster.step(&format!("{}: {figures}", self.text));
        for disagreement in &self.disagreements {
            cluster.step(&format!("    as this story expects, {disagreement}"));
        }
        Ok(state)
    }

    fn check(&self, cluster: &Cluster, open: bool) -> Result<(Figures, State)> {
        let state = State::read(cluster, open)?;
        let (figures, found) = compare(&state.api, &state.node, &self.exceptions);
        let mut wrong: Vec<String> = Vec::new();
        if (figures.allocatable, figures.requested, figures.held)
            != (self.allocatable, self.requested, self.held)
        {
            wrong.push(format!(
                "expected {} allocatable, {} requested, {} held",
                self.allocatable, self.requested, self.held
            ));
        }
        if found != self.disagreements {
            wrong.extend(found.iter().map(ToString::to_string));
            wrong.extend(
                self.disagreements
                    .iter()
                    .filter(|expected| !found.contains(expected))
                    .map(|expected| format!("missing: {expected}")),
            );
        }
        if wrong.is_empty() {
            Ok((figures, state))
        } else {
            Err(format!("{figures}; {}", wrong.join("; ")).into())
        }
    }
}

impl State {
    /// Reads all sources. With `open`, each group is opened and closed.
    ///
    /// # Errors
    ///
    /// Fails if the API server or the node does not answer.
    pub(super) fn read(cluster: &Cluster, open: bool) -> Result<Self> {
        let list = cluster.kubectl(&["get", "nodes,pods", "--all-namespaces"])?;
        let printed = cluster.node().run(if open { "sources --open" } else { "sources" })?;
        Ok(Self { api: Api::read(&list, NODE, PREFIX)?, node: NodeSources::read(&printed, PREFIX)? })
    }

    /// The devices of a pod of the default namespace.
    #[must_use]
    pub(super) fn devices(&self, pod: &str) -> Vec<String> {
        let pods = self.node.kubelet.as_ref().ok();
        pods.and_then(|pods| pods.get(&format!("default/{pod}"))).cloned().unwrap_or_default()
    }

    /// The processes that hold groups, in the order of the groups: what must not change while VMs run.
    #[must_use]
    pub(super) fn holders(&self) -> Vec<u64> {
        self.node.groups.iter().flat_map(|group| &group.holders).map(|holder| holder.pid).collect()
    }

    /// The number of the first group without a holder and without a pod.
    ///
    /// # Errors
    ///
    /// Fails if there is none.
    pub(super) fn free_group(&self) -> Result<String> {
        Ok(self.free()?.number.clone())
    }

    /// The address of the device in that group.
    ///
    /// # Errors
    ///
    /// Fails if there is no such group.
    pub(super) fn free_device(&self) -> Result<String> {
        Ok(self.free()?.devices.first().ok_or("the group has no device")?.clone())
    }

    fn free(&self) -> Result<&Group> {
        let is_assigned = |device: &String| {
            self.node.kubelet.iter().flat_map(|pods| pods.values()).any(|devices| devices.contains(device))
        };
        let mut groups = self.node.groups.iter();
        let free = groups.find(|group| group.holders.is_empty() && !group.devices.iter().any(is_assigned));
        Ok(free.ok_or("no group is free")?)
    }
}
