//! A running cluster: the control plane, the node, and what a story does with them.

mod client;
mod plugin;
mod reset;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use xtask::context::Context;
use xtask::process;

use crate::Result;
use crate::certificates::Certificates;
use crate::control_plane::{Component, ControlPlane, HOST_FOR_NODE, Ports};
use crate::node::{Accelerator, Function, Node};
use crate::parts::Parts;
use crate::process::WorkDirectory;
use crate::progress::say;
use crate::wait::wait;

/// How long the node has to become Ready after its kubelet has started. An idle host takes 25 s.
const NODE_READY: Duration = Duration::from_secs(300);
/// How long a pod has to start, to become ready or to end.
const POD: Duration = Duration::from_secs(600);
/// The namespace of the plugin.
pub const PLUGIN_NAMESPACE: &str = "kube-system";
/// What selects the plugin's pods.
pub const PLUGIN_LABEL: &str = "app.kubernetes.io/name=vfio-device-plugin";

/// A cluster. All of its processes end when this is dropped.
#[derive(Debug)]
pub struct Cluster {
    // Fields are dropped in this order.
    control_plane: ControlPlane,
    node: Node,
    context: Context,
    plugin: Plugin,
    work: WorkDirectory,
}

/// What is built from this tree.
#[derive(Clone, Debug)]
pub struct Plugin {
    /// The static program.
    pub program: PathBuf,
    /// The archive of the image.
    pub archive: PathBuf,
    /// The image's name with its registry. The manifests leave out Docker's.
    pub image: String,
}

impl Cluster {
    /// Starts a cluster and waits until its node is Ready. The node has the functions; the plugin's image is imported, and the plugin
    /// does not run.
    ///
    /// # Errors
    ///
    /// Fails if a part does not start in time; the error has the end of its log.
    pub fn start(parts: &Parts, plugin: &Plugin, functions: Vec<Function>) -> Result<Self> {
        let context = Context::new()?;
        let work = WorkDirectory::new(&std::env::temp_dir().join("vfio-probe-cluster"))?;
        let accelerator = Accelerator::choose(&context, parts, work.path())?;
        say(format!("starting the node ({}) and the control plane", accelerator.name()));
        let ports = Ports::find()?;
        let certificates = Certificates::make(&context, &work.path().join("pki"))?;
        let node = Node::start(&context, parts, work.path(), ports, accelerator, functions)?;
        let control_plane = ControlPlane::start(&context, parts, work.path(), &certificates, ports)?;
        let mut cluster = Self { control_plane, node, context, plugin: plugin.clone(), work };
        if let Err(error) = cluster.bring_up(&certificates, ports) {
            let saved = cluster.save_logs("start");
            return Err(format!("the cluster does not start: {error}\n{saved}").into());
        }
        Ok(cluster)
    }

    fn bring_up(&mut self, certificates: &Certificates, ports: Ports) -> Result {
        self.control_plane.wait_ready(&self.context)?;
        say("the API server is ready");
        for component in [Component::Scheduler, Component::ControllerManager] {
            self.control_plane.start_component(&self.context, component)?;
        }
        self.node.wait_up(&self.context)?;
        say("the node is up");
        let server = format!("https://{HOST_FOR_NODE}:{}", ports.api);
        let node_config = certificates.kubeconfig("node1", &server, Path::new("/etc/kubernetes/ca.crt"))?;
        let kubelet = process::read(&self.context.top.join("tests/cluster/node/kubelet.yaml"))?;
        let kubelet_config = self.work.path().join("kubelet.yaml");
        process::write(&kubelet_config, kubelet.replace("KUBELET_PORT", &ports.kubelet.to_string()))?;
        for (from, to) in [
            (&certificates.file("ca.crt"), "/etc/kubernetes/ca.crt"),
            (&node_config, "/etc/kubernetes/kubelet.kubeconfig"),
            (&kubelet_config, "/etc/kubernetes/kubelet.yaml"),
            (&self.plugin.program, "/usr/local/bin/vfio-device-plugin"),
        ] {
            self.node.put(from, to)?;
        }
        self.node.run("printf 'containerd\\nkubelet\\n' >/etc/node-services")?;
        self.node.start_containerd()?;
        self.node.run("service start kubelet")?;
        self.node.import(&self.plugin.image, &self.plugin.archive)?;
        self.wait_node_ready()?;
        say("the node is Ready");
        // The service account of a namespace comes a moment after the namespace; pods are refused until then.
        self.wait("the service account of pods", POD, |cluster| {
            cluster.kubectl(&["get", "serviceaccount", "default"]).map(Some)
        })?;
        Ok(())
    }

