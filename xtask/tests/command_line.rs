//! The program: exit statuses and messages that `./verify` promises.

#![allow(clippy::unwrap_used, missing_docs, reason = "tests may panic")]

use std::process::{Command, Output};

fn xtask(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_xtask")).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn list_prints_each_step_on_a_line() {
    let output = xtask(&["verify", "--list"]);
    let names = text(&output.stdout);
    assert!(output.status.success());
    assert_eq!(names.lines().next(), Some("format"));
    assert!(names.lines().any(|name| name == "plugin in a VM with VFIO"));
    assert!(text(&xtask(&["verify", "--quick", "--list"]).stdout).lines().all(|name| !name.contains("VM")));
}

#[test]
fn unknown_step_fails_before_anything_runs() {
    let output = xtask(&["verify", "format", "nonsense"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stderr), "error: no step has such a name: nonsense; see ./verify --list\n");
    assert_eq!(text(&output.stdout), "");
}

#[test]
fn unknown_option_has_status_2() {
    let output = xtask(&["verify", "--nonsense"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(text(&output.stderr), "verify: unknown option --nonsense; see ./verify --help\n");
}

#[test]
fn help_names_every_option() {
    let output = xtask(&["verify", "--help"]);
    assert!(output.status.success());
    for option in ["--quick", "--verbose", "--list", "--help"] {
        assert!(text(&output.stdout).contains(option), "{option}");
    }
}

#[test]
fn unknown_task_has_status_2() {
    let output = xtask(&["nonsense"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(text(&output.stderr), "xtask: unknown task nonsense; scripts/xtask prints the list\n");
}

#[test]
fn unknown_kubelet_version_is_refused() {
    let output = xtask(&["kubelet-build", "/nonexistent/directory", "1.20"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stderr), "error: 1.20 is none of 1.37, 1.34 and 1.26.PATCH to 1.36.PATCH\n");
}

#[test]
fn reader_that_has_gone_is_no_panic() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_xtask"))
        .args(["verify", "--list"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(!text(&output.stderr).contains("panicked"), "{}", text(&output.stderr));
}
