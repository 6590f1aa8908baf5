//! A simulated node: a tree shaped like the kernel's sysfs, group nodes that really answer EBUSY, virtual machines that
//! are real processes, and a stand-in for the kubelet on real sockets. Needs no privilege and no hardware.
//!
//! What it cannot give: uevents, and the price of a probe (an open here never makes another's open fail). Both are
//! tested in the VM of tests/vm.

pub mod capabilities;
mod device_nodes;
pub mod function;
pub mod group_node;
pub mod hardware;
pub mod kubelet;
pub mod machine;
pub mod mdev;
pub mod node;
mod state;
mod sysfs;
pub mod trees;

pub use capabilities::drop_sys_admin;
pub use function::Function;
pub use hardware::Opens;
pub use kubelet::Kubelet;
pub use machine::{Hold, Vm, VmProgram, VmSpec};
pub use node::Node;
