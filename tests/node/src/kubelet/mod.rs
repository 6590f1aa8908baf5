//! A stand-in for the kubelet on real sockets: registration, device books, pods, pod resources.
//!
//! It does what `pkg/kubelet/cm/devicemanager` does as far as a plugin can tell: dials back inside Register, takes every
//! list as the whole, calls all devices unhealthy when a stream ends, and removes every socket when it starts.

mod books;
mod pod_resources;
mod registration;

pub use books::{Books, Capacity, Pod, Registration, Resource};

use kubelet_api::podresources::pod_resources_lister_server::PodResourcesListerServer;
use kubelet_api::v1beta1::device_plugin_client::DevicePluginClient;
use kubelet_api::v1beta1::registration_server::RegistrationServer;
use kubelet_api::v1beta1::{
    AllocateRequest, ContainerAllocateRequest, ContainerAllocateResponse,
    ContainerPreferredAllocationRequest, ListAndWatchResponse, PreferredAllocationRequest,
};
use std::fmt;
use std::io::Result;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Status, Streaming};

/// A running (or stopped) kubelet.
pub struct Kubelet {
    inner: Arc<Inner>,
    servers: Mutex<Option<Servers>>,
}

struct Servers {
    tasks: Vec<JoinHandle<()>>,
    streams: CancellationToken,
}

/// What its servers share.
pub(crate) struct Inner {
    pub(crate) folder: PathBuf,
    pub(crate) pod_resources: PathBuf,
    pub(crate) books: watch::Sender<Books>,
    /// Ends the streams to plugins, when the kubelet stops.
    pub(crate) streams: Mutex<CancellationToken>,
}

/// Why a pod was not admitted.
#[derive(Debug)]
pub enum AdmitError {
    /// The scheduler finds no room: `requested + wanted > allocatable` (fit.go). The pod stays pending.
    Unschedulable(Capacity),
    /// The device manager has not enough devices left.
    Insufficient,
    /// The plugin refused: the pod is Failed with UnexpectedAdmissionError, nobody tries again.
    Refused(Status),
}

/// A pod that was given devices.
#[derive(Clone, Debug)]
pub struct Admission {
    /// Its uid.
    pub pod_uid: String,
    /// The devices in the kubelet's books.
    pub devices: Vec<String>,
    /// What the plugin answered.
    pub response: ContainerAllocateResponse,
}

impl fmt::Display for AdmitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unschedulable(capacity) => write!(
                f,
                "unschedulable: allocatable {} - requested {} leaves too few",
                capacity.allocatable, capacity.requested
            ),
            Self::Insufficient => f.write_str("requested number of devices unavailable"),
            Self::Refused(status) => {
                write!(
                    f,
                    "UnexpectedAdmissionError: Allocate failed due to {:?}: {}",
                    status.code(),
                    status.message()
                )
            }
        }
    }
}

impl std::error::Error for AdmitError {}

impl Kubelet {
    /// Starts: removes every socket of the folder (`CleanupPluginDirectory`), then serves. Needs a tokio runtime.
    ///
    /// # Errors
    /// The folder or a socket in it cannot be made.
    pub async fn start(folder: &Path, pod_resources: &Path) -> Result<Self> {
        let kubelet = Self::stopped(folder, pod_resources);
        kubelet.run().await?;
        Ok(kubelet)
    }

    /// One that has not started yet.
    #[must_use]
    pub fn stopped(folder: &Path, pod_resources: &Path) -> Self {
        let inner = Inner {
            folder: folder.to_owned(),
            pod_resources: pod_resources.to_owned(),
            books: watch::Sender::new(Books::default()),
            streams: Mutex::new(CancellationToken::new()),
        };
        Self { inner: Arc::new(inner), servers: Mutex::new(None) }
    }

