//! Runs `serve` with fewer descriptors than functions on vfio-pci: `descriptor_limit PROGRAM [LIMIT] [OTHERS]`, by default
//! RLIMIT_NOFILE 1024 (soft and hard), 8 GPUs and 1,010 other functions.
//!
//! Prints how long an unbind and a bind take to be listed, the descriptors of `serve`, and its CPU time while idle and
//! while clients connect.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a measurement may fail loudly")]

use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use vfio_sim_node::kubelet::KubeletState;
use vfio_sim_node::{Function, Kubelet, Node};

const PATIENCE: Duration = Duration::from_secs(20);
const GPU: &str = "0000:1b:00.0";
const IDLE: Duration = Duration::from_secs(10);

struct Serve(Child);

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Serve {
    /// Returns the percentage of a CPU that the process uses for a while.
    async fn cpu(&self) -> f64 {
        let before = self.nanoseconds();
        tokio::time::sleep(IDLE).await;
        (self.nanoseconds() - before) / IDLE.as_secs_f64() / 1e7
    }

    fn nanoseconds(&self) -> f64 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.0.id())).unwrap();
        let ran = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok());
        ran.map(|text| text.split(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }

    fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.0.id())).unwrap().count()
    }
}

fn has(state: &KubeletState, id: &str) -> bool {
    state.resources.values().any(|resource| resource.health(id).is_some())
}

/// Waits for a list and prints after how long it came.
async fn print(kubelet: &Kubelet, what: &str, wanted: impl FnMut(&KubeletState) -> bool) {
    let began = Instant::now();
    match kubelet.wait_for(PATIENCE, wanted).await {
        Ok(_) => println!("{what}, s\t{:.3}", began.elapsed().as_secs_f64()),
        Err(_) => println!("{what}\tnot within {PATIENCE:?}"),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let program =
        arguments.next().unwrap_or_else(|| panic!("usage: descriptor_limit PROGRAM [LIMIT] [OTHERS]"));
    let mut number = |default| arguments.next().map_or(default, |text| text.parse().unwrap());
    let (limit, others): (u32, u32) = (number(1024), number(1010));
    let node = Node::with_eight_gpus().unwrap();
    for index in 0..others {
        let address = format!("0001:{:02x}:{:02x}.0", index / 32, index % 32);
        node.add(Function::new(&address, 1000 + index).with_driver(Some("vfio-pci"))).unwrap();
    }
    let kubelet = Kubelet::start(&node.kubelet_dir(), &node.pod_resources_socket()).await.unwrap();
    let mut command = Command::new("sh");
    command
        .args(["-c", "ulimit -n \"$1\"; shift; exec \"$@\"", "sh", &limit.to_string(), &program, "serve"])
        .args(node.plugin_options())
        .args(["--interval", "1s"])
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    let serve = Serve(command.spawn().unwrap());
    print(&kubelet, "start to the first list", |state| has(state, GPU)).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    println!("descriptors of serve\t{}", serve.descriptors());
    println!("CPU while idle, %\t{:.2}", serve.cpu().await);
    node.unbind(GPU).unwrap();
    print(&kubelet, "unbind to the list", |state| !has(state, GPU)).await;
    node.bind(GPU, "vfio-pci").unwrap();
    print(&kubelet, "bind to the list", |state| has(state, GPU)).await;
    let sockets = std::fs::read_dir(node.kubelet_dir()).unwrap().flatten().map(|entry| entry.path());
    let ours = sockets.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("vfio-"));
    let sockets: Vec<_> = ours.chain([node.run_dir().join("status.sock")]).collect();
    let connect = |path: &std::path::PathBuf| {
        (0..400).filter_map(|_| UnixStream::connect(path).ok()).collect::<Vec<_>>()
    };
    let clients: Vec<_> = sockets.iter().flat_map(connect).collect();
    println!("descriptors of serve with {} idle clients\t{}", clients.len(), serve.descriptors());
    println!("CPU with these clients, %\t{:.2}", serve.cpu().await);
    node.unbind(GPU).unwrap();
    print(&kubelet, "unbind to the list with these clients", |state| !has(state, GPU)).await;
    node.bind(GPU, "vfio-pci").unwrap();
    print(&kubelet, "bind to the list with these clients", |state| has(state, GPU)).await;
    drop(clients);
    tokio::time::sleep(Duration::from_secs(2)).await;
    println!("descriptors of serve after they have gone\t{}", serve.descriptors());
}
