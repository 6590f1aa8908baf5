//! One real process, and the test as the other one: it ends, is silent or sends nonsense at each step.

use crate::common::{H100, PATIENCE, expect, kubelet};
use crate::faults::admits;
use crate::process::{Process, role, wait_until};
use crate::{GPUS, VERSIONS, pod_of};
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};
use vfio_sim_node::Node;

const REQUEST: &str = r#"{"version":1,"message":"request"}"#;
const READY: &str = r#"{"version":1,"message":"ready"}"#;
const REGISTERED: &str = r#"{"version":1,"message":"registered"}"#;
const ENDED: &str = r#"{"version":1,"message":"ended"}"#;

/// A peer that speaks line by line.
struct Peer(BufReader<UnixStream>);

impl Peer {
    /// Connects to the hand-over socket of a process that serves.
    fn connect(node: &Node) -> Self {
        let deadline = Instant::now() + PATIENCE;
        let stream = loop {
            match UnixStream::connect(node.run_dir().join("handover.sock")) {
                Ok(stream) => break stream,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        Self::new(stream)
    }

    /// Connects and asks, again while a hand-over before is coming to its end.
    fn ready(node: &Node) -> Self {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut peer = Self::connect(node);
            let _ = writeln!(peer.0.get_mut(), "{REQUEST}");
            if peer.receive() == READY {
                return peer;
            }
            assert!(Instant::now() < deadline, "it is never ready");
        }
    }

    fn new(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE * 3)).unwrap();
        Self(BufReader::new(stream))
    }

    fn send(&mut self, line: &str) {
        writeln!(self.0.get_mut(), "{line}").unwrap();
    }

    /// Returns the next line; empty after the end.
    fn receive(&mut self) -> String {
        let mut line = String::new();
        let _ = self.0.read_line(&mut line);
        line.trim_end().to_owned()
    }
}

