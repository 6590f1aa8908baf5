//! The side of the kubelet that registers DRA drivers and has claims prepared.

use kubelet_api::dra::dra_plugin_client::DraPluginClient;
use kubelet_api::dra::{Claim, NodePrepareResourcesRequest, NodeUnprepareResourcesRequest};
use kubelet_api::registration::registration_client::RegistrationClient;
use kubelet_api::registration::{InfoRequest, RegistrationStatus};
use std::path::Path;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use tonic::Request;
use tonic::transport::{Channel, Endpoint};

use super::api_server::uid;

/// How long the kubelet waits for a call (`defaultClientCallTimeout`).
const TIMEOUT: Duration = Duration::from_secs(45);
/// The time for a driver to start.
const PATIENCE: Duration = Duration::from_secs(20);

/// The kubelet's connection to a registered driver.
pub struct DraKubelet(DraPluginClient<Channel>);

impl DraKubelet {
    /// Waits for the driver's registration socket below the kubelet's root directory, and registers the driver.
    pub async fn register(root: &Path) -> Self {
        let socket = root.join("plugins_registry/vfio-probe.github.io@reg.sock");
        let mut registration = RegistrationClient::new(dial(&socket).await);
        let info = registration.get_info(InfoRequest {}).await.unwrap().into_inner();
        assert_eq!((&*info.r#type, &*info.name), ("DRAPlugin", "vfio-probe.github.io"));
        let service = dial(Path::new(&info.endpoint)).await;
        let status = RegistrationStatus { plugin_registered: true, error: String::new() };
        registration.notify_registration_status(status).await.unwrap();
        Self(DraPluginClient::new(service))
    }

    /// Has a claim prepared.
    pub async fn prepare(&mut self, name: &str) -> Result<(), String> {
        self.prepare_within(name, TIMEOUT).await
    }

    /// Has a claim prepared, and gives up after a time.
    pub async fn prepare_within(&mut self, name: &str, timeout: Duration) -> Result<(), String> {
        let answer = self.0.node_prepare_resources(to_prepare(name, timeout)).await.unwrap().into_inner();
        let answer = &answer.claims[&uid(name)];
        if answer.error.is_empty() { Ok(()) } else { Err(answer.error.clone()) }
    }

    /// Begins to have a claim prepared, and ends the call after a time, as the kubelet does if the pod is deleted.
    pub async fn begin_to_prepare(&mut self, name: &str, time: Duration) {
        let answer = timeout(time, self.0.node_prepare_resources(to_prepare(name, TIMEOUT))).await;
        assert!(answer.is_err(), "{name} was answered: {answer:?}");
    }

    /// Has a claim unprepared.
    pub async fn unprepare(&mut self, name: &str) -> Result<(), String> {
        let request = NodeUnprepareResourcesRequest { claims: vec![claim(name)] };
        let answer = self.0.node_unprepare_resources(request).await.unwrap().into_inner();
        let answer = &answer.claims[&uid(name)];
        if answer.error.is_empty() { Ok(()) } else { Err(answer.error.clone()) }
    }
}

fn to_prepare(name: &str, timeout: Duration) -> Request<NodePrepareResourcesRequest> {
    let mut request = Request::new(NodePrepareResourcesRequest { claims: vec![claim(name)] });
    request.set_timeout(timeout);
    request
}

fn claim(name: &str) -> Claim {
    Claim { namespace: "default".to_owned(), uid: uid(name), name: name.to_owned() }
}

/// Connects to a socket as soon as a driver listens on it.
async fn dial(path: &Path) -> Channel {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let endpoint = Endpoint::from_shared(format!("unix:{}", path.display())).unwrap();
        let connected = endpoint.connect().await;
        match connected {
            Ok(channel) => return channel,
            Err(error) => assert!(Instant::now() < deadline, "{error:?}"),
        }
        sleep(Duration::from_millis(20)).await;
    }
}