    /// Starts, if it is not running.
    ///
    /// # Errors
    /// As [`Kubelet::start`].
    #[expect(clippy::unused_async, reason = "binding a listener needs the runtime that awaiting shows")]
    pub async fn run(&self) -> Result<()> {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        if servers.is_some() {
            return Ok(());
        }
        std::fs::create_dir_all(&self.inner.folder)?;
        for entry in std::fs::read_dir(&self.inner.folder)? {
            let entry = entry?;
            if entry.file_type()?.is_socket() {
                std::fs::remove_file(entry.path())?;
            }
        }
        if let Some(folder) = self.inner.pod_resources.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let _ = std::fs::remove_file(&self.inner.pod_resources);
        let streams = CancellationToken::new();
        *self.inner.streams.lock().unwrap_or_else(PoisonError::into_inner) = streams.clone();
        let registration = UnixListener::bind(self.inner.folder.join(kubelet_api::KUBELET_SOCKET))?;
        let pods = UnixListener::bind(&self.inner.pod_resources)?;
        let serve_registration = Server::builder()
            .add_service(RegistrationServer::new(registration::Service(Arc::clone(&self.inner))))
            .serve_with_incoming(UnixListenerStream::new(registration));
        let serve_pods = Server::builder()
            .add_service(PodResourcesListerServer::new(pod_resources::Service(Arc::clone(&self.inner))))
            .serve_with_incoming(UnixListenerStream::new(pods));
        let tasks = vec![
            tokio::spawn(async move {
                let _ = serve_registration.await;
            }),
            tokio::spawn(async move {
                let _ = serve_pods.await;
            }),
        ];
        *servers = Some(Servers { tasks, streams });
        Ok(())
    }

    /// Stops as a process that ends: connections break, its sockets stay behind as files that nobody answers.
    pub fn stop(&self) {
        if let Some(servers) = self.servers.lock().unwrap_or_else(PoisonError::into_inner).take() {
            servers.streams.cancel();
            for task in servers.tasks {
                task.abort();
            }
        }
    }

    /// Stops and starts. Every resource has no device until its plugin registers again; with `keep_checkpoint` pods keep
    /// theirs (`readCheckpoint`).
    ///
    /// # Errors
    /// As [`Kubelet::start`].
    pub async fn restart(&self, keep_checkpoint: bool) -> Result<()> {
        self.stop();
        self.inner.books.send_modify(|books| books.restart(keep_checkpoint));
        self.run().await
    }

    /// The books as they are.
    #[must_use]
    pub fn books(&self) -> Books {
        self.inner.books.borrow().clone()
    }

    /// What the node object would say of a resource.
    #[must_use]
    pub fn capacity(&self, resource: &str) -> Capacity {
        self.inner.books.borrow().capacity(resource)
    }

    /// Waits until the books are as wanted; the books as they were last, on timeout as the error.
    ///
    /// # Errors
    /// They were not, within `deadline`.
    pub async fn wait_for(
        &self,
        deadline: Duration,
        mut wanted: impl FnMut(&Books) -> bool,
    ) -> std::result::Result<Books, Books> {
        let mut books = self.inner.books.subscribe();
        let seen = tokio::time::timeout(deadline, books.wait_for(|books| wanted(books))).await;
        match seen {
            Ok(Ok(books)) => Ok(books.clone()),
            _ => Err(self.books()),
        }
    }

    /// Ends the kubelet's stream to a plugin, and nothing else: the kubelet never dials again by itself.
    pub fn drop_stream(&self, resource: &str) {
        let token = self.inner.books.borrow().resources.get(resource).map(|resource| resource.stream.clone());
        if let Some(token) = token {
            token.cancel();
        }
    }

    /// What the scheduler and then the device manager do with a pod that wants `count` devices.
    ///
    /// # Errors
    /// See [`AdmitError`].
    pub async fn admit(
        &self,
        name: &str,
        resource: &str,
        count: usize,
    ) -> std::result::Result<Admission, AdmitError> {
        let capacity = self.capacity(resource);
        if capacity.requested + count > capacity.allocatable {
            return Err(AdmitError::Unschedulable(capacity));
        }
        let available = self.inner.books.borrow().available(resource);
        if available.len() < count {
            return Err(AdmitError::Insufficient);
        }
        let preferred =
            self.preferred(resource, &available, &[], count).await.map_err(AdmitError::Refused)?;
        // Advice: intersected with what is available, then filled up (`devicesToAllocate`).
        let mut devices: Vec<String> =
            preferred.into_iter().filter(|id| available.contains(id)).take(count).collect();
        for id in available {
            if devices.len() < count && !devices.contains(&id) {
                devices.push(id);
            }
        }
        self.admit_with(name, resource, devices).await
    }

