//! Tests of `serve` with a node and a kubelet.

use super::*;
use crate::cli::Cli;
use crate::handover::lock::Lock;
use crate::status::client;
use clap::Parser;
use std::future::pending;
use std::path::PathBuf;
use std::time::Instant;
use vfio_sim_node::Node;

const PATIENCE: Duration = Duration::from_secs(10);

/// Returns the configuration for a simulated node.
fn config(node: &Node) -> Config {
    let path = |path: PathBuf| path.to_str().unwrap().to_owned();
    let mut config = Cli::parse_from([
        "vfio-device-plugin".to_owned(),
        "--interval=50ms".to_owned(),
        "--pci-ids=/dev/null".to_owned(),
        format!("--root={}", path(node.root().to_owned())),
        format!("--kubelet-dir={}", path(node.kubelet_dir())),
        format!("--pod-resources={}", path(node.pod_resources_socket())),
        format!("--run-dir={}", path(node.run_dir())),
        format!("--cdi-dir={}", path(node.root().join("cdi"))),
    ])
    .config;
    config.read_pools().unwrap();
    config
}

/// Waits until a file exists.
async fn exists(path: PathBuf) {
    while !path.exists() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Runs `serve` without another process.
async fn serve_once(
    config: &Config,
    supervisor: &Supervisor,
    failures: Failures,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<Next> {
    serve(config, supervisor, failures, &Reload::new(), Before::Started, stop).await
}

#[tokio::test]
async fn serve_fails_when_a_task_panics_while_it_waits() {
    let node = Node::with_eight_gpus().unwrap();
    let (supervisor, failures) = Supervisor::with_fault("the status socket of the process");
    let config = config(&node);
    let _lock = Lock::try_take(&config.run_dir).unwrap().unwrap();
    let end = timeout(PATIENCE, serve_once(&config, &supervisor, failures, pending())).await;
    let error = end.unwrap().err().unwrap().to_string();
    assert!(error.starts_with("the status socket of the process panicked: injected"), "{error}");
}

/// Runs `serve` with one task or thread that panics. Returns the error.
async fn failure_of(name: &'static str) -> String {
    let node = Node::with_eight_gpus().unwrap();
    let (supervisor, failures) = Supervisor::with_fault(name);
    let config = config(&node);
    let end = timeout(PATIENCE, serve_once(&config, &supervisor, failures, pending())).await;
    end.unwrap_or_else(|_| panic!("serve goes on without {name}")).err().unwrap().to_string()
}

#[tokio::test]
async fn serve_fails_when_a_task_panics() {
    for name in [
        "the watch of the kubelet's directory",
        "the assignments' poller",
        "the status server",
        "the publisher",
        "resource nvidia.com/2330",
    ] {
        let expected = format!("{name} panicked: injected; stopped, to be started again");
        assert_eq!(failure_of(name).await, expected);
    }
}

#[tokio::test]
async fn serve_fails_when_the_monitor_thread_panics() {
    let error = failure_of("monitor").await;
    assert!(error.starts_with("the monitor thread panicked: "), "{error}");
}

#[tokio::test]
async fn serve_fails_when_an_unsupervised_thread_panics() {
    let expected = "the bystander thread panicked: gave up; stopped, to be started again";
    let deadline = Instant::now() + PATIENCE;
    loop {
        let node = Node::with_eight_gpus().unwrap();
        let config = config(&node);
        let run_dir = config.run_dir.clone();
        let work = move || {
            while client::fetch(&run_dir, PATIENCE).is_err() {
                std::thread::sleep(Duration::from_millis(10));
            }
            panic!("gave up");
        };
        std::thread::Builder::new().name("bystander".to_owned()).spawn(work).unwrap();
        let end = timeout(PATIENCE, serve_until_any_panic(&config, &Reload::new(), pending())).await;
        let error = end.expect("serve goes on after the panic").unwrap_err().to_string();
        if error == expected {
            return;
        }
        // Another test has panicked meanwhile.
        assert!(Instant::now() < deadline, "{error}");
    }
}

#[tokio::test]
async fn serve_fails_when_the_monitor_thread_ends() {
    let node = Node::with_eight_gpus().unwrap();
    let (supervisor, mut failures) = Supervisor::new();
    let status = ProcessStatus::new(RoleWord::Waiting, String::new());
    let (parts, _gate) = parts::start(&config(&node), &supervisor, &status, true).await.unwrap();
    parts.monitor.stop();
    let failure = timeout(PATIENCE, failures.first()).await.unwrap();
    assert_eq!(failure.to_string(), "the monitor thread ended unexpectedly");
    supervisor.stop();
    timeout(PATIENCE, supervisor.ended()).await.unwrap();
}

#[tokio::test]
async fn lock_is_held_until_all_tasks_have_ended() {
    let node = Node::with_eight_gpus().unwrap();
    let (supervisor, failures) = Supervisor::new();
    let config = config(&node);
    let (stopping, run_dir) = (supervisor.child_token(), config.run_dir.clone());
    let (sender, was_held) = tokio::sync::oneshot::channel();
    supervisor.task_until("the last Allocate", stopping.clone(), async move {
        stopping.cancelled().await;
        let _ = sender.send(Lock::try_take(&run_dir).unwrap().is_none());
    });
    let stop = exists(config.run_dir.join("handover.sock"));
    timeout(PATIENCE, serve_once(&config, &supervisor, failures, stop)).await.unwrap().unwrap();
    assert!(was_held.await.unwrap());
    assert!(Lock::try_take(&config.run_dir).unwrap().is_some());
}

#[tokio::test]
async fn stop_ends_serve_without_error_and_removes_sockets() {
    let node = Node::with_eight_gpus().unwrap();
    let (supervisor, failures) = Supervisor::new();
    let config = config(&node);
    let stop = exists(config.run_dir.join("status.sock"));
    let next = timeout(PATIENCE, serve_once(&config, &supervisor, failures, stop)).await.unwrap().unwrap();
    assert!(matches!(next, Next::Exit));
    assert!(!config.run_dir.join("status.sock").exists());
}
