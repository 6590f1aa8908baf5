//! The JSON records of the status socket and of `list --json`.

use crate::driver_status::DriverStatus;
use crate::kubelet::registry::ResourceStatus;
use crate::problems::Problem;
use crate::status::words::{EvidenceWord, HealthWord, InPodWord, PidNamespaceWord, RoleWord, StateWord};
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt;
use vfio_plugin_policy::assignments::claims::{Claim, ClaimPod};
use vfio_plugin_policy::assignments::index::Assignments;
use vfio_plugin_policy::assignments::record::PodRef;
use vfio_plugin_policy::device::DeviceState;
#[cfg(feature = "dra")]
use vfio_plugin_policy::dra::taints::withheld;
use vfio_plugin_policy::health::Decision;
use vfio_plugin_policy::health::reason::Reason;
use vfio_plugin_policy::pools::terms::OfferBy;
use vfio_plugin_policy::sriov;
use vfio_probe::{Holder, Member, ScanCoverage};

/// The state of a running `serve`, as its status socket reports it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StatusReport {
    /// Its process id.
    pub(crate) pid: u32,
    /// Whether it is the active process. None other answers on status.sock.
    #[serde(default)]
    pub(crate) role: RoleWord,
    /// Its version.
    pub(crate) version: String,
    /// Its policy for held devices.
    pub(crate) busy: String,
    /// Milliseconds since it started.
    pub(crate) uptime_ms: u64,
    /// Milliseconds since the monitor's latest pass.
    pub(crate) silent_ms: u64,
    /// Whether the first snapshot of the node is complete, and its resources are in `resources`.
    pub(crate) settled: bool,
    /// Whether the monitor cannot list the bound devices, so that `resources` and `devices` may lack some.
    #[serde(default)]
    pub(crate) listing_failed: bool,
    /// Whether the latest poll got an answer from pod resources or from the kubelet's checkpoint. If not, a device without an
    /// assignment may be assigned.
    #[serde(default)]
    pub(crate) assignments_known: bool,
    /// Its resources.
    pub(crate) resources: Vec<ResourceStatus>,
    /// Its DRA driver; null if it runs none.
    #[serde(default)]
    pub(crate) dra: Option<DriverStatus>,
    /// Its devices, with the health that was reported to the kubelet.
    pub(crate) devices: Vec<DeviceReport>,
    /// Its current problems.
    #[serde(default)]
    pub(crate) problems: Vec<Problem>,
    /// The number of lines of its log that were lost since its start.
    #[serde(default)]
    pub(crate) lost_log_lines: u64,
}

/// The output of `list --json`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Listing {
    /// Whether `assignment: null` means "assigned to no pod": a `serve` runs, and it got an answer from the kubelet.
    pub(crate) assignments_known: bool,
    /// The devices, by id.
    pub(crate) devices: Vec<DeviceReport>,
    /// The DRA driver of the running `serve`; null if it runs none, or if no `serve` runs.
    #[serde(default)]
    pub(crate) dra: Option<DriverStatus>,
    /// The current problems of the running `serve`.
    pub(crate) problems: Vec<Problem>,
    /// How much the search for their holders could see.
    pub(crate) coverage: CoverageReport,
}

/// How much a search for holders could see ([`ScanCoverage`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct CoverageReport {
    /// Processes that were seen.
    pub(crate) processes: u32,
    /// Processes that could not be read.
    pub(crate) unreadable: u32,
    /// Open VFIO device descriptors of unknown device.
    pub(crate) unattributed: u32,
    /// Processes that were not searched within the budget.
    pub(crate) unsearched: u32,
    /// Which pid namespace was searched.
    pub(crate) pid_namespace: PidNamespaceWord,
    /// Whether no holder found means that no process holds the group.
    pub(crate) complete: bool,
}

