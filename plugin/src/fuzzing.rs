//! The parsers of input from outside, for the targets in `fuzz/`. Compiled with the feature `fuzzing` only.

use crate::bounded_json;
use crate::config::pools_file;
use crate::kubelet::kept::{Fault, OfferedResources};
use crate::kubelet::{checkpoint, claim_state, pod_list};
use crate::state_file;
use crate::status::client;
use crate::status::report::StatusReport;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use vfio_plugin_policy::assignments::observation::{CheckpointEntry, ListedPod};
use vfio_plugin_policy::dra::kubelet_record::KubeletClaim;
use vfio_plugin_policy::dra::names::DraDriver;
use vfio_plugin_policy::pools::Pools;
use vfio_plugin_policy::pools::terms::OfferBy;

/// Returns a filter for these resources; none stands for resources that are not known.
fn offered(resources: Option<&[&str]>) -> OfferedResources {
    let known = |resources: &[&str]| resources.iter().map(|&name| Arc::from(name)).collect::<BTreeSet<_>>();
    resources.map_or_else(OfferedResources::default, |resources| OfferedResources::known(known(resources)))
}

/// Parses a checkpoint. The error is its text.
pub fn checkpoint(text: &[u8], resources: Option<&[&str]>) -> Result<Vec<CheckpointEntry>, String> {
    checkpoint::parse(text, &offered(resources)).map_err(|error| error.to_string())
}

/// Parses a list of pod resources. The error says whether the list is over a limit.
pub fn pod_list(message: &[u8], resources: Option<&[&str]>) -> Result<Vec<ListedPod>, bool> {
    pod_list::read(message, &offered(resources)).map_err(|fault| fault != Fault::Malformed)
}

/// Parses the kubelet's record of prepared claims.
pub fn kubelet_claims(text: &[u8], driver: &DraDriver, pool: &str) -> Option<BTreeMap<String, KubeletClaim>> {
    Some(claim_state::parse(text)?.of(driver, pool))
}

/// Parses the text of a pools file. The error is its text.
pub fn pools(text: &str) -> Result<Pools, String> {
    pools_file::parse(text, OfferBy::default()).map_err(|error| error.to_string())
}

/// Parses the text of a state file of version 1.
pub fn state_file<T: DeserializeOwned>(text: &[u8]) -> Option<T> {
    state_file::decode_versioned(text, 1).ok()
}

/// Parses an answer of the status socket, and returns it as JSON.
pub fn status(text: &[u8]) -> Option<Vec<u8>> {
    let report: StatusReport = bounded_json::read(text, client::LIMITS).ok()?;
    serde_json::to_vec(&report).ok()
}
