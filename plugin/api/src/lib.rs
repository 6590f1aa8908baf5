//! The kubelet's gRPC interfaces, generated from `proto/`, with the constants that belong to them.
//!
//! A device plugin serves `DevicePlugin`, a DRA driver `DRAPlugin`. The kubelet, or a simulated kubelet in tests, serves
//! `Registration` and the pod resources. The generated code is checked in, so a build needs no
//! protoc; `cargo test` compares it with `proto/`.

/// The messages and services of device plugins, v1beta1.
#[allow(missing_docs, unreachable_pub, unused_qualifications, rust_2018_idioms, clippy::all)]
#[allow(clippy::needless_pass_by_value, clippy::uninlined_format_args, clippy::wildcard_imports, clippy::semicolon_if_nothing_returned)]
#[rustfmt::skip]
#[path = "generated/v1beta1.rs"]
pub mod v1beta1;

/// The messages and the service of pod resources, v1.
#[allow(missing_docs, unreachable_pub, unused_qualifications, rust_2018_idioms, clippy::all)]
#[allow(clippy::needless_pass_by_value, clippy::uninlined_format_args, clippy::wildcard_imports, clippy::semicolon_if_nothing_returned)]
#[rustfmt::skip]
#[path = "generated/v1.rs"]
pub mod podresources;

/// The messages and the service of DRA drivers, v1.
#[allow(missing_docs, unreachable_pub, unused_qualifications, rust_2018_idioms, clippy::all)]
#[allow(clippy::needless_pass_by_value, clippy::uninlined_format_args, clippy::wildcard_imports, clippy::semicolon_if_nothing_returned)]
#[rustfmt::skip]
#[path = "generated/dra_v1.rs"]
pub mod dra;

/// The health of a DRA driver's devices, v1, from Kubernetes 1.37 on.
#[allow(missing_docs, unreachable_pub, unused_qualifications, rust_2018_idioms, clippy::all)]
#[allow(clippy::needless_pass_by_value, clippy::uninlined_format_args, clippy::wildcard_imports, clippy::semicolon_if_nothing_returned)]
#[rustfmt::skip]
#[path = "generated/dra_health_v1.rs"]
pub mod dra_health_v1;

/// The health of a DRA driver's devices, v1alpha1, up to Kubernetes 1.39.
#[allow(missing_docs, unreachable_pub, unused_qualifications, rust_2018_idioms, clippy::all)]
#[allow(clippy::needless_pass_by_value, clippy::uninlined_format_args, clippy::wildcard_imports, clippy::semicolon_if_nothing_returned)]
#[rustfmt::skip]
#[path = "generated/dra_health_v1alpha1.rs"]
pub mod dra_health_v1alpha1;

/// The registration of plugins by a socket in the kubelet's directory, v1.
#[allow(missing_docs, unreachable_pub, unused_qualifications, rust_2018_idioms, clippy::all)]
#[allow(clippy::needless_pass_by_value, clippy::uninlined_format_args, clippy::wildcard_imports, clippy::semicolon_if_nothing_returned)]
#[rustfmt::skip]
#[path = "generated/pluginregistration_v1.rs"]
pub mod registration;

/// The API version that a plugin passes to `Register`. The kubelet compares it with `SupportedVersions`
/// (pkg/kubelet/cm/devicemanager/plugin/v1beta1).
pub const VERSION: &str = "v1beta1";
/// `Device.health` of a device that the kubelet may allocate.
pub const HEALTHY: &str = "Healthy";
/// `Device.health` of a device that the kubelet may not allocate.
pub const UNHEALTHY: &str = "Unhealthy";
/// The file name of the kubelet's registration socket in the directory of device plugins.
pub const KUBELET_SOCKET: &str = "kubelet.sock";
/// The file name of the kubelet's checkpoint, its record of allocations, beside its socket. It is not a
/// stable interface.
pub const CHECKPOINT: &str = "kubelet_internal_checkpoint";
/// The kubelet's default root directory (its option `--root-dir`).
pub const KUBELET_ROOT: &str = "/var/lib/kubelet";
/// The directory of device plugins. It is a constant of the kubelet, whatever its root directory is (`DevicePluginPath`,
/// used by `devicemanager.NewManagerImpl`).
pub const DEVICE_PLUGINS: &str = "/var/lib/kubelet/device-plugins";
/// The path of the pod resources socket in the kubelet's root directory (`Kubelet.getPodResourcesDir`).
pub const POD_RESOURCES: &str = "pod-resources/kubelet.sock";
/// The directory in the kubelet's root directory in which the kubelet finds the sockets of plugins to register
/// (`getPluginsRegistrationDir`). It follows `--root-dir`.
pub const PLUGINS_REGISTRY: &str = "plugins_registry";
/// `PluginInfo.type` of a DRA driver.
pub const DRA_PLUGIN: &str = "DRAPlugin";
/// The names of the services [`dra`], [`dra_health_v1`] and [`dra_health_v1alpha1`] in `PluginInfo.supported_versions`
/// (`DRAPluginService`, `DRAResourceHealthService`), the preferred version of each first.
pub const DRA_SERVICES: [&str; 3] = ["v1.DRAPlugin", "v1.DRAResourceHealth", "v1alpha1.DRAResourceHealth"];
