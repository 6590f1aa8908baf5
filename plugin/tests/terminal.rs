//! Tables and lines on a terminal: they fit its width, and `--wide` shows all. A pty is the terminal.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail loudly")]

mod common;

use common::{H100, PATIENCE, Serve, offered, program};
use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Instant;
use unicode_width::UnicodeWidthStr;
use vfio_sim_node::{Kubelet, Node, Vm, VmSpec};

const GPU: &str = "0000:1b:00.0";
/// The name of a pod.
const NAME: &str = "仮想機械x";

/// Returns both ends of a terminal that has so many columns.
fn terminal(columns: u16) -> (OwnedFd, OwnedFd) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let terminal = open(name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    resize(&master, columns);
    (master, terminal)
}

fn resize(master: &OwnedFd, columns: u16) {
    tcsetwinsize(master, Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
}

/// Returns the lines that a terminal shows, without its line breaks. They end when no process has the terminal open.
fn lines(master: OwnedFd) -> impl Iterator<Item = String> {
    let lines = BufReader::new(File::from(master)).lines();
    // EIO: the other end is closed.
    lines.map_while(Result::ok).map(|line| line.trim_end_matches('\r').to_owned())
}

/// Runs a command on a terminal. Returns its lines.
fn on_terminal(mut command: Command, columns: u16) -> Vec<String> {
    let (master, terminal) = terminal(columns);
    let mut child = command.stdin(Stdio::null()).stdout(terminal).spawn().unwrap();
    // The command has the terminal open, too.
    drop(command);
    let lines = lines(master).collect();
    assert!(child.wait().unwrap().success());
    lines
}

/// Returns a command in which COLUMNS is not set.
fn command(node: &Node, words: &[&str]) -> Command {
    let mut command = program(node, words);
    command.env_remove("COLUMNS").stderr(Stdio::null());
    command
}

/// Returns a node whose first GPU is held by a process and whose second one is assigned to a pod with a name of wide characters.
async fn node() -> (Node, Kubelet, Serve, Vm) {
    let (node, kubelet, serve) = offered(&[]).await;
    let vm = node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    kubelet.admit_with(NAME, H100, vec!["0000:3d:00.0".to_owned()]).await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    while ["Unhealthy", NAME].iter().any(|word| !plain(&node).contains(word)) {
        assert!(Instant::now() < deadline, "{}", plain(&node));
    }
    (node, kubelet, serve, vm)
}

/// Returns what `list` prints without a terminal.
fn plain(node: &Node) -> String {
    String::from_utf8(command(node, &["list"]).output().unwrap().stdout).unwrap()
}

#[tokio::test]
async fn list_fits_the_terminal() {
    let (node, _kubelet, _serve, vm) = node().await;
    let note = format!("held by pid {}", vm.pid());
    let plain = plain(&node);
    for columns in [40, 80, 120] {
        let shown = on_terminal(command(&node, &["list"]), columns);
        for line in &shown {
            assert!(line.width() <= columns.into(), "{columns}: {line}");
        }
        assert!(shown.iter().any(|line| line.contains(GPU) && line.contains("held")), "{shown:#?}");
        assert_eq!(on_terminal(command(&node, &["list", "--wide"]), columns).join("\n") + "\n", plain);
    }
    let at_40 = on_terminal(command(&node, &["list"]), 40);
    assert!(at_40.iter().any(|line| line.starts_with(GPU) && line.ends_with('…')), "{at_40:#?}");
    assert!(at_40.last().unwrap().starts_with("--wide also shows GROUP, NUMA, "), "{at_40:#?}");
    let at_120 = on_terminal(command(&node, &["list"]), 120);
    assert!(at_120.iter().any(|line| line.contains(&note)), "{at_120:#?}");
    assert!(at_120.iter().any(|line| line.contains(&format!("default/{NAME}"))), "{at_120:#?}");
}

#[tokio::test]
async fn output_without_a_terminal_is_not_shortened() {
    let (node, _kubelet, _serve, _vm) = node().await;
    let mut list = command(&node, &["list"]);
    let whole = list.output().unwrap().stdout;
    assert_eq!(list.env("COLUMNS", "40").output().unwrap().stdout, whole);
    let narrow = command(&node, &["list", "--columns", "60"]).output().unwrap().stdout;
    let narrow = String::from_utf8(narrow).unwrap();
    assert!(narrow.contains('…') && narrow.lines().all(|line| line.width() <= 60), "{narrow}");
    for number in ["0", "-1", "wide", "99999999999999999999"] {
        let output = command(&node, &["list", &format!("--columns={number}")]).output().unwrap();
        assert_eq!((output.status.code(), &*output.stdout), (Some(64), &b""[..]), "{number}");
    }
    // A terminal without a size, such as a serial console, and a variable that is no width.
    for variable in ["", "0", "-1", "wide", "99999999999999999999"] {
        let mut list = command(&node, &["list"]);
        list.env("COLUMNS", variable);
        assert_eq!(on_terminal(list, 0).join("\n") + "\n", String::from_utf8(whole.clone()).unwrap());
    }
}

#[tokio::test]
async fn columns_variable_wins_over_the_terminal() {
    let (node, _kubelet, _serve, _vm) = node().await;
    let mut list = command(&node, &["list"]);
    list.env("COLUMNS", "60");
    let shown = on_terminal(list, 200);
    assert!(shown.iter().all(|line| line.width() <= 60), "{shown:#?}");
    assert_eq!(shown, on_terminal(command(&node, &["list"]), 60));
}

#[test]
fn who_fits_the_terminal() {
    let node = Node::with_eight_gpus().unwrap();
    let uid = "4b5a1c7e-5b0a-4a57-9d3a-0123456789ab";
    let vm = node.start_vm(&VmSpec::of_pod(uid, &[GPU.to_owned()])).unwrap();
    for columns in [40, 80, 120] {
        let shown = on_terminal(command(&node, &["who", GPU]), columns);
        assert!(shown.iter().all(|line| line.width() <= columns.into()), "{columns}: {shown:#?}");
        assert!(shown.iter().any(|line| line.starts_with(&vm.pid().to_string())), "{shown:#?}");
    }
    let at_80 = on_terminal(command(&node, &["who", GPU]), 80);
    assert!(at_80.iter().any(|line| line.contains(uid) && line.ends_with('…')), "{at_80:#?}");
    let wide = on_terminal(command(&node, &["who", GPU, "--wide"]), 40);
    assert!(wide.iter().any(|line| line.contains(uid) && line.len() > 120), "{wide:#?}");
}

#[test]
fn watch_follows_the_width_of_the_terminal() {
    let node = Node::with_eight_gpus().unwrap();
    let (master, terminal) = terminal(200);
    let size = rustix::io::dup(&master).unwrap();
    let mut command = command(&node, &["watch"]);
    let mut watch = command.stdin(Stdio::null()).stdout(terminal).spawn().unwrap();
    drop(command);
    let (sender, received) = mpsc::channel();
    std::thread::spawn(move || lines(master).try_for_each(|line| sender.send(line)));
    let next = |word: &str| loop {
        let line = received.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no event {word}"));
        if line.starts_with(word) && line.contains(GPU) {
            break line;
        }
    };
    next("bound");
    let hold = |columns| {
        resize(&size, columns);
        let vm = node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
        let line = next("held");
        vm.kill();
        next("freed");
        line
    };
    let whole = hold(200);
    assert!(whole.contains("(qemu-system-x86)"), "{whole}");
    let short = hold(40);
    assert!(short.width() <= 40 && short.ends_with('…'), "{short}");
    assert!(hold(120).contains("(qemu-system-x86)"));
    watch.kill().unwrap();
    watch.wait().unwrap();
}
