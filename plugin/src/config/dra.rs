//! The settings of the DRA driver.

use clap::Args;
use std::path::{Path, PathBuf};
use std::time::Duration;
use vfio_plugin_policy::dra::names::{DraDriver, is_subdomain};
use vfio_plugin_policy::pools::terms::OfferBy;

use crate::config::values::{interval, offer};

/// The settings. The first lines of the fields' comments are the help text.
#[derive(Args, Clone, Debug)]
pub(crate) struct DraOptions {
    /// How `serve` offers the devices of pools without a key `offer`
    #[arg(
        long,
        global = true,
        value_parser = offer(),
        default_value = "device-plugin",
        env = "VFIO_DEVICE_PLUGIN_OFFER"
    )]
    pub(crate) offer: OfferBy,

    /// Name of the DRA driver: a DNS name, which is also the domain of its attributes and taints
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        default_value = "vfio-probe.github.io",
        env = "VFIO_DEVICE_PLUGIN_DRA_DRIVER"
    )]
    pub(crate) dra_driver: DraDriver,

    /// Name of this Kubernetes node, for devices that are offered by DRA
    #[arg(long, global = true, value_name = "NAME", env = "VFIO_DEVICE_PLUGIN_NODE")]
    pub(crate) node: Option<String>,

    /// Directory of the DRA driver's socket and state, the same inside and outside of the container [default: plugins/DRIVER in
    /// --kubelet-root]
    #[arg(long, global = true, value_name = "DIR", env = "VFIO_DEVICE_PLUGIN_PLUGINS_DIR")]
    plugins_dir: Option<PathBuf>,

    /// Directory in which the kubelet finds the sockets of plugins [default: plugins_registry in --kubelet-root]
    #[arg(long, global = true, value_name = "DIR", env = "VFIO_DEVICE_PLUGIN_REGISTRY_DIR")]
    registry_dir: Option<PathBuf>,

    /// Credentials for the API server [default: the pod's service account]
    #[arg(long, global = true, value_name = "FILE", env = "VFIO_DEVICE_PLUGIN_KUBECONFIG")]
    pub(crate) kubeconfig: Option<PathBuf>,

    /// How long a claim's group may stay held after its containers have ended, before the device is tainted
    #[arg(long, global = true, value_name = "TIME", default_value = "30s", value_parser = interval,
          env = "VFIO_DEVICE_PLUGIN_RELEASE")]
    pub(crate) release: Duration,
}

impl DraOptions {
    /// Checks what clap cannot.
    ///
    /// # Errors
    /// The flag, and what was expected.
    pub(crate) fn validate(&self) -> Result<(), String> {
        match &self.node {
            None if self.offer == OfferBy::Dra => {
                Err("--offer dra needs --node: the name of this Kubernetes node".to_owned())
            }
            Some(node) if !is_subdomain(node) => {
                Err(format!("--node {node}: expected a DNS name in lower case"))
            }
            _ => Ok(()),
        }
    }

    /// Returns the name of the Kubernetes node. Empty if it is not set, which [`validate`](Self::validate) refuses for the driver.
    pub(crate) fn node(&self) -> &str {
        self.node.as_deref().unwrap_or_default()
    }

    /// Returns the directory of the driver's socket and state.
    pub(crate) fn plugins_dir(&self, kubelet_root: &Path) -> PathBuf {
        let default = || kubelet_root.join("plugins").join(self.dra_driver.as_str());
        self.plugins_dir.clone().unwrap_or_else(default)
    }

    /// Returns the directory in which the kubelet finds the sockets of plugins.
    pub(crate) fn registry_dir(&self, kubelet_root: &Path) -> PathBuf {
        self.registry_dir.clone().unwrap_or_else(|| kubelet_root.join(kubelet_api::PLUGINS_REGISTRY))
    }
}