#[tokio::test]
async fn old_process_goes_on_whatever_a_foreign_process_sends() {
    for version in VERSIONS {
        let node = Node::with_eight_gpus().unwrap();
        let kubelet = kubelet(&node).await;
        kubelet.set_version(version);
        let old = Process::start(&node, "old");
        expect(&kubelet, "offered", |state| state.capacity(H100).allocatable == GPUS).await;
        for lines in [
            &[][..],
            &["GET / HTTP/1.1"],
            &[ENDED],
            &[r#"{"version":2,"message":"request"}"#],
            &[REQUEST],
            &[REQUEST, "nonsense"],
            &[REQUEST, r#"{"version":1,"message":"registered","#],
        ] {
            let mut peer = match lines.first() {
                Some(&REQUEST) => Peer::ready(&node),
                _ => Peer::connect(&node),
            };
            for line in lines.iter().filter(|line| **line != REQUEST) {
                let _ = writeln!(peer.0.get_mut(), "{line}");
            }
            let _ = peer.0.get_ref().shutdown(Shutdown::Write);
            assert_eq!(peer.receive(), "", "{lines:?}: the connection is closed");
        }
        expect(&kubelet, "registered again", |state| state.capacity(H100).allocatable == GPUS).await;
        kubelet.admit("vm", H100, 2).await.unwrap();
        assert_eq!(role(&node), ("active".to_owned(), old.pid()));
        assert_eq!(kubelet.state().gaps, 0, "{}", old.log());
    }
}

#[tokio::test]
async fn old_process_hands_over_to_one_at_a_time() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let _old = Process::start(&node, "old");
    expect(&kubelet, "offered", |state| state.capacity(H100).allocatable == GPUS).await;
    let mut first = Peer::connect(&node);
    first.send(REQUEST);
    assert_eq!(first.receive(), READY);
    let mut second = Peer::connect(&node);
    let _ = writeln!(second.0.get_mut(), "{REQUEST}");
    assert_eq!(second.receive(), "");
    kubelet.admit("vm", H100, 2).await.unwrap();
}

#[tokio::test]
async fn old_process_serves_again_if_the_lock_stays_free() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let old = Process::start(&node, "old");
    expect(&kubelet, "offered", |state| state.capacity(H100).allocatable == GPUS).await;
    let mut peer = Peer::connect(&node);
    peer.send(REQUEST);
    assert_eq!(peer.receive(), READY);
    peer.send(REGISTERED);
    assert!(peer.receive().starts_with(r#"{"version":1,"message":"ended""#));
    // It never takes the lock, and keeps the connection open.
    old.wait_for("serving again").await;
    expect(&kubelet, "offered again", |state| state.capacity(H100).allocatable == GPUS).await;
    kubelet.admit("vm", H100, 2).await.unwrap();
    assert_eq!(role(&node), ("active".to_owned(), old.pid()));
}

#[tokio::test]
async fn old_process_keeps_what_it_cannot_write_for_the_new_one() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let old = Process::start(&node, "old");
    expect(&kubelet, "offered", |state| state.capacity(H100).allocatable == GPUS).await;
    // No file replaces a directory.
    let file = node.run_dir().join("assignments.json");
    let _ = std::fs::remove_file(&file);
    std::fs::create_dir(&file).unwrap();
    kubelet.admit("vm-1", H100, 2).await.unwrap();
    let mut peer = Peer::ready(&node);
    peer.send(REGISTERED);
    assert_eq!(peer.receive(), "", "{}", old.log());
    drop(peer);
    old.wait_for("assignments.json could not be written").await;
    admits(&kubelet, || old.log()).await;
    assert_eq!(role(&node), ("active".to_owned(), old.pid()));
    std::fs::remove_dir(&file).unwrap();
    let mut peer = Peer::ready(&node);
    peer.send(REGISTERED);
    assert!(peer.receive().starts_with(r#"{"version":1,"message":"ended""#), "{}", old.log());
    assert!(file.is_file());
}

#[tokio::test]
async fn process_without_the_lock_steps_back_for_the_one_that_has_it() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    // No directory is created in the place of a dangling link.
    let (run_dir, target) = (node.run_dir(), node.root().join("late"));
    std::fs::remove_dir_all(&run_dir).unwrap();
    std::os::unix::fs::symlink(&target, &run_dir).unwrap();
    let process = Process::start(&node, "old");
    expect(&kubelet, "offered", |state| state.capacity(H100).allocatable == GPUS).await;
    let prepared = node.root().join("prepared");
    std::fs::create_dir(&prepared).unwrap();
    let lock = Giver::lock(&prepared);
    std::fs::rename(&prepared, &target).unwrap();
    process.wait_for("stepping back").await;
    expect(&kubelet, "its servers have ended", |state| state.capacity(H100).allocatable == 0).await;
    let giver = Giver { lock, listener: UnixListener::bind(run_dir.join("handover.sock")).unwrap() };
    assert_eq!(giver.accept().await.receive(), REQUEST);
    drop(giver);
    expect(&kubelet, "offered again", |state| state.capacity(H100).allocatable == GPUS).await;
    assert_eq!(role(&node), ("active".to_owned(), process.pid()));
}

#[tokio::test]
async fn new_process_keeps_what_a_killed_one_had_not_written() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let file = node.run_dir().join("assignments.json");
    let old = Process::start(&node, "old");
    expect(&kubelet, "offered", |state| state.capacity(H100).allocatable == GPUS).await;
    let first = kubelet.admit("vm-1", H100, 2).await.unwrap().pod_uid;
    wait_until(|| old.log(), || pod_of(&node, &first).len() == 2).await;
    old.signal(rustix::process::Signal::STOP);
    let written = std::fs::read(&file).unwrap();
    assert!(String::from_utf8_lossy(&written).contains(&first));
    old.signal(rustix::process::Signal::CONT);
    let second = kubelet.admit("vm-2", H100, 2).await.unwrap().pod_uid;
    drop(old);
    std::fs::write(&file, written).unwrap();
    let _ = std::fs::remove_file(node.run_dir().join("handover.sock"));
    let giver = Giver::new(&node);
    let new = Process::start(&node, "new");
    let mut peer = giver.accept().await;
    assert_eq!(peer.receive(), REQUEST);
    peer.send(READY);
    new.wait_for("registrations failed on purpose").await;
    // Nothing shows the second pod from here on.
    drop(kubelet);
    std::fs::remove_file(node.kubelet_dir().join("kubelet_internal_checkpoint")).unwrap();
    drop((peer, giver));
    new.wait_for("going on alone").await;
    wait_until(|| new.log(), || role(&node).0 == "active").await;
    for pod in [first, second] {
        assert_eq!(pod_of(&node, &pod).len(), 2, "{pod}\n{}", new.log());
    }
}

/// The test as a process that serves: it has the lock and listens.
struct Giver {
    lock: File,
    listener: UnixListener,
}

impl Giver {
    fn new(node: &Node) -> Self {
        std::fs::create_dir_all(node.run_dir()).unwrap();
        let lock = Self::lock(&node.run_dir());
        Self { lock, listener: UnixListener::bind(node.run_dir().join("handover.sock")).unwrap() }
    }

    fn lock(run_dir: &Path) -> File {
        let lock = File::create(run_dir.join("serve.lock")).unwrap();
        flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
        lock
    }

    async fn accept(&self) -> Peer {
        self.listener.set_nonblocking(true).unwrap();
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false).unwrap();
                    return Peer::new(stream);
                }
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test]
async fn new_process_waits_whatever_the_lock_holder_sends() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let giver = Giver::new(&node);
    let new = Process::start(&node, "new");
    for answer in ["nonsense", ENDED, ""] {
        let mut peer = giver.accept().await;
        assert_eq!(peer.receive(), REQUEST);
        peer.send(answer);
        assert_eq!(peer.receive(), "", "{answer:?}: the connection is closed");
        assert_eq!(kubelet.state().registrations_of(H100), 0, "{answer:?}");
    }
    new.wait_for("waiting for the process that serves").await;
    drop(giver.lock);
    expect(&kubelet, "offered", |state| state.capacity(H100).allocatable == GPUS).await;
    kubelet.admit("vm", H100, 2).await.unwrap();
}

