//! What the commands print, on streams that cannot be written, and with texts that a terminal would obey.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail loudly")]

mod common;

use common::{H100, PATIENCE, Serve, list, offered, program, run, wait_for_pod};
use std::fs::File;
use std::io::{BufRead, BufReader, pipe};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Output, Stdio};
use std::time::Instant;
use vfio_sim_node::{Node, VmSpec};

const GPU: &str = "0000:1b:00.0";

/// Every command that prints a result, with its exit code on a node with a foreign holder, without kubelet and `serve`.
const COMMANDS: [(&[&str], i32); 14] = [
    (&["list"], 0),
    (&["list", "--json"], 0),
    (&["who", GPU], 0),
    (&["who", GPU, "--json"], 0),
    (&["who", "52"], 1),
    (&["who", "52", "--json"], 1),
    (&["doctor"], 1),
    (&["doctor", "--json"], 1),
    (&["watch"], 0),
    (&["watch", "--json"], 0),
    (&["completions", "bash"], 0),
    (&["--help"], 0),
    (&["list", "--help"], 0),
    (&["--version"], 0),
];

/// Returns a node whose first GPU is held.
fn node() -> (Node, vfio_sim_node::Vm) {
    let node = Node::with_eight_gpus().unwrap();
    let vm = node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    (node, vm)
}

fn full() -> OwnedFd {
    File::options().write(true).open("/dev/full").unwrap().into()
}

