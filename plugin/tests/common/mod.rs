//! Runs the plugin's program on a simulated node with a simulated kubelet.

#![allow(dead_code, reason = "each test program uses a part of these helpers")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    unreachable_pub,
    reason = "a test's helper may fail loudly"
)]

use serde_json::Value;
use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tonic::Code;
use vfio_sim_node::kubelet::{Admission, AdmitError, KubeletState};
use vfio_sim_node::{Kubelet, Node, not_tested};

/// The resource of the eight GPUs, named by their device id.
pub const H100: &str = "nvidia.com/2330";
/// `--interval` of the tests.
pub const INTERVAL: Duration = Duration::from_millis(200);
/// A test that waits longer than this has failed.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Returns the command that runs the program on a node. Without a pci.ids, the names of resources are hex
/// ids.
pub fn program(node: &Node, words: &[&str]) -> Command {
    // The plugin creates the directory of CDI specs, but none above it.
    fs::create_dir_all(node.root().join("var/run")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_vfio-device-plugin"));
    command
        .args(words)
        .args(["--root".as_ref(), node.root()])
        .args(["--kubelet-dir".as_ref(), node.kubelet_dir().as_path()])
        .args(["--pod-resources".as_ref(), node.pod_resources_socket().as_path()])
        .args(["--run-dir".as_ref(), node.run_dir().as_path()])
        .args(["--cdi-dir".as_ref(), cdi_dir(node).as_path()])
        .args(if words.contains(&"--interval") { &[][..] } else { &["--interval", "200ms"] })
        .args(["--settling", "300ms"])
        .args(if words.contains(&"--assignments-interval") {
            &[][..]
        } else {
            &["--assignments-interval", "1s"]
        })
        .args(if words.contains(&"--kubelet-start") { &[][..] } else { &["--kubelet-start", "1s"] })
        .args(if words.contains(&"--pci-ids") { &[][..] } else { &["--pci-ids", "/dev/null"] });
    command
}

/// Returns whether a command succeeds that a test needs to make its namespaces.
///
/// # Panics
/// The command fails where every test has to run, see [`not_tested`].
#[track_caller]
pub fn is_permitted(command: &mut Command) -> bool {
    let output = command.output();
    if output.as_ref().is_ok_and(|output| output.status.success()) {
        return true;
    }
    not_tested(&format!("this is not permitted here: {command:?}: {output:?}"));
    false
}

/// Returns the directory of CDI specs. It does not exist at first.
pub fn cdi_dir(node: &Node) -> PathBuf {
    node.root().join("var/run/cdi")
}

/// Adds what a kernel with cdevs shows: /dev/iommu and the cdev of a function. Returns the cdev's name,
/// `vfioN`.
pub fn add_cdev(node: &Node, address: &str) -> String {
    let iommu = node.root().join("sys/class/misc/iommu");
    fs::create_dir_all(&iommu).unwrap();
    fs::write(iommu.join("dev"), "10:126\n").unwrap();
    let directory = node.root().join("sys/bus/pci/devices").join(address).join("vfio-dev");
    let entry = fs::read_dir(&directory).unwrap().flatten().next().unwrap();
    fs::write(entry.path().join("dev"), "511:0\n").unwrap();
    entry.file_name().into_string().unwrap()
}

/// Writes the pools file and returns its path.
pub fn write_pools(node: &Node, text: &str) -> String {
    node.write("pools.yaml", text).unwrap();
    node.root().join("pools.yaml").to_str().unwrap().to_owned()
}

/// Runs a command to its end. Returns the exit code, standard output and standard error.
pub fn run(node: &Node, words: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = program(node, words).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

/// Returns the devices of `list --json`.
pub fn list(node: &Node) -> Vec<Value> {
    let (code, out, _) = run(node, &["list", "--json"]);
    assert_eq!(code, 0);
    serde_json::from_str::<Value>(&out).unwrap()["devices"].as_array().unwrap().clone()
}

/// A problem of a running `serve` in `list --json`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    pub code: String,
    pub about: String,
    pub text: String,
}

/// Returns the problems of `list --json`.
pub fn problems(node: &Node) -> Vec<Problem> {
    let (_, out, _) = run(node, &["list", "--json"]);
    let list: Value = serde_json::from_str(&out).unwrap();
    let problem = |problem: &Value| {
        let text = |key: &str| problem[key].as_str().unwrap().to_owned();
        assert!(problem["since"].as_u64().is_some_and(|since| since > 0), "{problem}");
        Problem { code: text("code"), about: text("about"), text: text("text") }
    };
    list["problems"].as_array().unwrap().iter().map(problem).collect()
}

/// Waits until `serve` reports a problem with this code, or none with it. Returns all problems with it.
#[track_caller]
pub fn wait_for_problem(node: &Node, code: &str, exists: bool) -> Vec<Problem> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let all = problems(node);
        let found: Vec<Problem> = all.iter().filter(|problem| problem.code == code).cloned().collect();
        if found.is_empty() != exists {
            return found;
        }
        assert!(Instant::now() < deadline, "{code}: {exists} expected: {all:#?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Returns a command that runs the program after some words of the shell, such as `umask 0`.
pub fn after_shell(script: &str, program: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell
        .args(["-c", &format!("{script}; exec \"$@\""), "sh"])
        .arg(program.get_program())
        .args(program.get_args());
    shell.stdin(Stdio::null());
    shell
}

/// A running `serve`. The process is killed when this is dropped.
pub struct Serve(pub Child);

impl Serve {
    /// Starts `serve` with more options.
    pub fn start(node: &Node, words: &[&str]) -> Self {
        let mut all = vec!["serve"];
        all.extend(words);
        Self(program(node, &all).stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap())
    }

    /// Sends SIGTERM. Returns the exit code, the time until the exit, and the log if standard error is a pipe.
    pub fn terminate(mut self) -> (i32, Duration, String) {
        let began = Instant::now();
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let status = loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                break status;
            }
            assert!(began.elapsed() < PATIENCE, "not ended within {PATIENCE:?} after SIGTERM");
            std::thread::sleep(Duration::from_millis(2));
        };
        let (code, took) = (status.code().unwrap_or(-1), began.elapsed());
        let mut log = String::new();
        if let Some(mut stderr) = self.0.stderr.take() {
            stderr.read_to_string(&mut log).unwrap();
        }
        (code, took, log)
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts the simulated kubelet of a node.
pub async fn kubelet(node: &Node) -> Kubelet {
    Kubelet::start(&node.kubelet_dir(), &node.pod_resources_socket()).await.unwrap()
}

/// Starts a node with eight GPUs, its kubelet, and a `serve` that offers all eight.
pub async fn offered(words: &[&str]) -> (Node, Kubelet, Serve) {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let serve = Serve::start(&node, words);
    expect(&kubelet, "offered", |state| state.capacity(H100).allocatable == 8).await;
    (node, kubelet, serve)
}

/// Returns one device of `list --json`.
pub fn device(node: &Node, address: &str) -> Value {
    list(node).into_iter().find(|device| device["address"] == address).unwrap()
}

/// Returns the pod that a device of `list --json` is assigned to: `namespace/name`, its uid if only that is
/// known, `being admitted`, or none.
pub fn assigned_pod(device: &Value) -> Option<String> {
    let assignment = &device["assignment"];
    let text = |key: &str| assignment[key].as_str().map(str::to_owned);
    let name = || Some(format!("{}/{}", text("namespace")?, text("pod")?));
    let admitted = || (assignment["state"] == "being_admitted").then(|| "being admitted".to_owned());
    name().or_else(|| text("uid")).or_else(admitted)
}

/// Waits until `serve` knows the pod that a device is assigned to.
pub async fn wait_for_pod(node: &Node, address: &str, pod: &str) {
    let deadline = Instant::now() + PATIENCE;
    while assigned_pod(&device(node, address)).as_deref() != Some(pod) {
        assert!(Instant::now() < deadline, "{}", device(node, address));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Admits a pod after a restart of the kubelet. The plugin may notice the end of a stream and the new socket one after the other, and
/// then registers twice; between the two its socket is gone.
pub async fn admit_after_restart(
    kubelet: &Kubelet,
    pod: &str,
    resource: &str,
    device: &str,
) -> Result<Admission, AdmitError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match kubelet.admit_with(pod, resource, vec![device.to_owned()]).await {
            Err(AdmitError::Refused(status))
                if status.code() == Code::Unavailable && Instant::now() < deadline =>
            {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            result => return result,
        }
    }
}

/// Waits until the kubelet's state is as wanted. Returns how long it took.
pub async fn expect(kubelet: &Kubelet, what: &str, wanted: impl FnMut(&KubeletState) -> bool) -> Duration {
    let began = Instant::now();
    if let Err(state) = kubelet.wait_for(PATIENCE, wanted).await {
        panic!("not within {PATIENCE:?}: {what}: {state:#?}");
    }
    began.elapsed()
}

/// Returns a device's health as the kubelet received it: `Some(true)` Healthy, `Some(false)` Unhealthy,
/// `None` not listed.
pub fn health(state: &KubeletState, resource: &str, id: &str) -> Option<bool> {
    state.resources.get(resource)?.health(id).map(|health| health == "Healthy")
}

/// Returns how many sockets the plugin has in the kubelet's directory of device plugins.
pub fn own_sockets(node: &Node) -> usize {
    let entries = fs::read_dir(node.kubelet_dir()).unwrap().flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("vfio-")).count()
}
