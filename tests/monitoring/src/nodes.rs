//! Five simulated nodes with a fault for each alert: one with faults of devices, one whose kubelet is away, one that promises a held
//! device, one that offers its devices to claims, and one that counts the devices of pods twice.

use crate::http::free_port;
use crate::outputs::of_node;
use anyhow::{Context, ensure};
use serde_json::json;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use vfio_sim_node::{Function, Kubelet, Node, Vm, VmSpec};

/// The longest wait for the kubelet's view of a plugin.
const PATIENCE: Duration = Duration::from_secs(20);
/// Held by a process without a pod.
const FOREIGN: &str = "0000:1b:00.0";
/// Gets another group after its pod was admitted.
const REBOUND: &str = "0000:3d:00.0";
/// Its group has a network card that is bound to its own driver.
const NOT_VIABLE: &str = "0000:4e:00.0";
const FREE: &str = "0000:5f:00.0";
/// Assigned to a pod whose VM runs.
const IN_USE: &str = "0000:9b:00.0";
/// Its pod was deleted, and its VM runs on.
const LEFT: &str = "0000:ce:00.0";
const LOST: &str = "0000:df:00.0";

/// All nodes.
pub(crate) struct Fleet {
    faulty: Served,
    without_kubelet: Served,
    promising_too_much: Served,
    with_claims: Served,
    counting_twice: Served,
}

/// A node with its kubelet, its plugin and the processes that hold its devices.
struct Served {
    name: &'static str,
    port: u16,
    serve: Child,
    vms: Vec<Vm>,
    kubelet: Kubelet,
    resource: String,
    node: Node,
}

impl Fleet {
    /// Starts all nodes and makes the faults.
    ///
    /// # Errors
    /// A node or a plugin cannot be started, or a kubelet does not see what it should.
    pub(crate) async fn start(plugin: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            faulty: faulty(plugin).await?,
            without_kubelet: without_kubelet(plugin)?,
            promising_too_much: promising_too_much(plugin).await?,
            with_claims: with_claims(plugin)?,
            counting_twice: counting_twice(plugin).await?,
        })
    }

    fn nodes(&self) -> [&Served; 5] {
        [
            &self.faulty,
            &self.without_kubelet,
            &self.promising_too_much,
            &self.with_claims,
            &self.counting_twice,
        ]
    }

    /// Returns the names of the nodes and the ports of their plugins.
    pub(crate) fn targets(&self) -> Vec<(String, u16)> {
        self.nodes().iter().map(|served| (served.name.to_owned(), served.port)).collect()
    }

    /// Returns what `list`, `doctor` and `who` print on the nodes, once the plugins have seen all faults.
    ///
    /// # Errors
    /// The plugin cannot be started.
    pub(crate) async fn outputs(&self, plugin: &Path) -> anyhow::Result<String> {
        let mut all = String::new();
        for served in self.nodes() {
            for words in [
                &["list"][..],
                &["list", "--json"],
                &["doctor"],
                &["who", FOREIGN],
                &["who", LEFT],
                &["ready"],
            ] {
                all += &format!("# {}: {}\n", served.name, words.join(" "));
                all += &of_node(plugin, &served.node, words)?;
            }
        }
        Ok(all)
    }

    /// Allocates a free device, which is granted, and the held one, which is refused.
    pub(crate) async fn make_traffic(&mut self) {
        let Served { kubelet, resource, .. } = &self.faulty;
        if let Ok(pod) = kubelet.admit_with("short", resource, vec![FREE.to_owned()]).await {
            kubelet.remove(&pod.pod_uid);
        }
        let _ = kubelet.admit_with("refused", resource, vec![FOREIGN.to_owned()]).await;
    }

    /// Ends the plugin of the last node.
    pub(crate) fn end_last_plugin(&mut self) {
        let _ = self.counting_twice.serve.kill();
    }
}

async fn faulty(plugin: &Path) -> anyhow::Result<Served> {
    let mut served = Served::start(plugin, "gpu-1", "attributed").await?;
    let Served { node, kubelet, resource, .. } = &served;
    let mut vms = vec![node.start_vm(&VmSpec::foreign(&[FOREIGN]))?];
    node.add(Function::new("0000:4e:00.1", 53).with_driver(Some("e1000")))?;
    for (name, device) in [("vm-1", IN_USE), ("vm-2", LEFT), ("vm-3", REBOUND)] {
        let pod = kubelet.admit_with(name, resource, vec![device.to_owned()]).await?;
        if device != REBOUND {
            vms.push(node.start_vm(&VmSpec::of_pod(&pod.pod_uid, &pod.devices))?);
        }
        if device == LEFT {
            kubelet.remove(&pod.pod_uid);
        }
    }
    node.remove(REBOUND)?;
    node.add(Function::gpu(REBOUND, 99, 0))?;
    node.set_lost(LOST, true)?;
    let expected = [(NOT_VIABLE, false), (LOST, false), (FREE, true), (IN_USE, true)];
    served.expect(|health| expected.iter().all(|(id, healthy)| health(id) == Some(*healthy))).await?;
    served.vms = vms;
    Ok(served)
}

/// The kubelet was never there: no socket, no pod resources, no checkpoint.
fn without_kubelet(plugin: &Path) -> anyhow::Result<Served> {
    let node = Node::with_eight_gpus()?;
    let vms = vec![node.start_vm(&VmSpec::foreign(&[FOREIGN]))?];
    let kubelet = Kubelet::stopped(&node.kubelet_dir(), &node.pod_resources_socket());
    // A problem of serve that has no alert of its own.
    std::fs::remove_dir_all(node.kubelet_dir())?;
    Served::of(plugin, "gpu-2", "advertise", node, kubelet, vms, &[])
}

