//! The state of the DRA driver, for the status socket, the metrics, `ready` and `doctor`.

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The state of the DRA driver.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct DriverStatus {
    /// The driver's name.
    pub(crate) driver: String,
    /// The Kubernetes node, whose name the pool has.
    pub(crate) node: String,
    /// Whether it offers devices. If not, it only waits for the end of claims that were prepared before the pools changed.
    pub(crate) offers: bool,
    /// Whether the kubelet is connected to the driver, as it is from the registration on.
    pub(crate) registered: bool,
    /// Why the kubelet refused the registration; null if it did not, or has registered the driver since.
    pub(crate) refused: Option<String>,
    /// The ResourceSlices of this node.
    pub(crate) slices: SlicesStatus,
    /// How the API server answers.
    pub(crate) api_server: ApiServerStatus,
    /// The kubelet's calls.
    pub(crate) calls: CallCounts,
}

/// The driver's ResourceSlices.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct SlicesStatus {
    /// Whether the API server stored all slices as they should be at any time since the start.
    pub(crate) first_stored: bool,
    /// Whether it stores them so now; null if that is not known.
    pub(crate) stored: Option<bool>,
    /// The number of stored slices.
    pub(crate) count: usize,
    /// The devices in them.
    pub(crate) devices: usize,
    /// The generation of the pool; null without slices.
    pub(crate) generation: Option<i64>,
    /// When a slice was written last, in seconds since 1970; null if none was since the start.
    pub(crate) last_write: Option<u64>,
    /// The number of failed rounds of writes since the start.
    pub(crate) failed_writes: u64,
    /// Why the latest round failed; null if it did not.
    pub(crate) error: Option<String>,
    /// Whether the API server stores taints; null if no answer has shown it.
    pub(crate) stores_taints: Option<bool>,
}

/// How the API server answers.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct ApiServerStatus {
    /// Whether the latest request got an answer; null before the first one.
    pub(crate) reachable: Option<bool>,
    /// Why not.
    pub(crate) error: Option<String>,
    /// The second number of its version: 37 for Kubernetes 1.37; null if it is not known.
    pub(crate) minor: Option<u32>,
}

/// How many claims were prepared and unprepared since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct CallCounts {
    /// Claims that were prepared, each time that the kubelet called.
    pub(crate) prepared: u64,
    /// Claims that were not prepared.
    pub(crate) refused: u64,
    /// Claims that were unprepared.
    pub(crate) unprepared: u64,
    /// Claims that could not be unprepared.
    pub(crate) kept: u64,
}

/// The state of the driver, written by its tasks.
pub(crate) type SharedDriverStatus = Arc<Mutex<DriverStatus>>;

impl DriverStatus {
    /// Returns why the driver is not ready.
    pub(crate) fn unready(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        let driver = &self.driver;
        match &self.refused {
            _ if self.registered => {}
            Some(error) => {
                reasons.push(format!(
                    "the kubelet refused the registration of the DRA driver {driver}: {error}"
                ));
            }
            None => reasons.push(format!("the DRA driver {driver} is not registered with the kubelet")),
        }
        if !self.slices.first_stored {
            let why = self.api_server.error.as_ref().or(self.slices.error.as_ref());
            let why = why.map(|error| format!(": {error}")).unwrap_or_default();
            reasons.push(format!("the API server has not stored the first ResourceSlices of {driver}{why}"));
        }
        reasons
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn driver_is_ready_with_registration_and_first_slices() {
        let mut status = DriverStatus { driver: "a.io".to_owned(), ..DriverStatus::default() };
        status.api_server.error = Some("connection refused".to_owned());
        let reasons = status.unready();
        assert!(reasons.len() == 2 && reasons[1].ends_with(": connection refused"), "{reasons:?}");
        status.refused = Some("no such version".to_owned());
        assert!(status.unready()[0].contains("refused"), "{:?}", status.unready());
        status.registered = true;
        assert_eq!(status.unready().len(), 1);
        status.slices.first_stored = true;
        assert!(status.unready().is_empty(), "an outage after the first slices keeps it ready");
    }
}
