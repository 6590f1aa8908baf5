//! The node, its kubelet, its plugin, and what happens to them.

use crate::launcher::{Launcher, Place};
use crate::moves::Move;
use crate::pods::Pod;
use crate::violation::violated;
use anyhow::Context;
use kubelet_process::{Container, DeviceManager, Given, PodShape, PodSpec};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use vfio_sim_node::{Function, Hold, Node, Vm, VmSpec};

/// The pool's resource, by hex id.
pub(crate) const RESOURCE: &str = "nvidia.com/2330";
/// Times small enough for thousands of steps.
const TIMES: [&str; 8] =
    ["--interval", "50ms", "--settling", "80ms", "--owners-interval", "200ms", "--kubelet-start", "150ms"];
/// A pod that ended as long ago is missing from two lists.
const LEARNED: Duration = Duration::from_secs(1);
/// The plugin has looked at what came into its sight so long ago: several intervals.
const LOOKED: Duration = Duration::from_millis(500);
/// Groups are given back when the run says so, not by themselves.
const HUNG: Duration = Duration::from_secs(24 * 3600);

/// What a run needs.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// The plugin.
    pub(crate) plugin: PathBuf,
    /// The kubelet.
    pub(crate) kubelet: PathBuf,
    /// The plugin's policy.
    pub(crate) busy: String,
    /// What its Allocate does with a held device.
    pub(crate) busy_allocate: String,
    /// Eight devices and the plugin's own times, not times for thousands of steps.
    pub(crate) as_shipped: bool,
    /// Say every step.
    pub(crate) verbose: bool,
}

/// A machine that no pod of the API server owns: a foreign one, or what is left of a deleted pod's.
#[derive(Debug)]
pub(crate) struct Foreign {
    /// Stopped already: its groups are held by nobody one could see.
    pub(crate) hung: bool,
    /// How far it went.
    pub(crate) hold: Hold,
    /// Left of a pod of which nobody can tell that it is gone.
    pub(crate) untold: bool,
    pub(crate) vm: Vm,
    pub(crate) groups: Vec<u32>,
}

/// What has happened to groups, and how often.
#[derive(Debug, Default)]
pub(crate) struct Happened {
    /// Something that may change what the plugin says of their devices.
    pub(crate) touched: BTreeMap<u32, u64>,
    /// Something for which the plugin may open them.
    pub(crate) opened: BTreeMap<u32, u64>,
    /// Groups that are free now, as only an open tells.
    pub(crate) doubted: Vec<u32>,
    /// Groups whose node was made anew.
    pub(crate) made: BTreeSet<u32>,
}

/// Everything.
pub(crate) struct World {
    pub(crate) node: Node,
    pub(crate) pods: Vec<Pod>,
    pub(crate) foreign: Vec<Foreign>,
    /// Bound functions with their groups.
    pub(crate) bound: BTreeMap<String, u32>,
    pub(crate) unbound: BTreeMap<String, u32>,
    /// Those that were unbound when the plugin's log was last read.
    pub(crate) rebound: BTreeSet<String>,
    pub(crate) restarts: Restarts,
    /// What has happened since the last check.
    pub(crate) happened: Happened,
    /// Groups of which the plugin has seen an EBUSY: that they are free only an open tells it.
    pub(crate) proven: BTreeSet<u32>,
    /// When groups have come into the plugin's sight.
    seen: BTreeMap<u32, Instant>,
    /// Groups of pods that have ended or were not admitted: of that the plugin cannot know while pods cannot be listed.
    ended: Vec<(Instant, u32)>,
    /// Since when pods could be listed, or could not.
    listing_since: Instant,
    pub(crate) log: PathBuf,
    kubelet_log: PathBuf,
    manager: Option<DeviceManager>,
    pod_resources: bool,
    plugin: Option<Child>,
    launcher: Launcher,
    settings: Settings,
    pods_so_far: u32,
}

/// How often things were restarted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Restarts {
    pub(crate) plugin: u32,
    pub(crate) kubelet: u32,
    pub(crate) lost_checkpoints: u32,
}

impl Restarts {
    /// Adds another's.
    pub(crate) fn add(&mut self, other: Self) {
        self.plugin += other.plugin;
        self.kubelet += other.kubelet;
        self.lost_checkpoints += other.lost_checkpoints;
    }
}

