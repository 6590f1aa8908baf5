//! A running cluster: the control plane, the node, and what a story does with them.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use xtask::context::Context;
use xtask::process;

use crate::Result;
use crate::certificates::Certificates;
use crate::control_plane::{Component, ControlPlane, HOST_FOR_NODE, Ports};
use crate::node::{Accelerator, Function, Node};
use crate::parts::Parts;
use crate::process::{WorkDirectory, take_over};
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

    /// Runs kubectl with `-o json` and returns its output.
    ///
    /// # Errors
    ///
    /// Fails with the errors of kubectl.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.kubectl_text(&[arguments, &["-o", "json"]].concat())?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Runs kubectl and returns its output.
    ///
    /// # Errors
    ///
    /// Fails with the errors of kubectl.
    pub fn kubectl_text(&self, arguments: &[&str]) -> Result<String> {
        let mut kubectl = self.kubectl_command();
        output(kubectl.args(arguments), None)
    }

    /// Applies objects, as YAML or JSON.
    ///
    /// # Errors
    ///
    /// Fails with the errors of kubectl.
    pub fn apply(&self, objects: &str) -> Result {
        let mut kubectl = self.kubectl_command();
        output(kubectl.args(["apply", "-f", "-"]), Some(objects)).map(|_| ())
    }

    /// Returns kubectl as a user with all rights.
    #[must_use]
    pub fn kubectl_command(&self) -> Command {
        self.control_plane.kubectl(&self.context)
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

    /// Returns a pod of the namespace default, or None if there is none with this name.
    ///
    /// # Errors
    ///
    /// Fails if the API server does not answer.
    pub fn pod(&self, name: &str) -> Result<Option<Value>> {
        let text = self.kubectl_text(&["get", "pod", name, "--ignore-not-found", "-o", "json"])?;
        if text.is_empty() { Ok(None) } else { Ok(Some(serde_json::from_str(&text)?)) }
    }

    /// Returns the events of an object, one a line.
    #[must_use]
    pub fn events(&self, name: &str) -> String {
        let selector = format!("--field-selector=involvedObject.name={name}");
        let columns = "-o=custom-columns=:.type,:.reason,:.message";
        let found = self.kubectl_text(&["get", "events", "-A", &selector, columns]);
        found.unwrap_or_else(|error| format!("no events: {error}"))
    }

    /// Applies a manifest of the plugin, and waits until its pod is ready.
    ///
    /// # Errors
    ///
    /// Fails if it is not ready in time, with the pod's events.
    pub fn deploy_plugin(&self, manifest: &str) -> Result {
        self.apply(manifest)?;
        let ready = self.wait("the plugin's pod is ready", POD, |cluster| {
            let pods = cluster.plugin_pods()?;
            Ok((pods.len() == 1 && pods.iter().all(is_ready)).then_some(()))
        });
        ready.map_err(|error| {
            let mut text = error.to_string();
            for pod in self.plugin_pods().unwrap_or_default() {
                let name = pod["metadata"]["name"].as_str().unwrap_or_default();
                let _ = write!(text, "\n{name}: {}\n{}", pod["status"], self.events(name));
            }
            text.into()
        })
    }

    /// Returns the plugin's pods.
    ///
    /// # Errors
    ///
    /// Fails if the API server does not answer.
    pub fn plugin_pods(&self) -> Result<Vec<Value>> {
        let mut listed = self.kubectl(&["get", "pods", "-n", PLUGIN_NAMESPACE, "-l", PLUGIN_LABEL])?;
        Ok(listed["items"].as_array_mut().map(std::mem::take).unwrap_or_default())
    }

    /// Returns the name of the one pod of the plugin.
    ///
    /// # Errors
    ///
    /// Fails if there is none, or more than one.
    pub fn plugin_pod(&self) -> Result<String> {
        match self.plugin_pods()?.as_slice() {
            [pod] => Ok(pod["metadata"]["name"].as_str().unwrap_or_default().into()),
            pods => Err(format!("the plugin has {} pods", pods.len()).into()),
        }
    }

    /// Deletes what a story has left: all of the namespace default, the plugin, and processes that hold groups.
    ///
    /// # Errors
    ///
    /// Fails if something stays; the cluster is then of no use.
    pub fn reset(&mut self) -> Result {
        self.control_plane.check()?;
        self.node.check()?;
        let kinds = "deployments,daemonsets,replicasets,jobs";
        self.kubectl_text(&["delete", kinds, "--all", "--wait=false"])?;
        self.kubectl_text(&["delete", "daemonsets", "-n", PLUGIN_NAMESPACE, "--all", "--wait=false"])?;
        self.kubectl_text(&["delete", "pods", "-A", "--all", "--wait=false"])?;
        self.kubectl_text(&[
            "delete",
            "configmap",
            "-n",
            PLUGIN_NAMESPACE,
            "vfio-device-plugin-pools",
            "--ignore-not-found",
        ])?;
        self.kubectl_text(&["delete", "events", "-A", "--all"])?;
        self.node
            .run("rm -f /etc/kubernetes/manifests/*; service stop plugin; killall -q -KILL holder || true")?;
        self.wait("all pods are gone", POD, |cluster| {
            let pods = cluster.kubectl(&["get", "pods", "-A"])?;
            Ok(pods["items"].as_array().is_some_and(Vec::is_empty).then_some(()))
        })?;
        self.wait("no process holds a group", POD, |cluster| {
            let script = "fuser /dev/vfio/[0-9]* 2>/dev/null || true";
            Ok(cluster.node.run(script)?.is_empty().then_some(()))
        })?;
        self.node.run("rm -rf /run/vfio-device-plugin").map(|_| ())
    }

    /// Saves all logs in a directory, and returns a line that names it.
    #[must_use]
    pub fn save_logs(&self, name: &str) -> String {
        let directory = std::env::temp_dir().join("vfio-probe-cluster").join(format!("failed-{name}"));
        let _ = std::fs::remove_dir_all(&directory);
        if process::make_directory(&directory).is_err() {
            return format!("the logs cannot be saved in {}", directory.display());
        }
        for file in process::entries(self.work.path()) {
            if file.extension().is_some_and(|extension| extension == "log") {
                let _ = std::fs::copy(&file, directory.join(process::file_name(&file)));
            }
        }
        for (file, arguments) in [
            ("objects.txt", ["get", "all,nodes", "-A", "-o", "wide"]),
            ("events.txt", ["get", "events", "-A", "-o", "wide"]),
            ("pods.yaml", ["get", "pods", "-A", "-o", "yaml"]),
            ("nodes.yaml", ["get", "nodes", "-A", "-o", "yaml"]),
        ] {
            let text = self.kubectl_text(&arguments).unwrap_or_else(|error| error.to_string());
            let _ = process::write(&directory.join(file), text);
        }
        self.node.save_logs(&directory);
        format!("the logs are in {}", directory.display())
    }
}

