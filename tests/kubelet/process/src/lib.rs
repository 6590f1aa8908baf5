//! Runs the kubelet's own device manager (tests/kubelet) as a process. The caller starts the process with a
//! /var/lib/kubelet of its own.

mod device_manager;
mod launcher;
mod pods;

pub use device_manager::{DeviceManager, Samples};
pub use launcher::{KubeletProgram, Launcher};
pub use pods::{Container, ContainerAllocation, PodShape, PodSpec};
