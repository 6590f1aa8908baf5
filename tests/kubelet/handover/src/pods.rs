//! The pods of the node: six that run VMs all the time, and one after the other that is admitted while the plugin is replaced.

use crate::node::{DEVICES, Node, PATIENCE, RESOURCE};
use anyhow::{Context, ensure};
use kubelet_process::{ContainerAllocation, PodShape, PodSpec};
use std::collections::BTreeMap;
use vfio_sim_node::{Vm, VmSpec};

/// A pod with a running VM.
#[derive(Debug)]
pub(crate) struct Pod {
    uid: String,
    addresses: Vec<String>,
    _vm: Vm,
}

/// Pods that were admitted while the plugin was replaced.
#[derive(Clone, Debug, Default)]
pub(crate) struct Admissions {
    pub(crate) admitted: usize,
    /// Why each of the others was not admitted.
    pub(crate) refused: Vec<String>,
}

impl Node {
    /// Admits a pod and starts its VM.
    pub(crate) fn run_pod(&mut self) -> anyhow::Result<()> {
        let spec = self.next_pod();
        let containers = self.manager.admit(&spec)?.map_err(anyhow::Error::msg)?;
        let addresses: Vec<String> = containers.values().flat_map(ContainerAllocation::addresses).collect();
        let vm = self.node.start_vm(&VmSpec::of_pod(&spec.uid, &addresses))?;
        self.pods.push(Pod { uid: spec.uid, addresses, _vm: vm });
        Ok(())
    }

    /// Admits a pod and removes it.
    pub(crate) fn try_pod(&mut self, admissions: &mut Admissions) -> anyhow::Result<()> {
        let spec = self.next_pod();
        match self.manager.admit(&spec)? {
            Ok(_) => admissions.admitted += 1,
            Err(reason) => admissions.refused.push(reason),
        }
        self.manager.remove(&spec.uid)
    }

    fn next_pod(&mut self) -> PodSpec {
        self.pods_so_far += 1;
        PodSpec::new(self.pods_so_far, PodShape::One, RESOURCE)
    }

    /// Checks what the plugin knows: each device of a pod is assigned to that pod and Healthy, and so are the others.
    pub(crate) fn check_assignments(&self) -> anyhow::Result<()> {
        let mut expected = BTreeMap::new();
        for pod in &self.pods {
            expected.extend(pod.addresses.iter().map(|address| (address.as_str(), pod.uid.as_str())));
        }
        let listed = self.listed()?;
        ensure!(listed.len() == DEVICES, "list --json has {} devices", listed.len());
        for device in &listed {
            let address = device["address"].as_str().context("a device without an address")?;
            ensure!(device["health"] == "Healthy", "list --json has {device}");
            if let Some(uid) = expected.remove(address) {
                ensure!(
                    device["assignment"]["uid"] == uid,
                    "{address} is assigned to {uid}; list --json has {device}"
                );
            }
        }
        ensure!(expected.is_empty(), "list --json lacks {expected:?}");
        Ok(())
    }

    /// Waits until a condition holds.
    pub(crate) fn wait_for(
        &mut self,
        what: &str,
        mut condition: impl FnMut(&mut Self) -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let deadline = std::time::Instant::now() + PATIENCE;
        while !condition(self)? {
            ensure!(std::time::Instant::now() < deadline, "after {PATIENCE:?} still not: {what}");
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        Ok(())
    }
}
