//! Virtual machines: real processes that have group nodes open, and what the kernel does when they end.

use crate::state::Shared;
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
    /// Group and device are open: `enable` is 1.
    #[default]
    Device,
    /// Only the group is open: EBUSY, but `enable` is 0.
    GroupOnly,
    /// The device is open by its own node and bound to an iommufd: EBUSY of the group, and `enable` is 1. What
    /// [`Hold::Device`] comes to where groups have no nodes.
    Cdev,
    /// The device's own node is open, and not bound: nobody is kept out, and `enable` is 0.
    CdevUnbound,
}

/// A virtual machine to start.
#[derive(Clone, Debug, Default)]
pub struct VmSpec {
    /// The functions that it is given.
    pub addresses: Vec<String>,
    /// The pod that its cgroup names; none for a process that belongs to no pod.
    pub pod_uid: Option<String>,
    /// The container that its cgroup names, 64 hex digits; made from its pid if there is none.
    pub container_id: Option<String>,
    /// How far it goes.
    pub hold: Hold,
    /// How long its groups stay held after its end, as when a forked child has the descriptors too.
    pub teardown: Duration,
}

impl VmSpec {
    /// A machine that belongs to no pod.
    #[must_use]
    pub fn foreign(addresses: &[&str]) -> Self {
        Self { addresses: addresses.iter().map(|&address| address.to_owned()).collect(), ..Self::default() }
    }

    /// A pod's machine.
    #[must_use]
    pub fn of_pod(uid: &str, addresses: &[String]) -> Self {
        Self { addresses: addresses.to_vec(), pod_uid: Some(uid.to_owned()), ..Self::default() }
    }
}

/// What to run as a virtual machine: it must stay until it is killed and touch none of its descriptors.
#[derive(Clone, Debug)]
pub struct VmProgram {
    /// The program, run under the name `qemu-system-x86`.
    pub path: PathBuf,
    /// Its name for itself, which a multi-call program like busybox goes by.
    pub arg0: String,
    /// Its arguments.
    pub args: Vec<String>,
}

impl Default for VmProgram {
    fn default() -> Self {
        Self { path: "/bin/sleep".into(), arg0: "sleep".into(), args: vec!["1000000".into()] }
    }
}

impl VmProgram {
    /// Starts it with the descriptors, of which it is then the only holder.
    pub(crate) fn spawn(&self, link: &Path, descriptors: Vec<OwnedFd>) -> Result<Child> {
        use std::os::unix::process::CommandExt;
        // One at a time: a descriptor that one child shall inherit must not get into another one.
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

/// A running machine. Dropping it kills it, without waiting for its teardown.
#[derive(Debug)]
pub struct Vm {
    process: Arc<Process>,
    /// Dropped to cut the teardown short.
    patience: Option<Sender<()>>,
    reaper: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Process {
    pid: Pid,
    shared: Arc<Shared>,
    teardown: Duration,
    /// None when it was reaped and its pid may be another's.
    child: Mutex<Option<Child>>,
}

impl Vm {
    /// Looks after a process that has its groups already.
    pub(crate) fn watch(shared: &Arc<Shared>, child: Child, teardown: Duration) -> Result<Self> {
        let pid = pid_of(&child)?;
        let process = Process { pid, shared: Arc::clone(shared), teardown, child: Mutex::new(Some(child)) };
        let process = Arc::new(process);
        let (patience, impatience) = channel();
        let watched = Arc::clone(&process);
        let reaper =
            std::thread::Builder::new().name("vm".to_owned()).spawn(move || watched.reap(&impatience))?;
        Ok(Self { process, patience: Some(patience), reaper: Some(reaper) })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Kills it and returns at once; its groups stay held for the teardown that it was started with.
    pub fn stop(&self) {
        self.process.kill();
    }

    /// Kills it and waits until the node has noticed.
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
        self.patience = None;
        self.process.kill();
        self.join();
    }
}

impl Process {
    /// The group can be opened before the process counts as ended: the kernel closes files (`exit_files`) before it tells
    /// anybody (`exit_notify`), so that whoever sees the pidfd readable finds the group free.
    fn kill(&self) {
        let child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        if child.is_some() {
            if self.teardown.is_zero() {
                self.shared.release(self.pid.as_raw_nonzero().get().unsigned_abs());
            }
            let _ = kill_process(self.pid, Signal::KILL);
        }
    }

    /// Waits for the end, also for one that somebody else brought about, and frees what is still held.
    fn reap(&self, impatience: &Receiver<()>) {
        let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        while waitid(WaitId::Pid(self.pid), ended).is_err_and(|error| error == Errno::INTR) {}
        if !self.teardown.is_zero() {
            let _ = impatience.recv_timeout(self.teardown);
        }
        let pid = self.pid.as_raw_nonzero().get().unsigned_abs();
        self.shared.release(pid);
        // While the zombie is there the pid is nobody else's, and the entry in proc nobody else's either.
        self.shared.forget(pid);
        if let Some(mut child) = self.child.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = child.wait();
        }
    }
}

fn pid_of(child: &Child) -> Result<Pid> {
    let raw = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    raw.ok_or_else(|| Error::other("a process without a pid"))
}
