//! The kubelet's own device manager (tests/kubelet) as a process: it is started, asked, and killed. Who starts it gives it a
//! /var/lib/kubelet.

mod device_manager;
mod pods;

pub use device_manager::DeviceManager;
pub use pods::{Container, Given, PodShape, PodSpec};
