//! Holds the node, its kubelet, its plugin and its pods, and everything that has happened to them.
//!
//! The submodules change it: processes (kubelet and plugin), pods and their VMs, devices and foreign VMs. `truth` reads it.

mod devices;
mod pods;
mod processes;
mod truth;

pub(crate) use pods::Pod;

use kubelet_process::{DeviceManager, Launcher};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Child;
use std::time::{Duration, Instant};
use vfio_sim_node::{Function, Hold, Node, Vm};

/// The resource of the GPUs, by its hex id.
pub(crate) const RESOURCE: &str = "nvidia.com/2330";
/// A pod that ended this long ago is missing from two lists of pods.
const POD_END_REPORTED: Duration = Duration::from_secs(1);
/// A group's VM does not release the group by itself: the run does.
const HUNG_TEARDOWN: Duration = Duration::from_secs(24 * 3600);

/// The settings of a run.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// The plugin's program.
    pub(crate) plugin: PathBuf,
    /// The kubelet's program.
    pub(crate) kubelet: PathBuf,
    /// The plugin's `--busy`.
    pub(crate) busy: String,
    /// The plugin's `--busy-allocate`.
    pub(crate) busy_allocate: String,
    /// True: eight devices and the plugin's default times. False: ten devices and times for thousands of steps.
    pub(crate) as_shipped: bool,
    /// Print every step.
    pub(crate) verbose: bool,
}

/// A VM of no pod that the API server has: a foreign VM, or the rest of a deleted pod.
#[derive(Debug)]
pub(crate) struct Foreign {
    /// True if the process has ended. Its groups are held without a visible holder.
    pub(crate) hung: bool,
    /// How far the VM went.
    pub(crate) hold: Hold,
    /// True for the rest of a pod if the plugin cannot detect that the pod has ended.
    pub(crate) unattributable: bool,
    /// When the pod ended, if the plugin has not seen it in a list. Until the lists show the end, a kubelet that loses its
    /// checkpoint makes it unattributable: the holder's cgroup names a pod that may be any listed one.
    ended_unlisted: Option<Instant>,
    pub(crate) vm: Vm,
    pub(crate) groups: Vec<u32>,
}

/// What has happened to groups since the last check, and how often.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Events after which the health of a group's devices may change.
    pub(crate) may_change: BTreeMap<u32, u64>,
    /// Events after which the plugin may open the group.
    pub(crate) may_be_opened: BTreeMap<u32, u64>,
    /// Groups that became free after the plugin had seen EBUSY: only an open detects that.
    pub(crate) freed_after_busy: Vec<u32>,
    /// Groups that a VM has released, and how often.
    pub(crate) released: BTreeMap<u32, u64>,
    /// Groups with a device node that was created again.
    pub(crate) recreated_nodes: BTreeSet<u32>,
}

/// The node with everything on it.
pub(crate) struct World {
    pub(crate) node: Node,
    /// Pods that the API server has.
    pub(crate) pods: Vec<Pod>,
    pub(crate) foreign: Vec<Foreign>,
    /// Bound functions with their groups.
    pub(crate) bound: BTreeMap<String, u32>,
    pub(crate) unbound: BTreeMap<String, u32>,
    /// Functions that were bound again since the plugin's log was last read.
    pub(crate) rebound: BTreeSet<String>,
    pub(crate) restarts: Restarts,
    pub(crate) changes: Changes,
    /// Groups for which the plugin may have seen EBUSY. It then needs an open to detect that they are free.
    pub(crate) seen_busy: BTreeSet<u32>,
    /// When the present plugin could first see each group.
    first_seen: BTreeMap<u32, Instant>,
    /// The latest start of the plugin or of the kubelet.
    started: Instant,
    /// Groups of pods that have ended or were not admitted, with the time. While pods cannot be listed, the plugin cannot
    /// know of their end.
    ended: Vec<(Instant, u32)>,
    /// Since when pods can be listed, or cannot be listed.
    listing_since: Instant,
    pub(crate) log: PathBuf,
    kubelet_log: PathBuf,
    manager: Option<DeviceManager>,
    pod_resources_served: bool,
    plugin: Option<Child>,
    launcher: Launcher,
    settings: Settings,
    pods_so_far: u32,
}

/// How often the processes were restarted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Restarts {
    pub(crate) plugin: u32,
    pub(crate) kubelet: u32,
    pub(crate) lost_checkpoints: u32,
}

impl Restarts {
    /// Adds the restarts of another world.
    pub(crate) fn add(&mut self, other: Self) {
        self.plugin += other.plugin;
        self.kubelet += other.kubelet;
        self.lost_checkpoints += other.lost_checkpoints;
    }
}

impl World {
    /// Creates a node with eight GPUs in groups of their own and starts kubelet and plugin. Unless the settings are as
    /// shipped, two more GPUs share a group.
    pub(crate) fn new(launcher: &Launcher, settings: &Settings) -> anyhow::Result<Self> {
        let node = Node::with_eight_gpus()?;
        let pair: &[&str] = if settings.as_shipped { &[] } else { &["0000:e1:00.0", "0000:e1:00.1"] };
        for function in pair {
            node.add(Function::gpu(function, 70, 1))?;
        }
        let mut bound = BTreeMap::new();
        for entry in std::fs::read_dir(node.root().join("sys/bus/pci/drivers/vfio-pci"))? {
            let address = entry?.file_name().to_string_lossy().into_owned();
            let group = std::fs::read_link(node.sysfs_dir(&address).join("iommu_group"))?;
            bound.insert(address, group.file_name().unwrap_or_default().to_string_lossy().parse()?);
        }
        let mut world = Self {
            log: node.root().join("plugin.log"),
            kubelet_log: node.root().join("kubelet.log"),
            node,
            manager: None,
            pod_resources_served: true,
            plugin: None,
            launcher: launcher.clone(),
            settings: settings.clone(),
            pods: Vec::new(),
            foreign: Vec::new(),
            bound,
            unbound: BTreeMap::new(),
            rebound: BTreeSet::new(),
            pods_so_far: 0,
            restarts: Restarts::default(),
            changes: Changes::default(),
            seen_busy: BTreeSet::new(),
            first_seen: BTreeMap::new(),
            started: Instant::now(),
            ended: Vec::new(),
            listing_since: Instant::now(),
        };
        world.start_kubelet()?;
        world.start_plugin()?;
        Ok(world)
    }

    /// Returns how many pods were created so far.
    pub(crate) fn pods_so_far(&self) -> u32 {
        self.pods_so_far
    }

    /// Keeps the node's directory with the logs, if the run is verbose.
    pub(crate) fn keep_logs(&self) {
        if self.settings.verbose {
            self.node.keep();
            eprintln!("logs: {}", self.node.root().display());
        }
    }

    /// Prints a step, if the run is verbose.
    pub(crate) fn print(&self, step: &dyn std::fmt::Display) {
        if self.settings.verbose {
            eprintln!("{step}");
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.kill_plugin();
        self.manager = None;
    }
}
