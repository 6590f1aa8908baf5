//! Compares the three sources. A pure function: the caller polls until they agree.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::{Api, NodeSources, Opened, PodDevices};

/// What a step of a story expects beside agreement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exceptions {
    /// Pods, by NAMESPACE/NAME, whose containers open nothing: their groups count as taken, and an open of them succeeds.
    pub idle: BTreeSet<String>,
    /// The kubelet is stopped, so pod resources must not answer. Every pod that has devices holds them.
    pub kubelet_away: bool,
}

/// The figures of one step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Devices in the node's capacity.
    pub capacity: i64,
    /// Devices in the node's allocatable.
    pub allocatable: i64,
    /// Devices that pods on the node request.
    pub requested: i64,
    /// Devices that the kubelet shows as assigned; none while it does not answer.
    pub assigned: Option<usize>,
    /// Groups that a process holds.
    pub held: usize,
    /// Groups that a new VM could open.
    pub openable: usize,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { capacity, allocatable, requested, assigned, held, openable } = self;
        let free = allocatable - requested;
        write!(f, "API server: {capacity}/{allocatable}, {requested} requested, {free} free; kubelet: ")?;
        match assigned {
            Some(count) => write!(f, "{count} assigned")?,
            None => write!(f, "away")?,
        }
        write!(f, "; kernel: {held} held, {openable} can be opened")
    }
}

/// One point on which two sources disagree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Disagreement {
    /// allocatable - requested is not the number of groups that a new VM could open.
    Free {
        /// By the API server.
        free: i64,
        /// By the kernel and the kubelet.
        openable: usize,
    },
    /// A pod requests another number of devices than the kubelet shows for it.
    Assigned {
        /// NAMESPACE/NAME.
        pod: String,
        /// By the API server; zero for a pod that it does not have on the node.
        requested: i64,
        /// By the kubelet.
        assigned: usize,
    },
    /// No process of the pod holds a device that it is assigned.
    NotHeld {
        /// NAMESPACE/NAME.
        pod: String,
        /// The device's address.
        device: String,
    },
    /// A process outside the pod holds a device that the pod is assigned.
    HeldByOther {
        /// NAMESPACE/NAME.
        pod: String,
        /// The device's address.
        device: String,
        /// The process.
        pid: u64,
    },
    /// A pod is assigned a device that is not bound to vfio-pci.
    NotBound {
        /// NAMESPACE/NAME.
        pod: String,
        /// The device's address.
        device: String,
    },
    /// An open gave another result than the search for holders.
    Opened {
        /// The group's number.
        group: String,
        /// The processes that were found.
        holders: usize,
        /// What the open gave.
        opened: Opened,
    },
    /// Pod resources did not answer.
    KubeletSilent(String),
    /// Pod resources answered, and the step expects a stopped kubelet.
    KubeletAnswers,
    /// Processes could not be searched for holders.
    Unread(u64),
}

impl fmt::Display for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Free { free, openable } => {
                write!(f, "allocatable - requested is {free}, and {openable} groups can be opened")
            }
            Self::Assigned { pod, requested, assigned } => {
                write!(f, "pod {pod} requests {requested} devices, and the kubelet shows {assigned}")
            }
            Self::NotHeld { pod, device } => write!(f, "no process of pod {pod} holds its device {device}"),
            Self::HeldByOther { pod, device, pid } => {
                write!(f, "process {pid} is not of pod {pod} and holds its device {device}")
            }
            Self::NotBound { pod, device } => {
                write!(f, "device {device} of pod {pod} is not bound to vfio-pci")
            }
            Self::Opened { group, holders, opened } => {
                write!(f, "group {group} has {holders} holders, and an open gave {opened:?}")
            }
            Self::KubeletSilent(error) => write!(f, "the kubelet does not answer: {error}"),
            Self::KubeletAnswers => write!(f, "the kubelet answers, but it should be stopped"),
            Self::Unread(count) => write!(f, "{count} processes could not be searched for holders"),
        }
    }
}

