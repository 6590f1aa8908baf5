//! Measures `serve` while a local user makes the search for holders expensive:
//! `holder_load PROGRAM [PROCESSES] [DESCRIPTORS]`, by default 50 processes with 19,000 descriptors each.
//!
//! Prints how long a freed device takes to become Healthy and a bound one to be listed, at an interval of 1 s, and the CPU
//! time of `serve`. The processes are real and belong to uid 65534, if this program may change its uid.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a measurement may fail loudly")]

use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use vfio_sim_node::kubelet::KubeletState;
use vfio_sim_node::{Function, Kubelet, Node, VmSpec};

/// A load under which a list takes longer than this has stalled the plugin.
const PATIENCE: Duration = Duration::from_secs(200);
const GPU: &str = "0000:1b:00.0";
const NOBODY: u32 = 65534;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let first =
        arguments.next().unwrap_or_else(|| panic!("usage: holder_load PROGRAM [PROCESSES] [DESCRIPTORS]"));
    let mut number = |default| arguments.next().map_or(default, |text| text.parse().unwrap());
    if first == "hold" {
        hold(number(0));
    } else {
        let (processes, descriptors) = (number(50), number(19_000));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(measure(&PathBuf::from(first), processes, descriptors));
    }
}

/// Opens descriptors, says so on standard output and waits to be killed.
fn hold(descriptors: u32) {
    let null = std::fs::File::open("/dev/null").unwrap();
    let held: Vec<_> = (0..descriptors).map(|_| null.try_clone().unwrap()).collect();
    println!("{}", held.len());
    loop {
        std::thread::park();
    }
}

/// The processes of the load. They are killed when this is dropped.
struct Load(Vec<Child>);

impl Load {
    fn start(node: &Node, processes: u32, descriptors: u32) -> Self {
        let mut load = Self(Vec::new());
        for _ in 0..processes {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(["hold", &descriptors.to_string()]).stdout(Stdio::piped());
            if rustix::process::getuid().is_root() {
                command.uid(NOBODY);
            }
            let child = command.spawn().unwrap();
            let pid = child.id();
            symlink(format!("/proc/{pid}"), node.root().join(format!("proc/{pid}"))).unwrap();
            load.0.push(child);
        }
        for child in &mut load.0 {
            let mut line = String::new();
            std::io::BufRead::read_line(
                &mut std::io::BufReader::new(child.stdout.as_mut().unwrap()),
                &mut line,
            )
            .unwrap();
            assert_eq!(line.trim(), descriptors.to_string());
        }
        load
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

struct Serve(Child);

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn cpu(pid: u32) -> f64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let ran = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok());
    ran.map(|text| text.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9).sum()
}

fn health(state: &KubeletState, id: &str) -> Option<bool> {
    state.resources.values().find_map(|resource| resource.health(id)).map(|health| health == "Healthy")
}

/// Waits for a health and returns the seconds since `began`.
async fn until(kubelet: &Kubelet, began: Instant, wanted: impl FnMut(&KubeletState) -> bool) -> f64 {
    match kubelet.wait_for(PATIENCE, wanted).await {
        Ok(_) => began.elapsed().as_secs_f64(),
        Err(state) => panic!("not within {PATIENCE:?}: {state:?}"),
    }
}

async fn measure(program: &std::path::Path, processes: u32, descriptors: u32) {
    let node = Node::with_eight_gpus().unwrap();
    let load = Load::start(&node, processes, descriptors);
    let kubelet = Kubelet::start(&node.kubelet_dir(), &node.pod_resources_socket()).await.unwrap();
    let mut command = Command::new(program);
    command
        .arg("serve")
        .args(node.plugin_options())
        .args(["--interval", "1s", "--settling", "50ms"])
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    let began = Instant::now();
    let serve = Serve(command.spawn().unwrap());
    let listed = until(&kubelet, began, |state| health(state, GPU).is_some()).await;
    println!("start to the first list, s\t{listed:.3}");
    for round in 0..5_u32 {
        let began = Instant::now();
        let vm = node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
        let held = until(&kubelet, began, |state| health(state, GPU) == Some(false)).await;
        // At different phases of the interval.
        tokio::time::sleep(Duration::from_millis(400 + 170 * u64::from(round))).await;
        let began = Instant::now();
        vm.kill();
        let freed = until(&kubelet, began, |state| health(state, GPU) == Some(true)).await;
        let address = format!("0000:f{round}:00.0");
        // While the search for this holder is under way.
        let holder = node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
        tokio::time::sleep(Duration::from_millis(1200)).await;
        let began = Instant::now();
        node.add(Function::gpu(&address, 90 + round, 1)).unwrap();
        let bound = until(&kubelet, began, |state| health(state, &address).is_some()).await;
        println!(
            "held to Unhealthy, freed to Healthy, bound to listed, s\t{held:.3}\t{freed:.3}\t{bound:.3}"
        );
        until(&kubelet, began, |state| health(state, GPU) == Some(false)).await;
        holder.kill();
        until(&kubelet, began, |state| health(state, GPU) == Some(true)).await;
    }
    let used = cpu(serve.0.id());
    println!("CPU of serve, s\t{used:.2}\tin {:.0} s", began.elapsed().as_secs_f64());
    drop((serve, load));
}