/// One device.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct DeviceReport {
    /// PCI address or mdev uuid.
    pub(crate) address: String,
    /// PCI vendor id, four hex digits.
    pub(crate) vendor: String,
    /// PCI device id, four hex digits.
    pub(crate) device: String,
    /// PCI class, six hex digits.
    pub(crate) class: String,
    /// The driver; null while the kernel unbinds the device.
    pub(crate) driver: Option<String>,
    /// The IOMMU group; null without an IOMMU.
    pub(crate) iommu_group: Option<u32>,
    /// The NUMA node; null where sysfs says -1.
    pub(crate) numa_node: Option<u16>,
    /// `pci`, `mdev` or `vendor-vf`.
    pub(crate) kind: String,
    /// The resource that the device belongs to.
    pub(crate) resource: String,
    /// How the device is offered. One that a prepared claim has is offered by DRA until the claim has ended.
    #[serde(default)]
    pub(crate) offer: OfferBy,
    /// Whether the device is held. `absent` for an assigned device that has left the bus, `unknown` for one that is not bound.
    pub(crate) state: StateWord,
    /// What the state rests on.
    pub(crate) evidence: EvidenceWord,
    /// Whether VFIO can use the group.
    pub(crate) viable: bool,
    /// The pod that the device is assigned to; null if it is assigned to none, or if no `serve` runs.
    pub(crate) assignment: Option<AssignmentReport>,
    /// The prepared claim that has the device; null if none has, or if no `serve` runs.
    #[serde(default)]
    pub(crate) claim: Option<ClaimReport>,
    /// The taint that keeps claims from the device; null if it has none, if it is not offered by DRA, or if no `serve` runs.
    #[serde(default)]
    pub(crate) taint: Option<TaintReport>,
    /// The health that was reported to the kubelet; null if no `serve` runs.
    pub(crate) health: Option<HealthWord>,
    /// Why the device is Unhealthy, or what is wrong with a Healthy one.
    pub(crate) reason: Option<String>,
    /// The reason as a typed value; none if its kind is unknown to this version. Only the status socket reports it.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "known_reason")]
    pub(crate) typed_reason: Option<Reason>,
    /// The processes that hold the device's group.
    pub(crate) holders: Vec<HolderReport>,
    /// Whether the `enable` count is left over from before the bind ([`DeviceState::stale_enable`]). Only the status socket
    /// reports it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) stale_enable: bool,
}

/// The pod that a device is assigned to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct AssignmentReport {
    /// The pod's namespace; null while only its uid is known.
    pub(crate) namespace: Option<String>,
    /// The pod's name; null while only its uid is known.
    pub(crate) pod: Option<String>,
    /// The pod's uid; null while only its name is known.
    pub(crate) uid: Option<String>,
    /// How far the assignment has come.
    pub(crate) state: AssignmentProgress,
}

/// A prepared claim.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct ClaimReport {
    /// Its namespace.
    pub(crate) namespace: String,
    /// Its name.
    pub(crate) name: String,
    /// Its uid.
    pub(crate) uid: String,
    /// The pods that it is reserved for.
    pub(crate) pods: Vec<ClaimPodReport>,
    /// Whether it is reserved for something else than pods, so that other pods may use it too.
    pub(crate) for_any_pod: bool,
    /// How far it has come: the kubelet has had it prepared. A claim that is only allocated is not known to the node.
    pub(crate) state: ClaimProgress,
}

/// A pod that a claim is reserved for.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct ClaimPodReport {
    /// Its name, in the claim's namespace; null if it is not known.
    pub(crate) name: Option<String>,
    /// Its uid.
    pub(crate) uid: String,
}

/// How far a claim has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ClaimProgress {
    /// It is prepared.
    Prepared,
}

/// The taint of a device.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct TaintReport {
    /// The part of its key after the driver's name.
    pub(crate) name: String,
    /// Its value; null if the name says all.
    pub(crate) value: Option<String>,
}

/// How far an assignment has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum AssignmentProgress {
    /// The kubelet shows the pod.
    Assigned,
    /// Allocate was answered, and the kubelet does not show the pod yet.
    BeingAdmitted,
}

