//! The node: a VM with an emulated IOMMU and functions that have the ids of GPUs.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use xtask::context::Context;
use xtask::process;

use crate::Result;
use crate::control_plane::Ports;
use crate::parts::Parts;
use crate::process::{Daemon, tail};
use crate::progress::say;
use crate::wait::wait;

mod accelerator;

pub use accelerator::Accelerator;

/// How long the node has to boot until its SSH server answers. An idle host takes 20 s.
const BOOT: Duration = Duration::from_secs(300);
/// How long containerd has to answer after its start.
const CONTAINERD: Duration = Duration::from_secs(300);
/// How long an import of an image may take. QEMU's takes a minute on a busy host.
const IMPORT: Duration = Duration::from_secs(600);
/// How long the node has to shut down.
const SHUTDOWN: Duration = Duration::from_secs(60);
/// The limit of a command on the node.
const COMMAND: Duration = Duration::from_secs(60);
/// The memory of the node in MiB. QEMU takes what the node touches, some 1.5 GiB.
const MEMORY: &str = "4096";
/// Vendor, device and class of NVIDIA's H100 SXM5 80GB.
pub const GPU: &str = "10de:2330:030200";
/// The kernel's command line. No test is about mitigations, and they are slow in an emulated processor. no_timer_check: a busy host
/// is too slow for that check, and a kernel that fails it panics. tsc=unstable: on a busy host the kernel measures the counter's
/// frequency wrong, and its clock then ran five times too fast, which ended probes of pods after a second.
const KERNEL_WORDS: &str = "console=ttyS0 quiet loglevel=4 panic=-1 intel_iommu=on iommu=nopt random.trust_cpu=on tsc=unstable \
    no_timer_check mitigations=off nowatchdog audit=0 apparmor=0";

/// A PCI function of the node. Each is in a group of its own, and groups are numbered in the order of the slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// The slot on bus 0, from 2 to 0x17.
    pub slot: u8,
    /// Vendor, device and class, as fakeid takes them, for a function that is bound to vfio-pci. None for one that has no driver.
    pub ids: Option<&'static str>,
}

impl Function {
    /// A GPU in a slot.
    #[must_use]
    pub const fn gpu(slot: u8) -> Self {
        Self { slot, ids: Some(GPU) }
    }

    /// Six GPUs in the slots 2 to 7.
    #[must_use]
    pub fn six_gpus() -> Vec<Self> {
        (2..8).map(Self::gpu).collect()
    }

    /// Returns the PCI address.
    #[must_use]
    pub fn address(&self) -> String {
        format!("0000:00:{:02x}.0", self.slot)
    }
}

/// A node with its disk. It ends when this is dropped.
#[derive(Debug)]
pub struct Node {
    // The SSH connection ends before the VM.
    connection: Option<Daemon>,
    machine: Option<Daemon>,
    files: Files,
    ports: Ports,
    accelerator: Accelerator,
    functions: Vec<Function>,
}

/// The files of a node.
#[derive(Clone, Debug)]
struct Files {
    kernel: PathBuf,
    initramfs: PathBuf,
    disk: PathBuf,
    key: PathBuf,
    console: PathBuf,
    socket: PathBuf,
    work: PathBuf,
}

impl Node {
    /// Makes a disk over the part's in a directory, and starts the VM without waiting for it.
    ///
    /// # Errors
    ///
    /// Fails if the disk cannot be made or QEMU cannot be started.
    pub fn start(
        context: &Context,
        parts: &Parts,
        work: &Path,
        ports: Ports,
        accelerator: Accelerator,
        functions: Vec<Function>,
    ) -> Result<Self> {
        let files = Files {
            kernel: parts.kernel.clone(),
            initramfs: parts.initramfs.clone(),
            disk: work.join("disk"),
            key: parts.disk.key.clone(),
            console: work.join("node-console.log"),
            socket: work.join("ssh"),
            work: work.into(),
        };
        let mut make = context.command("qemu-img");
        make.args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"]).arg(&parts.disk.image).arg(&files.disk);
        process::run(&mut make)?;
        let mut node =
            Self { connection: None, machine: None, files, ports, accelerator, functions: Vec::new() };
        node.boot(context, functions)?;
        Ok(node)
    }

    /// Boots the disk with these functions, without waiting for it.
    ///
    /// # Errors
    ///
    /// Fails if the VM runs, or QEMU cannot be started.
    pub fn boot(&mut self, context: &Context, functions: Vec<Function>) -> Result {
        if self.machine.is_some() {
            return Err("the node runs already".into());
        }
        self.functions = functions;
        let command = self.command(context);
        let log = self.files.work.join("node-qemu.log");
        self.machine = Some(Daemon::start(context, "the node's QEMU", &log, &command)?);
        Ok(())
    }

