//! CDI: specs by which container runtimes and Kata find devices by name, and the names in Allocate's response.
//!
//! A response has the names and also the device nodes, for runtimes without CDI. Kubelets older than 1.28, and 1.28 without the
//! feature gate DevicePluginCDIDevices, drop the names (KEP-4009); so does containerd 1.7 unless `enable_cdi` is set. A runtime with
//! CDI adds the nodes of the spec last (containerd: `containerSpecOpts`; CRI-O: `SpecInjectCDIDevices`), and each of them replaces
//! the node with the same path (CDI: `ContainerEdits.Apply`).
//!
//! A name that a runtime cannot resolve fails the container. So a response has a name only if the spec on disk has exactly the
//! container's device nodes.

pub mod names;
pub mod request;
pub mod spec;
