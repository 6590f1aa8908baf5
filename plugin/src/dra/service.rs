//! Answers the kubelet's calls NodePrepareResources and NodeUnprepareResources.

use crate::dra::call_error::CallError;
use crate::dra::driver::{Driver, full_name};
use kubelet_api::dra::dra_plugin_server::DraPlugin;
use kubelet_api::dra::{
    Claim, NodePrepareResourceResponse, NodePrepareResourcesRequest, NodePrepareResourcesResponse,
    NodeUnprepareResourceResponse, NodeUnprepareResourcesRequest, NodeUnprepareResourcesResponse,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

/// The kubelet's timeout (`defaultClientCallTimeout` in pkg/kubelet/cm/dra/plugin), for a call that names none.
const TIMEOUT: Duration = Duration::from_secs(45);

/// The service.
pub(super) struct Service {
    pub(super) driver: Arc<Driver>,
}

#[tonic::async_trait]
impl DraPlugin for Service {
    async fn node_prepare_resources(
        &self,
        request: Request<NodePrepareResourcesRequest>,
    ) -> Result<Response<NodePrepareResourcesResponse>, Status> {
        let deadline = deadline(request.metadata());
        // Cancelled when this future is dropped: the kubelet has ended the call, usually because the pod was deleted.
        let call = CancellationToken::new();
        let _call = call.clone().drop_guard();
        let answers = each(&self.driver, request.into_inner().claims, move |driver, claim| {
            let call = call.clone();
            async move {
                match driver.prepare(&claim, &call, deadline).await {
                    Ok(devices) => {
                        driver.status.lock().calls.prepared += 1;
                        tracing::info!(claim = %full_name(&claim), devices = devices.len(), "prepared a claim");
                        NodePrepareResourceResponse { devices, error: String::new() }
                    }
                    Err(error @ CallError::Cancelled) => {
                        tracing::info!(claim = %full_name(&claim), "{error}");
                        NodePrepareResourceResponse { devices: Vec::new(), error: error.to_string() }
                    }
                    Err(error) => {
                        driver.status.lock().calls.refused += 1;
                        tracing::warn!(claim = %full_name(&claim), %error, "refused to prepare a claim");
                        NodePrepareResourceResponse { devices: Vec::new(), error: error.to_string() }
                    }
                }
            }
        });
        let claims = answers.await?;
        Ok(Response::new(NodePrepareResourcesResponse { claims: claims.into_iter().collect() }))
    }

    async fn node_unprepare_resources(
        &self,
        request: Request<NodeUnprepareResourcesRequest>,
    ) -> Result<Response<NodeUnprepareResourcesResponse>, Status> {
        let deadline = deadline(request.metadata());
        let answers = each(&self.driver, request.into_inner().claims, move |driver, claim| async move {
            match driver.unprepare(&claim, deadline).await {
                Ok(()) => {
                    driver.status.lock().calls.unprepared += 1;
                    tracing::info!(claim = %full_name(&claim), "unprepared a claim");
                    NodeUnprepareResourceResponse::default()
                }
                Err(error) => {
                    driver.status.lock().calls.kept += 1;
                    tracing::warn!(claim = %full_name(&claim), %error, "cannot unprepare a claim");
                    NodeUnprepareResourceResponse { error: error.to_string() }
                }
            }
        });
        let claims = answers.await?;
        Ok(Response::new(NodeUnprepareResourcesResponse { claims: claims.into_iter().collect() }))
    }
}

/// Works on all claims of a call at once, so that one that waits delays no other. Returns the answers by uid.
///
/// The work on a claim goes on when the kubelet ends the call: it must not end half way. A wait for another claim or for a held group may.
async fn each<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
    driver: &Arc<Driver>,
    claims: Vec<Claim>,
    work: impl Fn(Arc<Driver>, Claim) -> F + Send,
) -> Result<Vec<(String, T)>, Status> {
    if claims.iter().any(|claim| !is_claim(claim)) {
        return Err(Status::invalid_argument("a claim has no valid namespace, name and uid"));
    }
    let mut tasks = JoinSet::new();
    for claim in claims {
        let uid = claim.uid.clone();
        let work = work(Arc::clone(driver), claim);
        tasks.spawn(async move { (uid, work.await) });
    }
    let mut answers = Vec::new();
    // Dropped with the call, a set would end its tasks.
    let all = tokio::spawn(async move {
        while let Some(answer) = tasks.join_next().await {
            answers.extend(answer.ok());
        }
        answers
    });
    all.await.map_err(|error| Status::internal(error.to_string()))
}

/// Returns whether the parts of a claim's name can be parts of a file's name.
fn is_claim(claim: &Claim) -> bool {
    let is_part = |text: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
        !text.is_empty() && text.len() <= 253 && text.chars().all(allowed) && !text.starts_with('.')
    };
    [&claim.namespace, &claim.name, &claim.uid].into_iter().all(|text| is_part(text))
}

/// Returns when the caller gives up: the header `grpc-timeout` has the time in at most 8 digits and a unit.
fn deadline(metadata: &MetadataMap) -> Instant {
    let header = metadata.get("grpc-timeout").and_then(|value| value.to_str().ok());
    Instant::now() + header.and_then(timeout).unwrap_or(TIMEOUT).min(TIMEOUT)
}

fn timeout(header: &str) -> Option<Duration> {
    let (digits, unit) = header.split_at_checked(header.len().checked_sub(1)?)?;
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count.saturating_mul(3600))),
        "M" => Some(Duration::from_secs(count.saturating_mul(60))),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeout_has_a_unit() {
        for (header, expected) in [
            ("45S", Some(Duration::from_secs(45))),
            ("44999999u", Some(Duration::from_micros(44_999_999))),
            ("1H", Some(Duration::from_secs(3600))),
            ("", None),
            ("S", None),
            ("5x", None),
            ("é", None),
        ] {
            assert_eq!(timeout(header), expected, "{header}");
        }
    }

    #[test]
    fn claim_whose_name_is_a_path_is_refused() {
        let claim = |namespace: &str, uid: &str| Claim {
            namespace: namespace.into(),
            uid: uid.into(),
            name: "vm".into(),
        };
        assert!(is_claim(&claim("a", "5f-1")));
        for (namespace, uid) in [("..", "u"), ("a/b", "u"), ("a", ""), ("a", "../u")] {
            assert!(!is_claim(&claim(namespace, uid)));
        }
    }
}
