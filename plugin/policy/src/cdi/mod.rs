//! CDI: the specs by which container runtimes and Kata find devices by name, and the names that Allocate answers with.
//!
//! An answer has the names and the device nodes too. A runtime that does not know CDI has the nodes then: kubelets older than
//! 1.28 and 1.28 without its gate DevicePluginCDIDevices drop the names (KEP-4009), and so does containerd 1.7 unless
//! `enable_cdi` is set. One that knows it adds CDI's nodes last (containerd: `containerSpecOpts`; CRI-O:
//! `SpecInjectCDIDevices`), each in the place of the one with its path (CDI: `ContainerEdits.Apply`). But a name that it
//! cannot resolve fails the container, so none is given that is not on disk with just the container's nodes.

pub mod names;
pub mod request;
pub mod spec;
