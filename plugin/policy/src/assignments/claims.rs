//! A prepared ResourceClaim, and the devices that only its pods may use.

use crate::assignments::record::{Assignment, PodRef};
use crate::pools::terms::PinnedTerms;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

/// A prepared claim.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Claim {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// The pods that it is reserved for.
    pub pods: Vec<ClaimPod>,
    /// Whether it is reserved for something else than pods, such as a group of pods. Any pod may be one of it.
    pub is_for_any_pod: bool,
}

/// A pod that may use a claim.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClaimPod {
    /// Its uid.
    pub uid: String,
    /// Its name, in the claim's namespace. None if it is not known.
    pub name: Option<String>,
}

/// The devices of one resource that a claim has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClaimedDevices {
    /// The claim.
    pub claim: Arc<Claim>,
    /// The devices, as an assignment to the claim's pod. With several pods the assignment names none.
    pub(super) assignment: Arc<Assignment>,
}

impl Claim {
    /// Returns the only pod of the claim. Of several pods it returns one that is not named.
    fn pod(&self) -> PodRef {
        let ([pod], false) = (self.pods.as_slice(), self.is_for_any_pod) else { return PodRef::default() };
        let full_name = pod.name.as_ref().map(|name| format!("{}/{name}", self.namespace));
        PodRef { uid: Some(pod.uid.clone()), full_name }
    }
}

/// Writes `claim NAMESPACE/NAME`.
impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "claim {}/{}", self.namespace, self.name)
    }
}

impl ClaimedDevices {
    /// Returns the devices `ids` of a resource as those of a claim.
    pub fn new(claim: &Arc<Claim>, resource: &str, ids: BTreeSet<String>, pinned: PinnedTerms) -> Self {
        let assignment = Assignment::prepared(claim.pod(), resource, ids, pinned);
        Self { claim: Arc::clone(claim), assignment: Arc::new(assignment) }
    }
}