/// Returns the figures, and every point on which the sources disagree.
#[must_use]
pub fn compare(api: &Api, node: &NodeSources, exceptions: &Exceptions) -> (Figures, Vec<Disagreement>) {
    let none = BTreeMap::new();
    let assigned = node.kubelet.as_ref().unwrap_or(&none);
    let mut found = Vec::new();
    match &node.kubelet {
        Err(error) if !exceptions.kubelet_away => found.push(Disagreement::KubeletSilent(error.clone())),
        Ok(_) if exceptions.kubelet_away => found.push(Disagreement::KubeletAnswers),
        Ok(_) => found.extend(compare_requests(api, assigned)),
        Err(_) => {}
    }
    found.extend(compare_holders(api, node, assigned, &exceptions.idle));
    found.extend(compare_opens(node));
    if node.unread > 0 {
        found.push(Disagreement::Unread(node.unread));
    }

    let taken: BTreeSet<&String> = assigned.values().flatten().collect();
    let held = node.groups.iter().filter(|group| !group.holders.is_empty()).count();
    let is_openable = |group: &&super::Group| {
        group.holders.is_empty() && !group.devices.iter().any(|device| taken.contains(device))
    };
    let openable = node.groups.iter().filter(is_openable).count();
    if i64::try_from(openable) != Ok(api.free()) {
        found.push(Disagreement::Free { free: api.free(), openable });
    }
    let figures = Figures {
        capacity: api.capacity,
        allocatable: api.allocatable,
        requested: api.requested(),
        assigned: node.kubelet.as_ref().ok().map(|pods| pods.values().map(Vec::len).sum()),
        held,
        openable,
    };
    (figures, found)
}

/// Compares what pods request with what the kubelet assigned to them.
fn compare_requests(api: &Api, assigned: &BTreeMap<String, PodDevices>) -> Vec<Disagreement> {
    let mut counts: BTreeMap<&String, (i64, usize)> = BTreeMap::new();
    for pod in &api.pods {
        counts.entry(&pod.name).or_default().0 = pod.requested;
    }
    for (name, devices) in assigned {
        counts.entry(name).or_default().1 = devices.len();
    }
    counts
        .into_iter()
        .filter(|(_, (requested, assigned))| usize::try_from(*requested) != Ok(*assigned))
        .map(|(pod, (requested, assigned))| Disagreement::Assigned { pod: pod.clone(), requested, assigned })
        .collect()
}

/// Compares what the kubelet assigned with who holds it.
fn compare_holders(
    api: &Api,
    node: &NodeSources,
    assigned: &BTreeMap<String, PodDevices>,
    idle: &BTreeSet<String>,
) -> Vec<Disagreement> {
    let mut found = Vec::new();
    for (pod, devices) in assigned {
        let uid = api.pods.iter().find(|known| known.name == *pod).map(|known| known.uid.as_str());
        for device in devices {
            let (pod, device) = (pod.clone(), device.clone());
            let Some(group) = node.groups.iter().find(|group| group.devices.contains(&device)) else {
                found.push(Disagreement::NotBound { pod, device });
                continue;
            };
            if let Some(other) = group.holders.iter().find(|holder| Some(holder.pod.as_str()) != uid) {
                found.push(Disagreement::HeldByOther { pod, device, pid: other.pid });
            } else if group.holders.is_empty() && !idle.contains(&pod) {
                found.push(Disagreement::NotHeld { pod, device });
            }
        }
    }
    found
}