/// One holder.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct HolderReport {
    /// Process id.
    pub(crate) pid: u32,
    /// Command name.
    pub(crate) command: String,
    /// The uid of the pod that the process' cgroup names.
    pub(crate) pod_uid: Option<String>,
    /// Whether the process is in a pod.
    #[serde(default)]
    pub(crate) in_pod: InPodWord,
    /// The id of the container that the process' cgroup names.
    pub(crate) container_id: Option<String>,
}

impl From<&PodRef> for AssignmentReport {
    fn from(pod: &PodRef) -> Self {
        let state = match pod.is_being_admitted() {
            true => AssignmentProgress::BeingAdmitted,
            false => AssignmentProgress::Assigned,
        };
        Self {
            namespace: pod.namespace().map(str::to_owned),
            pod: pod.name().map(str::to_owned),
            uid: pod.uid.clone(),
            state,
        }
    }
}

impl From<&Claim> for ClaimReport {
    fn from(claim: &Claim) -> Self {
        let pod = |pod: &ClaimPod| ClaimPodReport { name: pod.name.clone(), uid: pod.uid.clone() };
        Self {
            namespace: claim.namespace.clone(),
            name: claim.name.clone(),
            uid: claim.uid.clone(),
            pods: claim.pods.iter().map(pod).collect(),
            for_any_pod: claim.is_for_any_pod,
            state: ClaimProgress::Prepared,
        }
    }
}

/// For a table and for sentences: `claim NAMESPACE/NAME`.
impl fmt::Display for ClaimReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "claim {}/{}", self.namespace, self.name)
    }
}

impl AssignmentReport {
    /// Returns the pod of a prepared claim. With several pods it names none.
    fn of_claim(pod: &PodRef) -> Self {
        Self { state: AssignmentProgress::Assigned, ..Self::from(pod) }
    }

    /// Returns the pod as the policy knows it.
    pub(crate) fn pod_ref(&self) -> PodRef {
        let name = self.namespace.as_ref().zip(self.pod.as_ref());
        PodRef { uid: self.uid.clone(), full_name: name.map(|(namespace, pod)| format!("{namespace}/{pod}")) }
    }
}

/// For a table: `namespace/name`, else the uid.
impl fmt::Display for AssignmentReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.namespace, &self.pod, &self.uid) {
            (Some(namespace), Some(pod), _) => write!(f, "{namespace}/{pod}"),
            (_, _, Some(uid)) => f.write_str(uid),
            _ => f.write_str(if self.state == AssignmentProgress::Assigned {
                "several pods"
            } else {
                "(being admitted)"
            }),
        }
    }
}

impl From<ScanCoverage> for CoverageReport {
    fn from(coverage: ScanCoverage) -> Self {
        let ScanCoverage { processes, unreadable, unattributed, unsearched, pid_namespace, .. } = coverage;
        let complete = coverage.is_complete();
        Self {
            processes,
            unreadable,
            unattributed,
            unsearched,
            pid_namespace: pid_namespace.into(),
            complete,
        }
    }
}

impl From<&Holder> for HolderReport {
    fn from(holder: &Holder) -> Self {
        Self {
            pid: holder.pid,
            command: holder.command.to_string(),
            pod_uid: holder.container.pod_uid.map(|uid| uid.to_string()),
            in_pod: holder.container.in_pod.into(),
            container_id: holder.container.container_id.map(|id| id.to_string()),
        }
    }
}

/// Reads a reason. One of another version is none: the rest of the report is understood.
fn known_reason<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Reason>, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    Ok(Reason::deserialize(value).ok())
}

impl DeviceReport {
    /// Whether the device was reported as Unhealthy.
    pub(crate) fn is_unhealthy(&self) -> bool {
        self.health == Some(HealthWord::Unhealthy)
    }