    /// Waits until the node's SSH server answers.
    ///
    /// # Errors
    ///
    /// Fails if QEMU ends, or after five minutes.
    pub fn wait_up(&mut self, context: &Context) -> Result {
        let mut ended = Ok(());
        let up = wait("the node's SSH server answers", BOOT, || {
            ended = self.check();
            if ended.is_err() || self.connect(context).is_ok() {
                return Ok(Some(()));
            }
            Ok(None)
        });
        let console = || format!("the end of the node's console:\n{}", tail(&self.files.console, 20));
        ended.and(up).map_err(|error| format!("{error}\n{}", console()).into())
    }

    /// Fails if the VM has ended by itself.
    ///
    /// # Errors
    ///
    /// Fails with the end of QEMU's log.
    pub fn check(&mut self) -> Result {
        self.machine.as_mut().map_or(Ok(()), Daemon::check)
    }

    /// The functions of this boot.
    #[must_use]
    pub fn functions(&self) -> &[Function] {
        &self.functions
    }

    /// Runs a script of sh as root on the node and returns its output, in at most a minute.
    ///
    /// # Errors
    ///
    /// Fails if the script fails, with its output and errors.
    pub fn run(&self, script: &str) -> Result<String> {
        self.run_for(script, COMMAND)
    }

    /// As [`Node::run`], with another limit.
    ///
    /// # Errors
    ///
    /// Fails if the script fails, with its output and errors.
    pub fn run_for(&self, script: &str, limit: Duration) -> Result<String> {
        let mut ssh = self.ssh(limit);
        // One word: the node's shell takes the script as it is.
        let output = ssh.arg(script).stdin(Stdio::null()).output()?;
        let text = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
        if output.status.success() {
            return Ok(text);
        }
        let errors = String::from_utf8_lossy(&output.stderr);
        Err(format!("on the node, {script}: {}\n{text}\n{errors}", output.status).trim_end().into())
    }

    /// Copies a file of this host to the node, with its permissions.
    ///
    /// # Errors
    ///
    /// Fails if the file cannot be read or written.
    pub fn put(&self, from: &Path, to: &str) -> Result {
        use std::os::unix::fs::PermissionsExt;
        let file =
            std::fs::File::open(from).map_err(|error| format!("cannot read {}: {error}", from.display()))?;
        let mode = file.metadata()?.permissions().mode() & 0o777;
        let script = format!(
            "mkdir -p \"$(dirname '{to}')\" && cat >'{to}.new' && chmod {mode:o} '{to}.new' && mv '{to}.new' '{to}'"
        );
        let output = self.ssh(Duration::from_secs(300)).arg(script).stdin(file).output()?;
        if output.status.success() {
            return Ok(());
        }
        let errors = String::from_utf8_lossy(&output.stderr);
        Err(format!("cannot put {} on the node as {to}: {errors}", from.display()).into())
    }

    /// Starts containerd and waits until it answers.
    ///
    /// # Errors
    ///
    /// Fails if it does not answer within five minutes.
    pub fn start_containerd(&self) -> Result {
        self.run("service start containerd")?;
        wait("containerd answers", CONTAINERD, || self.run("ctr version >/dev/null").map(Some)).map(drop)
    }

    /// Imports an archive of an image, which gets this name. An image that is there is imported again.
    ///
    /// # Errors
    ///
    /// Fails if the archive is no archive of images.
    pub fn import(&self, name: &str, archive: &Path) -> Result {
        const PLACE: &str = "/tmp/image.tar";
        self.put(archive, PLACE)?;
        let import = format!("ctr -n k8s.io images import --index-name {name} {PLACE} && rm {PLACE}");
        self.run_for(&import, IMPORT)?;
        say(format!("imported the image {name}"));
        Ok(())
    }

    /// Shuts the node down. Its disk stays.
    ///
    /// # Errors
    ///
    /// Fails if it does not end within a minute.
    pub fn stop(&mut self) -> Result {
        // The connection breaks when the node powers off.
        let _ = self.run_for("sync; echo u >/proc/sysrq-trigger; (sleep 0.5; echo o >/proc/sysrq-trigger) >/dev/null 2>&1 </dev/null &", COMMAND);
        self.connection = None;
        if let Some(mut machine) = self.machine.take() {
            machine.wait(SHUTDOWN)?;
        }
        Ok(())
    }

    /// Ends the node as a loss of power does. Its disk stays.
    pub fn kill(&mut self) {
        if let Some(mut machine) = self.machine.take() {
            machine.kill();
        }
        self.connection = None;
    }

