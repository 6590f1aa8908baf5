//! What another program or user has put where `serve` keeps its files: nothing is followed, overwritten or waited for.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail loudly")]

mod common;

use common::{
    H100, PATIENCE, Problem, Serve, after_shell, cdi_dir, expect, kubelet, problems, program, run,
    wait_for_problem, write_pools,
};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use vfio_sim_node::{Node, VmSpec};

const GPU: &str = "0000:1b:00.0";
const CDI: &str = "pools: [{select: [{vendor: 10de}], cdi: devices}]";
/// The files of the run directory that `serve` reads or makes on a node without vGPUs.
const NAMES: [&str; 4] = ["assignments.json", "health.json", "cdi.json", "status.sock"];

fn fifo(path: &Path) {
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
}

/// Starts `serve` with CDI and waits until it offers everything and answers.
async fn serve(node: &Node) -> (vfio_sim_node::Kubelet, Serve) {
    let kubelet = kubelet(node).await;
    let serve = Serve::start(node, &["--pools", &write_pools(node, CDI)]);
    expect(&kubelet, "offered", |state| state.capacity(H100).allocatable == 8).await;
    let deadline = Instant::now() + PATIENCE;
    while run(node, &["ready"]).0 != 0 {
        assert!(Instant::now() < deadline, "{}", run(node, &["ready"]).2);
    }
    (kubelet, serve)
}

#[tokio::test]
async fn planted_files_are_kept_aside_and_never_followed() {
    type Plant<'a> = (&'a str, &'a dyn Fn(&Path));
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().join("target");
    fs::write(&target, "precious").unwrap();
    fs::set_permissions(&target, PermissionsExt::from_mode(0o640)).unwrap();
    let plants: [Plant<'_>; 7] = [
        ("link", &|path| symlink(&target, path).unwrap()),
        ("dangling link", &|path| symlink(outside.path().join("new"), path).unwrap()),
        ("endless", &|path| symlink("/dev/zero", path).unwrap()),
        ("FIFO", &fifo),
        ("directory", &|path| fs::create_dir_all(path.join("full")).unwrap()),
        ("socket of another program", &|path| {
            let theirs = outside.path().join("theirs");
            let _ = fs::remove_file(&theirs);
            drop(UnixListener::bind(&theirs).unwrap());
            symlink(theirs, path).unwrap();
        }),
        ("device", &|path| {
            // Needs CAP_MKNOD.
            if mknodat(CWD, path, FileType::CharacterDevice, Mode::RUSR, makedev(1, 5)).is_err() {
                symlink("/dev/zero", path).unwrap();
            }
        }),
    ];
    for (what, plant) in plants {
        let node = Node::with_eight_gpus().unwrap();
        for name in NAMES {
            plant(&node.run_dir().join(name));
            // The fixed names of temporary files that other programs know.
            plant(&node.run_dir().join(name).with_extension("new"));
            plant(&node.run_dir().join(format!("{name}.tmp")));
        }
        let (_kubelet, serve) = serve(&node).await;
        let kept: Vec<Problem> =
            problems(&node).into_iter().filter(|problem| problem.code == "state_file_kept_aside").collect();
        assert_eq!(kept.len(), NAMES.len(), "{what}: {kept:#?}");
        for name in NAMES {
            let path = node.run_dir().join(name);
            assert!(
                node.run_dir().join(format!("{name}.unreadable")).symlink_metadata().is_ok(),
                "{what}, {name}"
            );
            let kind = path.symlink_metadata().unwrap().file_type();
            assert!(kind.is_file() || name == "status.sock", "{what}, {name}: {kind:?}");
        }
        assert_eq!(fs::read_to_string(&target).unwrap(), "precious", "{what}");
        assert_eq!(fs::metadata(&target).unwrap().mode() & 0o7777, 0o640, "{what}");
        assert!(!outside.path().join("new").exists(), "{what}");
        assert_eq!(fs::metadata("/dev/zero").unwrap().mode() & 0o7777, 0o666, "{what}");
        let (code, _, log) = serve.terminate();
        assert_eq!(code, 0, "{what}: {log}");
        assert!(log.contains("kept aside"), "{what}: {log}");
    }
}

