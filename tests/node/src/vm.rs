//! Runs VMs: real processes that have device nodes open, and the cleanup that the kernel does when they end.

use crate::kernel::NodeInner;
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use std::io::{Error, Result};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How far a holder has gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Hold {
    /// Group and device are open; `enable` is 1.
    #[default]
    Device,
    /// Only the group is open: EBUSY, but `enable` is 0.
    GroupOnly,
    /// The device is open by its cdev and bound to an iommufd: the group returns EBUSY, and `enable` is 1.
    /// [`Hold::Device`] does the same where groups have no device nodes.
    Cdev,
    /// The cdev is open and not bound: no other opener is locked out, and `enable` is 0.
    CdevUnbound,
}

/// A VM to start.
#[derive(Clone, Debug, Default)]
pub struct VmSpec {
    /// The functions that the VM opens.
    pub addresses: Vec<String>,
    /// The pod in the VM's cgroup; `None` for a process that belongs to no pod.
    pub pod_uid: Option<String>,
    /// The container in the VM's cgroup, 64 hex digits; `None` makes one from the pid.
    pub container_id: Option<String>,
    /// The text of the VM's cgroup file; `None` makes one from pod and container.
    pub cgroup: Option<String>,
    /// How far the VM goes.
    pub hold: Hold,
    /// How long the groups stay held after the process has ended, as when a forked child has the descriptors too.
    pub teardown: Duration,
}

impl VmSpec {
    /// Describes a VM that belongs to no pod.
    #[must_use]
    pub fn foreign(addresses: &[&str]) -> Self {
        Self { addresses: addresses.iter().map(|&address| address.to_owned()).collect(), ..Self::default() }
    }

    /// Describes the VM of a pod.
    #[must_use]
    pub fn of_pod(uid: &str, addresses: &[String]) -> Self {
        Self { addresses: addresses.to_vec(), pod_uid: Some(uid.to_owned()), ..Self::default() }
    }
}

/// The program that runs as a VM. It must run until it is killed and must not touch its descriptors.
#[derive(Clone, Debug)]
pub struct VmProgram {
    /// The program. It runs under the command name `qemu-system-x86`.
    pub path: PathBuf,
    /// The name that the program sees (`argv[0]`), by which a multi-call program like busybox finds its applet.
    pub arg0: String,
    /// The arguments.
    pub args: Vec<String>,
}

impl Default for VmProgram {
    fn default() -> Self {
        Self { path: "/bin/sleep".into(), arg0: "sleep".into(), args: vec!["1000000".into()] }
    }
}

impl VmProgram {
    /// Starts the program with the descriptors and closes them here, so that it is their only holder.
    pub(crate) fn spawn(&self, link: &Path, descriptors: Vec<OwnedFd>) -> Result<Child> {
        use std::os::unix::process::CommandExt;
        // One spawn at a time: a descriptor that one child inherits must not leak into another child.
        static SPAWN: Mutex<()> = Mutex::new(());
        let _alone = SPAWN.lock().unwrap_or_else(PoisonError::into_inner);
        let mut command = Command::new(link);
        command.arg0(&self.arg0).args(&self.args);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut inherited = Vec::new();
        for (place, descriptor) in descriptors.into_iter().enumerate() {
            match place {
                0 => drop(command.stdin(descriptor)),
                1 => drop(command.stdout(descriptor)),
                2 => drop(command.stderr(descriptor)),
                _ => {
                    fcntl_setfd(&descriptor, FdFlags::empty())?;
                    inherited.push(descriptor);
                }
            }
        }
        command.spawn()
    }
}

/// A running VM. Dropping it kills the process and skips its teardown.
#[derive(Debug)]
pub struct Vm {
    process: Arc<Process>,
    /// Dropped to end the teardown early.
    teardown_wait: Option<Sender<()>>,
    reaper: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Process {
    pid: Pid,
    inner: Arc<NodeInner>,
    teardown: Duration,
    /// `None` after it was reaped: the pid may belong to another process then.
    child: Mutex<Option<Child>>,
}

impl Vm {
    /// Starts the thread that waits for the end of a process. The process holds its groups already.
    pub(crate) fn watch(inner: &Arc<NodeInner>, child: Child, teardown: Duration) -> Result<Self> {
        let pid = pid_of(&child)?;
        let process = Process { pid, inner: Arc::clone(inner), teardown, child: Mutex::new(Some(child)) };
        let process = Arc::new(process);
        let (teardown_wait, teardown_end) = channel();
        let watched = Arc::clone(&process);
        let reaper =
            std::thread::Builder::new().name("vm".to_owned()).spawn(move || watched.reap(&teardown_end))?;
        Ok(Self { process, teardown_wait: Some(teardown_wait), reaper: Some(reaper) })
    }

    /// Returns the process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Kills the process and returns at once. Its groups stay held for the teardown of its [`VmSpec`].
    pub fn stop(&self) {
        self.process.kill();
    }

    /// Kills the process and waits until its groups are free.
    pub fn kill(mut self) {
        self.process.kill();
        self.join();
    }

    fn join(&mut self) {
        if let Some(reaper) = self.reaper.take() {
            let _ = reaper.join();
        }
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.teardown_wait = None;
        self.process.kill();
        self.join();
    }
}

impl Process {
    /// Kills the process. Its groups are released before the process counts as ended. The kernel closes files
    /// (`exit_files`) before it notifies waiters (`exit_notify`): a waiter that sees the pidfd readable finds the
    /// group free.
    fn kill(&self) {
        let child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        if child.is_some() {
            if self.teardown.is_zero() {
                self.inner.release(self.pid.as_raw_nonzero().get().unsigned_abs());
            }
            let _ = kill_process(self.pid, Signal::KILL);
        }
    }

    /// Waits for the end of the process, also if another process killed it, and releases what it still holds.
    fn reap(&self, teardown_end: &Receiver<()>) {
        let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        while waitid(WaitId::Pid(self.pid), ended).is_err_and(|error| error == Errno::INTR) {}
        if !self.teardown.is_zero() {
            let _ = teardown_end.recv_timeout(self.teardown);
        }
        let pid = self.pid.as_raw_nonzero().get().unsigned_abs();
        self.inner.release(pid);
        // While the zombie exists, no other process can have its pid or its entry in proc.
        self.inner.forget(pid);
        if let Some(mut child) = self.child.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = child.wait();
        }
    }
}

fn pid_of(child: &Child) -> Result<Pid> {
    let raw = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    raw.ok_or_else(|| Error::other(format!("{} is not a valid pid", child.id())))
}
