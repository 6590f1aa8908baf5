//! Runs the containers of deploy/daemonset.yaml and deploy/daemonset-probing.yaml as the manifests say: their mounts, arguments,
//! variables and probes, with a read-only root directory, against a kubelet on a simulated node. The first has no capabilities.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]

mod common;

use common::{PATIENCE, expect, is_permitted, kubelet};
use serde_json::Value;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use vfio_sim_node::{Hold, Kubelet, Node, VmSpec};

/// The resource of the node's GPUs by the names in the program, which the container uses.
const H100: &str = "nvidia.com/GH100_H100_SXM5_80GB";
const MANIFEST: &str = include_str!("../../deploy/daemonset.yaml");
const PROBING: &str = include_str!("../../deploy/daemonset-probing.yaml");
/// chroot(1) needs its capability; the container has none.
const UNPRIVILEGED: &str = "--bounding-set=-all,+sys_chroot";
/// With CAP_SYS_ADMIN, an open of a held simulated node would succeed.
const PRIVILEGED: &str = "--bounding-set=-sys_admin";
/// What a runtime gives a privileged container: /proc, which is the host's with hostPID, and what the simulated device nodes lead to.
const PRIVILEGED_MOUNTS: &str =
    "mkdir -p $0/proc $0/dev/pts; mount --rbind /proc $0/proc; mount --rbind /dev/pts $0/dev/pts; ";
const NAMESPACES: [&str; 2] = ["--mount", "--net"];

/// The container's root directory and process. The process is killed when this is dropped, and the mounts end with it.
struct Container {
    /// The parsed container of the manifest.
    spec: Value,
    /// Its capabilities, for setpriv.
    bounding_set: &'static str,
    serve: Child,
    root: PathBuf,
    _directory: tempfile::TempDir,
}

impl Container {
    /// Starts the container of a manifest on a node. None if this user may not make its namespaces.
    fn start(manifest: &str, node: &Node) -> Option<Self> {
        let mut allowed = Command::new("unshare");
        allowed.args(NAMESPACES).args(["setpriv", UNPRIVILEGED, "true"]);
        if !is_permitted(&mut allowed) {
            return None;
        }
        let pod = serde_saphyr::from_str::<Value>(manifest).unwrap()["spec"]["template"]["spec"].clone();
        let spec = pod["containers"][0].clone();
        let privileged = spec["securityContext"]["privileged"] == true;
        if !privileged {
            assert_eq!(spec["securityContext"]["capabilities"]["drop"], serde_json::json!(["ALL"]));
        }
        assert_eq!(pod["hostPID"] == true, privileged);
        let bounding_set = if privileged { PRIVILEGED } else { UNPRIVILEGED };
        assert_eq!(spec["securityContext"]["readOnlyRootFilesystem"], true);
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        fs::create_dir(&root).unwrap();
        let mut script = format!(
            "set -e; mount -t tmpfs none {0}; install -m 755 {1} {0}/vfio-device-plugin; ",
            root.display(),
            env!("CARGO_BIN_EXE_vfio-device-plugin")
        );
        // The program of the image is static; this one needs the host's libraries.
        for libraries in ["/lib", "/lib64", "/usr/lib"] {
            let target = format!("{}{libraries}", root.display());
            write!(
                script,
                "if [ -d {libraries} ]; then mkdir -p {target}; mount --bind {libraries} {target}; fi; "
            )
            .unwrap();
        }
        if privileged {
            script.push_str(&PRIVILEGED_MOUNTS.replace("$0", root.to_str().unwrap()));
        }
        for mount in spec["volumeMounts"].as_array().unwrap() {
            let volume =
                pod["volumes"].as_array().unwrap().iter().find(|volume| volume["name"] == mount["name"]);
            let source = source(volume.unwrap(), node, directory.path());
            let target = format!("{}{}", root.display(), mount["mountPath"].as_str().unwrap());
            write!(script, "mkdir -p {target}; mount --bind {} {target}; ", source.display()).unwrap();
            if mount["readOnly"] == true {
                write!(script, "mount -o remount,bind,ro {target}; ").unwrap();
            }
        }
        write!(script, "mount -o remount,ro {0}; exec setpriv {bounding_set} chroot {0} ", root.display())
            .unwrap();
        script.push_str("/vfio-device-plugin \"$@\"");
        let mut serve = Command::new("unshare");
        serve.args(NAMESPACES).args(["sh", "-c", &script, "sh"]);
        serve.args(spec["args"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()));
        let serve = with_variables(&mut serve, &spec).stdin(Stdio::null()).spawn().unwrap();
        Some(Self { spec, bounding_set, serve, root, _directory: directory })
    }

