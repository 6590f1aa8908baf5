//! The ledger over time: stories in which the kubelet is polled once a second.

mod allocate;
mod ending;
mod kubelet_restart;
mod properties;
mod sources;

use super::*;
use crate::assignments::expiry::UNCONFIRMED;
use crate::assignments::observation::PodHolds;
use std::collections::BTreeMap;
use std::time::Duration;

const A: &str = "0000:01:00.0";
const B: &str = "0000:02:00.0";
const R: &str = "nvidia.com/GPU";
/// A listed pod without devices, as every node has some.
const OTHER: &str = "a/other";

fn set(ids: &[&str]) -> BTreeSet<String> {
    ids.iter().map(|&id| id.to_owned()).collect()
}

/// A listed pod with these devices in its container "compute".
fn pod(name: &str, ids: &[&str]) -> ListedPod {
    let compute = ((String::from("compute"), R.to_owned()), set(ids));
    let devices = if ids.is_empty() { BTreeMap::new() } else { BTreeMap::from([compute]) };
    ListedPod { full_name: name.to_owned(), devices }
}

/// The checkpoint's entry of a pod's container "compute".
fn entry(uid: &str, ids: &[&str]) -> CheckpointEntry {
    substituted(uid, ids, ids)
}

/// The same after a substitution: the container really has `real`.
fn substituted(uid: &str, ids: &[&str], real: &[&str]) -> CheckpointEntry {
    let (pod_uid, container, resource) = (uid.to_owned(), "compute".to_owned(), R.to_owned());
    let (ids, response_ids) = (set(ids), set(real));
    CheckpointEntry { pod_uid, container, resource, ids, response_ids, ..CheckpointEntry::default() }
}

/// Held devices with a holder in the pod's cgroup.
fn holds(uid: &str, ids: &[&str]) -> PodHolds {
    PodHolds { pod_uid: uid.to_owned(), resource: R.to_owned(), ids: set(ids) }
}

struct Story {
    ledger: Ledger,
    now: Instant,
    kubelet: u64,
    /// Whether the kubelet has just started.
    starting: bool,
    /// Whether the checkpoint was written since the poll before.
    is_new: bool,
    /// Whether holders become assignments.
    adopt: bool,
}

impl Story {
    fn new() -> Self {
        let (ledger, now) = (Ledger::default(), Instant::now());
        Self { ledger, now, kubelet: 1, starting: false, is_new: false, adopt: false }
    }

    fn restart_kubelet(&mut self) {
        self.kubelet += 1;
    }

    /// Restarts the plugin, which keeps only what is in its state file.
    fn restart(&mut self) {
        let text = serde_json::to_vec(&self.ledger).unwrap();
        self.ledger = serde_json::from_slice(&text).unwrap();
        self.ledger.restarted(self.now);
    }

    fn poll(&mut self, pods: Option<&[ListedPod]>, checkpoint: Option<&[CheckpointEntry]>) -> LedgerUpdate {
        self.poll_with(pods, checkpoint, &[])
    }

    fn poll_with(
        &mut self,
        pods: Option<&[ListedPod]>,
        checkpoint: Option<&[CheckpointEntry]>,
        holders: &[PodHolds],
    ) -> LedgerUpdate {
        self.now += Duration::from_secs(1);
        self.ledger.observe(&Observation {
            pods,
            checkpoint,
            checkpoint_is_new: self.is_new,
            kubelet: Some(KubeletSocket::new(0, self.kubelet, (0, 0))),
            kubelet_is_starting: self.starting,
            settling: Duration::from_secs(3),
            holders,
            adopt_holders: self.adopt,
            ..Observation::at(self.now)
        })
    }

    fn allocate(&mut self, ids: &[&str]) {
        self.ledger.record_allocate(R, set(ids), set(ids), Default::default(), self.now);
    }

    /// Assigned devices with their pods.
    fn assigned(&self) -> Vec<(String, String)> {
        let mut assigned: Vec<(String, String)> = Vec::new();
        for record in self.ledger.assignments() {
            assigned.extend(record.device_ids.iter().map(|id| (id.clone(), record.pod.to_string())));
        }
        assigned.sort();
        assigned
    }

    fn expect(&self, expected: &[(&str, &str)]) {
        let expected: Vec<_> =
            expected.iter().map(|(id, pod)| ((*id).to_owned(), format!("pod {pod}"))).collect();
        assert_eq!(self.assigned(), expected);
    }
}
