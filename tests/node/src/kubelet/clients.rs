//! Keeps the clients of a resource's name as `pkg/kubelet/cm/devicemanager/plugin/v1beta1` does, which differs between versions:
//! docs/upgrades.md has the table.

use super::KubeletInner;
use super::state::{Client, KubeletState, Registration, Resource};
use kubelet_api::v1beta1::device_plugin_client::DevicePluginClient;
use kubelet_api::v1beta1::{DevicePluginOptions, Empty, RegisterRequest};
use std::sync::Arc;
use std::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::transport::Channel;

/// How a kubelet keeps its clients.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    /// Up to 1.36: one client a name. The end of any stream of a name disconnects the client that the name has by then.
    UpTo136,
    /// From 1.37 on: by name and socket.
    From137,
}

/// Registers a client. `connected` is the outcome of its first calls.
pub(super) fn register(
    inner: &Arc<KubeletInner>,
    version: Version,
    request: RegisterRequest,
    connected: Result<(DevicePluginClient<Channel>, DevicePluginOptions), Status>,
) -> Result<Empty, Status> {
    let RegisterRequest { resource_name: name, endpoint, .. } = request;
    let (client, options) = match connected {
        Ok(connected) => connected,
        Err(error) => {
            if version == Version::UpTo136 {
                // `connectClient` has registered the client before, and `deregisterClient` removes it by its name.
                inner.state.send_modify(|state| drop(state.clients.remove(&name)));
            }
            return Err(error);
        }
    };
    let disconnect = CancellationToken::new();
    inner.state.send_modify(|state| {
        let (resource, at) = (name.clone(), Instant::now());
        state.registrations.push(Registration { resource, endpoint: endpoint.clone(), at });
        let known = state.clients.entry(name.clone()).or_default();
        if version == Version::UpTo136 {
            known.clear();
        }
        known.push(Client { endpoint: endpoint.clone(), disconnect: disconnect.clone() });
        // The devices stay as they are (`PluginConnected`).
        let before = state.resources.remove(&name).unwrap_or_default();
        let stream = disconnect.clone();
        let resource = Resource {
            endpoint: endpoint.clone(),
            connected: true,
            options,
            client: Some(client.clone()),
            stream,
            ..before
        };
        state.resources.insert(name.clone(), resource);
    });
    let inner = Arc::clone(inner);
    tokio::spawn(async move {
        let mut lists = client.clone();
        let follow = async {
            let mut lists = lists.list_and_watch(Empty {}).await?.into_inner();
            while let Some(list) = lists.message().await? {
                inner.change(|state| {
                    // Of any client (`genericDeviceUpdateCallback`).
                    if let Some(resource) = state.resources.get_mut(&name) {
                        resource.set_devices(list.devices);
                    }
                });
            }
            Ok::<(), Status>(())
        };
        tokio::select! {
            _ = follow => inner.change(|state| ended(state, version, &name, &endpoint, client)),
            () = disconnect.cancelled() => {}
        }
    });
    Ok(Empty {})
}

/// Handles the end of a stream (`runClient`).
fn ended(
    state: &mut KubeletState,
    version: Version,
    name: &str,
    endpoint: &str,
    client: DevicePluginClient<Channel>,
) {
    let clients = state.clients.entry(name.to_owned()).or_default();
    let is_unhealthy = match version {
        Version::UpTo136 => match clients.pop() {
            Some(found) => {
                found.disconnect.cancel();
                if found.endpoint != endpoint {
                    state.kept.push(client);
                }
                true
            }
            None => {
                state.kept.push(client);
                false
            }
        },
        Version::From137 => {
            clients.retain(|known| known.endpoint != endpoint);
            clients.is_empty()
        }
    };
    if is_unhealthy && let Some(resource) = state.resources.get_mut(name) {
        resource.client = None;
        resource.mark_unhealthy();
        state.gaps += 1;
    }
}

impl KubeletState {
    /// Returns the sockets of the clients of a resource's name, of a kubelet with a [`Version`].
    #[must_use]
    pub fn clients_of(&self, resource: &str) -> Vec<String> {
        self.clients.get(resource).into_iter().flatten().map(|client| client.endpoint.clone()).collect()
    }
}