#[tokio::test]
async fn new_process_answers_and_writes_nothing_without_the_lock() {
    for version in VERSIONS {
        let node = Node::with_eight_gpus().unwrap();
        let kubelet = kubelet(&node).await;
        kubelet.set_version(version);
        let giver = Giver::new(&node);
        let new = Process::start(&node, "new");
        let mut peer = giver.accept().await;
        assert_eq!(peer.receive(), REQUEST);
        peer.send(READY);
        expect(&kubelet, "registered", |state| state.capacity(H100).allocatable == GPUS).await;
        let peer = tokio::task::spawn_blocking(move || {
            assert_eq!(peer.receive(), REGISTERED);
            peer
        });
        let peer = peer.await.unwrap();
        let mut allocate = Box::pin(kubelet.admit("vm", H100, 2));
        let waits = tokio::time::timeout(Duration::from_millis(500), &mut allocate).await;
        assert!(waits.is_err(), "{version:?}: it answers without the lock");
        assert!(
            !node.run_dir().join("assignments.json").exists() && !node.run_dir().join("status.sock").exists()
        );
        assert!(!node.run_dir().join("health.json").exists());
        // The giver leaves and keeps the lock: it goes on. So the new process ends its servers, and asks again.
        drop(peer);
        new.wait_for("hand-over: withdrew").await;
        assert!(allocate.await.is_err());
        let mut peer = giver.accept().await;
        assert_eq!(peer.receive(), REQUEST);
        // The giver is gone: the new process goes on alone.
        peer.send(READY);
        drop((peer, giver));
        admits(&kubelet, || new.log()).await;
        assert_eq!(role(&node), ("active".to_owned(), new.pid()));
        assert!(node.run_dir().join("assignments.json").exists());
    }
}
