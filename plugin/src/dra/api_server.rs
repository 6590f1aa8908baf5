//! Sends requests to the API server, and records how it answers and what it stores.

use crate::dra::api::{REQUEST, RequestError, causes};
use crate::dra::slices::StoredSlices;
use crate::driver_status::SharedDriverStatus;
use crate::problems::{ProblemCode, Problems, seconds};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::runtime::watcher;
use kube::{Api, Client};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::time::timeout;

/// The longest limit of a request.
const LONGEST_REQUEST: Duration = Duration::from_secs(40);
/// What the problems are about.
const API_SERVER: &str = "API server";
const SLICES: &str = "ResourceSlices";

/// What a request needs a right for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Access {
    /// Get the node.
    Node,
    /// List and watch slices.
    ReadSlices,
    /// Create, update and delete slices.
    WriteSlices,
    /// Get claims.
    Claims,
    /// Get the version, which every account may.
    Version,
}

impl Access {
    /// Returns the right in words.
    fn as_str(self) -> &'static str {
        match self {
            Self::Node => "get of nodes",
            Self::ReadSlices => "list and watch of resourceslices",
            Self::WriteSlices => "create, update and delete of resourceslices",
            Self::Claims => "get of resourceclaims",
            Self::Version => "get of /version",
        }
    }
}

/// Records how the API server answers. Clones share the record.
#[derive(Clone, Debug)]
pub(super) struct ApiServer {
    /// How long the next request may take. It doubles with each that has no answer, because an API server under load answers late.
    limit: Arc<Mutex<Duration>>,
    status: SharedDriverStatus,
    problems: Problems,
}

impl ApiServer {
    /// Nothing is known yet.
    pub(super) fn new(status: SharedDriverStatus, problems: Problems) -> Self {
        Self { limit: Arc::new(Mutex::new(REQUEST)), status, problems }
    }