    /// Waits until the API server reports the node as Ready.
    ///
    /// # Errors
    ///
    /// Fails if it is not Ready within five minutes.
    pub fn wait_node_ready(&mut self) -> Result {
        self.wait("the node is Ready", NODE_READY, |cluster| {
            let node = cluster.kubectl(&["get", "node", "node1"])?;
            let conditions = node.pointer("/status/conditions").and_then(Value::as_array);
            let ready = conditions.into_iter().flatten().find(|condition| condition["type"] == "Ready");
            Ok(ready.is_some_and(|ready| ready["status"] == "True").then_some(()))
        })
    }

    /// The configuration of a client with all rights, for helm.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        self.control_plane.admin()
    }

    /// The places and environment of commands on this host.
    #[must_use]
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// The directory of the logs of a run.
    #[must_use]
    pub fn work(&self) -> &Path {
        self.work.path()
    }

    /// The node.
    #[must_use]
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// The plugin of this tree.
    #[must_use]
    pub fn plugin(&self) -> &Plugin {
        &self.plugin
    }

    /// Shuts the node down and boots it with these functions, and waits until it is up and Ready again.
    ///
    /// # Errors
    ///
    /// Fails if it does not come back in time.
    pub fn reboot_node(&mut self, functions: Vec<Function>) -> Result {
        self.stop_node()?;
        self.boot_node(functions)?;
        // The status of before the shutdown stays until the kubelet reports again, or for 40 s.
        self.wait("the kubelet answers", NODE_READY, |cluster| {
            cluster.node.run("test -S /var/lib/kubelet/pod-resources/kubelet.sock").map(Some)
        })?;
        self.wait_node_ready()
    }

    /// Shuts the node down.
    ///
    /// # Errors
    ///
    /// Fails if it does not end.
    pub fn stop_node(&mut self) -> Result {
        self.node.stop()
    }

    /// Boots a node that was stopped, and waits until its SSH server answers.
    ///
    /// # Errors
    ///
    /// Fails if it runs, or does not come up in time.
    pub fn boot_node(&mut self, functions: Vec<Function>) -> Result {
        self.node.boot(&self.context, functions)?;
        self.node.wait_up(&self.context)
    }

    /// Ends a process of the control plane.
    pub fn stop_component(&mut self, component: Component) {
        self.control_plane.stop_component(component);
    }

    /// Starts a process of the control plane again. For the API server, waits until it is ready.
    ///
    /// # Errors
    ///
    /// Fails if it does not start.
    pub fn start_component(&mut self, component: Component) -> Result {
        self.control_plane.start_component(&self.context, component)?;
        if component == Component::ApiServer {
            self.control_plane.wait_ready(&self.context)?;
        }
        Ok(())
    }

    /// Prints a step of a story.
    pub fn step(&self, text: &str) {
        say(format!("  {text}"));
    }

    /// Waits for a condition of the cluster ([`crate::wait::wait`]).
    ///
    /// # Errors
    ///
    /// Fails after the limit.
    pub fn wait<T>(
        &self,
        what: &str,
        limit: Duration,
        mut check: impl FnMut(&Self) -> Result<Option<T>>,
    ) -> Result<T> {
        wait(what, limit, || check(self))
    }
}
