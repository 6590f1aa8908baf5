//! A container as a runtime makes it for NVIDIA's DaemonSet of the sandbox device plugin: namespaces of its own, the files of the
//! image, the host's sysfs, and three mounts of the host.

use crate::common::{self, PATIENCE};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Instant;
use vfio_sim_node::Node;

/// The namespaces of a pod. A privileged one has no user namespace.
const NAMESPACES: [&str; 7] =
    ["--mount", "--pid", "--ipc", "--uts", "--net", "--cgroup", "--propagation=private"];

/// Mounts what the container sees below its root "$1", from the node "$2", and runs the program there. "$3" are the mount options of
/// the root.
///
/// The runtime gives a privileged container the host's /dev; here it has what the simulated device nodes lead to. Only CAP_SYS_ADMIN is
/// missing, with which an open of a held simulated node would succeed.
const START: &str = r#"
    set -e
    root=$1 node=$2 options=$3
    shift 3
    mount --bind "$root" "$root"
    mount -t proc proc "$root/proc"
    mount --bind "$node/sys" "$root/sys"
    mount -t tmpfs tmpfs "$root/dev"
    mkdir "$root/dev/vfio" "$root/dev/pts"
    : >"$root/dev/null"
    mount --bind /dev/null "$root/dev/null"
    mount --rbind /dev/pts "$root/dev/pts"
    for shared in dev/vfio var/lib/kubelet/device-plugins var/run/cdi; do
        mount --bind "$node/$shared" "$root/$shared"
    done
    mount -o "remount,bind,$options" "$root"
    exec setpriv --bounding-set=-sys_admin --inh-caps=-sys_admin chroot "$root" "$@"
"#;

/// Whether the container may write to its own file system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Layer {
    Writable,
    ReadOnly,
}

/// A running container. It is killed when this is dropped.
pub(crate) struct Container {
    unshare: Child,
    /// The program, by its pid outside.
    pid: u32,
    log: PathBuf,
    /// The file system. A restarted container has a new one.
    _root: tempfile::TempDir,
}

/// The variables that the DaemonSet and the kubelet set.
fn set_environment(command: &mut Command) {
    command.env_clear().envs([
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ("HOSTNAME", "nvidia-sandbox-device-plugin-daemonset-x7k2p"),
        ("NODE_NAME", "node-1"),
        ("POD_NAMESPACE", "gpu-operator"),
        ("KUBERNETES_SERVICE_HOST", "10.96.0.1"),
        ("KUBERNETES_SERVICE_PORT", "443"),
        ("KUBERNETES_PORT", "tcp://10.96.0.1:443"),
    ]);
}

/// Returns whether this user may make such namespaces.
pub(crate) fn is_permitted() -> bool {
    let mut mount = Command::new("unshare");
    mount.args(NAMESPACES).args(["--fork", "mount", "-t", "tmpfs", "none", "/mnt"]);
    common::is_permitted(&mut mount)
}

impl Container {
    /// Starts the container with the image's default command: no arguments.
    pub(crate) fn start(node: &Node, layer: Layer) -> Self {
        let root = file_system();
        fs::create_dir_all(node.root().join("var/run/cdi")).unwrap();
        let log = node
            .root()
            .join(format!("log-{}", rustix::time::clock_gettime(rustix::time::ClockId::Monotonic).tv_nsec));
        let mut command = Command::new("unshare");
        command.args(NAMESPACES).args(["--fork", "--kill-child", "sh", "-c", START, "sh"]);
        command.arg(root.path()).arg(node.root());
        command.arg(if layer == Layer::ReadOnly { "ro" } else { "rw" }).arg("/vfio-device-plugin");
        set_environment(&mut command);
        let mut unshare = command.stdin(Stdio::null()).stderr(File::create(&log).unwrap()).spawn().unwrap();
        let deadline = Instant::now() + PATIENCE;
        let children = format!("/proc/{0}/task/{0}/children", unshare.id());
        let pid = loop {
            let child = fs::read_to_string(&children).unwrap_or_default().trim().parse().ok();
            // The shell has become the program.
            let is_program = |pid: &u32| {
                let name = fs::read_to_string(format!("/proc/{pid}/comm"));
                name.is_ok_and(|name| name.trim_end() == "vfio-device-plu")
            };
            if let Some(pid) = child.filter(is_program) {
                break pid;
            }
            let text = fs::read_to_string(&log).unwrap();
            assert!(unshare.try_wait().unwrap().is_none() && Instant::now() < deadline, "no program: {text}");
            std::thread::sleep(std::time::Duration::from_millis(10));
        };
        Self { unshare, pid, log, _root: root }
    }

    /// Runs a command of the program in the container, as `kubectl exec` does. Returns exit code, standard output and errors.
    pub(crate) fn exec(&self, words: &[&str]) -> (i32, String, String) {
        let mut command = Command::new("nsenter");
        command.args(["--all", "--root", "--wd", "--target", &self.pid.to_string(), "/vfio-device-plugin"]);
        command.args(words);
        set_environment(&mut command);
        let Output { status, stdout, stderr } = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (status.code().unwrap(), text(stdout), text(stderr))
    }

    /// Returns the log so far.
    pub(crate) fn log(&self) -> Vec<String> {
        BufReader::new(File::open(&self.log).unwrap()).lines().map(Result::unwrap).collect()
    }

    /// Ends the container as the kubelet does. Returns the exit code of the program.
    pub(crate) fn terminate(mut self) -> i32 {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.pid).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.unshare.wait().unwrap().code().unwrap_or(-1)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
    }
}

/// Returns a directory with the files of the image and the mount points that a runtime makes. The image is the one that
/// `VFIO_IMAGE_ROOT` names; without it, the program and the libraries that it needs.
fn file_system() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    match std::env::var_os("VFIO_IMAGE_ROOT") {
        Some(image) => copy(&Path::new(&image).join("vfio-device-plugin"), &root.join("vfio-device-plugin")),
        None => {
            let program = Path::new(env!("CARGO_BIN_EXE_vfio-device-plugin"));
            copy(program, &root.join("vfio-device-plugin"));
            let ldd = Command::new("ldd").arg(program).output().unwrap();
            for path in String::from_utf8(ldd.stdout).unwrap().split_whitespace() {
                if let Some(relative) = path.strip_prefix('/') {
                    copy(Path::new(path), &root.join(relative));
                }
            }
        }
    }
    for point in ["proc", "sys", "dev", "var/lib/kubelet/device-plugins", "var/run/cdi"] {
        fs::create_dir_all(root.join(point)).unwrap();
    }
    directory
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    // A hard link costs no space; the directories may be on two file systems. Libraries are links.
    let from = from.canonicalize().unwrap();
    if fs::hard_link(&from, to).is_err() {
        fs::copy(&from, to).unwrap();
    }
}
