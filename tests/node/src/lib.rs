//! A simulated node: a tree with the shape of the kernel's sysfs, group nodes for which the kernel returns EBUSY, VMs
//! that are real processes. With the feature `kubelet` it also has a stand-in for the kubelet on real sockets. It needs no
//! privilege and no hardware.
//!
//! # Limitations
//!
//! The tree sends no uevents. A probe costs nothing here: it never makes the open of another process fail. The tests
//! in the VM (tests/vm) cover both.

pub mod capabilities;
mod device_nodes;
#[cfg(feature = "dra")]
pub mod dra;
pub mod function;
pub mod group_node;
pub mod hanging_mount;
pub mod hardware;
mod kernel;
#[cfg(feature = "kubelet")]
pub mod kubelet;
pub mod mdev;
pub mod node;
mod not_tested;
mod plugin;
mod sysfs;
pub mod trees;
pub mod vm;

pub use capabilities::drop_sys_admin;
pub use function::Function;
pub use hanging_mount::mount_without_answers;
pub use hardware::Reads;
#[cfg(feature = "kubelet")]
pub use kubelet::Kubelet;
pub use node::Node;
pub use not_tested::not_tested;
pub use vm::{Hold, Vm, VmProgram, VmSpec};
