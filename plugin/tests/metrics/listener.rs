//! An address that cannot be used, or is lost, is a problem that ends; the kubelet is served all the same.

use crate::common::{H100, PATIENCE, Serve, expect, is_permitted, kubelet, program, run, wait_for_problem};
use crate::scrape::get;
use rustix::net::Shutdown;
use rustix::process::{
    Pid, PidfdFlags, PidfdGetfdFlags, Resource, Rlimit, getrlimit, pidfd_getfd, pidfd_open, prlimit,
};
use std::ffi::OsStr;
use std::fs;
use std::iter::once;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use vfio_sim_node::Node;

/// Starts `serve` with its log in a file.
fn serve(node: &Node, mut program: Command) -> Serve {
    let log = fs::File::create(node.root().join("log")).unwrap();
    Serve(program.stdin(Stdio::null()).stderr(log).spawn().unwrap())
}

fn log(node: &Node) -> String {
    fs::read_to_string(node.root().join("log")).unwrap()
}

/// Returns a port that is free now.
fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Waits until `serve` answers.
#[track_caller]
fn wait_for_answer(address: SocketAddr) {
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(address).is_err() {
        assert!(Instant::now() < deadline, "nothing listens on {address}");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(get(address, "/healthz").body, "ok\n");
}

#[test]
fn bad_address_is_wrong_usage() {
    let node = Node::new().unwrap();
    for (address, text) in [
        ("localhost:9440", "expected IP:PORT"),
        ("127.0.0.1", "the port is missing"),
        ("::1", "the port is missing"),
        (":70000", "a port is at most 65535"),
    ] {
        let (code, _, errors) = run(&node, &["serve", "--listen", address]);
        assert!(
            code == 64 && errors.contains("--listen <ADDR>") && errors.contains(text),
            "{code}: {errors}"
        );
    }
}

#[tokio::test]
async fn port_in_use_is_a_problem_until_it_is_free() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap();
    let _serve = serve(&node, program(&node, &["serve", "--listen", &address.to_string()]));
    expect(&kubelet, "offered", |state| state.capacity(H100).allocatable == 8).await;
    let found = wait_for_problem(&node, "listen_failed", true);
    assert_eq!(found[0].about, address.to_string());
    assert!(found[0].text.contains("Address already in use"), "{found:?}");
    let (_, doctor, _) = run(&node, &["doctor"]);
    assert!(doctor.contains("Free the port"), "{doctor}");
    kubelet.admit("vm-1", H100, 1).await.unwrap();
    // It is tried several times by now.
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(log(&node).matches("cannot listen").count(), 1, "{}", log(&node));
    drop(other);
    wait_for_answer(address);
    wait_for_problem(&node, "listen_failed", false);
}

#[tokio::test]
async fn address_of_no_interface_is_a_problem() {
    // TEST-NET-1 (RFC 5737).
    is_a_problem("192.0.2.1:9440", "Cannot assign requested address", &[]).await;
}

#[tokio::test]
async fn port_without_permission_is_a_problem() {
    // In a container every port may be allowed. A new network namespace has the kernel's default, which is 1024. It has no
    // address, so the program listens on all.
    let root =
        ["unshare", "--net", "setpriv", "--bounding-set=-net_bind_service", "--inh-caps=-net_bind_service"];
    let other = ["unshare", "--user", "--map-current-user", "--net"];
    let is_root = rustix::process::geteuid().is_root();
    let before = if is_root { &root[..] } else { &other[..] };
    if is_permitted(Command::new(before[0]).args(&before[1..]).arg("true")) {
        is_a_problem("0.0.0.0:1", "Permission denied", before).await;
    }
}

/// Asserts that an address that cannot be used is a problem with that text, and that the kubelet is served meanwhile. `before`
/// are the words before the program's.
async fn is_a_problem(address: &str, text: &str, before: &[&str]) {
    // The node takes CAP_SYS_ADMIN from its thread, and unshare needs it.
    let node = std::thread::spawn(|| Node::with_eight_gpus().unwrap()).join().unwrap();
    let kubelet = kubelet(&node).await;
    let plain = program(&node, &["serve", "--listen", address]);
    let mut words = before.iter().map(OsStr::new).chain(once(plain.get_program())).chain(plain.get_args());
    let mut command = Command::new(words.next().unwrap());
    command.args(words);
    let _serve = serve(&node, command);
    expect(&kubelet, "offered", |state| state.capacity(H100).allocatable == 8).await;
    let found = wait_for_problem(&node, "listen_failed", true);
    assert!(found[0].text.contains(text), "{found:?}");
    kubelet.admit("vm-1", H100, 1).await.unwrap();
}

#[tokio::test]
async fn lost_listener_is_made_again() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let address = free_port();
    let serve = serve(&node, program(&node, &["serve", "--listen", &address.to_string()]));
    expect(&kubelet, "offered", |state| state.capacity(H100).allocatable == 8).await;
    wait_for_answer(address);
    shut_down_listener(&serve);
    let deadline = Instant::now() + PATIENCE;
    while log(&node).matches("listening for metrics").count() < 2 {
        assert!(Instant::now() < deadline, "{}", log(&node));
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(log(&node).matches("cannot listen").count(), 1, "{}", log(&node));
    wait_for_answer(address);
    wait_for_problem(&node, "listen_failed", false);
    kubelet.admit("vm-1", H100, 1).await.unwrap();
}

/// Shuts down the TCP listener of another process: accept(2) fails there with EINVAL from then on.
fn shut_down_listener(serve: &Serve) {
    let pid = Pid::from_child(&serve.0);
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    let entries = fs::read_dir(format!("/proc/{}/fd", serve.0.id())).unwrap().flatten();
    let mut count = 0;
    for entry in entries {
        let number = entry.file_name().to_str().unwrap().parse().unwrap();
        let Ok(copy) = pidfd_getfd(&pidfd, number, PidfdGetfdFlags::empty()) else { continue };
        let is_tcp = rustix::net::sockopt::socket_domain(&copy)
            .is_ok_and(|domain| domain == rustix::net::AddressFamily::INET);
        if is_tcp && rustix::net::sockopt::socket_acceptconn(&copy).unwrap_or(false) {
            rustix::net::shutdown(&copy, Shutdown::Both).unwrap();
            count += 1;
        }
    }
    assert_eq!(count, 1);
}

#[tokio::test]
async fn lack_of_descriptors_ends_by_itself() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let address = free_port();
    let serve = serve(&node, program(&node, &["serve", "--listen", &address.to_string()]));
    expect(&kubelet, "offered", |state| state.capacity(H100).allocatable == 8).await;
    wait_for_answer(address);
    let (pid, before) = (Some(Pid::from_child(&serve.0)), getrlimit(Resource::Nofile));
    let all = Rlimit { maximum: before.maximum, ..before };
    prlimit(pid, Resource::Nofile, Rlimit { current: Some(3), ..all }).unwrap();
    let waiting = std::thread::spawn(move || get(address, "/healthz").body);
    let deadline = Instant::now() + PATIENCE;
    while !log(&node).contains("Too many open files") {
        assert!(Instant::now() < deadline, "{}", log(&node));
        std::thread::sleep(Duration::from_millis(20));
    }
    prlimit(pid, Resource::Nofile, all).unwrap();
    assert_eq!(waiting.join().unwrap(), "ok\n", "the client waited in the queue of the socket");
    wait_for_problem(&node, "listen_failed", false);
    assert_eq!(log(&node).matches("listening for metrics").count(), 1, "the socket was good");
}