    /// Runs a command in the container, as `kubectl exec` and the probes do.
    fn exec(&self, words: &[&str]) -> Output {
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", self.serve.id())).args([
            "--mount",
            "--net",
            "setpriv",
            self.bounding_set,
            "chroot",
        ]);
        with_variables(command.arg(&self.root).args(words), &self.spec).output().unwrap()
    }

    /// Runs a probe and returns whether it succeeds.
    fn probe(&self, name: &str) -> bool {
        let words: Vec<&str> =
            self.spec[name]["exec"]["command"].as_array().unwrap().iter().flat_map(Value::as_str).collect();
        self.exec(&words).status.success()
    }

    /// Waits for a pod's name in `list`, which only pod resources has.
    async fn expect_pod(&self, pod: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let output = self.exec(&["/vfio-device-plugin", "list"]);
            let table = String::from_utf8_lossy(&output.stdout).into_owned();
            if table.contains(pod) {
                return;
            }
            assert!(Instant::now() < deadline, "{table}{}", String::from_utf8_lossy(&output.stderr));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.serve.kill();
        let _ = self.serve.wait();
    }
}

/// Starts a node. It takes CAP_SYS_ADMIN from its thread, and unshare needs it.
fn node() -> Node {
    std::thread::spawn(|| Node::with_eight_gpus().unwrap()).join().unwrap()
}

/// Returns the directory of a volume: the node's, or an empty one for a ConfigMap that does not exist.
fn source(volume: &Value, node: &Node, directory: &Path) -> PathBuf {
    let Some(path) = volume["hostPath"]["path"].as_str() else {
        assert_eq!(volume["configMap"]["optional"], true, "{volume}");
        let empty = directory.join("empty");
        fs::create_dir_all(&empty).unwrap();
        return empty;
    };
    let path = node.root().join(path.trim_start_matches('/'));
    if volume["hostPath"]["type"] == "DirectoryOrCreate" {
        fs::create_dir_all(&path).unwrap();
    }
    assert!(path.is_dir(), "{}", path.display());
    path
}

/// Gives a command the variables of the container and no others but PATH.
fn with_variables<'a>(command: &'a mut Command, spec: &Value) -> &'a mut Command {
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap());
    for variable in spec["env"].as_array().unwrap() {
        if let Some(value) = variable["value"].as_str() {
            command.env(variable["name"].as_str().unwrap(), value);
        }
    }
    command
}

/// Registers, is ready, lists a pod and shows no fault of the mounts.
async fn works(container: &Container, kubelet: &Kubelet) {
    expect(kubelet, "eight", |state| state.capacity(H100).allocatable == 8).await;
    let deadline = Instant::now() + PATIENCE;
    while !container.probe("readinessProbe") {
        assert!(Instant::now() < deadline, "{:?}", container.exec(&["/vfio-device-plugin", "ready"]));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(container.probe("livenessProbe"));
    let _pod = kubelet.admit("vm-1", H100, 1).await.unwrap();
    container.expect_pod("default/vm-1").await;
}

#[tokio::test]
async fn container_of_the_manifest_works() {
    let node = node();
    let kubelet = kubelet(&node).await;
    if let Some(container) = Container::start(MANIFEST, &node) {
        works(&container, &kubelet).await;
    }
}

#[tokio::test]
async fn container_works_with_the_root_of_k0s() {
    // As the chart renders `kubeletRoot` (deploy/chart/examples/k0s.yaml; compared by `scripts/xtask chart`).
    let variable = "- {name: VFIO_DEVICE_PLUGIN_KUBELET_ROOT, value: /var/lib/k0s/kubelet}\n            ";
    let no_probe = "- {name: VFIO_DEVICE_PLUGIN_NO_PROBE";
    let manifest = MANIFEST
        .replace("/var/lib/kubelet/pod-resources", "/var/lib/k0s/kubelet/pod-resources")
        .replace(no_probe, &format!("{variable}{no_probe}"));
    let node = node();
    let socket = node.root().join("var/lib/k0s/kubelet/pod-resources/kubelet.sock");
    fs::create_dir_all(socket.parent().unwrap()).unwrap();
    let kubelet = Kubelet::start(&node.kubelet_dir(), &socket).await.unwrap();
    if let Some(container) = Container::start(&manifest, &node) {
        works(&container, &kubelet).await;
    }
}

#[tokio::test]
async fn probing_container_finds_and_names_a_holder_without_a_device() {
    let node = node();
    let kubelet = kubelet(&node).await;
    let spec = VmSpec { hold: Hold::GroupOnly, ..VmSpec::foreign(&["0000:1b:00.0"]) };
    let vm = node.start_vm(&spec).unwrap();
    let Some(container) = Container::start(PROBING, &node) else { return };
    expect(&kubelet, "the probe at the start finds it", |state| state.capacity(H100).allocatable == 7).await;
    assert!(container.probe("livenessProbe"));
    let output = container.exec(&["/vfio-device-plugin", "who", "51"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && text.contains(&format!("\n{} ", vm.pid())), "{text}");
    vm.kill();
    expect(&kubelet, "the freed GPU is Healthy", |state| state.capacity(H100).allocatable == 8).await;
    works(&container, &kubelet).await;
}
