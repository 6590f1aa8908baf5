//! Lists pods with their devices at the kubelet's pod resources socket, with a deadline.

use crate::kubelet::kept::{Fault, Limit, OfferedResources};
use crate::kubelet::pod_list::ListCodec;
use kubelet_api::podresources::ListPodResourcesRequest;
use std::error::Error;
use std::fmt;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::timeout;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use vfio_plugin_policy::assignments::observation::ListedPod;

/// A kubelet that is starting or overloaded answers late. Nothing waits for it meanwhile.
const DEADLINE: Duration = Duration::from_secs(2);
/// The kubelet's own limit of a response (`podresources.DefaultPodResourcesMaxSize`), in bytes.
const MAX_RESPONSE: usize = 16 * 1024 * 1024;
/// The method that lists pods.
const LIST: &str = "/v1.PodResourcesLister/List";

/// Lists pods. Keeps the connection while it works.
#[derive(Debug)]
pub(crate) struct Lister {
    socket: PathBuf,
    client: Option<Grpc<Channel>>,
}

/// Why pods could not be listed. The text names the socket and the cause: `SOCKET: CAUSE`.
#[derive(Clone, Debug)]
pub(crate) struct PodResourcesError {
    socket: PathBuf,
    /// The reason, for a text that has named the socket.
    pub(crate) cause: Cause,
}

/// Why pods could not be listed.
#[derive(Clone, Debug)]
pub(crate) enum Cause {
    /// No answer came in time.
    Deadline,
    /// The socket could not be connected to.
    Connect(ErrorKind, String),
    /// The kubelet refused.
    Status(tonic::Code, String),
    /// The connection failed, or what came is no gRPC.
    Protocol(String),
    /// The list is malformed.
    Malformed,
    /// The list has too much of something.
    OverLimit(Limit),
}

impl From<Status> for Cause {
    fn from(status: Status) -> Self {
        match status.source() {
            // A status that the server sent has no source.
            Some(cause) => Self::Protocol(cause.to_string()),
            None => Self::Status(status.code(), status.message().to_owned()),
        }
    }
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
            Cause::Protocol(_) | Cause::Malformed => Failure::OtherProgram,
            Cause::OverLimit(_) => Failure::TooLong,
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
        write!(f, "{}: {}", self.socket.display(), self.cause)
    }
}

/// For a text that has named the socket.
impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deadline => write!(f, "no answer within {DEADLINE:?}"),
            Self::Connect(_, cause) => write!(f, "cannot connect: {cause}; is the kubelet running?"),
            Self::Status(code, message) => write!(f, "{code:?}: {message}"),
            Self::Malformed => f.write_str("the list is malformed"),
            Self::OverLimit(limit) => write!(f, "the list has {limit}"),
            Self::Protocol(cause) => write!(f, "not an answer of a kubelet: {cause}"),
        }
    }
}

impl Lister {
    /// Returns a lister for a socket that need not exist yet. It does not connect.
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self { socket, client: None }
    }

    /// Lists all pods, with the devices that can be this plugin's. Waits 2 s at most.
    ///
    /// # Errors
    /// The socket cannot be connected to, the kubelet refuses or is late, or its list is malformed or over a limit. The next call
    /// connects again.
    pub(crate) async fn list(
        &mut self,
        offered: &OfferedResources,
    ) -> Result<Vec<ListedPod>, PodResourcesError> {
        let listed = timeout(DEADLINE, self.try_list(offered)).await.unwrap_or(Err(Cause::Deadline));
        listed.map_err(|cause| {
            self.client = None;
            PodResourcesError { socket: self.socket.clone(), cause }
        })
    }

    async fn try_list(&mut self, offered: &OfferedResources) -> Result<Vec<ListedPod>, Cause> {
        let client = match &mut self.client {
            Some(client) => client,
            None => self.client.insert(connect(&self.socket.display().to_string()).await?),
        };
        client.ready().await.map_err(|error| Cause::Protocol(text(&error)))?;
        let request = Request::new(ListPodResourcesRequest {});
        let codec = ListCodec(offered.clone());
        let response = client.unary(request, PathAndQuery::from_static(LIST), codec).await?;
        response.into_inner().map_err(|fault| match fault {
            Fault::Malformed => Cause::Malformed,
            Fault::Over(limit) => Cause::OverLimit(limit),
        })
    }
}

async fn connect(socket: &str) -> Result<Grpc<Channel>, Cause> {
    let endpoint = Endpoint::from_shared(format!("unix:{socket}"));
    let endpoint = endpoint.map_err(|error| Cause::Connect(ErrorKind::InvalidInput, text(&error)))?;
    let channel = endpoint.connect().await.map_err(|error| match io_kind(&error) {
        // The connect succeeded, and the HTTP/2 handshake after it failed.
        None | Some(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof) => {
            Cause::Protocol(text(&error))
        }
        Some(kind) => Cause::Connect(kind, text(&error)),
    })?;
    Ok(Grpc::new(channel).max_decoding_message_size(MAX_RESPONSE))
}

/// Returns the cause of an error: tonic's own text is "transport error".
fn text(error: &tonic::transport::Error) -> String {
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
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
