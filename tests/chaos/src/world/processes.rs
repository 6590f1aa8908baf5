//! Starts, stops and queries the two processes: the kubelet and the plugin.

use super::{RESOURCE, World};
use crate::moves::Move;
use crate::violation::violated;
use anyhow::Context;
use kubelet_process::{DeviceManager, KubeletProgram, PodSpec};
use std::fs::File;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Times that are short enough for thousands of steps.
const TIMES: [&str; 8] = [
    "--interval",
    "50ms",
    "--settling",
    "80ms",
    "--assignments-interval",
    "200ms",
    "--kubelet-start",
    "150ms",
];
/// The longest time until a plugin registers again with a restarted kubelet.
const REGISTRATION: Duration = Duration::from_secs(10);

impl World {
    /// Returns the kubelet. It runs whenever no move is being played.
    pub(crate) fn manager(&mut self) -> anyhow::Result<&mut DeviceManager> {
        self.manager.as_mut().context("no kubelet runs")
    }

    pub(super) fn start_kubelet(&mut self) -> anyhow::Result<()> {
        self.started = Instant::now();
        let kubelet = KubeletProgram {
            program: self.settings.kubelet.clone(),
            dir: self.node.root().join("var/lib/kubelet"),
            log: self.kubelet_log.clone(),
        };
        // A node with a device plugin has at least one pod: the plugin's.
        let mut pods = vec![PodSpec::of_plugin()];
        pods.extend(self.pods.iter().map(|pod| pod.spec.clone()));
        let running = self.pods.iter().filter(|pod| pod.vm.is_some());
        let running: Vec<(String, String)> = running
            .flat_map(|pod| {
                pod.spec.containers.iter().map(|container| (pod.spec.uid.clone(), container.name.clone()))
            })
            .collect();
        let manager = kubelet.start(&self.launcher, &pods, &running)?;
        // A pod that a restarted kubelet does not admit again is Failed: it requests nothing any more.
        let rejected: Vec<String> = manager.rejected.keys().cloned().collect();
        self.manager = Some(manager);
        self.pod_resources_served = true;
        self.listing_since = Instant::now();
        for uid in rejected {
            let Some(index) = self.pods.iter().position(|pod| pod.spec.uid == uid) else { continue };
            self.remove(index, false)?;
        }
        Ok(())
    }

    /// Kills the kubelet with SIGKILL and starts it again; from outside, every restart looks like this one. The move
    /// `meanwhile` is played while no kubelet runs.
    pub(crate) fn restart_kubelet(
        &mut self,
        keep_checkpoint: bool,
        meanwhile: Option<Move>,
    ) -> anyhow::Result<()> {
        self.note_listed();
        self.pods.iter_mut().for_each(|pod| pod.restarted |= !pod.listed);
        self.manager = None;
        self.restarts.kubelet += 1;
        if !keep_checkpoint {
            self.restarts.lost_checkpoints += 1;
            let _ = self.node.delete("var/lib/kubelet/device-plugins/kubelet_internal_checkpoint");
            self.note_lost_checkpoint();
        }
        if let Some(meanwhile) = meanwhile {
            meanwhile.play(self, false)?;
        }
        self.start_kubelet()?;
        if !keep_checkpoint {
            // A kubelet without a checkpoint does not know a resource before it is registered
            // (`isDevicePluginResource`). A container that it creates until then gets no devices, and the plugin cannot
            // know what that pod holds.
            let deadline = Instant::now() + REGISTRATION;
            while self.manager()?.capacity(RESOURCE)?.0 == 0 {
                if Instant::now() > deadline {
                    violated!(
                        "the plugin has not registered again within {REGISTRATION:?} after a kubelet restart"
                    );
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        Ok(())
    }

    pub(super) fn start_plugin(&mut self) -> anyhow::Result<()> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(&self.settings.plugin);
        command
            .arg("serve")
            .args(self.node.plugin_options())
            .args(if self.settings.as_shipped { &[][..] } else { &TIMES })
            .args(["--pci-ids", "/dev/null", "--log-level", "debug", "--log-format", "json"])
            .args(["--busy", &self.settings.busy, "--busy-allocate", &self.settings.busy_allocate])
            .stdin(Stdio::null())
            .stderr(log);
        self.plugin = Some(command.spawn()?);
        self.started = Instant::now();
        for group in self.groups() {
            self.allow_open(group);
            // A holder without a pod makes the devices Unhealthy when the new plugin's settling time is over.
            self.note_change(group);
            self.first_seen.insert(group, Instant::now());
            // The new plugin probes the group of a pod after the VM has ended, because `enable` could be stale.
            if self.node.is_held(group) {
                self.seen_busy.insert(group);
            }
        }
        Ok(())
    }

    /// Returns true if the plugin or the kubelet was started less than `time` ago.
    pub(crate) fn restarted_within(&self, time: Duration) -> bool {
        self.started.elapsed() < time
    }

    /// Returns true if the plugin runs.
    pub(crate) fn plugin_runs(&self) -> bool {
        self.plugin.is_some()
    }

    /// Returns true if the plugin substitutes free devices for held ones.
    pub(crate) fn substitutes(&self) -> bool {
        self.settings.busy_allocate == "substitute"
    }

    /// Starts or kills the plugin. Returns false if it is in that state already.
    pub(crate) fn set_plugin_running(&mut self, on: bool) -> anyhow::Result<bool> {
        if self.plugin_runs() == on {
            return Ok(false);
        }
        if on {
            self.restarts.plugin += 1;
            self.start_plugin()?;
        } else {
            self.kill_plugin()?;
        }
        Ok(true)
    }

    /// Kills the plugin with SIGKILL and starts it again.
    pub(crate) fn restart_plugin(&mut self) -> anyhow::Result<()> {
        self.set_plugin_running(false)?;
        self.set_plugin_running(true).map(drop)
    }

    pub(super) fn kill_plugin(&mut self) -> anyhow::Result<()> {
        let Some(mut plugin) = self.plugin.take() else { return Ok(()) };
        let ended = plugin.try_wait()?;
        let _ = plugin.kill();
        let _ = plugin.wait();
        if let Some(status) = ended {
            violated!("the plugin has exited without a signal: {status}");
        }
        Ok(())
    }

    /// Returns the devices of `list --json`.
    pub(crate) fn listed(&self) -> anyhow::Result<Vec<serde_json::Value>> {
        Ok(self.node.listed(&self.settings.plugin)?)
    }

    /// Returns one device of `list --json`.
    pub(crate) fn device(&self, address: &str) -> anyhow::Result<serde_json::Value> {
        let found = self.listed()?.into_iter().find(|device| device["address"] == address);
        found.with_context(|| format!("list --json does not have {address}"))
    }

    /// Starts or stops the pod resources service. Returns false if it is in that state already.
    pub(crate) fn serve_pod_resources(&mut self, on: bool) -> anyhow::Result<bool> {
        if self.pod_resources_served == on {
            return Ok(false);
        }
        self.note_listed();
        self.listing_since = Instant::now();
        self.manager()?.serve_pod_resources(on)?;
        self.pod_resources_served = on;
        Ok(true)
    }
}
