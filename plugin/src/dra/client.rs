//! Connects to the API server.

use anyhow::Context;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use std::path::Path;
use std::time::Duration;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);

/// Returns a client with the credentials of a kubeconfig file, or of the pod's service account. Connects with the first request.
///
/// # Errors
/// There are no such credentials, or they cannot be used.
pub(super) async fn client(kubeconfig: Option<&Path>) -> anyhow::Result<Client> {
    let mut config = match kubeconfig {
        Some(path) => {
            let file =
                Kubeconfig::read_from(path).with_context(|| format!("cannot read {}", path.display()))?;
            let options = KubeConfigOptions::default();
            let config = Config::from_custom_kubeconfig(file, &options).await;
            config.with_context(|| format!("cannot use {}", path.display()))?
        }
        None => Config::incluster()
            .context("cannot use the pod's service account; outside of a pod set --kubeconfig")?,
    };
    config.connect_timeout = Some(CONNECT);
    Client::try_from(config).context("cannot make a client for the API server")
}