    /// Waits for the answer to a request: for at most 5 s, and up to 40 s after requests without an answer.
    ///
    /// # Errors
    /// The request failed.
    pub(super) async fn request<T>(
        &self,
        access: Access,
        request: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, RequestError> {
        let limit = *self.limit.lock();
        let answer = timeout(limit, request).await;
        *self.limit.lock() = if answer.is_ok() { REQUEST } else { LONGEST_REQUEST.min(2 * limit) };
        match answer {
            Ok(Ok(answer)) => {
                self.answered(access);
                Ok(answer)
            }
            Ok(Err(error)) => {
                self.failed(access, &error);
                Err(error.into())
            }
            Err(_) => {
                self.silent();
                Err(RequestError::Unanswered(format!("no answer within {} s", limit.as_secs())))
            }
        }
    }

    /// Records an answer.
    pub(super) fn answered(&self, access: Access) {
        self.set_reachable(None);
        self.problems.end(ProblemCode::ApiServerForbidden, access.as_str());
    }

    /// Records that a request failed.
    pub(super) fn failed(&self, access: Access, error: &kube::Error) {
        let kube::Error::Api(status) = error else {
            return self.set_reachable(Some(&causes(error)));
        };
        match status.code {
            401 | 403 => {
                self.set_reachable(None);
                let text =
                    format!("the API server refuses it to the DRA driver's account: {}", status.message);
                self.problems.begin(ProblemCode::ApiServerForbidden, access.as_str(), text);
            }
            500.. => self.set_reachable(Some(&causes(error))),
            _ => self.answered(access),
        }
    }

    /// Records an error of the watch of slices. A watch that ends is opened again, which shows whether the API server is there.
    pub(super) fn watch_failed(&self, error: &watcher::Error) {
        match error {
            watcher::Error::InitialListFailed(error)
            | watcher::Error::WatchStartFailed(error)
            | watcher::Error::WatchFailed(error) => self.failed(Access::ReadSlices, error),
            _ => {}
        }
    }

    /// Records that a request got no answer in time.
    pub(super) fn silent(&self) {
        self.set_reachable(Some("no answer in time"));
    }

    /// Records its version.
    pub(super) fn set_version(&self, minor: Option<u32>) {
        let status = &mut *self.status.lock();
        status.api_server.minor = minor;
        status.slices.stores_taints = None;
        self.problems.end(ProblemCode::TaintsDropped, SLICES);
    }

    /// Records that it drops taints.
    pub(super) fn drops_taints(&self) {
        self.status.lock().slices.stores_taints = Some(false);
        let text = "the API server drops the taints of devices, so devices that must not be allocated are left out of them";
        self.problems.begin(ProblemCode::TaintsDropped, SLICES, text);
    }

    /// Records the end of a round of writes.
    pub(super) fn written(&self, error: Option<&RequestError>) {
        let slices = &mut self.status.lock().slices;
        slices.error = error.map(ToString::to_string);
        match error {
            None => {
                slices.last_write = Some(seconds(SystemTime::now()));
                self.problems.end(ProblemCode::SlicesNotWritten, SLICES);
            }
            Some(error) => {
                slices.failed_writes += 1;
                self.problems.begin(
                    ProblemCode::SlicesNotWritten,
                    SLICES,
                    format!("cannot be written: {error}"),
                );
            }
        }
    }

    /// Records what is stored, and whether that is as it should be. None if it is not known.
    pub(super) fn set_stored(&self, stored: Option<(bool, &StoredSlices)>) {
        let slices = &mut self.status.lock().slices;
        slices.stored = stored.map(|(is_as_wanted, _)| is_as_wanted);
        let Some((is_as_wanted, stored)) = stored else { return };
        slices.first_stored |= is_as_wanted;
        (slices.count, slices.devices) = stored.counts();
        slices.generation = (slices.count > 0).then(|| stored.generation());
        if stored.have_taints() {
            slices.stores_taints = Some(true);
        }
    }

    fn set_reachable(&self, error: Option<&str>) {
        let api_server = &mut self.status.lock().api_server;
        api_server.reachable = Some(error.is_none());
        api_server.error = error.map(str::to_owned);
        match error {
            None => {
                self.problems.end(ProblemCode::ApiServerUnavailable, API_SERVER);
            }
            Some(error) => {
                let text = format!("it gives the DRA driver no answer: {error}");
                self.problems.begin(ProblemCode::ApiServerUnavailable, API_SERVER, text);
            }
        }
    }
}

/// Returns the reference by which the slices are deleted with the Node object.
pub(super) async fn owner(
    client: &Client,
    api: &ApiServer,
    node: &str,
) -> Result<OwnerReference, RequestError> {
    let nodes: Api<Node> = Api::all(client.clone());
    let found = api.request(Access::Node, nodes.get(node)).await.map_err(|error| match error {
        RequestError::Outdated => RequestError::Refused(format!("there is no node {node}: check --node")),
        error => error,
    })?;
    let (Some(name), Some(uid)) = (found.metadata.name, found.metadata.uid) else {
        return Err(RequestError::Refused("the node has no name or uid".to_owned()));
    };
    Ok(OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name,
        uid,
        controller: Some(true),
        block_owner_deletion: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::Status;

    fn api(code: u16) -> kube::Error {
        kube::Error::Api(Box::new(Status { code, message: "no".to_owned(), ..Status::default() }))
    }

    #[test]
    fn unreachable_and_forbidden_are_different_problems() {
        let (status, problems) = (SharedDriverStatus::default(), Problems::default());
        let api_server = ApiServer::new(status.clone(), problems.clone());
        let reachable = || status.lock().api_server.reachable;
        let codes = || problems.current().into_iter().map(|problem| problem.code).collect::<Vec<_>>();
        assert_eq!(reachable(), None, "unknown is not no");
        api_server.failed(Access::WriteSlices, &api(403));
        assert_eq!((reachable(), codes()), (Some(true), vec![ProblemCode::ApiServerForbidden]));
        api_server.answered(Access::ReadSlices);
        assert_eq!(codes(), [ProblemCode::ApiServerForbidden], "another right");
        api_server.silent();
        assert_eq!((reachable(), codes().len()), (Some(false), 2));
        api_server.failed(Access::WriteSlices, &api(409));
        assert_eq!((reachable(), codes().len()), (Some(true), 0), "a conflict is an answer");
        api_server.failed(Access::Claims, &api(503));
        assert_eq!((reachable(), codes()), (Some(false), vec![ProblemCode::ApiServerUnavailable]));
    }
}
