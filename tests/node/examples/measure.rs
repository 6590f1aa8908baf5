//! Measures `serve` of a release binary on simulated nodes: `measure PROGRAM [SECONDS]`. The idle measurement takes
//! SECONDS, 60 by default. `tests/measure` builds both programs and prints the figures beside the goals.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a measurement may fail loudly"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use vfio_sim_node::kubelet::KubeletState;
use vfio_sim_node::{Function, Kubelet, Node, VmSpec};

const PATIENCE: Duration = Duration::from_secs(20);
/// PCI functions in all, and how many of them are bound.
const NODES: [(u32, u32); 3] = [(64, 8), (4096, 8), (4096, 256)];

fn address(index: u32) -> String {
    format!("0000:{:02x}:{:02x}.0", index >> 5, index & 31)
}

fn node((functions, bound): (u32, u32)) -> Node {
    let node = Node::new().unwrap();
    for index in 0..bound {
        node.add(Function::gpu(&address(index), index, i32::from(index >= bound / 2))).unwrap();
    }
    node.add_unbound_functions(functions - bound).unwrap();
    node
}

/// A running `serve` and the kubelet that it talks to.
struct Served {
    kubelet: Kubelet,
    serve: Child,
    began: Instant,
}

impl Served {
    async fn start(node: &Node, program: &mut Command, interval: &str) -> Self {
        let kubelet = Kubelet::start(&node.kubelet_dir(), &node.pod_resources_socket()).await.unwrap();
        program
            .args(["--root".as_ref(), node.root()])
            .args(["--kubelet-dir".as_ref(), node.kubelet_dir().as_path()])
            .args(["--pod-resources".as_ref(), node.pod_resources_socket().as_path()])
            .args(["--run-dir".as_ref(), node.run_dir().as_path()])
            .args(["--interval", interval])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let began = Instant::now();
        let serve = program.spawn().unwrap();
        Self { kubelet, serve, began }
    }

    async fn wait(&self, what: &str, wanted: impl FnMut(&KubeletState) -> bool) -> KubeletState {
        self.kubelet
            .wait_for(PATIENCE, wanted)
            .await
            .unwrap_or_else(|state| panic!("never {what}: {state:?}"))
    }

    async fn listed(&self) -> KubeletState {
        self.wait("listed", |state| state.resources.values().any(|resource| resource.lists > 0)).await
    }

    async fn healthy(&self, id: &str, healthy: bool) -> Instant {
        let state = self.wait("in this health", |state| reported(state, id) == Some(healthy)).await;
        state.resources.values().next().unwrap().listed_at.unwrap()
    }

    fn resource(&self) -> String {
        self.kubelet.state().resources.keys().next().unwrap().clone()
    }

    /// Returns the nanoseconds that all threads have spent on a CPU so far (schedstat of the scheduler, not sampled).
    fn cpu(&self) -> u64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.serve.id())).unwrap();
        let ran = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("schedstat")).ok());
        ran.map(|text| text.split(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    }

    fn status(&self, key: &str) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.serve.id())).unwrap();
        let line = text.lines().find(|line| line.starts_with(key)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.serve.kill();
        let _ = self.serve.wait();
        self.kubelet.stop();
    }
}

fn reported(state: &KubeletState, id: &str) -> Option<bool> {
    state.resources.values().next()?.health(id).map(|health| health == "Healthy")
}

