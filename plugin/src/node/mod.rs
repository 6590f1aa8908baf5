//! The node: what the plugin reads from the kernel and writes to the host.

pub(crate) mod cdi_dir;
pub(crate) mod cdi_specs;
pub(crate) mod device_nodes;
#[cfg(feature = "dra")]
pub(crate) mod dra_facts;
pub(crate) mod function_facts;
pub(crate) mod hardware;
pub(crate) mod host_uses;
pub(crate) mod model_names;
pub(crate) mod monitor;
pub(crate) mod naming;
pub(crate) mod probe;
pub(crate) mod probe_exclusions;
pub(crate) mod retry;
pub(crate) mod snapshot;
pub(crate) mod special_nodes;
pub(crate) mod sysfs;
pub(crate) mod vgpu_types;
