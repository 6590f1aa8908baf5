//! The stories that the plugin must pass in the cluster.

mod api_server;
mod daemons;
mod dra;
mod foreign;
mod gpu_operator;
mod helm;
mod metrics;
mod modes;
mod plugin;
mod pod_resources;
mod pods;
mod qemu;
mod reboot;
mod refused;
mod replaced;
mod sampler;
mod scheduled;
mod static_pod;
mod step;
mod stuck;
mod upgrade;

use crate::{Cluster, Result};

/// A story: what happens in the cluster, and what must hold then.
#[derive(Clone, Copy, Debug)]
pub struct Story {
    /// The name, which `tests/cluster/run` matches by a part of it.
    pub name: &'static str,
    /// What it shows, in one sentence.
    pub about: &'static str,
    /// Whether `.ci/run` runs it.
    pub quick: bool,
    /// Plays it. An error is a failure.
    pub run: fn(&mut Cluster) -> Result,
}

/// All stories, in their order.
pub const STORIES: &[Story] = &[
    Story {
        name: "scheduled",
        about: "four VMs that the scheduler places hold a device each",
        quick: true,
        run: scheduled::run,
    },
    Story {
        name: "replaced",
        about: "the plugin's pod is replaced while VMs run; --busy unhealthy counts -4 free devices",
        quick: true,
        run: replaced::run,
    },
    Story {
        name: "foreign",
        about: "a process of the host holds a device, and a pod waits for it",
        quick: true,
        run: foreign::run,
    },
    Story {
        name: "daemons",
        about: "the kubelet and containerd are killed or away while VMs run",
        quick: false,
        run: daemons::run,
    },
    Story {
        name: "pod-resources",
        about: "the kubelet's pod resources and the devices that containers opened are the same",
        quick: false,
        run: pod_resources::run,
    },
    Story {
        name: "stuck",
        about: "a pod is deleted by force, and its process holds the device until the kernel lets it end",
        quick: false,
        run: stuck::run,
    },
    Story {
        name: "refused",
        about: "a Deployment's pod is refused once, and the next one runs after the release",
        quick: false,
        run: refused::run,
    },
    Story {
        name: "upgrade-updates",
        about: "five rolling updates with the hand-over leave no gap in allocatable, and five without it do",
        quick: false,
        run: upgrade::updates,
    },
    Story {
        name: "upgrade-crashes",
        about: "the old or the new process is killed in the middle of an update",
        quick: false,
        run: upgrade::crashes,
    },
    Story {
        name: "reboot-daemonset",
        about: "after a reboot the kubelet fails pods before the DaemonSet's plugin is back",
        quick: false,
        run: reboot::with_daemonset,
    },
    Story {
        name: "reboot-service",
        about: "with the plugin as a service of the host, pods start again with their devices",
        quick: false,
        run: reboot::with_service,
    },
    Story {
        name: "reboot-groups",
        about: "after a reboot with other groups, no pod starts with another device's node",
        quick: false,
        run: reboot::with_other_groups,
    },
    Story {
        name: "qemu",
        about: "QEMU in an unprivileged pod passes the device to its guest",
        quick: false,
        run: qemu::run,
    },
    Story {
        name: "api-server",
        about: "the API server is away, and the plugin detects a foreign holder",
        quick: false,
        run: api_server::run,
    },
    Story {
        name: "helm",
        about: "the chart is installed, upgraded, uninstalled and installed again while a VM runs",
        quick: false,
        run: helm::run,
    },
    Story {
        name: "modes",
        about: "both modes of the manifests report the same figures",
        quick: false,
        run: modes::run,
    },
    Story {
        name: "metrics",
        about: "the metrics, scraped over the pods' network, have the figures of the sources",
        quick: false,
        run: metrics::run,
    },
    Story {
        name: "static-pod",
        about: "a static pod holds a device, which is free again after its file is removed",
        quick: false,
        run: static_pod::run,
    },
    Story {
        name: "gpu-operator",
        about: "the image runs in the DaemonSet of NVIDIA's GPU operator",
        quick: false,
        run: gpu_operator::run,
    },
    Story {
        name: "dra-claims",
        about: "pods with claims hold devices, and a foreign holder keeps its device from them",
        quick: false,
        run: dra::claims,
    },
    Story {
        name: "dra-restarts",
        about: "the driver, the kubelet, the API server and the node restart while pods have claims",
        quick: false,
        run: dra::restarts,
    },
    Story {
        name: "dra-modes",
        about: "the driver runs without privilege, and its claims last over a change of the mode",
        quick: false,
        run: dra::modes,
    },
];
