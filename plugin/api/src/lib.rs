//! The kubelet's gRPC interfaces, generated from `proto/`: a plugin serves one, the kubelet (or its stand-in in tests)
//! the others. The generated code is checked in, so that nobody needs protoc; `cargo test` compares it.

/// Device plugins, v1beta1.
#[allow(missing_docs, unreachable_pub, unused_qualifications, rust_2018_idioms, clippy::all)]
#[allow(clippy::needless_pass_by_value, clippy::uninlined_format_args, clippy::wildcard_imports, clippy::semicolon_if_nothing_returned)]
#[rustfmt::skip]
#[path = "generated/v1beta1.rs"]
pub mod v1beta1;

/// Pod resources, v1.
#[allow(missing_docs, unreachable_pub, unused_qualifications, rust_2018_idioms, clippy::all)]
#[allow(clippy::needless_pass_by_value, clippy::uninlined_format_args, clippy::wildcard_imports, clippy::semicolon_if_nothing_returned)]
#[rustfmt::skip]
#[path = "generated/v1.rs"]
pub mod podresources;

/// The version that `Register` names (`SupportedVersions`, pkg/kubelet/cm/devicemanager/plugin/v1beta1).
pub const VERSION: &str = "v1beta1";
/// `Device.health` of a device that pods may be given.
pub const HEALTHY: &str = "Healthy";
/// `Device.health` of one that they may not.
pub const UNHEALTHY: &str = "Unhealthy";
/// The kubelet's socket in the device plugins' folder.
pub const KUBELET_SOCKET: &str = "kubelet.sock";
/// The kubelet's own record of allocations, beside its socket; no stable interface.
pub const CHECKPOINT: &str = "kubelet_internal_checkpoint";
/// Where the kubelet looks for device plugins, unless its root directory was moved.
pub const DEVICE_PLUGINS: &str = "/var/lib/kubelet/device-plugins";
/// The pod resources socket, unless the kubelet's root directory was moved.
pub const POD_RESOURCES: &str = "/var/lib/kubelet/pod-resources/kubelet.sock";
