//! The kubelet's Register call.

use crate::device_plugin::service;
use crate::kubelet::unix_channel;
use crate::kubelet::unix_channel::ConnectError;
use kubelet_api::v1beta1::RegisterRequest;
use kubelet_api::v1beta1::registration_client::RegistrationClient;
use std::error::Error;
use std::path::Path;
use std::time::Duration;
use tokio::time::timeout;

/// The kubelet dials back inside Register, and waits up to 10 s for the plugin's answer.
const REGISTER: Duration = Duration::from_secs(15);

/// Registers a resource that is served on the socket `endpoint`, a file name in the directory of kubelet.sock.
///
/// # Errors
/// The kubelet does not answer within 15 s, or refuses. The text names the socket or the kubelet's reason.
pub(super) async fn register(directory: &Path, resource: &str, endpoint: &str) -> Result<(), String> {
    let kubelet = directory.join(kubelet_api::KUBELET_SOCKET);
    match timeout(REGISTER, call(&kubelet, resource, endpoint)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(format!("{}: no answer within {REGISTER:?}", kubelet.display())),
    }
}

async fn call(kubelet: &Path, resource: &str, endpoint: &str) -> Result<(), String> {
    let channel =
        unix_channel::connect(&kubelet.display().to_string()).await.map_err(|error| match error {
            ConnectError::Path(error) => format!("{}: {error}", kubelet.display()),
            ConnectError::Connect(error) => format!("{}: {}", kubelet.display(), with_sources(&error)),
        })?;
    let request = RegisterRequest {
        version: kubelet_api::VERSION.to_owned(),
        endpoint: endpoint.to_owned(),
        resource_name: resource.to_owned(),
        options: Some(service::options()),
    };
    let response = RegistrationClient::new(channel).register(request).await;
    response.map(drop).map_err(|status| format!("{:?}: {}", status.code(), status.message()))
}

/// Returns an error's text with those of its sources. tonic and hyper repeat the text of a source as their own, so each text is
/// there once.
fn with_sources(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use vfio_sim_node::Node;

    #[tokio::test]
    async fn socket_without_a_kubelet_is_reported_once() {
        let node = Node::new().unwrap();
        let directory = node.kubelet_dir();
        std::fs::create_dir_all(&directory).unwrap();
        let socket = directory.join(kubelet_api::KUBELET_SOCKET);
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        let error = register(&directory, "nvidia.com/A", "a.sock").await.unwrap_err();
        assert_eq!(error.matches("Connection refused").count(), 1, "{error}");
    }
}
