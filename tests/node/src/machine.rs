//! Virtual machines: real processes that have group nodes open, and what the kernel does when they end.

use crate::node::Shared;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// How far a holder has gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Hold {
    /// Group and device are open: `enable` is 1.
    #[default]
    Device,
    /// Only the group is open: EBUSY, but `enable` is 0.
    GroupOnly,
}

/// A virtual machine to start.
#[derive(Clone, Debug, Default)]
pub struct VmSpec {
    /// The functions that it is given, of at most three groups (they become its first three descriptors).
    pub addresses: Vec<String>,
    /// The pod that its cgroup names; none for a process that belongs to no pod.
    pub pod_uid: Option<String>,
    /// How far it goes.
    pub hold: Hold,
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
        Self { addresses: addresses.to_vec(), pod_uid: Some(uid.to_owned()), hold: Hold::Device }
    }
}

/// A running machine. Dropping it kills it.
#[derive(Debug)]
pub struct Vm {
    pid: u32,
    child: Arc<Mutex<Child>>,
    reaper: Option<JoinHandle<()>>,
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

impl Vm {
    pub(crate) fn start(
        shared: &Arc<Shared>,
        program: &VmProgram,
        link: &std::path::Path,
        spec: &VmSpec,
        groups: Vec<(u32, OwnedFd)>,
    ) -> std::io::Result<Self> {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new(link);
        command
            .arg0(&program.arg0)
            .args(&program.args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let numbers: Vec<u32> = groups.iter().map(|(group, _)| *group).collect();
        for (place, (_, descriptor)) in groups.into_iter().enumerate() {
            match place {
                0 => command.stdin(descriptor),
                1 => command.stdout(descriptor),
                2 => command.stderr(descriptor),
                _ => {
                    return Err(std::io::Error::other(
                        "a simulated machine takes functions of three groups at most",
                    ));
                }
            };
        }
        let child = command.spawn()?;
        let pid = child.id();
        // Command keeps our copies of the descriptors until it is dropped; the holder must be the child alone.
        drop(command);
        shared.held_by(pid, spec, &numbers)?;
        let child = Arc::new(Mutex::new(child));
        let (reaped, shared, spec) = (Arc::clone(&child), Arc::clone(shared), spec.clone());
        let reaper = std::thread::spawn(move || {
            while reaped
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .try_wait()
                .is_ok_and(|status| status.is_none())
            {
                std::thread::sleep(std::time::Duration::from_millis(2));
            }
            shared.released_by(pid, &spec, &numbers);
        });
        Ok(Self { pid, child, reaper: Some(reaper) })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Kills it and waits until the node has noticed.
    pub fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let _ = self.child.lock().unwrap_or_else(PoisonError::into_inner).kill();
        if let Some(reaper) = self.reaper.take() {
            let _ = reaper.join();
        }
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.end();
    }
}
