//! The words for a device's state, evidence and health, in JSON and in tables.

use serde::{Deserialize, Serialize};
use std::fmt;
use vfio_plugin_policy::health::Health;
use vfio_probe::{Evidence, InPod, Occupancy, PidNamespace};

/// What a process does among those that share a run directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RoleWord {
    /// It answers Allocates.
    #[default]
    Active,
    /// It waits for the active process, or takes over from it.
    Waiting,
    /// It has handed over, and waits for SIGTERM or for the end of the process that serves.
    HandedOver,
}

/// Whether a device is held ([`Occupancy`] without the reason for an unknown one).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StateWord {
    /// No process holds the group.
    Free,
    /// A process holds the group.
    Held,
    /// The group has no device node, or there is no device behind the node.
    Absent,
    /// Neither is known, or the device has no group.
    Unknown,
}

/// What a state rests on ([`Evidence`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum EvidenceWord {
    /// An open of the group's device node.
    Open,
    /// A process in /proc that has the group or a device of it open.
    Holder,
    /// `enable` of the group's functions.
    Enable,
    /// The presence of the device node.
    Node,
    /// Nothing.
    None,
}

/// Whether a holder is in a pod ([`InPod`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum InPodWord {
    /// Its cgroup names the pod.
    Yes,
    /// It is a process outside of all pods.
    No,
    /// It is in the sandbox of a pod that its cgroup does not name, or its cgroup cannot be read.
    #[default]
    Unknown,
}

/// The pid namespace that a search for holders saw ([`PidNamespace`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PidNamespaceWord {
    /// The host's.
    Host,
    /// Another one, in which the host's processes are invisible.
    Foreign,
    /// /proc does not show it.
    #[default]
    Unknown,
}

/// A health as the device plugin API spells it ([`Health`] without the reason).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum HealthWord {
    /// The kubelet may allocate the device.
    Healthy,
    /// The kubelet does not allocate the device.
    Unhealthy,
}

impl From<Occupancy> for StateWord {
    fn from(occupancy: Occupancy) -> Self {
        match occupancy {
            Occupancy::Free => Self::Free,
            Occupancy::Held => Self::Held,
            Occupancy::Absent => Self::Absent,
            Occupancy::Unknown(_) => Self::Unknown,
        }
    }
}

impl From<Evidence> for EvidenceWord {
    fn from(evidence: Evidence) -> Self {
        match evidence {
            Evidence::Open => Self::Open,
            Evidence::Holder => Self::Holder,
            Evidence::Enable => Self::Enable,
            Evidence::Node => Self::Node,
            Evidence::None => Self::None,
        }
    }
}

impl From<InPod> for InPodWord {
    fn from(in_pod: InPod) -> Self {
        match in_pod {
            InPod::Yes => Self::Yes,
            InPod::No => Self::No,
            InPod::Unknown => Self::Unknown,
        }
    }
}

impl From<PidNamespace> for PidNamespaceWord {
    fn from(namespace: PidNamespace) -> Self {
        match namespace {
            PidNamespace::Host => Self::Host,
            PidNamespace::Foreign => Self::Foreign,
            PidNamespace::Unknown => Self::Unknown,
        }
    }
}

impl From<&Health> for HealthWord {
    fn from(health: &Health) -> Self {
        match health {
            Health::Healthy => Self::Healthy,
            Health::Unhealthy(_) => Self::Unhealthy,
        }
    }
}

/// Writes the same words as JSON.
macro_rules! display_as_serialized {
    ($($word:ty),*) => {$(
        impl fmt::Display for $word {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.serialize(f)
            }
        }
    )*};
}

display_as_serialized!(StateWord, EvidenceWord, InPodWord, PidNamespaceWord, HealthWord);

#[cfg(test)]
mod tests {
    use super::*;
    use serde::de::DeserializeOwned;
    use vfio_plugin_policy::health::reason::Reason;
    use vfio_probe::UnknownReason;

    /// Checks that a word is this text in tables and in JSON, and is read back from it.
    fn check<W>(word: &W, text: &str)
    where
        W: Serialize + DeserializeOwned + fmt::Display + fmt::Debug + PartialEq,
    {
        assert_eq!(word.to_string(), text);
        assert_eq!(serde_json::to_value(word).unwrap(), text);
        assert_eq!(&serde_json::from_value::<W>(text.into()).unwrap(), word);
    }

    #[test]
    fn words_are_those_of_the_core_and_of_the_kubelet() {
        let unknown = Occupancy::Unknown(UnknownReason::NotProbed);
        for occupancy in [Occupancy::Free, Occupancy::Held, Occupancy::Absent, unknown] {
            check(&StateWord::from(occupancy), occupancy.as_str());
        }
        for evidence in [Evidence::Open, Evidence::Holder, Evidence::Enable, Evidence::Node, Evidence::None] {
            check(&EvidenceWord::from(evidence), evidence.as_str());
        }
        for in_pod in [InPod::Yes, InPod::No, InPod::Unknown] {
            check(&InPodWord::from(in_pod), in_pod.as_str());
        }
        for namespace in [PidNamespace::Host, PidNamespace::Foreign, PidNamespace::Unknown] {
            check(&PidNamespaceWord::from(namespace), namespace.as_str());
        }
        for health in [Health::Healthy, Health::Unhealthy(Box::new(Reason::Lost))] {
            check(&HealthWord::from(&health), health.as_str());
        }
        check(&HealthWord::Healthy, kubelet_api::HEALTHY);
        check(&HealthWord::Unhealthy, kubelet_api::UNHEALTHY);
    }
}
