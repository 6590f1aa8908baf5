//! Reads what other drivers publish of this node.

use crate::config::Config;
use crate::dra::client;
use anyhow::{Context, bail};
use k8s_openapi::api::resource::v1::{DeviceAttribute, ResourceSlice};
use kube::Api;
use kube::api::ListParams;
use std::time::Duration;
use tokio::time::timeout;

/// How long the API server may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The limit for the slices that are read.
const MAX_SLICES: u32 = 1000;
/// The attribute by which devices of two drivers are compared.
const PCI_BUS_ID: &str = "resource.kubernetes.io/pciBusID";

/// A device that another driver publishes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct PublishedByOther {
    /// The driver.
    pub(crate) driver: String,
    /// The device's name in its slice.
    pub(crate) name: String,
    /// The PCI address.
    pub(crate) address: String,
}

/// Returns the PCI devices of a node that drivers other than `driver` publish. Blocks for up to 5 s.
///
/// # Errors
/// There are no credentials for the API server, or it does not answer or refuses.
pub(crate) fn devices_of_others(
    config: &Config,
    driver: &str,
    node: &str,
) -> anyhow::Result<Vec<PublishedByOther>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("runtime")?;
    runtime.block_on(async {
        let client = client::client(config.dra.kubeconfig.as_deref()).await?;
        let fields = format!("spec.nodeName={node}");
        let parameters = ListParams::default().fields(&fields).limit(MAX_SLICES);
        let slices: Api<ResourceSlice> = Api::all(client);
        match timeout(PATIENCE, slices.list(&parameters)).await {
            Ok(list) => Ok(of_others(driver, &list?.items)),
            Err(_) => bail!("no answer within 5 s"),
        }
    })
}

fn of_others(driver: &str, slices: &[ResourceSlice]) -> Vec<PublishedByOther> {
    let mut found = Vec::new();
    for slice in slices.iter().filter(|slice| slice.spec.driver != driver) {
        for device in slice.spec.devices.iter().flatten() {
            let attribute = device.attributes.as_ref().and_then(|attributes| attributes.get(PCI_BUS_ID));
            if let Some(DeviceAttribute { string: Some(address), .. }) = attribute {
                let (driver, address) = (slice.spec.driver.clone(), address.clone());
                found.push(PublishedByOther { driver, name: device.name.clone(), address });
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn devices_of_other_drivers_have_addresses() {
        let slice = |driver: &str| {
            let device = json!({"name": "gpu-0", "attributes": {PCI_BUS_ID: {"string": "0000:1b:00.0"}}});
            serde_json::from_value(json!({"metadata": {}, "spec": {
                "driver": driver, "nodeName": "n", "pool": {"name": "n", "generation": 1, "resourceSliceCount": 1},
                "devices": [device, {"name": "nic-0"}],
            }}))
            .unwrap()
        };
        let found = of_others("a.io", &[slice("a.io"), slice("b.io")]);
        let expected =
            PublishedByOther { driver: "b.io".into(), name: "gpu-0".into(), address: "0000:1b:00.0".into() };
        assert_eq!(found, [expected]);
    }
}