/// Compares each open with the holders that were found.
fn compare_opens(node: &NodeSources) -> Vec<Disagreement> {
    let mut found = Vec::new();
    for group in &node.groups {
        let expected = if group.holders.is_empty() { Opened::Free } else { Opened::Busy };
        if let Some(opened) = group.opened.as_ref().filter(|opened| **opened != expected) {
            let (group, holders) = (group.number.clone(), group.holders.len());
            found.push(Disagreement::Opened { group, holders, opened: opened.clone() });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::{ApiPod, Group, Holder};
    use super::*;

    /// Three groups; pod a has the first, and its process holds it.
    fn one_vm() -> (Api, NodeSources) {
        let group = |number: u64, holders: Vec<Holder>| Group {
            number: number.to_string(),
            devices: vec![format!("0000:00:0{number}.0")],
            opened: Some(if holders.is_empty() { Opened::Free } else { Opened::Busy }),
            holders,
        };
        let api = Api { capacity: 3, allocatable: 3, pods: vec![pod("a", 1)] };
        let node = NodeSources {
            kubelet: Ok(BTreeMap::from([("default/a".into(), vec!["0000:00:02.0".into()])])),
            groups: vec![group(2, vec![process("uid-a")]), group(3, vec![]), group(4, vec![])],
            unread: 0,
        };
        (api, node)
    }

    fn pod(name: &str, requested: i64) -> ApiPod {
        ApiPod { name: format!("default/{name}"), uid: format!("uid-{name}"), requested }
    }

    fn process(pod: &str) -> Holder {
        Holder { pid: 7, command: "holder".into(), pod: pod.into() }
    }

    fn disagreements(api: &Api, node: &NodeSources) -> Vec<Disagreement> {
        compare(api, node, &Exceptions::default()).1
    }

    #[test]
    fn agreement_has_the_figures_of_all_sources() {
        let (api, node) = one_vm();
        let (figures, found) = compare(&api, &node, &Exceptions::default());
        assert_eq!(found, []);
        assert_eq!(
            figures,
            Figures { capacity: 3, allocatable: 3, requested: 1, assigned: Some(1), held: 1, openable: 2 }
        );
        assert_eq!(
            figures.to_string(),
            "API server: 3/3, 1 requested, 2 free; kubelet: 1 assigned; kernel: 1 held, 2 can be opened"
        );
    }

    #[test]
    fn device_missing_from_allocatable_is_found() {
        let (mut api, node) = one_vm();
        api.allocatable = 0;
        assert_eq!(disagreements(&api, &node), [Disagreement::Free { free: -1, openable: 2 }]);
    }

    #[test]
    fn foreign_holder_counts_as_not_openable() {
        let (mut api, mut node) = one_vm();
        node.groups[1].holders.push(process(""));
        node.groups[1].opened = Some(Opened::Busy);
        assert_eq!(disagreements(&api, &node), [Disagreement::Free { free: 2, openable: 1 }]);
        api.allocatable = 2;
        assert_eq!(disagreements(&api, &node), []);
    }

    #[test]
    fn pod_that_one_source_lacks_is_found() {
        let (mut api, node) = one_vm();
        api.pods.push(pod("b", 1));
        let assigned = |pod: &str, requested, assigned| Disagreement::Assigned {
            pod: format!("default/{pod}"),
            requested,
            assigned,
        };
        assert_eq!(
            disagreements(&api, &node),
            [assigned("b", 1, 0), Disagreement::Free { free: 1, openable: 2 }]
        );
        api.pods.clear();
        // A deleted pod whose process still runs: its process is no longer one of a known pod.
        let found = disagreements(&api, &node);
        assert_eq!(found[0], assigned("a", 0, 1));
        assert!(matches!(found[1], Disagreement::HeldByOther { .. }));
    }

    #[test]
    fn unheld_device_of_a_pod_is_found_unless_it_is_idle() {
        let (api, mut node) = one_vm();
        node.groups[0].holders.clear();
        node.groups[0].opened = Some(Opened::Free);
        let not_held = Disagreement::NotHeld { pod: "default/a".into(), device: "0000:00:02.0".into() };
        assert_eq!(disagreements(&api, &node), [not_held]);
        let idle = Exceptions { idle: BTreeSet::from(["default/a".into()]), ..Exceptions::default() };
        assert_eq!(compare(&api, &node, &idle).1, []);
    }

    #[test]
    fn assigned_device_of_another_process_is_found() {
        let (api, mut node) = one_vm();
        node.groups[0].holders = vec![process("uid-b")];
        let other =
            |pid| Disagreement::HeldByOther { pod: "default/a".into(), device: "0000:00:02.0".into(), pid };
        assert_eq!(disagreements(&api, &node), [other(7)]);
    }

    #[test]
    fn unbound_device_of_a_pod_is_found() {
        let (mut api, mut node) = one_vm();
        node.groups.remove(0);
        api.allocatable = 3;
        let unbound = Disagreement::NotBound { pod: "default/a".into(), device: "0000:00:02.0".into() };
        assert_eq!(disagreements(&api, &node), [unbound]);
    }

    #[test]
    fn open_that_contradicts_the_holders_is_found() {
        let (api, mut node) = one_vm();
        let opened =
            |group: &str, holders, opened| Disagreement::Opened { group: group.into(), holders, opened };
        node.groups[0].opened = Some(Opened::Free);
        node.groups[1].opened = Some(Opened::Busy);
        node.groups[2].opened = Some(Opened::Failed("no such device".into()));
        assert_eq!(
            disagreements(&api, &node),
            [
                opened("2", 1, Opened::Free),
                opened("3", 0, Opened::Busy),
                opened("4", 0, Opened::Failed("no such device".into()))
            ]
        );
    }

    #[test]
    fn silent_kubelet_is_found_unless_it_is_stopped() {
        let (api, mut node) = one_vm();
        let away = Exceptions { kubelet_away: true, ..Exceptions::default() };
        assert_eq!(compare(&api, &node, &away).1, [Disagreement::KubeletAnswers]);
        node.kubelet = Err("refused".into());
        assert_eq!(disagreements(&api, &node), [Disagreement::KubeletSilent("refused".into())]);
        let (figures, found) = compare(&api, &node, &away);
        assert_eq!((figures.assigned, found), (None, vec![]));
    }

    #[test]
    fn unread_processes_are_found() {
        let (api, mut node) = one_vm();
        node.unread = 2;
        assert_eq!(disagreements(&api, &node), [Disagreement::Unread(2)]);
    }
}