    /// Saves the logs of the node's services and of its kernel in a directory, if the node still answers.
    pub fn save_logs(&self, directory: &Path) {
        let script = "dmesg >/var/log/kernel.log; ps -ef >/var/log/processes.log; cd /var/log && tar -cf - *.log pods 2>/dev/null";
        let Ok(output) = self.ssh(COMMAND).arg(script).stdin(Stdio::null()).output() else { return };
        let archive = directory.join("node-logs.tar");
        if !output.stdout.is_empty() && std::fs::write(&archive, output.stdout).is_ok() {
            let _ = Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(directory).status();
            let _ = std::fs::remove_file(archive);
        }
    }

    /// Opens the connection that all commands share: a new one costs the node a second.
    fn connect(&mut self, context: &Context) -> Result {
        if let Some(connection) = &mut self.connection
            && connection.check().is_ok()
        {
            return self.answers();
        }
        self.connection = None;
        let _ = std::fs::remove_file(&self.files.socket);
        let mut ssh = context.command("ssh");
        ssh.args(["-M", "-N", "-S"]).arg(&self.files.socket).args(self.options());
        let log = self.files.work.join("node-ssh.log");
        self.connection = Some(Daemon::start(context, "ssh", &log, &ssh)?);
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.answers().is_err() {
            self.connection.as_mut().map_or(Ok(()), Daemon::check)?;
            if Instant::now() >= deadline {
                self.connection = None;
                return Err("the node's SSH server does not answer".into());
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    /// Returns the command with which a person enters the node.
    #[must_use]
    pub fn enter(&self) -> String {
        format!("ssh {}", self.options().join(" "))
    }

    fn answers(&self) -> Result {
        if !self.files.socket.exists() {
            return Err("no connection".into());
        }
        self.run_for("true", Duration::from_secs(10)).map(|_| ())
    }

    fn options(&self) -> Vec<String> {
        let mut options: Vec<String> = ["-F", "/dev/null", "-i"].map(str::to_owned).into();
        options.push(self.files.key.display().to_string());
        options.extend(["-p".into(), self.ports.ssh.to_string()]);
        for option in [
            "BatchMode=yes",
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "LogLevel=ERROR",
            "ConnectTimeout=10",
            "ServerAliveInterval=15",
        ] {
            options.extend(["-o".into(), option.into()]);
        }
        options.push("root@127.0.0.1".into());
        options
    }

    fn ssh(&self, limit: Duration) -> Command {
        let mut ssh = Command::new("timeout");
        ssh.args(["-k", "5", &limit.as_secs().to_string(), "ssh", "-o", "ControlMaster=no", "-S"]);
        ssh.arg(&self.files.socket).args(self.options());
        ssh
    }

    fn command(&self, context: &Context) -> Command {
        let mut qemu = context.command("qemu-system-x86_64");
        qemu.args(self.accelerator.arguments()).args(["-m", MEMORY]);
        qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-monitor", "none"]);
        // The IOMMU comes before the devices behind it.
        qemu.args(["-device", "intel-iommu"]);
        let (mut ids, mut bound) = (String::new(), String::new());
        for function in &self.functions {
            qemu.args(["-device", &format!("edu,addr={:02x}.0", function.slot)]);
            if let Some(identity) = function.ids {
                let address = function.address();
                let _ = write!(ids, "{}{address}={identity}", if ids.is_empty() { "" } else { "," });
                let _ = write!(bound, "{}{address}", if bound.is_empty() { "" } else { "," });
            }
        }
        let disk = format!("if=none,id=disk,format=qcow2,cache=unsafe,file={}", self.files.disk.display());
        qemu.args(["-drive", &disk, "-device", "virtio-blk-pci,drive=disk,addr=18.0"]);
        let forwards = format!(
            "user,id=net,hostfwd=tcp:127.0.0.1:{}-:22,hostfwd=tcp:127.0.0.1:{kubelet}-:{kubelet}",
            self.ports.ssh,
            kubelet = self.ports.kubelet
        );
        qemu.args(["-netdev", &forwards, "-device", "virtio-net-pci,netdev=net,romfile=,addr=19.0"]);
        qemu.args([
            "-object",
            "rng-random,id=rng,filename=/dev/urandom",
            "-device",
            "virtio-rng-pci,rng=rng,addr=1a.0",
        ]);
        qemu.args(["-serial", &format!("file:{}", self.files.console.display())]);
        qemu.arg("-kernel").arg(&self.files.kernel).arg("-initrd").arg(&self.files.initramfs);
        qemu.args([
            "-append",
            &format!("{KERNEL_WORDS} cluster.api={} cluster.ids={ids} cluster.bind={bound}", self.ports.api),
        ]);
        qemu
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_follow_from_slots() {
        let addresses: Vec<String> = Function::six_gpus().iter().map(Function::address).collect();
        assert_eq!(addresses.first().unwrap(), "0000:00:02.0");
        assert_eq!(addresses.last().unwrap(), "0000:00:07.0");
        assert_eq!(Function::gpu(0x17).address(), "0000:00:17.0");
    }
}
