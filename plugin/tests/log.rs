//! Standard errors to which nothing can be written: the plugin goes on, and reports what was lost.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail loudly")]

mod common;

use common::{
    H100, PATIENCE, Serve, admit_after_restart, after_shell, expect, health, kubelet, problems, program, run,
    wait_for_problem, write_pools,
};
use rustix::fs::{CWD, FileType, Mode, OFlags, fcntl_setfl, mknodat, open};
use rustix::pipe::pipe;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Action, tcflow};
use serde_json::Value;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use vfio_sim_node::kubelet::AdmitError;
use vfio_sim_node::{Function, Node, VmSpec};

const GPU: &str = "0000:1b:00.0";
const OTHER: &str = "0000:f1:00.0";
const A100: &str = "nvidia.com/20b0";
const NAMED: &str = "example.com/gpu";
const KINDS: [Kind; 7] = [
    Kind::Full,
    Kind::Closed,
    Kind::ReadOnly,
    Kind::WithoutReader,
    Kind::FullPipe,
    Kind::FullNonBlockingPipe,
    Kind::StoppedTerminal,
];

/// A standard error to which nothing can be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// ENOSPC.
    Full,
    /// No descriptor. The runtime of the language opens /dev/null in its place.
    Closed,
    /// EBADF.
    ReadOnly,
    /// EPIPE.
    WithoutReader,
    /// The write blocks.
    FullPipe,
    /// EAGAIN.
    FullNonBlockingPipe,
    /// The write blocks, as after Ctrl-S.
    StoppedTerminal,
}

