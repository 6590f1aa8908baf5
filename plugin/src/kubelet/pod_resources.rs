//! The kubelet's pod resources: which pods have which devices, asked with a deadline.

use kubelet_api::podresources::ListPodResourcesRequest;
use kubelet_api::podresources::pod_resources_lister_client::PodResourcesListerClient;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};
use vfio_plugin_policy::assignments::observation::ListedPod;

/// A kubelet that is starting or overloaded answers late; nothing waits for it meanwhile.
const DEADLINE: Duration = Duration::from_secs(2);
/// The kubelet's own limit (`podresources.DefaultPodResourcesMaxSize`).
const LONGEST: usize = 16 * 1024 * 1024;

/// Lists pods; keeps the connection while it works.
#[derive(Debug)]
pub(crate) struct Lister {
    socket: PathBuf,
    client: Option<PodResourcesListerClient<Channel>>,
}

impl Lister {
    /// For a socket that need not be there yet.
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self { socket, client: None }
    }

    /// All pods with what they have, or why the kubelet did not tell.
    pub(crate) async fn list(&mut self) -> Result<Vec<ListedPod>, String> {
        let answer = timeout(DEADLINE, self.ask()).await;
        let answer = answer
            .unwrap_or_else(|_| Err(format!("{}: no answer within {DEADLINE:?}", self.socket.display())));
        if answer.is_err() {
            self.client = None;
        }
        answer
    }

    async fn ask(&mut self) -> Result<Vec<ListedPod>, String> {
        if self.client.is_none() {
            self.client = Some(self.connect().await?);
        }
        let Some(client) = &mut self.client else { return Err("not connected".to_owned()) };
        let answer = client.list(ListPodResourcesRequest {}).await;
        let answer = answer.map_err(|status| {
            format!("{}: {:?}: {}", self.socket.display(), status.code(), status.message())
        })?;
        let pods = answer.into_inner().pod_resources.into_iter().map(|pod| {
            let mut devices: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
            for container in pod.containers {
                // An entry a device, so that each can have its own topology.
                for given in container.devices {
                    let key = (container.name.clone(), given.resource_name);
                    devices.entry(key).or_default().extend(given.device_ids);
                }
            }
            ListedPod { full_name: format!("{}/{}", pod.namespace, pod.name), devices }
        });
        Ok(pods.collect())
    }

    async fn connect(&self) -> Result<PodResourcesListerClient<Channel>, String> {
        let error = |error: &dyn std::error::Error| {
            // tonic's own text is "transport error"; the cause is below.
            let cause = error.source().map(ToString::to_string).unwrap_or_default();
            format!("{}: {error}: {cause}", self.socket.display())
        };
        let endpoint =
            Endpoint::from_shared(format!("unix:{}", self.socket.display())).map_err(|e| error(&e))?;
        let channel = endpoint.connect().await.map_err(|e| error(&e))?;
        Ok(PodResourcesListerClient::new(channel).max_decoding_message_size(LONGEST))
    }
}
