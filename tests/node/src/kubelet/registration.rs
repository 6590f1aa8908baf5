//! Serves the Registration service: checks the request, dials back and follows the plugin's stream.

use super::state::{Registration, Resource};
use super::{KubeletInner, clients};
use kubelet_api::v1beta1::device_plugin_client::DevicePluginClient;
use kubelet_api::v1beta1::registration_server;
use kubelet_api::v1beta1::{DevicePluginOptions, Empty, RegisterRequest};
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

pub(super) struct Service(pub(super) Arc<KubeletInner>);

#[tonic::async_trait]
impl registration_server::Registration for Service {
    async fn register(&self, request: Request<RegisterRequest>) -> Result<Response<Empty>, Status> {
        let request = request.into_inner();
        if request.version != kubelet_api::VERSION {
            return Err(Status::unknown(format!("unsupported version {:?}", request.version)));
        }
        if !is_extended_resource_name(&request.resource_name) {
            return Err(Status::unknown(format!("invalid resource name {:?}", request.resource_name)));
        }
        // Within the call, as the kubelet does: the plugin must be serving already.
        let version = *self.0.version.lock().unwrap_or_else(PoisonError::into_inner);
        let connected = connect(&self.0.dir.join(&request.endpoint)).await;
        if let Some(version) = version {
            return clients::register(&self.0, version, request, connected).map(Response::new);
        }
        let (mut client, options) = connected?;
        let stream = CancellationToken::new();
        let (name, endpoint) = (request.resource_name, request.endpoint);
        self.0.state.send_modify(|state| {
            let (resource, endpoint) = (name.clone(), endpoint.clone());
            state.registrations.push(Registration {
                resource,
                endpoint: endpoint.clone(),
                at: Instant::now(),
            });
            let resource = Resource {
                endpoint,
                connected: true,
                options,
                client: Some(client.clone()),
                stream: stream.clone(),
                ..Resource::default()
            };
            // A second plugin that takes over the resource's name ends the stream to the first one.
            if let Some(old) = state.resources.insert(name.clone(), resource) {
                old.stream.cancel();
            }
        });
        let inner = Arc::clone(&self.0);
        tokio::spawn(async move {
            let follow = async {
                let mut lists = client.list_and_watch(Empty {}).await?.into_inner();
                while let Some(list) = lists.message().await? {
                    inner.change(|state| {
                        let resource =
                            state.resources.get_mut(&name).filter(|known| known.endpoint == endpoint);
                        if let Some(resource) = resource {
                            resource.set_devices(list.devices);
                        }
                    });
                }
                Ok::<(), Status>(())
            };
            tokio::select! {
                _ = follow => {}
                () = stream.cancelled() => {}
            }
            inner.change(|state| state.disconnect(&name, &endpoint));
        });
        Ok(Response::new(Empty {}))
    }
}

/// Dials a plugin and asks for its options, for at most 10 s each.
async fn connect(socket: &Path) -> Result<(DevicePluginClient<Channel>, DevicePluginOptions), Status> {
    let mut client = dial(socket).await?;
    let options = tokio::time::timeout(Duration::from_secs(10), client.get_device_plugin_options(Empty {}))
        .await
        .map_err(|_| Status::deadline_exceeded("GetDevicePluginOptions"))??
        .into_inner();
    Ok((client, options))
}

/// Dials a plugin over its unix socket, for at most 10 s, as the kubelet does.
async fn dial(socket: &Path) -> Result<DevicePluginClient<Channel>, Status> {
    let endpoint = Endpoint::from_shared(format!("unix:{}", socket.display()))
        .map_err(|error| Status::invalid_argument(error.to_string()))?
        .connect_timeout(Duration::from_secs(10));
    let channel = endpoint.connect().await.map_err(|error| Status::unavailable(error.to_string()))?;
    Ok(DevicePluginClient::new(channel))
}

/// Returns true for a name that `IsExtendedResourceName` accepts (pkg/apis/core/v1/helper/helpers.go).
fn is_extended_resource_name(name: &str) -> bool {
    let Some((domain, rest)) = name.split_once('/') else { return false };
    let ends_well = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.ends_with(|c: char| c.is_ascii_alphanumeric())
    };
    let plain = |text: &str, also: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || also.contains(c));
    !name.contains("kubernetes.io/")
        && !name.starts_with("requests.")
        && domain.len() + "requests.".len() <= 253
        && domain
            .split('.')
            .all(|label| ends_well(label) && plain(label, "-") && label == label.to_lowercase())
        && rest.len() <= 63
        && ends_well(rest)
        && plain(rest, "-_.")
}

#[cfg(test)]
mod tests {
    use super::is_extended_resource_name;

    #[test]
    fn name_is_refused_as_by_the_kubelet() {
        let long = format!("nvidia.com/{}", "x".repeat(64));
        for (name, good) in [
            ("nvidia.com/GH100_H100_SXM5_80GB", true),
            ("nvidia.com/2330", true),
            ("nvidia.com/AD102_", false),
            ("nvidia.com/a/b", false),
            ("GPU", false),
            ("x.kubernetes.io/gpu", false),
            ("requests.nvidia.com/gpu", false),
            ("Nvidia.com/gpu", false),
            (long.as_str(), false),
        ] {
            assert_eq!(is_extended_resource_name(name), good, "{name}");
        }
    }
}