#[tokio::test]
async fn modes_are_explicit_whatever_the_umask() {
    for umask in ["000", "022", "077", "777"] {
        let node = Node::with_eight_gpus().unwrap();
        fs::remove_dir(node.run_dir()).unwrap();
        let kubelet = kubelet(&node).await;
        let pools = write_pools(&node, CDI);
        let program = program(&node, &["serve", "--pools", &pools]);
        let mut program = after_shell(&format!("umask {umask}"), &program);
        let _serve = Serve(program.stderr(Stdio::null()).spawn().unwrap());
        expect(&kubelet, "offered", |state| state.capacity(H100).allocatable == 8).await;
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        let deadline = Instant::now() + PATIENCE;
        while !node.run_dir().join("status.sock").exists()
            || !node.run_dir().join("assignments.json").exists()
        {
            assert!(Instant::now() < deadline, "umask {umask}: no files");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        for (directory, files) in [(node.run_dir(), 0o644), (cdi_dir(&node), 0o644)] {
            assert_eq!(mode(&directory), 0o755, "umask {umask}: {directory:?}");
            for entry in fs::read_dir(directory).unwrap().flatten() {
                let name = entry.file_name().into_string().unwrap();
                let is_private = name.ends_with(".sock") || name == "serve.lock";
                let expected = if is_private { 0o600 } else { files };
                assert_eq!(mode(&entry.path()), expected, "umask {umask}: {:?}", entry.path());
            }
        }
        let endpoint = kubelet.state().resources[H100].endpoint.clone();
        assert_eq!(mode(&node.kubelet_dir().join(endpoint)), 0o600, "umask {umask}");
    }
}

#[tokio::test]
async fn leftovers_are_removed_and_foreign_files_stay() {
    let node = Node::with_eight_gpus().unwrap();
    fs::create_dir_all(cdi_dir(&node)).unwrap();
    let leftover = ".vfio-device-plugin-0123456789ab.tmp";
    let foreign = ["notes.tmp", ".vfio-device-plugin-.tmp", "health.json.tmp"];
    for directory in [node.run_dir(), cdi_dir(&node)] {
        for name in foreign.iter().chain([&leftover]) {
            fs::write(directory.join(name), "x").unwrap();
        }
    }
    let (_kubelet, serve) = serve(&node).await;
    for directory in [node.run_dir(), cdi_dir(&node)] {
        assert!(!directory.join(leftover).exists());
        assert!(foreign.iter().all(|name| directory.join(name).exists()));
    }
    assert_eq!(serve.terminate().0, 0);
}

#[test]
fn pools_file_that_is_no_plain_file_is_refused_at_once() {
    let node = Node::with_eight_gpus().unwrap();
    let path = node.root().join("pools.yaml");
    let file = path.to_str().unwrap();
    let expect = |text: &str| {
        for command in ["serve", "list", "doctor"] {
            let (code, _, errors) = run(&node, &[command, "--pools", file]);
            assert!(code == 64 && errors.contains(text), "{command}: {code}: {errors}");
        }
        let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir(&path));
    };
    fifo(&path);
    expect("expected a regular file of at most 64 KiB");
    fs::create_dir(&path).unwrap();
    expect("expected a regular file of at most 64 KiB");
    symlink("/dev/zero", &path).unwrap();
    expect("expected a regular file of at most 64 KiB");
    fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
    expect("expected a regular file of at most 64 KiB");
    fs::write(&path, b"\xff\xfe").unwrap();
    expect("no UTF-8");
    symlink("pools.yaml", &path).unwrap();
    expect("cannot be read");
}

#[tokio::test]
async fn pools_file_replaced_by_a_fifo_hangs_nothing() {
    let node = Node::with_eight_gpus().unwrap();
    let (kubelet, serve) = serve(&node).await;
    let path = node.root().join("pools.yaml");
    fs::remove_file(&path).unwrap();
    fifo(&path);
    let found = wait_for_problem(&node, "pools_rejected", true);
    assert!(found[0].text.contains("expected a regular file"), "{found:?}");
    let vm = node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    expect(&kubelet, "the monitor works", |state| state.capacity(H100).allocatable == 7).await;
    vm.kill();
    fs::remove_file(&path).unwrap();
    write_pools(&node, CDI);
    wait_for_problem(&node, "pools_rejected", false);
    assert_eq!(serve.terminate().0, 0);
}

#[tokio::test]
async fn state_survives_a_start_without_descriptors() {
    let content = r#"{"version":1,"devices":{"0000:1b:00.0":{"reason":{"code":"lost"}}}}"#;
    for limit in 4..=24 {
        let node = Node::with_eight_gpus().unwrap();
        let path = node.run_dir().join("health.json");
        fs::write(&path, content).unwrap();
        let program = program(&node, &["serve"]);
        let mut program = after_shell(&format!("ulimit -n {limit}"), &program);
        let serve = Serve(program.stderr(Stdio::null()).spawn().unwrap());
        tokio::time::sleep(Duration::from_millis(400)).await;
        drop(serve);
        let kept = node.run_dir().join("health.json.unreadable");
        let texts = [&path, &kept].map(|path| fs::read_to_string(path).unwrap_or_default());
        // The device is not bound to a function that responds, so a serve that starts writes it as recovered or as lost.
        let was_read = texts[0].contains("devices");
        assert!(texts.iter().any(|text| text == content) || was_read, "{limit} descriptors: {texts:?}");
    }
}

