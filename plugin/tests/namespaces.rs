//! `who` and `list` in other pid namespaces: what they cannot see is unknown, not absent.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may fail loudly")]

mod common;

use serde_json::Value;
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::{Command, Output};
use vfio_sim_node::Node;

/// A node whose group 51 has the device node /dev/full, with the real /proc.
fn tree() -> Node {
    // The simulated node takes CAP_SYS_ADMIN from its thread, and unshare needs it.
    let node = std::thread::spawn(|| Node::with_eight_gpus().unwrap()).join().unwrap();
    let path = |path: &str| node.root().join(path);
    fs::remove_file(path("dev/vfio/51")).unwrap();
    symlink("/dev/full", path("dev/vfio/51")).unwrap();
    fs::remove_dir_all(path("proc")).unwrap();
    symlink("/proc", path("proc")).unwrap();
    // For the test in which another user runs the program.
    fs::set_permissions(node.root(), PermissionsExt::from_mode(0o755)).unwrap();
    node
}

/// Runs `SHELL WORDS` with the program as "$0" and its arguments as "$@". None if this user may not make the namespaces.
fn in_namespace(unshare: &[&str], shell: &str, tree: &Node, words: &[&str]) -> Option<(i32, String, String)> {
    if !common::is_permitted(Command::new("unshare").args(unshare).arg("true")) {
        return None;
    }
    let mut command = Command::new("unshare");
    command.args(unshare).args(["sh", "-c", shell, env!("CARGO_BIN_EXE_vfio-device-plugin")]).args(words);
    command.arg("--root").arg(tree.root()).args(["--run-dir", "/nonexistent", "--pci-ids", "/dev/null"]);
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Some((status.code().unwrap(), text(stdout), text(stderr)))
}

const PID: &[&str] = &["--pid", "--fork", "--mount-proc"];

#[test]
fn who_in_a_foreign_pid_namespace_knows_that_it_knows_nothing() {
    let tree = tree();
    let _held = File::open("/dev/full").unwrap();
    let Some((code, out, _)) = in_namespace(PID, "\"$0\" \"$@\"", &tree, &["who", "51", "--json"]) else {
        return;
    };
    let who: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (code, &who["holders"], &who["pid_namespace"]),
        (3, &serde_json::json!([]), &"foreign".into()),
        "{who}"
    );
    assert_eq!((&who["unreadable"], &who["complete"]), (&0.into(), &false.into()), "{who}");
    let (code, out, _) = in_namespace(PID, "\"$0\" \"$@\"", &tree, &["who", "51"]).unwrap();
    assert_eq!(code, 3);
    assert!(out.contains("The list may be incomplete: this is not the host's pid namespace"), "{out}");
    // list reports the group as free by its count, and says what it could not see.
    let (code, out, errors) = in_namespace(PID, "\"$0\" \"$@\"", &tree, &["list", "--json"]).unwrap();
    let listing: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &listing["coverage"]["pid_namespace"]), (0, &"foreign".into()), "{listing}");
    assert!(errors.contains("holders may be missing: this is not the host's pid namespace"), "{errors}");
}

#[test]
fn hosts_proc_in_a_foreign_pid_namespace_shows_the_host() {
    // --mount-proc is missing, as for a container with the host's /proc mounted.
    let tree = tree();
    let _held = File::open("/dev/full").unwrap();
    let unshare = ["--pid", "--fork"];
    let Some((code, out, _)) = in_namespace(&unshare, "\"$0\" \"$@\"", &tree, &["who", "51", "--json"])
    else {
        return;
    };
    let who: Value = serde_json::from_str(&out).unwrap();
    let holders = who["holders"].as_array().unwrap();
    assert!(code == 0 && holders.iter().any(|holder| holder["pid"] == std::process::id()), "{who}");
    // This test itself may run in a container.
    let ours = vfio_probe::Root::host().unwrap().pid_namespace().as_str();
    assert_eq!(who["pid_namespace"], ours, "{who}");
}

#[test]
fn mount_that_hides_processes_is_unknown() {
    let tree = tree();
    let _held = File::open("/dev/full").unwrap();
    let shell = "mount -t proc -o hidepid=invisible proc /proc && exec setpriv --reuid 65534 --regid 65534 --clear-groups \"$0\" \"$@\"";
    let Some((code, out, errors)) = in_namespace(&["--mount"], shell, &tree, &["who", "51", "--json"]) else {
        return;
    };
    let who: Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{code} {out} {errors}"));
    assert_eq!(
        (code, &who["pid_namespace"], &who["complete"]),
        (3, &"unknown".into(), &false.into()),
        "{who}"
    );
}

#[test]
fn list_counts_a_process_with_only_the_group_open() {
    let tree = tree();
    let held = File::open("/dev/full").unwrap();
    let list = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vfio-device-plugin"));
        command.args(["list", "--json", "--run-dir", "/nonexistent", "--pci-ids", "/dev/null", "--root"]);
        let output = command.arg(tree.root()).output().unwrap();
        serde_json::from_slice::<Value>(&output.stdout).unwrap()["devices"][0].clone()
    };
    let listed = list();
    assert_eq!((&listed["state"], &listed["evidence"]), (&"held".into(), &"holder".into()), "{listed}");
    let holders = listed["holders"].as_array().unwrap();
    assert!(holders.iter().any(|holder| holder["pid"] == std::process::id()), "{listed}");
    drop(held);
}