/// Returns streams whose reader has closed them.
fn closed() -> [(&'static str, OwnedFd); 2] {
    let (_, pipe) = pipe().unwrap();
    let (socket, _) = UnixStream::pair().unwrap();
    [("pipe", pipe.into()), ("socket", socket.into())]
}

/// Returns standard errors to which nothing can be written.
fn unwritable() -> [(&'static str, OwnedFd); 2] {
    let [(_, pipe), _] = closed();
    [("full", full()), ("closed", pipe)]
}

/// Returns a command that logs nothing, so that standard error has the command's own lines only.
fn quiet(node: &Node, words: &[&str]) -> Command {
    let mut command = program(node, words);
    command.args(["--log-level", "off"]);
    command
}

fn errors(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Returns the lines of standard error, except those in which `list` says what it lacks.
fn unexpected(text: &str) -> Vec<&str> {
    let lacks = |line: &&str| {
        ["no serve answers", "holders may be missing", "problem of serve"]
            .iter()
            .any(|text| line.contains(text))
    };
    text.lines().filter(|line| !lacks(line)).collect()
}

#[test]
fn closed_pipe_ends_a_command_with_its_own_code() {
    let (node, _vm) = node();
    for (words, code) in COMMANDS {
        for (kind, stdout) in closed() {
            let output = quiet(&node, words).stdout(stdout).output().unwrap();
            let text = errors(&output);
            assert_eq!(output.status.code(), Some(code), "{words:?}, {kind}: {text}");
            assert_eq!(unexpected(&text), [""; 0], "{words:?}, {kind}");
        }
    }
}

#[test]
fn full_disk_is_a_failure_with_one_line() {
    let (node, _vm) = node();
    for (words, _) in COMMANDS {
        let output = quiet(&node, words).stdout(full()).output().unwrap();
        let text = errors(&output);
        assert_eq!(output.status.code(), Some(2), "{words:?}: {text}");
        let expected = "vfio-device-plugin: cannot write to standard output: No space left on device";
        let lines = unexpected(&text);
        assert!(lines.len() == 1 && lines[0].starts_with(expected), "{words:?}: {text}");
    }
}

#[test]
fn unwritable_stderr_changes_no_exit_code_of_a_failed_write() {
    let (node, _vm) = node();
    for (words, code) in COMMANDS {
        for (kind, stderr) in unwritable() {
            let status = quiet(&node, words).stdout(full()).stderr(stderr).status().unwrap();
            assert_eq!(status.code(), Some(2), "{words:?}, {kind}");
        }
        for (kind, stderr) in unwritable() {
            let [(_, stdout), _] = closed();
            let status = quiet(&node, words).stdout(stdout).stderr(stderr).status().unwrap();
            assert_eq!(status.code(), Some(code), "{words:?}, {kind}");
        }
    }
}

#[test]
fn stdout_that_is_not_open_for_writing_is_a_failure() {
    let node = Node::with_eight_gpus().unwrap();
    let read_only = File::open("/dev/null").unwrap();
    let output = program(&node, &["list"]).stdout(read_only).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(errors(&output).contains("cannot write to standard output: Bad file descriptor"));
}

#[test]
fn idle_watch_ends_when_its_reader_goes() {
    let node = Node::with_eight_gpus().unwrap();
    let mut watch = program(&node, &["watch"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let words: Vec<String> = (0..17)
        .map(|_| lines.next().unwrap().unwrap().split_whitespace().next().unwrap_or_default().to_owned())
        .collect();
    let count = |word: &str| words.iter().filter(|known| *known == word).count();
    assert_eq!((count("bound"), count("freed"), words.last().map(String::as_str)), (8, 8, Some("ready")));
    // No device changes from here on.
    drop(lines);
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = watch.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > deadline {
            watch.kill().unwrap();
            watch.wait().unwrap();
            panic!("watch outlives its reader");
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    };
    assert_eq!(status.code(), Some(0));
}

/// Moves the cursor, clears the screen, begins a line of its own, and reverses or hides what follows.
const HOSTILE: &str = "vm\u{1b}[2J\u{9b}31m\r\n\u{202e}\u{200b}x";
const ESCAPED: &str = r"vm\u{1b}[2J\u{9b}31m\r\n\u{202e}\u{200b}x";

#[tokio::test]
async fn pod_name_with_control_characters_is_escaped() {
    let (node, kubelet, _serve) = offered(&[]).await;
    let pod = kubelet.admit_with(HOSTILE, H100, vec![GPU.to_owned()]).await.unwrap();
    // JSON has the true name.
    wait_for_pod(&node, GPU, &format!("default/{HOSTILE}")).await;
    let other = "0000:3d:00.0".to_owned();
    let _vm = node.start_vm(&VmSpec::of_pod(&pod.pod_uid, &[other])).unwrap();
    for words in [&["list"][..], &["doctor"]] {
        let (_, text, _) = run(&node, words);
        assert!(text.contains(&format!("default/{ESCAPED}")), "{words:?}: {text}");
        let unsafe_text = text.chars().any(|c| (c.is_control() && c != '\n') || c == '\u{202e}');
        assert!(!unsafe_text, "{words:?}: {text:?}");
    }
}

#[test]
fn very_long_cells_and_unusual_resources_are_printed() {
    let node = Node::with_eight_gpus().unwrap();
    let serve = Serve::start(&node, &[]);
    let deadline = Instant::now() + PATIENCE;
    while list(&node)[0]["health"].is_null() {
        assert!(Instant::now() < deadline, "serve does not answer");
    }
    let socket = node.run_dir().join("status.sock");
    let mut report = String::new();
    std::io::Read::read_to_string(&mut UnixStream::connect(&socket).unwrap(), &mut report).unwrap();
    drop(serve);
    let _ = std::fs::remove_file(&socket);
    let mut report: serde_json::Value = serde_json::from_str(&report).unwrap();
    report["assignments_known"] = true.into();
    // The longest text that a status may have is 64 KiB; a unit test has longer cells.
    let long = "n".repeat(60_000);
    let device = report["devices"].as_array_mut().unwrap().first_mut().unwrap();
    device["reason"] = format!("{HOSTILE}{long}").into();
    device["resource"] = format!("a.b/{long}").into();
    device["assignment"] =
        serde_json::json!({"namespace": long, "pod": "仮想", "uid": null, "state": "assigned"});
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = std::io::Write::write_all(&mut stream.unwrap(), report.to_string().as_bytes());
        }
    });
    let (code, table, errors) = run(&node, &["list", "--log-level", "off"]);
    assert_eq!((code, unexpected(&errors)), (0, vec![]));
    assert!(table.contains(&long) && table.contains(ESCAPED) && table.contains("仮想"));
    assert!(table.lines().skip(2).all(|line| line.len() < 400), "the other rows are not widened");
    let (code, json, _) = run(&node, &["list", "--json"]);
    let listing: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(code == 0 && listing["devices"][0]["reason"].as_str().unwrap().starts_with(HOSTILE));
}

#[test]
fn unwritable_stderr_changes_no_exit_code() {
    let node = Node::with_eight_gpus().unwrap();
    let file = &*common::write_pools(&node, "pools: [{resource: GPU}]");
    for (words, code) in [
        (&["list"][..], 0),
        (&["ready"], 1),
        (&["who", "nonsense"], 64),
        (&["who", "4711"], 2),
        (&["list", "--pools", file], 64),
        (&["serve", "--pools", file], 64),
        (&["frobnicate"], 64),
    ] {
        for (kind, stderr) in unwritable() {
            let output = program(&node, words).stderr(stderr).output().unwrap();
            assert_eq!(output.status.code(), Some(code), "{words:?}, {kind}");
            assert_eq!(output.stdout.is_empty(), code != 0, "{words:?}, {kind}");
        }
    }
    for level in ["info", "off"] {
        for (kind, stderr) in unwritable() {
            let mut program = Command::new(env!("CARGO_BIN_EXE_vfio-device-plugin"));
            program.args(["serve", "--root", "/nowhere", "--log-level", level]);
            let status = program.stderr(stderr).status().unwrap();
            assert_eq!(status.code(), Some(2), "{level}, {kind}");
        }
    }
}
