//! What `/metrics`, `/healthz` and `/readyz` answer, and to whom.

use crate::common::{H100, PATIENCE, Serve, expect, kubelet, program, run};
use crate::scrape::{Served, get, request};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Stdio;
use std::time::{Duration, Instant};
use vfio_sim_node::{Kubelet, Node};

/// Longer than the longest life of a connection.
const LONG: Duration = Duration::from_secs(60);

fn connect(address: SocketAddr, text: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream.write_all(text.as_bytes()).unwrap();
    stream
}

/// Waits until the server closes a connection. Returns what it sent.
#[track_caller]
fn until_closed(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    match stream.read_to_end(&mut text) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn paths_and_methods_are_answered_as_http_says() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let served = Served::start(&node, &[]);
    expect(&kubelet, "offered", |state| state.capacity(H100).allocatable == 8).await;
    for path in ["/", "/metric", "/metrics/", "/healthz/x", "//metrics", "/favicon.ico"] {
        let answer = get(served.address, path);
        assert_eq!(
            (answer.status, answer.body.contains("/metrics, /healthz and /readyz")),
            (404, true),
            "{path}"
        );
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"] {
        let text = format!("{method} /metrics HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\nabc");
        let answer = request(served.address, &text);
        assert_eq!((answer.status, answer.head.contains("allow: get, head")), (405, true), "{method}");
    }
    for path in ["/metrics", "/metrics?name[]=x", "/healthz", "/readyz"] {
        let whole = get(served.address, path);
        let head = request(served.address, &format!("HEAD {path} HTTP/1.1\r\nHost: test\r\n\r\n"));
        assert_eq!((whole.status, head.status, head.body.as_str()), (200, 200, ""), "{path}");
        assert!(head.head.contains("content-length: ") && !whole.body.is_empty(), "{path}: {}", head.head);
        assert!(whole.head.contains("connection: close"), "{}", whole.head);
    }
    // A client of HTTP/1.0, and one without a Host.
    assert_eq!(request(served.address, "GET /healthz HTTP/1.0\r\n\r\n").body, "ok\n");
    assert_eq!(request(served.address, "GET /healthz HTTP/1.1\r\n\r\n").status, 200);
}

#[tokio::test]
async fn probes_agree_with_the_command_ready() {
    let node = Node::with_eight_gpus().unwrap();
    let served = Served::start(&node, &[]);
    let probes = || (get(served.address, "/healthz"), get(served.address, "/readyz"));
    let deadline = Instant::now() + PATIENCE;
    let unregistered = format!("not ready: {H100} is not registered with the kubelet\n");
    while probes().1.body != unregistered {
        assert!(Instant::now() < deadline, "{:?}", probes());
    }
    let (live, ready) = probes();
    assert_eq!((live.status, live.body.as_str(), ready.status), (200, "ok\n", 503));
    let exit = |words: &[&str]| run(&node, words).0;
    assert_eq!((exit(&["ready", "--live"]), exit(&["ready"])), (0, 1));
    let kubelet = Kubelet::stopped(&node.kubelet_dir(), &node.pod_resources_socket());
    kubelet.run().await.unwrap();
    expect(&kubelet, "offered", |state| state.capacity(H100).allocatable == 8).await;
    while probes().1.status != 200 {
        assert!(Instant::now() < deadline, "{:?}", probes());
    }
    assert_eq!((exit(&["ready", "--live"]), exit(&["ready"])), (0, 0));
}

#[tokio::test]
async fn malformed_and_oversized_requests_end_their_connection_alone() {
    let node = Node::with_eight_gpus().unwrap();
    let served = Served::start(&node, &[]);
    let long = "x".repeat(64 << 10);
    let many: String = (0..500).map(|number| format!("X-{number}: y\r\n")).collect();
    let cases = [
        "\0\0\0\0\r\n\r\n".to_owned(),
        "GET\r\n\r\n".to_owned(),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        format!("GET /{long} HTTP/1.1\r\nHost: test\r\n\r\n"),
        format!("GET /metrics HTTP/1.1\r\nHost: test\r\nX-Long: {long}\r\n\r\n"),
        format!("GET /metrics HTTP/1.1\r\nHost: test\r\n{many}\r\n"),
    ];
    for text in cases {
        let mut stream = TcpStream::connect(served.address).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        // The server may close before it has read all.
        let _ = stream.write_all(text.as_bytes());
        let answer = until_closed(&mut stream);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{text:.40}: {answer}");
    }
    assert_eq!(get(served.address, "/healthz").status, 200);
}

#[tokio::test]
async fn idle_and_slow_clients_are_disconnected() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let served = Served::start(&node, &[]);
    expect(&kubelet, "offered", |state| state.capacity(H100).allocatable == 8).await;
    let mut idle = connect(served.address, "");
    let mut slow = connect(served.address, "GET /metrics HTTP/1.1\r\nX-Slow: ");
    let dripping = {
        let mut stream = slow.try_clone().unwrap();
        std::thread::spawn(move || {
            while stream.write_all(b"x").is_ok() {
                std::thread::sleep(Duration::from_millis(200));
            }
        })
    };
    // One that reads nothing holds the answer back.
    let mut deaf = connect(served.address, "GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!((until_closed(&mut idle), until_closed(&mut slow)), (String::new(), String::new()));
    until_closed(&mut deaf);
    dripping.join().unwrap();
}

#[tokio::test]
async fn many_idle_clients_make_room_and_delay_no_allocate() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let served = Served::start(&node, &[]);
    expect(&kubelet, "offered", |state| state.capacity(H100).allocatable == 8).await;
    let before = sockets(&served.serve);
    let mut idle: Vec<TcpStream> = (0..60).map(|_| connect(served.address, "GET /met")).collect();
    let pod = kubelet.admit("vm-1", H100, 1).await.unwrap();
    assert_eq!(get(served.address, "/healthz").status, 200, "a new client is answered");
    let (now, few) = (sockets(&served.serve), before + 20);
    assert!(now <= few, "{now} sockets after {before}: more than 16 clients are connected");
    assert_eq!(until_closed(&mut idle[0]), "", "the oldest was closed");
    kubelet.remove(&pod.pod_uid);
}

/// Returns how many sockets a process has open.
fn sockets(serve: &Serve) -> usize {
    let entries = std::fs::read_dir(format!("/proc/{}/fd", serve.0.id())).unwrap().flatten();
    let links = entries.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    links.filter(|link| link.to_string_lossy().starts_with("socket:")).count()
}

/// Returns the names of a process' threads.
fn threads(serve: &Serve) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", serve.0.id())).unwrap().flatten();
    tasks.map(|task| std::fs::read_to_string(task.path().join("comm")).unwrap().trim().to_owned()).collect()
}

#[tokio::test]
async fn without_the_option_nothing_listens() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let mut program = program(&node, &["serve"]);
    // An empty variable counts as not set.
    program.env("VFIO_DEVICE_PLUGIN_LISTEN", "");
    let serve = Serve(program.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    expect(&kubelet, "offered", |state| state.capacity(H100).allocatable == 8).await;
    assert!(!threads(&serve).contains(&"http".to_owned()), "{:?}", threads(&serve));
    drop(serve);
    let served = Served::start(&node, &[]);
    assert!(threads(&served.serve).contains(&"http".to_owned()), "{:?}", threads(&served.serve));
}