    /// Returns the record of a device as `serve` knows it.
    pub(crate) fn of_serve(
        state: &DeviceState,
        decision: Option<&Decision>,
        assignments: &Assignments,
    ) -> Self {
        let assignment = assignments.assignment(state);
        let claim = assignment.and_then(|assignment| assignments.claim_of(assignment));
        let report = Self::new(state, decision, assignment.map(|assignment| &assignment.pod));
        let offer = assignments.offer_of(state);
        #[cfg(feature = "dra")]
        let taint = decision.filter(|_| offer == OfferBy::Dra).and_then(|decision| {
            let withheld = withheld(state, decision, assignments)?;
            Some(TaintReport { name: withheld.name().to_owned(), value: withheld.value() })
        });
        #[cfg(not(feature = "dra"))]
        let taint = None;
        let assignment = match (assignment, claim) {
            (Some(assignment), Some(_)) => Some(AssignmentReport::of_claim(&assignment.pod)),
            _ => report.assignment,
        };
        Self { offer, assignment, claim: claim.map(ClaimReport::from), taint, ..report }
    }

    /// Returns a device's record. `decision` and `pod` are known to a running `serve` only.
    pub(crate) fn new(state: &DeviceState, decision: Option<&Decision>, pod: Option<&PodRef>) -> Self {
        let (device, group) = (&state.device, state.group.as_ref());
        let reason = decision.and_then(Decision::reason);
        // What was known of the group when the device was bound says nothing about it now.
        let unbound = match reason {
            Some(Reason::Gone) => Some(StateWord::Absent),
            Some(Reason::NoLongerBound) => Some(StateWord::Unknown),
            _ => None,
        };
        let group = group.filter(|_| unbound.is_none());
        let bound = |member: &Member| Some(format!("{} is bound to {}", member.name, member.driver?));
        let offenders: Vec<String> =
            group.iter().flat_map(|group| &group.offenders).filter_map(bound).collect();
        let not_viable = (!offenders.is_empty()).then(|| offenders.join(", "));
        Self {
            address: device.id.to_string(),
            vendor: format!("{:04x}", device.vendor),
            device: format!("{:04x}", device.device),
            class: format!("{:06x}", device.class),
            driver: device.driver.map(|driver| driver.to_string()),
            iommu_group: device.group.map(|group| group.0),
            numa_node: device.numa_node,
            kind: device.kind.as_str().to_owned(),
            resource: state.resource.to_string(),
            offer: state.terms.offer,
            state: group.map_or(unbound.unwrap_or(StateWord::Unknown), |group| group.occupancy.into()),
            evidence: group.map_or(EvidenceWord::None, |group| group.evidence.into()),
            viable: group.is_some_and(|group| group.viability.is_viable()),
            assignment: pod.map(AssignmentReport::from),
            claim: None,
            taint: None,
            health: decision.map(|decision| HealthWord::from(&decision.health)),
            reason: reason.map(ToString::to_string).or(not_viable).or_else(|| sriov::note(device)),
            typed_reason: reason.cloned(),
            holders: group
                .map(|group| group.holders.iter().map(HolderReport::from).collect())
                .unwrap_or_default(),
            stale_enable: state.stale_enable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assignment_names_the_pod_as_far_as_it_is_known() {
        let pod = |uid: Option<&str>, name: Option<&str>| {
            let pod = PodRef { uid: uid.map(Into::into), full_name: name.map(Into::into) };
            let report = AssignmentReport::from(&pod);
            (serde_json::to_value(&report).unwrap(), report.to_string())
        };
        let json = |namespace: Option<&str>, pod: Option<&str>, uid: Option<&str>, state: &str| serde_json::json!({"namespace": namespace, "pod": pod, "uid": uid, "state": state});
        let (assigned, admitted) = ("assigned", "being_admitted");
        let full = json(Some("default"), Some("vm-1"), Some("u"), assigned);
        assert_eq!(pod(Some("u"), Some("default/vm-1")), (full, "default/vm-1".to_owned()));
        assert_eq!(pod(Some("u"), None), (json(None, None, Some("u"), assigned), "u".to_owned()));
        assert_eq!(pod(None, None), (json(None, None, None, admitted), "(being admitted)".to_owned()));
    }
}