#[tokio::test]
async fn file_of_another_user_is_not_used() {
    if !rustix::process::geteuid().is_root() {
        return vfio_sim_node::not_tested("only root gives a file to another user");
    }
    let node = Node::with_eight_gpus().unwrap();
    let path = node.run_dir().join("health.json");
    fs::write(&path, r#"{"version":1,"devices":{"0000:1b:00.0":{"reason":{"code":"lost"}}}}"#).unwrap();
    chown(&path, Some(4711), None).unwrap();
    chown(node.run_dir(), Some(4711), None).unwrap();
    let (_kubelet, serve) = serve(&node).await;
    let all = problems(&node);
    let has = |code: &str, text: &str| {
        all.iter().any(|problem| problem.code == code && problem.text.contains(text))
    };
    assert!(has("state_file_kept_aside", "belongs to user 4711"), "{all:#?}");
    assert!(has("run_dir_shared", "belongs to user 4711"), "{all:#?}");
    let (_, out, _) = run(&node, &["doctor"]);
    assert!(out.contains("belongs to user 4711") && out.contains("mode 0755"), "{out}");
    assert_eq!(serve.terminate().0, 0);
}

#[tokio::test]
async fn link_as_run_directory_is_used_and_a_file_is_reported() {
    let node = Node::with_eight_gpus().unwrap();
    let elsewhere = node.root().join("elsewhere");
    fs::rename(node.run_dir(), &elsewhere).unwrap();
    symlink(&elsewhere, node.run_dir()).unwrap();
    let (_kubelet, first) = serve(&node).await;
    assert!(elsewhere.join("health.json").exists() && node.run_dir().is_symlink());
    assert_eq!(first.terminate().0, 0);
    fs::remove_file(node.run_dir()).unwrap();
    fs::write(node.run_dir(), "precious").unwrap();
    let kubelet = kubelet(&node).await;
    let serve = Serve::start(&node, &[]);
    expect(&kubelet, "offered", |state| state.capacity(H100).allocatable == 8).await;
    let (code, _, log) = serve.terminate();
    assert_eq!(code, 0);
    assert!(log.contains("no status socket yet") && log.contains("state file not written"), "{log}");
    assert_eq!(fs::read_to_string(node.run_dir()).unwrap(), "precious");
}

#[tokio::test]
async fn planted_names_in_the_kubelets_directory_stop_nothing() {
    let node = Node::with_eight_gpus().unwrap();
    let directory = node.kubelet_dir();
    fifo(&directory.join("vfio-1a-2b.sock"));
    symlink("/dev/zero", directory.join("vfio-3c-4d.sock")).unwrap();
    fs::create_dir(directory.join("vfio-5e-6f.sock")).unwrap();
    fifo(&directory.join(kubelet_api::CHECKPOINT));
    let (_kubelet, serve) = serve(&node).await;
    for name in ["vfio-1a-2b.sock", "vfio-3c-4d.sock", "vfio-5e-6f.sock"] {
        assert!(directory.join(name).symlink_metadata().is_ok(), "{name}");
    }
    assert!(UnixStream::connect(node.run_dir().join("status.sock")).is_ok());
    assert_eq!(serve.terminate().0, 0);
}

#[tokio::test]
async fn planted_cdi_specs_are_replaced_or_reported() {
    let node = Node::with_eight_gpus().unwrap();
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().join("target");
    fs::write(&target, "precious").unwrap();
    fs::set_permissions(&target, PermissionsExt::from_mode(0o640)).unwrap();
    fs::create_dir_all(cdi_dir(&node)).unwrap();
    let spec = cdi_dir(&node).join("vfio-device-plugin_nvidia.com_2330.json");
    symlink(&target, &spec).unwrap();
    let (kubelet, first) = serve(&node).await;
    assert!(spec.symlink_metadata().unwrap().is_file());
    assert_eq!(first.terminate().0, 0);
    drop(kubelet);
    fs::remove_file(&spec).unwrap();
    fs::create_dir_all(spec.join("full")).unwrap();
    let (_kubelet, _second) = serve(&node).await;
    let found = wait_for_problem(&node, "cdi_spec_not_updated", true);
    assert_eq!(found[0].about, spec.display().to_string());
    fs::remove_dir_all(&spec).unwrap();
    wait_for_problem(&node, "cdi_spec_not_updated", false);
    assert!(spec.symlink_metadata().unwrap().is_file());
    assert_eq!(fs::read_to_string(&target).unwrap(), "precious");
    assert_eq!(fs::metadata(&target).unwrap().mode() & 0o7777, 0o640);
}
