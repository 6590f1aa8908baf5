//! Registers the driver with the kubelet, and serves the kubelet's calls.
//!
//! The kubelet finds the registration socket in its directory and asks it for the path of the service socket
//! (pkg/kubelet/pluginmanager). It keeps one connection to the service socket as long as the driver is registered.

use crate::backoff::Backoff;
use crate::dra::driver::Driver;
use crate::dra::health::HealthService;
use crate::dra::kubelet::{Connections, KubeletLink};
use crate::dra::service::Service;
use crate::files::{bind_private, create_directories};
use kubelet_api::dra::dra_plugin_server::DraPluginServer;
use kubelet_api::registration::registration_server::{Registration, RegistrationServer};
use kubelet_api::registration::{InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse};
use kubelet_api::{dra_health_v1, dra_health_v1alpha1};
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use vfio_plugin_policy::dra::names::DraDriver;

/// The name of the service socket in the driver's directory. A socket's path has at most 108 bytes.
const SERVICE: &str = "dra.sock";
/// The time between two checks whether the sockets are still there.
const CHECK: Duration = Duration::from_secs(2);
/// The first and the longest pause before the sockets are made again after a failure.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));
/// The kubelet names at most 256 pods' claims of a node in one call.
const MAX_REQUEST: usize = 1024 * 1024;

/// Answers the kubelet's registration.
struct Registrar {
    info: PluginInfo,
    kubelet: KubeletLink,
}

#[tonic::async_trait]
impl Registration for Registrar {
    async fn get_info(&self, _: Request<InfoRequest>) -> std::result::Result<Response<PluginInfo>, Status> {
        Ok(Response::new(self.info.clone()))
    }

    async fn notify_registration_status(
        &self,
        status: Request<RegistrationStatus>,
    ) -> std::result::Result<Response<RegistrationStatusResponse>, Status> {
        let RegistrationStatus { plugin_registered, error } = status.into_inner();
        if plugin_registered {
            tracing::info!(driver = self.info.name, "registered the DRA driver");
        } else {
            tracing::warn!(driver = self.info.name, error, "the kubelet refused the DRA driver");
            self.kubelet.refused(error);
        }
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}

/// A socket that is removed when this is dropped, unless another one has its path by then.
struct Socket {
    path: PathBuf,
    id: (u64, u64),
}

impl Socket {
    /// Binds a socket. Replaces a socket that an earlier process left: the caller holds the lock of the driver's directory.
    fn bind(path: PathBuf) -> Result<(Self, UnixListener)> {
        match std::fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.file_type().is_socket() => std::fs::remove_file(&path)?,
            Ok(_) => return Err(Error::new(ErrorKind::AlreadyExists, "it exists and is no socket")),
            Err(_) => {}
        }
        let listener = bind_private(&path)?;
        let id = id(&path).unwrap_or_default();
        Ok((Self { path, id }, listener))
    }

    fn is_there(&self) -> bool {
        id(&self.path) == Some(self.id)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.is_there() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn id(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Returns the path of the service socket.
pub(super) fn endpoint(plugins_dir: &Path) -> PathBuf {
    plugins_dir.join(SERVICE)
}

/// Returns the file name of the registration socket, which contains an `@`.
///
/// The kubelet sends the socket's path as `:authority`, with its slashes as `%2F` (`dial` in
/// pkg/kubelet/pluginmanager/operationexecutor; gRPC's `encodeAuthority`). This server closes a stream whose authority has a `%`,
/// except in front of an `@`, where RFC 3986 allows it.
fn socket_name(driver: &DraDriver) -> String {
    format!("{driver}@reg.sock")
}

/// Serves both sockets, and makes them again when one is gone; never returns.
pub(super) async fn serve(driver: Arc<Driver>, registry_dir: PathBuf, kubelet: KubeletLink) {
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    loop {
        match serve_once(&driver, &registry_dir, &kubelet).await {
            Ok(()) => {
                backoff.reset();
                tracing::warn!("a socket of the DRA driver was removed; registering again");
            }
            Err(error) => {
                let pause = backoff.pause();
                tracing::warn!(%error, ?pause, "the DRA driver cannot serve the kubelet; trying again");
                sleep(pause).await;
            }
        }
    }
}

/// Serves both sockets until one is gone.
async fn serve_once(driver: &Arc<Driver>, registry_dir: &Path, kubelet: &KubeletLink) -> Result<()> {
    let at = |path: &Path, error: &Error| Error::new(error.kind(), format!("{}: {error}", path.display()));
    create_directories(&driver.plugins_dir).map_err(|error| at(&driver.plugins_dir, &error))?;
    let endpoint = endpoint(&driver.plugins_dir);
    let (service_socket, service) = Socket::bind(endpoint.clone()).map_err(|error| at(&endpoint, &error))?;
    let path = registry_dir.join(socket_name(&driver.name));
    // The kubelet calls the service as soon as it has found this socket.
    let (socket, registration) = Socket::bind(path.clone()).map_err(|error| at(&path, &error))?;
    let info = PluginInfo {
        r#type: kubelet_api::DRA_PLUGIN.to_owned(),
        name: driver.name.to_string(),
        endpoint: endpoint.display().to_string(),
        // The kubelet takes the first service of each kind that it knows (`validateSupportedServices`).
        supported_versions: kubelet_api::DRA_SERVICES.map(str::to_owned).into(),
    };
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    let plugin = Service { driver: Arc::clone(driver) };
    let health = HealthService::new(driver, stop.clone());
    let services = Server::builder()
        .add_service(DraPluginServer::new(plugin).max_decoding_message_size(MAX_REQUEST))
        .add_service(dra_health_v1::dra_resource_health_server::DraResourceHealthServer::new(health.clone()))
        .add_service(dra_health_v1alpha1::dra_resource_health_server::DraResourceHealthServer::new(health))
        .serve_with_incoming_shutdown(
            Connections::new(service, Some(kubelet.clone())),
            stop.clone().cancelled_owned(),
        );
    let registrations = Server::builder()
        .add_service(RegistrationServer::new(Registrar { info, kubelet: kubelet.clone() }))
        .serve_with_incoming_shutdown(Connections::new(registration, None), stop.clone().cancelled_owned());
    let gone = async {
        while service_socket.is_there() && socket.is_there() {
            sleep(CHECK).await;
        }
    };
    let failed = |error: tonic::transport::Error| Error::other(error.to_string());
    tokio::select! {
        end = services => end.map_err(failed),
        end = registrations => end.map_err(failed),
        () = gone => Ok(()),
    }
}