fn print(figure: &str, (functions, bound): (u32, u32), value: impl std::fmt::Display) {
    println!("{figure}\t{functions}\t{bound}\t{value}");
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

async fn start_and_memory(program: &Path, size: (u32, u32)) {
    let node = node(size);
    let mut times = Vec::new();
    for _ in 0..15 {
        let served = Served::start(&node, &mut serve(program), "1s").await;
        let state = served.listed().await;
        times.push(millis(state.registrations[0].at - served.began));
    }
    print("start to Register, ms (median of 15)", size, format!("{:.2}", sorted(times)[7]));
    let served = Served::start(&node, &mut serve(program), "1s").await;
    served.listed().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    print("idle VmRSS, MB", size, format!("{:.2}", served.status("VmRSS:") as f64 / 1024.0));
    print("  of it anonymous, MB", size, format!("{:.2}", served.status("RssAnon:") as f64 / 1024.0));
    print("threads", size, served.status("Threads:"));
    drop(served);
    let (cpu, latencies) = allocate(&node, &mut serve(program)).await;
    print("CPU per Allocate, us (1,000 calls)", size, format!("{cpu:.1}"));
    print("  latency p50 / p99, us", size, format!("{:.0} / {:.0}", latencies[500], latencies[990]));
    let (cpu, _) = allocate(&node, serve(program).arg("--no-probe")).await;
    print("  CPU with --no-probe, us", size, format!("{cpu:.1}"));
}

/// Returns the CPU time per call and all latencies, sorted, in microseconds.
async fn allocate(node: &Node, program: &mut Command) -> (f64, Vec<f64>) {
    let served = Served::start(node, program, "1s").await;
    served.listed().await;
    let (resource, ids) = (served.resource(), [address(3)]);
    let (mut before, mut latencies) = (0, Vec::new());
    for call in 0..1100 {
        if call == 100 {
            before = served.cpu();
        }
        let began = Instant::now();
        served.kubelet.allocate(&resource, &[&ids[..]]).await.unwrap();
        if call >= 100 {
            latencies.push(began.elapsed().as_secs_f64() * 1e6);
        }
    }
    ((served.cpu() - before) as f64 / 1e6, sorted(latencies))
}

fn serve(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.arg("serve");
    command
}

/// Counts system calls up to the first list and per Allocate: lines of strace between two moments.
async fn system_calls(program: &Path, size: (u32, u32)) {
    let node = node(size);
    let log = node.root().join("strace");
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-ttt", "-e", "signal=none", "-o"]).arg(&log).arg(program).arg("serve");
    // No regular pass of the monitor falls into the time in which Allocates are counted.
    let served = Served::start(&node, &mut command, "1h").await;
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    served.listed().await;
    let listed = now();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (resource, ids) = (served.resource(), [address(3)]);
    served.kubelet.allocate(&resource, &[&ids[..]]).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (first, calls) = (now(), 100);
    for _ in 0..calls {
        served.kubelet.allocate(&resource, &[&ids[..]]).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let last = now();
    drop(served);
    // Each line is `PID TIME call(...`. A call that another thread's line interrupts has a second line, `<... call
    // resumed>`.
    let text = fs::read_to_string(&log).unwrap();
    let times = text.lines().filter(|line| !line.contains(" resumed>"));
    let times: Vec<f64> = times.filter_map(|line| line.split_whitespace().nth(1)?.parse().ok()).collect();
    let between = |from: f64, to: f64| times.iter().filter(|&&time| time > from && time <= to).count();
    print("system calls to the first list", size, between(0.0, listed));
    print(
        "system calls per Allocate",
        size,
        format!("{:.1}", between(first, last) as f64 / f64::from(calls)),
    );
    if let Some(path) = std::env::var_os("MEASURE_STRACE") {
        fs::copy(&log, PathBuf::from(path).join(format!("strace.{}.{}", size.0, size.1))).unwrap();
    }
}

/// Measures the time from the holder's end to the list with Healthy.
async fn freed(program: &Path, size: (u32, u32), known: bool) {
    let node = node(size);
    let id = address(3);
    let mut times = Vec::new();
    for _ in 0..10 {
        let vm = node.start_vm(&VmSpec::foreign(&[&id])).unwrap();
        if !known {
            // /proc of another pid namespace does not show the holder either.
            node.delete(&format!("proc/{}", vm.pid())).unwrap();
        }
        let served = Served::start(&node, &mut serve(program), "1s").await;
        served.healthy(&id, false).await;
        // At different phases of the interval.
        tokio::time::sleep(Duration::from_millis(400 + 97 * times.len() as u64)).await;
        let killed = Instant::now();
        vm.kill();
        times.push(millis(served.healthy(&id, true).await.duration_since(killed)));
    }
    let times = sorted(times);
    let holder = if known { "known" } else { "unknown" };
    let figure = format!("freed to Healthy, interval 1 s, holder {holder}, ms (median / worst of 10)");
    print(&figure, size, format!("{:.1} / {:.1}", times[5], times[9]));
}

async fn idle(program: &Path, size: (u32, u32), seconds: u64) {
    let node = node(size);
    let served = Served::start(&node, &mut serve(program), "1s").await;
    served.listed().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (before, switches) = (served.cpu(), served.status("voluntary_ctxt_switches:"));
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let spent = (served.cpu() - before) as f64 / 1e6 * 60.0 / seconds as f64;
    let switches = served.status("voluntary_ctxt_switches:") - switches;
    print("idle CPU per minute, interval 1 s, ms", size, format!("{spent:.2}"));
    print("  wakeups of the main thread", size, format!("{:.0}", switches as f64 * 60.0 / seconds as f64));
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut arguments = std::env::args_os().skip(1);
    let program =
        PathBuf::from(arguments.next().unwrap_or_else(|| panic!("usage: measure PROGRAM [SECONDS]")));
    let seconds = arguments.next().map_or(60, |seconds| seconds.to_str().unwrap().parse().unwrap());
    for size in NODES {
        start_and_memory(&program, size).await;
        system_calls(&program, size).await;
    }
    freed(&program, NODES[0], true).await;
    freed(&program, NODES[0], false).await;
    idle(&program, NODES[0], seconds).await;
    print("binary, bytes", NODES[0], fs::metadata(&program).unwrap().len());
}