impl World {
    /// Eight GPUs in groups of their own, and two in one where chance plays.
    pub(crate) fn new(launcher: &Launcher, settings: &Settings) -> anyhow::Result<Self> {
        let node = Node::with_eight_gpus()?;
        let pair: &[&str] = if settings.as_shipped { &[] } else { &["0000:e1:00.0", "0000:e1:00.1"] };
        for function in pair {
            node.add(Function::gpu(function, 70, 1))?;
        }
        let mut bound = BTreeMap::new();
        for entry in std::fs::read_dir(node.root().join("sys/bus/pci/drivers/vfio-pci"))? {
            let address = entry?.file_name().to_string_lossy().into_owned();
            let group =
                std::fs::read_link(node.root().join(format!("sys/bus/pci/devices/{address}/iommu_group")))?;
            bound.insert(address, group.file_name().unwrap_or_default().to_string_lossy().parse()?);
        }
        let mut world = Self {
            log: node.root().join("plugin.log"),
            kubelet_log: node.root().join("kubelet.log"),
            node,
            manager: None,
            pod_resources: true,
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
            happened: Happened::default(),
            proven: BTreeSet::new(),
            seen: BTreeMap::new(),
            ended: Vec::new(),
            listing_since: Instant::now(),
        };
        world.start_kubelet()?;
        world.start_plugin()?;
        Ok(world)
    }

    /// How many pods there have been.
    pub(crate) fn pods_so_far(&self) -> u32 {
        self.pods_so_far
    }

    /// Leaves the logs where they can be read, if every step is to be said.
    pub(crate) fn keep_logs(&self) {
        if self.settings.verbose {
            self.node.keep();
            eprintln!("logs: {}", self.node.root().display());
        }
    }

    /// Says what happens.
    pub(crate) fn say(&self, what: &dyn std::fmt::Display) {
        if self.settings.verbose {
            eprintln!("{what}");
        }
    }

    /// The kubelet, of which there is always one between moves.
    pub(crate) fn manager(&mut self) -> anyhow::Result<&mut DeviceManager> {
        self.manager.as_mut().context("no kubelet")
    }

    fn start_kubelet(&mut self) -> anyhow::Result<()> {
        let folder = self.node.root().join("var/lib/kubelet");
        let log = self.kubelet_log.clone();
        let place = Place { program: self.settings.kubelet.clone(), folder, log };
        // On a node with a device plugin there is always one pod: the plugin's.
        let mut pods = vec![PodSpec::of_the_plugin()];
        pods.extend(self.pods.iter().map(|pod| pod.spec.clone()));
        let running = self.pods.iter().filter(|pod| pod.vm.is_some());
        let running: Vec<(String, String)> = running
            .flat_map(|pod| {
                pod.spec.containers.iter().map(|container| (pod.spec.uid.clone(), container.name.clone()))
            })
            .collect();
        let manager = place.start(&self.launcher, &pods, &running)?;
        // A pod that a restarted kubelet does not admit again is Failed: it requests nothing any more.
        let rejected: Vec<String> = manager.rejected.keys().cloned().collect();
        self.manager = Some(manager);
        self.pod_resources = true;
        self.listing_since = Instant::now();
        for uid in rejected {
            let Some(place) = self.pods.iter().position(|pod| pod.spec.uid == uid) else { continue };
            self.remove(place, false)?;
        }
        Ok(())
    }

