//! The program `vfio-sim-node`: help, exit codes, orders, and what `exec` changes.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test's helper may fail loudly")]

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileTypeExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use vfio_sim_node::capabilities::has_sys_admin;

const PROGRAM: &str = env!("CARGO_BIN_EXE_vfio-sim-node");
const FIRST: &str = "0000:1b:00.0";

fn run(words: &[&str]) -> Output {
    Command::new(PROGRAM).args(words).stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A running `serve`.
struct Served {
    child: Child,
    orders: ChildStdin,
    replies: BufReader<ChildStdout>,
    root: String,
}

impl Served {
    fn start(options: &[&str]) -> Self {
        let mut command = Command::new(PROGRAM);
        command
            .arg("serve")
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let orders = child.stdin.take().unwrap();
        let replies = BufReader::new(child.stdout.take().unwrap());
        let mut served = Self { child, orders, replies, root: String::new() };
        served.root = served.reply()["root"].as_str().unwrap().to_owned();
        served
    }

    fn reply(&mut self) -> serde_json::Value {
        let mut line = String::new();
        self.replies.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    fn order(&mut self, json: &str) -> serde_json::Value {
        writeln!(self.orders, "{json}").unwrap();
        self.reply()
    }

    /// Ends the node and returns what it has written to standard error.
    fn end(self) -> String {
        drop(self.orders);
        let output = self.child.wait_with_output().unwrap();
        assert!(output.status.success());
        text(&output.stderr)
    }
}

#[test]
fn help_and_version_are_results() {
    for words in [&["--help"][..], &["-h"], &["help"], &["serve", "--help"]] {
        let output = run(words);
        assert_eq!(output.status.code(), Some(0), "{words:?}");
        for word in ["serve", "exec", "--eight-gpus", "CAP_SYS_ADMIN", "Exit codes"] {
            assert!(text(&output.stdout).contains(word), "{words:?}: {word}");
        }
    }
    assert_eq!(text(&run(&["--version"]).stdout), format!("vfio-sim-node {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_usage_exits_with_64_and_names_the_help() {
    for (words, expected) in [
        (&[][..], "vfio-sim-node: a command is missing; see vfio-sim-node --help\n"),
        (&["sever"], "vfio-sim-node: no such command: sever; see vfio-sim-node --help\n"),
        (&["serve", "--gpus"], "vfio-sim-node: no such option: --gpus; see vfio-sim-node --help\n"),
        (&["exec"], "vfio-sim-node: exec needs a PROGRAM; see vfio-sim-node --help\n"),
    ] {
        let output = run(words);
        assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(64), expected));
    }
}

#[test]
fn exec_searches_path_and_exits_as_the_program_does() {
    assert_eq!(text(&run(&["exec", "echo", "on", "PATH"]).stdout), "on PATH\n");
    assert_eq!(run(&["exec", "sh", "-c", "exit 3"]).status.code(), Some(3));
    assert_eq!(run(&["exec", "no-such-program"]).status.code(), Some(127));
    let denied = run(&["exec", "/etc/passwd"]);
    assert_eq!(denied.status.code(), Some(126));
    assert!(text(&denied.stderr).starts_with("vfio-sim-node: cannot run /etc/passwd: "));
}

#[test]
fn program_run_by_exec_gets_ebusy_of_a_held_group() {
    let mut node = Served::start(&["--eight-gpus"]);
    let open = format!(": <>{}/dev/vfio/51", node.root);
    assert!(run(&["exec", "bash", "-c", &open]).status.success());
    let vm = node.order(&format!(r#"{{"start_vm":{{"addresses":["{FIRST}"]}}}}"#));
    let refused = run(&["exec", "bash", "-c", &open]);
    assert!(!refused.status.success() && text(&refused.stderr).contains("busy"), "{refused:?}");
    assert_eq!(node.order(&format!(r#"{{"kill_vm":{{"pid":{}}}}}"#, vm["pid"])), serde_json::json!({}));
    assert!(run(&["exec", "bash", "-c", &open]).status.success());
    node.end();
}

/// The sentence is about the caller's capability, so that a user without it is not bothered.
#[test]
fn what_root_cannot_see_is_said_to_root_only() {
    let said = Served::start(&["--eight-gpus"]).end();
    if has_sys_admin().unwrap() {
        assert!(
            said.contains("they see held groups as free") && said.contains("vfio-sim-node exec"),
            "{said}"
        );
    }
    // Without the capability, also for root.
    assert_eq!(text(&run(&["exec", PROGRAM, "serve"]).stderr), "");
}

#[test]
fn options_of_the_kernel_may_follow_the_devices() {
    let node = Served::start(&["--eight-gpus", "--cdevs"]);
    let nodes = std::fs::read_dir(format!("{}/dev/vfio/devices", node.root)).unwrap();
    assert_eq!(nodes.count(), 8);
    node.end();
}

#[test]
fn order_that_fails_is_an_error_and_the_next_one_works() {
    let mut node = Served::start(&[]);
    for (order, expected) in [
        ("{", "EOF while parsing"),
        (r#"{"start":{}}"#, "unknown variant `start`"),
        (r#"{"kill_vm":{"pid":1}}"#, "1 is not the pid of a VM of this node"),
        (r#"{"read":{"path":"../etc/passwd"}}"#, "not a path inside the tree"),
    ] {
        let reply = node.order(order);
        assert!(reply["error"].as_str().unwrap().contains(expected), "{reply}");
    }
    node.order(r#"{"write":{"path":"sys/new","content":"1"}}"#);
    assert_eq!(node.order(r#"{"read":{"path":"sys/new"}}"#)["content"], "1");
    node.end();
}

#[test]
fn directory_is_removed_when_the_input_ends() {
    let node = Served::start(&["--eight-gpus"]);
    let root = node.root.clone();
    assert!(std::fs::metadata(format!("{root}/dev/vfio/51")).unwrap().file_type().is_char_device());
    node.end();
    assert!(!std::path::Path::new(&root).exists());
}