/// What keeps a kind as it is.
#[derive(Debug)]
struct Kept(#[allow(dead_code, reason = "it is only held")] Vec<OwnedFd>);

impl Kind {
    /// Gives a command this standard error. The result must live as long as the process.
    fn give(self, command: &mut Command) -> Kept {
        let file = |flags| open("/dev/full", flags, Mode::empty()).unwrap();
        let (stderr, kept) = match self {
            Self::Full => (file(OFlags::WRONLY), vec![]),
            Self::Closed | Self::ReadOnly => (file(OFlags::RDONLY), vec![]),
            Self::WithoutReader => (pipe().unwrap().1, vec![]),
            Self::FullPipe | Self::FullNonBlockingPipe => {
                let (reader, writer) = pipe().unwrap();
                fill(&writer);
                if self == Self::FullPipe {
                    fcntl_setfl(&writer, OFlags::empty()).unwrap();
                }
                (writer, vec![reader])
            }
            Self::StoppedTerminal => {
                let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
                grantpt(&master).unwrap();
                unlockpt(&master).unwrap();
                let name = ptsname(&master, Vec::new()).unwrap();
                let slave = open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
                tcflow(&slave, Action::OOff).unwrap();
                (slave, vec![master])
            }
        };
        command.stderr(stderr);
        Kept(kept)
    }

    /// Returns a command that runs the program with this standard error.
    fn program(self, node: &Node, words: &[&str]) -> (Command, Kept) {
        let program = program(node, words);
        let mut command = match self {
            // A shell, because the standard library gives every child a standard error.
            Self::Closed => after_shell("exec 2>&-", &program),
            _ => program,
        };
        let kept = self.give(&mut command);
        command.stdin(Stdio::null());
        (command, kept)
    }
}

/// Fills a pipe to the last byte.
fn fill(writer: &OwnedFd) {
    fcntl_setfl(writer, OFlags::NONBLOCK).unwrap();
    for length in [4096, 1] {
        while rustix::io::write(writer, &vec![b'.'; length]).is_ok() {}
    }
}

/// Lets everything happen that is logged: a kubelet's restart, a refused Allocate, other pools, a new model.
async fn goes_on(kind: Kind) {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let pools = write_pools(&node, "pools: [{select: [{vendor: 10de}]}]");
    let words = ["serve", "--log-level", "debug", "--busy", "advertise", "--pools", &pools];
    let (mut command, _kept) = kind.program(&node, &words);
    let serve = Serve(command.spawn().unwrap());
    let all = |resource| {
        move |state: &vfio_sim_node::kubelet::KubeletState| state.capacity(resource).allocatable == 8
    };
    expect(&kubelet, "offered", all(H100)).await;

    kubelet.restart(true).await.unwrap();
    expect(&kubelet, "registered again", |state| state.registrations_of(H100) > 1 && all(H100)(state)).await;

    let vm = node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    let refused = admit_after_restart(&kubelet, "vm", H100, GPU).await.unwrap_err();
    let AdmitError::Refused(status) = refused else { panic!("{kind:?}: {refused}") };
    assert!(status.message().contains(&format!("held by pid {}", vm.pid())), "{kind:?}: {status}");
    vm.kill();

    write_pools(
        &node,
        "pools: [{resource: example.com/gpu, select: [{device: 2330}]}, {select: [{vendor: 10de}]}]",
    );
    expect(&kubelet, "other pools", all(NAMED)).await;
    node.add(Function::gpu(OTHER, 90, 0).with_device(0x20b0)).unwrap();
    expect(&kubelet, "a new model", |state| health(state, A100, OTHER) == Some(true)).await;

    let deadline = Instant::now() + PATIENCE;
    while run(&node, &["ready"]).0 != 0 {
        assert!(Instant::now() < deadline, "{kind:?}: {}", run(&node, &["ready"]).2);
    }
    let state = kubelet.state();
    assert!(all(NAMED)(&state) && health(&state, A100, OTHER) == Some(true), "{kind:?}: ready is true");
    let lost = problems(&node).iter().any(|problem| problem.code == "log_lines_lost");
    // The other writes have not ended.
    assert_eq!(lost, matches!(kind, Kind::Full | Kind::ReadOnly | Kind::WithoutReader), "{kind:?}");
    let (code, took, _) = serve.terminate();
    assert_eq!(code, 0, "{kind:?}");
    assert!(took < Duration::from_secs(1), "{kind:?}: {took:?}");
}

#[tokio::test]
async fn serve_goes_on_with_a_full_or_closed_stderr() {
    for kind in [Kind::Full, Kind::Closed, Kind::ReadOnly, Kind::WithoutReader] {
        goes_on(kind).await;
    }
}

#[tokio::test]
async fn serve_goes_on_with_a_blocked_stderr() {
    for kind in [Kind::FullPipe, Kind::FullNonBlockingPipe, Kind::StoppedTerminal] {
        goes_on(kind).await;
    }
}

#[test]
fn commands_end_with_their_exit_code_on_any_stderr() {
    let node = Node::with_eight_gpus().unwrap();
    let file = &*write_pools(&node, "pools: [{resource: GPU}]");
    for kind in KINDS {
        for (words, code) in [
            (&["list"][..], 0),
            (&["ready"], 1),
            (&["list", "--pools", file], 64),
            (&["serve", "--pools", file], 64),
            (&["frobnicate"], 64),
        ] {
            let (mut command, kept) = kind.program(&node, words);
            let mut child = command.stdout(Stdio::null()).spawn().unwrap();
            let deadline = Instant::now() + PATIENCE;
            let status = loop {
                if let Some(status) = child.try_wait().unwrap() {
                    break status;
                }
                if Instant::now() > deadline {
                    child.kill().unwrap();
                    panic!("{kind:?}, {words:?}: hangs");
                }
                std::thread::sleep(Duration::from_millis(5));
            };
            assert_eq!(status.code(), Some(code), "{kind:?}, {words:?}");
            drop(kept);
        }
    }
}

#[tokio::test]
async fn lost_lines_are_reported_once_writing_works() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let path = node.root().join("stderr");
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let reader = || open(&path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let first = reader();
    let writer = File::options().write(true).open(&path).unwrap();
    let serve = Serve(program(&node, &["serve"]).stderr(writer).spawn().unwrap());
    expect(&kubelet, "offered", |state| state.capacity(H100).allocatable == 8).await;
    drop(first);
    kubelet.restart(true).await.unwrap();
    expect(&kubelet, "registered again", |state| state.registrations_of(H100) > 1).await;
    let deadline = Instant::now() + PATIENCE;
    let found = wait_for_problem(&node, "log_lines_lost", true);
    assert!(found[0].text.contains("lines were lost"), "{found:?}");
    let (_, out, _) = run(&node, &["doctor"]);
    assert!(out.contains("standard error: ") && out.contains("lines were lost"), "{out}");
    let mut second = File::from(reader());
    kubelet.restart(true).await.unwrap();
    let mut log = String::new();
    while !log.contains("log lines were lost") {
        let mut part = [0; 4096];
        match second.read(&mut part) {
            Ok(length) => log.push_str(&String::from_utf8_lossy(&part[..length])),
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
        assert!(Instant::now() < deadline, "{log}");
    }
    let count = log.split("lost_since_start=").nth(1).unwrap().split_whitespace().next().unwrap();
    assert!(count.parse::<u64>().unwrap() > 0, "{log}");
    // A later line shows that the report was written.
    kubelet.restart(true).await.unwrap();
    wait_for_problem(&node, "log_lines_lost", false);
    assert_eq!(serve.terminate().0, 0);
}

#[tokio::test]
async fn log_is_complete_and_in_order() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let path = node.root().join("log");
    let log = File::create(&path).unwrap();
    let words = ["serve", "--log-level", "debug", "--log-format", "json"];
    let serve = Serve(program(&node, &words).stderr(log).spawn().unwrap());
    expect(&kubelet, "offered", |state| state.capacity(H100).allocatable == 8).await;
    for _ in 0..20 {
        kubelet.allocate(H100, &[&[GPU.to_owned()]]).await.unwrap();
    }
    assert_eq!(serve.terminate().0, 0);
    let text = std::fs::read_to_string(path).unwrap();
    let messages: Vec<String> = text
        .lines()
        .map(|line| {
            serde_json::from_str::<Value>(line).unwrap()["fields"]["message"].as_str().unwrap().to_owned()
        })
        .collect();
    let count = |message: &str| messages.iter().filter(|known| *known == message).count();
    assert_eq!((count("Allocate called"), count("Allocate granted"), count("serving")), (20, 20, 1));
    assert!(messages.iter().position(|message| message == "stopping").unwrap() > messages.len() / 2);
}