    /// SIGKILL, as all of the kubelet's restarts look from outside; what happens `meanwhile` happens without a kubelet.
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
            for pod in &mut self.pods {
                (pod.in_books, pod.untold) = (false, pod.untold || !pod.listed);
            }
        }
        if let Some(meanwhile) = meanwhile {
            meanwhile.play(self, false)?;
        }
        self.start_kubelet()?;
        if !keep_checkpoint {
            // Of a resource that is neither registered nor in its books a kubelet knows nothing (`isDevicePluginResource`): a
            // container that it creates then has no devices. What comes of that pod nobody can tell.
            let deadline = Instant::now() + Duration::from_secs(10);
            while self.manager()?.capacity(RESOURCE)?.0 == 0 {
                if Instant::now() > deadline {
                    violated!("a restarted kubelet is not registered with again");
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        Ok(())
    }

    fn start_plugin(&mut self) -> anyhow::Result<()> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(&self.settings.plugin);
        command
            .arg("serve")
            .args(["--root".as_ref(), self.node.root()])
            .args(["--kubelet-dir".as_ref(), self.node.kubelet_dir().as_path()])
            .args(["--pod-resources".as_ref(), self.node.pod_resources_socket().as_path()])
            .args(["--run-dir".as_ref(), self.node.run_dir().as_path()])
            .args(if self.settings.as_shipped { &[][..] } else { &TIMES })
            .args([
                "--log-level",
                "debug",
                "--pci-ids",
                "/dev/null",
                "--log-format",
                "json",
                "--busy",
                &self.settings.busy,
                "--busy-allocate",
                &self.settings.busy_allocate,
            ])
            .stdin(Stdio::null())
            .stderr(log);
        self.plugin = Some(command.spawn()?);
        for group in self.groups() {
            self.may_open(group);
            // Who holds without a pod is Unhealthy when that has settled for the new one.
            self.touch(group);
            self.seen.insert(group, Instant::now());
            // A pod's is asked for when that has gone: its count may be left over.
            if self.node.is_held(group) {
                self.proven.insert(group);
            }
        }
        Ok(())
    }

    /// A machine has opened groups. A count that is raised at the plugin's first look may be left over, so that it asks.
    fn held(&mut self, groups: &[u32]) {
        for group in groups {
            if self.seen.get(group).is_some_and(|when| when.elapsed() < LOOKED) {
                self.proven.insert(*group);
            }
        }
    }

    /// Whether there is a plugin.
    pub(crate) fn plugin_runs(&self) -> bool {
        self.plugin.is_some()
    }

    /// Whether it swaps held devices for others.
    pub(crate) fn substitutes(&self) -> bool {
        self.settings.busy_allocate == "substitute"
    }

    /// The plugin is away, or back; whether that is another state than before.
    pub(crate) fn run_plugin(&mut self, on: bool) -> anyhow::Result<bool> {
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

    /// What `list --json` says.
    pub(crate) fn listed(&self) -> anyhow::Result<Vec<serde_json::Value>> {
        let output = Command::new(&self.settings.plugin)
            .args(["list", "--json", "--pci-ids", "/dev/null"])
            .args(["--root".as_ref(), self.node.root()])
            .args(["--run-dir".as_ref(), self.node.run_dir().as_path()])
            .output()?;
        let mut list: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        Ok(list["devices"].as_array_mut().map(std::mem::take).unwrap_or_default())
    }

    /// One device of it.
    pub(crate) fn device(&self, address: &str) -> anyhow::Result<serde_json::Value> {
        let found = self.listed()?.into_iter().find(|device| device["address"] == address);
        found.with_context(|| format!("{address} is not listed"))
    }

    /// SIGKILL and a new start.
    pub(crate) fn restart_plugin(&mut self) -> anyhow::Result<()> {
        self.run_plugin(false)?;
        self.run_plugin(true).map(drop)
    }

    fn kill_plugin(&mut self) -> anyhow::Result<()> {
        let Some(mut plugin) = self.plugin.take() else { return Ok(()) };
        let ended = plugin.try_wait()?;
        let _ = plugin.kill();
        let _ = plugin.wait();
        if let Some(status) = ended {
            violated!("the plugin has ended by itself: {status}");
        }
        Ok(())
    }

    /// Pod resources are served, or not; whether that is another state than before.
    pub(crate) fn serve_pod_resources(&mut self, on: bool) -> anyhow::Result<bool> {
        if self.pod_resources == on {
            return Ok(false);
        }
        self.note_listed();
        self.listing_since = Instant::now();
        self.manager()?.serve_pod_resources(on)?;
        self.pod_resources = on;
        Ok(true)
    }

    /// Waits until every pod has been listed, if pods can be.
    pub(crate) fn wait_until_listed(&mut self) {
        if self.pod_resources && self.pods.iter().any(|pod| !pod.listed) {
            std::thread::sleep(LEARNED);
            self.note_listed();
        }
    }

    /// Which pods the plugin has seen listed by now.
    fn note_listed(&mut self) {
        let (on, since) = (self.pod_resources, self.listing_since);
        for pod in &mut self.pods {
            pod.listed |= on && pod.came.max(since).elapsed() > LEARNED;
        }
    }

    fn may_open(&mut self, group: u32) {
        *self.happened.opened.entry(group).or_default() += 1;
    }

    /// Something happened to a group: its devices' health may change, once for each such thing.
    fn touch(&mut self, group: u32) {
        *self.happened.touched.entry(group).or_default() += 1;
    }

    fn release(&mut self, groups: &[u32]) {
        for &group in groups {
            self.touch(group);
            if self.proven.remove(&group) {
                self.happened.doubted.push(group);
            }
        }
    }

    /// Admits a new pod: its place, or why not.
    pub(crate) fn admit(&mut self, shape: PodShape) -> anyhow::Result<Result<usize, String>> {
        self.pods_so_far += 1;
        let spec = PodSpec::new(self.pods_so_far, shape, RESOURCE);
        let owned = self.owned();
        let admitted = self.manager()?.admit(&spec)?;
        let containers = match admitted {
            Ok(containers) => containers,
            Err(reason) => {
                // Its earlier containers were given devices, and the kubelet's checkpoint names them until it is written anew.
                let given = self.free_groups().into_iter().map(|group| (Instant::now(), group));
                self.ended.extend(given);
                return Ok(Err(reason));
            }
        };
        let given: BTreeMap<String, Vec<String>> =
            containers.iter().map(|(name, given)| (name.clone(), given.addresses())).collect();
        self.granted(&spec, &given, &owned)?;
        let (came, listed) = (Instant::now(), false);
        let (vm, in_books, restarted, untold) = (None, true, false, false);
        self.pods.push(Pod { spec, given, vm, in_books, came, listed, restarted, untold });
        Ok(Ok(self.pods.len() - 1))
    }

    /// What an Allocate was answered must be nobody's and held by nobody.
    fn granted(
        &mut self,
        spec: &PodSpec,
        given: &BTreeMap<String, Vec<String>>,
        owned: &BTreeMap<String, u32>,
    ) -> anyhow::Result<()> {
        let name = &spec.name;
        for address in given.values().flatten() {
            let Some(&group) = self.bound.get(address) else {
                violated!("{name} is given {address}, which is not bound")
            };
            if self.node.is_held(group) {
                violated!("{name} is given {address}, which is held");
            }
            if let Some((mate, _)) = owned.iter().find(|(_, taken)| **taken == group) {
                violated!("{name} is given {address}; {mate} of the same group is another pod's");
            }
            self.release(&[group]);
        }
        let wanted: usize = spec.count();
        let all: BTreeSet<&String> = given.values().flatten().collect();
        if all.len() != wanted {
            violated!("{name} asks for {wanted} and is given {all:?}");
        }
        Ok(())
    }

    /// Starts the machine of an admitted pod, as its containers are created. Nothing where it cannot run.
    pub(crate) fn start_machine(&mut self, place: usize) -> anyhow::Result<()> {
        let Some(pod) = self.pods.get(place) else { return Ok(()) };
        let spec = pod.spec.clone();
        let before = pod.given.clone();
        let others: BTreeMap<String, u32> = self.owned_by(|other| other.spec.uid != spec.uid);
        let mut given = BTreeMap::new();
        for Container { name, .. } in &spec.containers {
            // Refused: the kubelet has lost its books, and finds nothing to give. It would try again for ever, with a pod that
            // has what of its devices nobody can tell; whoever made it takes it away.
            let Ok(told) = self.manager()?.run(&spec.uid, name)? else {
                self.remove(place, false)?;
                return Ok(());
            };
            given.insert(name.clone(), Given::addresses(&told));
        }
        let same = given.iter().all(|(name, addresses)| before.get(name) == Some(addresses));
        if !same {
            // The kubelet has lost its checkpoint and called Allocate again: what the pod had is nobody's now.
            self.granted(&spec, &given, &others)?;
            for group in
                before.values().flatten().filter_map(|address| self.group_of(address)).collect::<Vec<u32>>()
            {
                self.release(&[group]);
            }
        }
        let addresses: Vec<String> = given.values().flatten().cloned().collect();
        let groups: Vec<u32> = addresses.iter().filter_map(|address| self.group_of(address)).collect();
        let possible = addresses.iter().all(|address| self.bound.contains_key(address))
            && !groups.iter().any(|group| self.node.is_held(*group));
        let vm = VmSpec { teardown: HUNG, ..VmSpec::of_pod(&spec.uid, &addresses) };
        let started = self.node.start_vm(&vm);
        if started.is_ok() {
            self.held(&groups);
        }
        let Some(pod) = self.pods.get_mut(place) else { return Ok(()) };
        pod.given = given;
        // An Allocate was just made for it, if it was untold.
        (pod.in_books, pod.untold) = (true, false);
        match started {
            Ok(vm) => pod.vm = Some(vm),
            Err(error) if possible => {
                violated!("the machine of {} cannot open {addresses:?}: {error}", spec.name)
            }
            Err(_) => {}
        }
        Ok(())
    }

    /// The machine of a pod ends; its groups can be opened when this returns.
    pub(crate) fn stop_machine(&mut self, place: usize) {
        let Some(pod) = self.pods.get_mut(place) else { return };
        if let Some(vm) = pod.vm.take() {
            drop(vm);
            let groups = self.groups_of_pod(place);
            self.release(&groups);
        }
    }

    /// Takes a pod from the API server's books and the kubelet's. Its machine, if it still runs, stays, or is `hung`: the
    /// process has ended, its groups are held on.
    pub(crate) fn remove(&mut self, place: usize, hung: bool) -> anyhow::Result<()> {
        let groups = self.groups_of_pod(place);
        self.note_listed();
        let pod = self.pods.remove(place);
        if let Some(vm) = pod.vm {
            if hung {
                vm.stop();
            }
            let (untold, groups) = (pod.untold || pod.restarted && !pod.listed, groups.clone());
            self.foreign.push(Foreign { hung, hold: Hold::Device, untold, vm, groups });
        }
        groups.iter().for_each(|group| self.touch(*group));
        self.ended.extend(groups.iter().map(|group| (Instant::now(), *group)));
        // While there is no kubelet, the next one finds it gone.
        self.manager.as_mut().map_or(Ok(()), |manager| manager.remove(&pod.spec.uid))
    }

    /// Groups of pods whose end the plugin cannot have learned: pod resources are away.
    pub(crate) fn ended_unseen(&self) -> BTreeSet<u32> {
        if self.pod_resources {
            return BTreeSet::new();
        }
        // One that has ended as long before is missing from two lists.
        let unseen = self.ended.iter().filter(|(when, _)| *when + LEARNED > self.listing_since);
        unseen.map(|(_, group)| *group).collect()
    }

    /// A machine without a pod starts.
    pub(crate) fn start_foreign(&mut self, address: &str, hold: Hold) -> anyhow::Result<()> {
        let vm = self.node.start_vm(&VmSpec { hold, teardown: HUNG, ..VmSpec::foreign(&[address]) })?;
        let groups: Vec<u32> = self.group_of(address).into_iter().collect();
        groups.iter().for_each(|group| self.touch(*group));
        self.held(&groups);
        self.foreign.push(Foreign { hung: false, hold, untold: false, vm, groups });
        Ok(())
    }

    /// One that belongs to no pod ends; its groups can be opened when this returns.
    pub(crate) fn end_foreign(&mut self, place: usize) {
        let Foreign { vm, groups, .. } = self.foreign.remove(place);
        drop(vm);
        self.release(&groups);
    }

    /// Unbinds; while it is held the kernel's unbind would wait for the holder.
    pub(crate) fn unbind(&mut self, address: &str) -> anyhow::Result<()> {
        self.node.unbind(address)?;
        if let Some(group) = self.bound.remove(address) {
            self.unbound.insert(address.to_owned(), group);
            self.touch(group);
        }
        Ok(())
    }

    /// Binds again; whether it could be: not before an unbind has ended.
    pub(crate) fn bind(&mut self, address: &str) -> anyhow::Result<bool> {
        let Some(&group) = self.unbound.get(address) else { return Ok(false) };
        if self.node.is_held(group) {
            return Ok(false);
        }
        self.node.bind(address, "vfio-pci")?;
        self.unbound.remove(address);
        self.bound.insert(address.to_owned(), group);
        self.rebound.insert(address.to_owned());
        if self.bound.values().filter(|of| **of == group).count() == 1 {
            self.happened.made.insert(group);
        }
        self.seen.insert(group, Instant::now());
        self.touch(group);
        Ok(true)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.kill_plugin();
        self.manager = None;
    }
}
