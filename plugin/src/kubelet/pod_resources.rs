//! Lists pods with their devices at the kubelet's pod resources socket, with a deadline.

use kubelet_api::podresources::ListPodResourcesRequest;
use kubelet_api::podresources::pod_resources_lister_client::PodResourcesListerClient;
use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};
use vfio_plugin_policy::assignments::observation::ListedPod;

/// A kubelet that is starting or overloaded answers late. Nothing waits for it meanwhile.
const DEADLINE: Duration = Duration::from_secs(2);
/// The kubelet's own limit of a response (`podresources.DefaultPodResourcesMaxSize`), in bytes.
const MAX_RESPONSE: usize = 16 * 1024 * 1024;

/// Lists pods. Keeps the connection while it works.
#[derive(Debug)]
pub(crate) struct Lister {
    socket: PathBuf,
    client: Option<PodResourcesListerClient<Channel>>,
}

/// Why pods could not be listed. The text names the socket and the cause: `SOCKET: CAUSE`.
#[derive(Clone, Debug)]
pub(crate) struct PodResourcesError {
    socket: PathBuf,
    cause: Cause,
}

#[derive(Clone, Debug)]
enum Cause {
    Deadline,
    Connect(ErrorKind, String),
    Status(tonic::Code, String),
    /// The connection failed, or what came is no gRPC.
    Protocol(String),
}

/// What kind of failure it was, which decides what an operator does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Failure {
    /// The socket does not exist.
    NoSocket,
    /// No process listens on the socket.
    Refused,
    /// This process may not connect.
    Denied,
    /// The path cannot be connected to for another reason.
    Unreachable,
    /// What answers does not speak gRPC.
    OtherProgram,
    /// There was no answer in time.
    Late,
    /// The answer is longer than the kubelet's own limit.
    TooLong,
    /// The kubelet limits the calls of all clients together.
    RateLimited,
    /// The kubelet does not serve this method: it is too old.
    Unimplemented,
    /// The kubelet answered with another error.
    Refusal,
}

impl PodResourcesError {
    /// Returns the kind of failure.
    pub(crate) fn failure(&self) -> Failure {
        match &self.cause {
            Cause::Deadline => Failure::Late,
            Cause::Connect(ErrorKind::NotFound | ErrorKind::NotADirectory, _) => Failure::NoSocket,
            Cause::Connect(ErrorKind::ConnectionRefused, _) => Failure::Refused,
            Cause::Connect(ErrorKind::PermissionDenied, _) => Failure::Denied,
            Cause::Connect(..) => Failure::Unreachable,
            Cause::Protocol(_) => Failure::OtherProgram,
            Cause::Status(tonic::Code::DeadlineExceeded | tonic::Code::Cancelled, _) => Failure::Late,
            // tonic's own code for a message over `max_decoding_message_size`.
            Cause::Status(tonic::Code::OutOfRange, _) => Failure::TooLong,
            Cause::Status(tonic::Code::ResourceExhausted, _) => Failure::RateLimited,
            Cause::Status(tonic::Code::Unimplemented, _) => Failure::Unimplemented,
            Cause::Status(..) => Failure::Refusal,
        }
    }
}

impl fmt::Display for PodResourcesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.socket.display())?;
        match &self.cause {
            Cause::Deadline => write!(f, "no answer within {DEADLINE:?}"),
            Cause::Connect(_, cause) => write!(f, "cannot connect: {cause}; is the kubelet running?"),
            Cause::Status(code, message) => write!(f, "{code:?}: {message}"),
            Cause::Protocol(cause) => write!(f, "not an answer of a kubelet: {cause}"),
        }
    }
}

impl Lister {
    /// Returns a lister for a socket that need not exist yet. It does not connect.
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self { socket, client: None }
    }

    /// Lists all pods with their devices. Waits 2 s at most.
    ///
    /// # Errors
    /// The socket cannot be connected to, or the kubelet refuses or is late. The next call connects again.
    pub(crate) async fn list(&mut self) -> Result<Vec<ListedPod>, PodResourcesError> {
        let listed = timeout(DEADLINE, self.try_list()).await.unwrap_or(Err(Cause::Deadline));
        listed.map_err(|cause| {
            self.client = None;
            PodResourcesError { socket: self.socket.clone(), cause }
        })
    }

    async fn try_list(&mut self) -> Result<Vec<ListedPod>, Cause> {
        let client = match &mut self.client {
            Some(client) => client,
            None => self.client.insert(connect(&self.socket.display().to_string()).await?),
        };
        let response = client.list(ListPodResourcesRequest {}).await;
        let response = response.map_err(|status| match status.source() {
            // A status that the server sent has no source.
            Some(cause) => Cause::Protocol(cause.to_string()),
            None => Cause::Status(status.code(), status.message().to_owned()),
        })?;
        let pods = response.into_inner().pod_resources.into_iter().map(|pod| {
            let mut devices: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
            for container in pod.containers {
                // The kubelet makes one entry for each device, so that each has its own topology.
                for entry in container.devices {
                    let key = (container.name.clone(), entry.resource_name);
                    devices.entry(key).or_default().extend(entry.device_ids);
                }
            }
            ListedPod { full_name: format!("{}/{}", pod.namespace, pod.name), devices }
        });
        Ok(pods.collect())
    }
}

async fn connect(socket: &str) -> Result<PodResourcesListerClient<Channel>, Cause> {
    // tonic's own text is "transport error"; the cause is its source.
    let text = |error: &tonic::transport::Error| {
        error.source().map_or_else(|| error.to_string(), ToString::to_string)
    };
    let endpoint = Endpoint::from_shared(format!("unix:{socket}"));
    let endpoint = endpoint.map_err(|error| Cause::Connect(ErrorKind::InvalidInput, text(&error)))?;
    let channel = endpoint.connect().await.map_err(|error| match io_kind(&error) {
        // The connect succeeded, and the HTTP/2 handshake after it failed.
        None | Some(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof) => {
            Cause::Protocol(text(&error))
        }
        Some(kind) => Cause::Connect(kind, text(&error)),
    })?;
    Ok(PodResourcesListerClient::new(channel).max_decoding_message_size(MAX_RESPONSE))
}

/// Returns the kind of the first I/O error among an error's sources.
fn io_kind(error: &dyn Error) -> Option<ErrorKind> {
    let mut next = error.source();
    while let Some(source) = next {
        if let Some(error) = source.downcast_ref::<std::io::Error>() {
            return Some(error.kind());
        }
        next = source.source();
    }
    None
}
