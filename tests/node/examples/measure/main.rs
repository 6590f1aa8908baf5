//! Measures a release binary of the plugin on simulated nodes, and NVIDIA's plugin beside it if its program is given:
//! `measure PROGRAM [SECONDS [NVIDIA]]`. The idle measurement takes SECONDS, 60 by default. `tests/measure` builds the programs and
//! prints the figures beside the goals.
//!
//! Prints one line for each figure: name, functions, bound, value, and NVIDIA's value or `-`, with tabs between.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a measurement may fail loudly"
)]

mod plugin;
mod served;

use plugin::Plugin;
use served::{Served, Size, address, node};
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use vfio_sim_node::{Node, VmSpec};

const NODES: [Size; 4] = [(64, 8), (4096, 8), (4096, 256), (4096, 1024)];
const SECOND: [&str; 2] = ["--interval", "1s"];
/// Calls before the measurement, and in it.
const CALLS: (u32, u32) = (100, 1000);

/// One plugin's figures of one node, in a fixed order.
type Figures = Vec<(&'static str, String)>;

/// What calls of one kind cost.
struct Cost {
    /// CPU time of a call, in microseconds.
    cpu: f64,
    /// The latencies, sorted, in microseconds.
    latencies: Vec<f64>,
}

impl Cost {
    fn at(&self, part: f64) -> f64 {
        self.latencies[((self.latencies.len() - 1) as f64 * part) as usize]
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

/// Prints the figures of one node, with NVIDIA's beside them.
fn print((functions, bound): Size, ours: &Figures, nvidia: &Figures) {
    for (name, value) in ours {
        let theirs = nvidia.iter().find(|(theirs, _)| theirs == name).map_or("-", |(_, value)| value);
        println!("{name}\t{functions}\t{bound}\t{value}\t{theirs}");
    }
}

async fn start_and_memory(node: &Node, plugin: &Plugin, figures: &mut Figures) {
    let mut times = Vec::new();
    for _ in 0..15 {
        let served = Served::start(node, plugin, &SECOND, None).await;
        let state = served.listed().await;
        times.push(millis(state.registrations[0].at - served.began));
    }
    figures.push(("start to Register, ms (median of 15)", format!("{:.2}", sorted(times)[7])));
    let served = Served::start(node, plugin, &SECOND, None).await;
    served.listed().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let megabytes = |key| format!("{:.2}", served.status(key) as f64 / 1024.0);
    figures.push(("idle VmRSS, MB", megabytes("VmRSS:")));
    figures.push(("  of it anonymous, MB", megabytes("RssAnon:")));
    figures.push(("threads", served.status("Threads:").to_string()));
}

/// Measures Allocate of one device, in turn over all devices.
async fn allocate(node: &Node, plugin: &Plugin, bound: u32, arguments: &[&str]) -> Cost {
    let served = Served::start(node, plugin, arguments, None).await;
    served.listed().await;
    let resource = served.resource();
    let (mut before, mut latencies) = (0, Vec::new());
    for call in 0..CALLS.0 + CALLS.1 {
        if call == CALLS.0 {
            before = served.cpu();
        }
        let ids = [address(call % bound)];
        let began = Instant::now();
        served.kubelet.allocate(&resource, &[&ids[..]]).await.unwrap();
        latencies.push(began.elapsed().as_secs_f64() * 1e6);
    }
    let cpu = (served.cpu() - before) as f64 / 1e3 / f64::from(CALLS.1);
    Cost { cpu, latencies: sorted(latencies.split_off(CALLS.0 as usize)) }
}

/// Measures GetPreferredAllocation of one device of all.
async fn preferred(node: &Node, plugin: &Plugin, bound: u32) -> Cost {
    let served = Served::start(node, plugin, &SECOND, None).await;
    served.listed().await;
    let resource = served.resource();
    let all: Vec<String> = (0..bound).map(address).collect();
    let (before, mut latencies) = (served.cpu(), Vec::new());
    for _ in 0..CALLS.1 {
        let began = Instant::now();
        served.kubelet.preferred(&resource, &all, &[], 1).await.unwrap();
        latencies.push(began.elapsed().as_secs_f64() * 1e6);
    }
    let cpu = (served.cpu() - before) as f64 / 1e3 / f64::from(CALLS.1);
    Cost { cpu, latencies: sorted(latencies) }
}

/// Returns the milliseconds of an Allocate of half of all devices in one container.
async fn allocate_half(node: &Node, plugin: &Plugin, bound: u32) -> f64 {
    let served = Served::start(node, plugin, &SECOND, None).await;
    served.listed().await;
    let ids: Vec<String> = (0..bound / 2).map(address).collect();
    let began = Instant::now();
    served.kubelet.allocate(&served.resource(), &[&ids[..]]).await.unwrap();
    millis(began.elapsed())
}

async fn calls(node: &Node, plugin: &Plugin, bound: u32, figures: &mut Figures) {
    let cost = allocate(node, plugin, bound, &SECOND).await;
    figures.push(("CPU per Allocate, us (1,000 calls)", format!("{:.1}", cost.cpu)));
    figures.push(("Allocate p50, us", format!("{:.0}", cost.at(0.5))));
    figures.push(("  p99, us", format!("{:.0}", cost.at(0.99))));
    if plugin.is_ours() {
        let cost = allocate(node, plugin, bound, &["--interval", "1s", "--no-probe"]).await;
        figures.push(("  CPU with --no-probe, us", format!("{:.1}", cost.cpu)));
    }
    let cost = preferred(node, plugin, bound).await;
    figures.push(("GetPreferredAllocation p50, us", format!("{:.0}", cost.at(0.5))));
    figures.push(("  its CPU, us", format!("{:.1}", cost.cpu)));
    figures.push((
        "Allocate of half of all devices, ms",
        format!("{:.1}", allocate_half(node, plugin, bound).await),
    ));
}

/// Counts system calls up to the first list and per Allocate: lines of strace between two moments. On a node of its own, because a
/// start removes the sockets that a killed process left.
async fn system_calls(plugin: &Plugin, (functions, bound): Size, figures: &mut Figures) {
    let node = &node((functions, bound));
    let log = node.root().join("strace");
    // No regular pass of the monitor falls into the time in which Allocates are counted.
    let served = Served::start(node, plugin, &["--interval", "1h"], Some(&log)).await;
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    served.listed().await;
    let listed = now();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let resource = served.resource();
    served.kubelet.allocate(&resource, &[&[address(0)][..]]).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (first, calls) = (now(), 100);
    for call in 0..calls {
        served.kubelet.allocate(&resource, &[&[address(call % bound)][..]]).await.unwrap();
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
    figures.push(("system calls to the first list", between(0.0, listed).to_string()));
    let each = between(first, last) as f64 / f64::from(calls);
    figures.push(("system calls per Allocate", format!("{each:.1}")));
    if let Some(path) = std::env::var_os("MEASURE_STRACE") {
        let name = if plugin.is_ours() { "strace" } else { "strace.nvidia" };
        fs::copy(&log, PathBuf::from(path).join(format!("{name}.{functions}.{bound}"))).unwrap();
    }
}

/// Measures the time from the holder's end to the list with Healthy.
async fn freed(plugin: &Plugin, size: Size, known: bool) -> String {
    let node = node(size);
    let id = address(3);
    let mut times = Vec::new();
    for _ in 0..10 {
        let vm = node.start_vm(&VmSpec::foreign(&[&id])).unwrap();
        if !known {
            // /proc of another pid namespace does not show the holder either.
            node.delete(&format!("proc/{}", vm.pid())).unwrap();
        }
        let served = Served::start(&node, plugin, &SECOND, None).await;
        served.healthy(&id, false).await;
        // At different phases of the interval.
        tokio::time::sleep(Duration::from_millis(400 + 97 * times.len() as u64)).await;
        let killed = Instant::now();
        vm.kill();
        times.push(millis(served.healthy(&id, true).await.duration_since(killed)));
    }
    let times = sorted(times);
    format!("{:.1} / {:.1}", times[5], times[9])
}

async fn idle(plugin: &Plugin, size: Size, seconds: u64) -> Figures {
    let node = node(size);
    let served = Served::start(&node, plugin, &SECOND, None).await;
    served.listed().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (before, switches) = (served.cpu(), served.status("voluntary_ctxt_switches:"));
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let spent = (served.cpu() - before) as f64 / 1e6 * 60.0 / seconds as f64;
    let switches = served.status("voluntary_ctxt_switches:") - switches;
    let switches = switches as f64 * 60.0 / seconds as f64;
    vec![
        ("idle CPU per minute, interval 1 s, ms", format!("{spent:.2}")),
        ("  wakeups of the main thread", format!("{switches:.0}")),
    ]
}

async fn figures_of(plugin: &Plugin, size: Size) -> Figures {
    let node = node(size);
    let mut figures = Figures::new();
    start_and_memory(&node, plugin, &mut figures).await;
    calls(&node, plugin, size.1, &mut figures).await;
    system_calls(plugin, size, &mut figures).await;
    figures
}

/// Returns the figures of one node with those of an idle plugin.
async fn all_figures_of(plugin: &Plugin, size: Size, seconds: u64) -> Figures {
    let mut figures = figures_of(plugin, size).await;
    figures.extend(idle(plugin, size, seconds).await);
    figures
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut arguments = std::env::args_os().skip(1);
    let usage = || panic!("usage: measure PROGRAM [SECONDS [NVIDIA]]");
    let ours = Plugin::Ours(PathBuf::from(arguments.next().unwrap_or_else(usage)));
    let seconds = arguments.next().map_or(60, |seconds| seconds.to_str().unwrap().parse().unwrap());
    let nvidia = arguments.next().map(|program| Plugin::Nvidia(program.into()));
    // For profiling: one size alone.
    if let Some(bound) = std::env::var("MEASURE_BOUND").ok().and_then(|bound| bound.parse().ok()) {
        let size = (4096, bound);
        if std::env::var_os("MEASURE_ONLY").is_some_and(|only| only == "idle") {
            return print(size, &idle(&ours, size, seconds).await, &Figures::new());
        }
        if std::env::var_os("MEASURE_ONLY").is_some_and(|only| only == "calls") {
            let mut figures = Figures::new();
            system_calls(&ours, size, &mut figures).await;
            return print(size, &figures, &Figures::new());
        }
        let figures = all_figures_of(&ours, size, seconds).await;
        let theirs = match &nvidia {
            Some(nvidia) => all_figures_of(nvidia, size, seconds).await,
            None => Figures::new(),
        };
        return print(size, &figures, &theirs);
    }
    for size in NODES {
        let figures = figures_of(&ours, size).await;
        let theirs = match &nvidia {
            Some(nvidia) => figures_of(nvidia, size).await,
            None => Figures::new(),
        };
        print(size, &figures, &theirs);
    }
    for size in [NODES[0], NODES[2]] {
        let figures = idle(&ours, size, seconds).await;
        let theirs = match &nvidia {
            Some(nvidia) => idle(nvidia, size, seconds).await,
            None => Figures::new(),
        };
        print(size, &figures, &theirs);
    }
    let known = "freed to Healthy, interval 1 s, holder known, ms (median / worst of 10)";
    let unknown = "freed to Healthy, interval 1 s, holder unknown, ms (median / worst of 10)";
    let freed =
        vec![(known, freed(&ours, NODES[0], true).await), (unknown, freed(&ours, NODES[0], false).await)];
    print(NODES[0], &freed, &Figures::new());
    let Plugin::Ours(program) = &ours else { return };
    print(
        NODES[0],
        &vec![("binary, bytes", fs::metadata(program).unwrap().len().to_string())],
        &Figures::new(),
    );
}