/// With this policy a device that a foreign process holds stays Healthy.
async fn promising_too_much(plugin: &Path) -> anyhow::Result<Served> {
    let mut served = Served::start(plugin, "gpu-4", "advertise").await?;
    // Without a pod the kubelet shows no assignments.
    served.kubelet.admit_with("vm-5", &served.resource, vec![IN_USE.to_owned()]).await?;
    served.vms.push(served.node.start_vm(&VmSpec::foreign(&[FOREIGN]))?);
    Ok(served)
}

/// Offers its devices to claims. One of them is prepared, and neither the kubelet nor the API server is there.
fn with_claims(plugin: &Path) -> anyhow::Result<Served> {
    let node = Node::with_eight_gpus()?;
    let vms = vec![node.start_vm(&VmSpec::foreign(&[FOREIGN]))?];
    let kubelet = Kubelet::stopped(&node.kubelet_dir(), &node.pod_resources_socket());
    std::fs::create_dir_all(node.root().join("plugins"))?;
    // A simulated node has the boot of this host.
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    node.write(
        "plugins/claims.json",
        json!({"version": 1, "claims": {"5f1c9a52-claim": {
            "namespace": "default", "name": "vm-6-gpu", "boot": boot.trim(), "pods": ["5f1c9a52-pod"],
            "pod_names": {"5f1c9a52-pod": "vm-6"},
            "is_for_any_pod": false, "pod_claim_name": null, "is_adopted": false,
            "devices": [{
                "request": "gpu", "device": IN_USE, "group": null, "resource": "nvidia.com/GH100_H100_SXM5_80GB",
                "pinned": {"backend": "auto", "cdi": "none"}, "is_admin": false,
            }],
        }}})
        .to_string(),
    )?;
    let server = json!({"clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
        "users": [{"name": "u", "user": {}}], "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x", "apiVersion": "v1", "kind": "Config"});
    node.write("kubeconfig", server.to_string())?;
    let at = |path: &str| node.root().join(path).display().to_string();
    let words = ["--offer=dra".to_owned(), "--node=gpu-5".to_owned()].into_iter().chain([
        format!("--plugins-dir={}", at("plugins")),
        format!("--registry-dir={}", at("plugins_registry")),
        format!("--kubeconfig={}", at("kubeconfig")),
    ]);
    let words: Vec<String> = words.collect();
    std::fs::create_dir_all(at("plugins_registry"))?;
    Served::of(plugin, "gpu-5", "attributed", node, kubelet, vms, &words)
}

/// With this policy a device of a running pod is Unhealthy, and the scheduler subtracts it twice.
async fn counting_twice(plugin: &Path) -> anyhow::Result<Served> {
    let mut served = Served::start(plugin, "gpu-3", "unhealthy").await?;
    let pod = served.kubelet.admit_with("vm-4", &served.resource, vec![IN_USE.to_owned()]).await?;
    served.vms.push(served.node.start_vm(&VmSpec::of_pod(&pod.pod_uid, &pod.devices))?);
    served.expect(|health| health(IN_USE) == Some(false)).await?;
    Ok(served)
}

impl Served {
    /// Starts a node, its kubelet and its plugin, and waits until all eight GPUs are offered.
    async fn start(plugin: &Path, name: &'static str, busy: &str) -> anyhow::Result<Self> {
        let node = Node::with_eight_gpus()?;
        let kubelet = Kubelet::start(&node.kubelet_dir(), &node.pod_resources_socket()).await?;
        let mut served = Self::of(plugin, name, busy, node, kubelet, Vec::new(), &[])?;
        let state = served
            .kubelet
            .wait_for(PATIENCE, |state| state.resources.values().any(|resource| resource.devices.len() == 8))
            .await;
        let state = state.map_err(|state| anyhow::anyhow!("{name}: the plugin offers no GPUs: {state:?}"))?;
        served.resource = state.resources.keys().next().cloned().context("no resource")?;
        Ok(served)
    }

    fn of(
        plugin: &Path,
        name: &'static str,
        busy: &str,
        node: Node,
        kubelet: Kubelet,
        vms: Vec<Vm>,
        words: &[String],
    ) -> anyhow::Result<Self> {
        ensure!(plugin.is_file(), "{} does not exist", plugin.display());
        let port = free_port()?;
        let serve = Command::new(plugin)
            .arg("serve")
            .args(node.plugin_options())
            .args(words)
            .args(["--busy", busy, "--listen", &format!("127.0.0.1:{port}")])
            .args(["--interval", "500ms", "--settling", "500ms", "--checks-interval", "1s"])
            .args(["--assignments-interval", "1s", "--kubelet-start", "1s", "--log-level", "error"])
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}", plugin.display()))?;
        Ok(Self { name, port, serve, vms, kubelet, resource: String::new(), node })
    }

    /// Waits until the health of the devices is as wanted.
    async fn expect(&self, wanted: impl Fn(&dyn Fn(&str) -> Option<bool>) -> bool) -> anyhow::Result<()> {
        let state = self.kubelet.wait_for(PATIENCE, |state| {
            let resource = state.resources.get(&self.resource);
            wanted(&|id| Some(resource?.health(id)? == "Healthy"))
        });
        match state.await {
            Ok(_) => Ok(()),
            Err(state) => {
                let devices = state.resources.get(&self.resource).map(|resource| resource.devices.clone());
                Err(anyhow::anyhow!("{}: not as expected: {devices:?}", self.name))
            }
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.serve.kill();
        let _ = self.serve.wait();
    }
}