/// Whether all containers of a pod are ready.
#[must_use]
pub fn is_ready(pod: &Value) -> bool {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    let is_deleted = pod["metadata"]["deletionTimestamp"].is_string();
    let mut conditions = conditions.into_iter().flatten();
    !is_deleted && conditions.any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// Runs a command with an input and returns its output, in at most five minutes.
fn output(command: &Command, input: Option<&str>) -> Result<String> {
    let text = process::text(command);
    let mut limited = Command::new("timeout");
    limited.args(["-k", "5", "300"]).arg(command.get_program());
    let mut command = take_over(limited, command);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("cannot run {text}: {error}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // kubectl reads all of its input before it writes.
        let _ = stdin.write_all(input.unwrap_or_default().as_bytes());
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim_end().into());
    }
    Err(format!("{text}: {}", String::from_utf8_lossy(&output.stderr).trim_end()).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pod_that_is_being_deleted_is_not_ready() {
        let conditions = json!([{"type": "Ready", "status": "True"}]);
        let mut pod = json!({"metadata": {}, "status": {"conditions": conditions}});
        assert!(is_ready(&pod));
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert!(!is_ready(&pod));
        assert!(!is_ready(&json!({"metadata": {}, "status": {}})));
    }

    #[test]
    fn error_of_a_command_has_its_own_text() {
        let mut command = Command::new("sh");
        let error = output(command.args(["-c", "cat >&2; exit 1"]), Some("no such pod")).unwrap_err();
        assert!(error.to_string().ends_with("no such pod"));
    }
}
