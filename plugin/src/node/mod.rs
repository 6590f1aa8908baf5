//! What the plugin reads of the node, and what it keeps there: the monitor, names, probes, hardware, CDI specs.

pub(crate) mod cdi_dir;
pub(crate) mod cdi_specs;
pub(crate) mod device_nodes;
pub(crate) mod hardware;
pub(crate) mod monitor;
pub(crate) mod naming;
pub(crate) mod probe;
pub(crate) mod probe_exclusions;
pub(crate) mod snapshot;
pub(crate) mod vgpu_types;