    /// The same for a pod that is given just these devices.
    ///
    /// # Errors
    /// The plugin refused.
    pub async fn admit_with(
        &self,
        name: &str,
        resource: &str,
        devices: Vec<String>,
    ) -> std::result::Result<Admission, AdmitError> {
        let response = self.allocate(resource, &[&devices]).await.map_err(AdmitError::Refused)?;
        let response = response.into_iter().next().unwrap_or_default();
        let mut pod_uid = String::new();
        self.inner.books.send_modify(|books| pod_uid = books.add_pod(name, resource, &devices));
        Ok(Admission { pod_uid, devices, response })
    }

    /// Removes a pod; its devices are available again at once, whatever its VM does.
    pub fn remove(&self, pod_uid: &str) {
        self.inner.books.send_modify(|books| books.pods.retain(|pod| pod.uid != pod_uid));
    }

    /// Calls Allocate, one container request for each list of ids.
    ///
    /// # Errors
    /// The plugin's status.
    pub async fn allocate(
        &self,
        resource: &str,
        containers: &[&[String]],
    ) -> std::result::Result<Vec<ContainerAllocateResponse>, Status> {
        let container_requests =
            containers.iter().map(|ids| ContainerAllocateRequest { devices_ids: ids.to_vec() }).collect();
        let answer = self.client(resource)?.allocate(AllocateRequest { container_requests }).await?;
        Ok(answer.into_inner().container_responses)
    }

    /// Calls GetPreferredAllocation.
    ///
    /// # Errors
    /// The plugin's status.
    pub async fn preferred(
        &self,
        resource: &str,
        available: &[String],
        must_include: &[String],
        count: usize,
    ) -> std::result::Result<Vec<String>, Status> {
        let request = ContainerPreferredAllocationRequest {
            available_device_i_ds: available.to_vec(),
            must_include_device_i_ds: must_include.to_vec(),
            allocation_size: i32::try_from(count).unwrap_or(i32::MAX),
        };
        let request = PreferredAllocationRequest { container_requests: vec![request] };
        let answer = self.client(resource)?.get_preferred_allocation(request).await?.into_inner();
        Ok(answer.container_responses.into_iter().next().unwrap_or_default().device_i_ds)
    }

    /// Opens another ListAndWatch on a plugin's socket.
    ///
    /// # Errors
    /// The plugin's status.
    pub async fn extra_stream(
        &self,
        resource: &str,
    ) -> std::result::Result<Streaming<ListAndWatchResponse>, Status> {
        Ok(self.client(resource)?.list_and_watch(kubelet_api::v1beta1::Empty {}).await?.into_inner())
    }

    fn client(&self, resource: &str) -> std::result::Result<DevicePluginClient<Channel>, Status> {
        let books = self.inner.books.borrow();
        let client = books.resources.get(resource).and_then(|resource| resource.client.clone());
        client.ok_or_else(|| Status::not_found(format!("{resource}: no plugin has registered it")))
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for Kubelet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kubelet").field("folder", &self.inner.folder).finish_non_exhaustive()
    }
}

/// Dials a plugin as the kubelet does: 10 s, over its unix socket.
pub(crate) async fn dial(socket: &Path) -> std::result::Result<DevicePluginClient<Channel>, Status> {
    let endpoint = Endpoint::from_shared(format!("unix:{}", socket.display()))
        .map_err(|error| Status::invalid_argument(error.to_string()))?
        .connect_timeout(Duration::from_secs(10));
    let channel = endpoint.connect().await.map_err(|error| Status::unavailable(error.to_string()))?;
    Ok(DevicePluginClient::new(channel))
}
