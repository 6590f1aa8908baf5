//! Adopts claims whose record was lost: those of which a pod holds a device.

use crate::dra::driver::Driver;
use crate::dra::prepared::PreparedClaims;
use std::time::Duration;
use tokio::time::Instant;
use vfio_plugin_policy::dra::kubelet_record::KubeletClaim;
use vfio_plugin_policy::dra::prepared::PreparedClaim;

/// How long a call for the claim is waited for.
const CALL: Duration = Duration::from_secs(1);

impl Driver {
    /// Adopts the claims of the kubelet's record whose pods hold devices, whenever there is such a holder; never returns.
    pub(super) async fn adopt(&self) {
        let mut snapshots = self.monitor.snapshots.clone();
        while !self.kubelet_claims.lock().is_empty() {
            let snapshot = self.checks().snapshot();
            let in_use =
                |(uid, claim): (&String, &KubeletClaim)| claim.is_in_use(&snapshot).then(|| uid.clone());
            let in_use: Vec<String> = self.kubelet_claims.lock().iter().filter_map(in_use).collect();
            for uid in in_use {
                // One that works on its claim for long must not keep the others from being adopted. The next snapshot comes soon.
                let Ok(_lock) = self.calls.begin_by(&uid, Instant::now() + CALL).await else { continue };
                if let Some(claim) = self.kubelet_claim(&uid) {
                    let name = claim.full_name();
                    let adopted = uid.clone();
                    let insert = move |claims: &PreparedClaims| claims.insert(&adopted, claim.clone());
                    match self.record(Instant::now(), insert).await {
                        Ok(()) => {
                            tracing::info!(claim = name, "adopted a claim: one of its pods holds a device");
                            self.kubelet_claims.lock().remove(&uid);
                        }
                        // The state file has logged it, and the next snapshot comes soon.
                        Err(error) => tracing::debug!(claim = name, %error, "a claim is not adopted yet"),
                    }
                }
            }
            if snapshots.changed().await.is_err() {
                break;
            }
        }
        std::future::pending::<()>().await;
    }

    /// Returns a claim of the kubelet's record that is not in this driver's.
    pub(super) fn kubelet_claim(&self, uid: &str) -> Option<PreparedClaim> {
        let claims = self.kubelet_claims.lock();
        Some(claims.get(uid)?.prepared(self.claims.boot(), &self.checks().snapshot()))
    }
}
