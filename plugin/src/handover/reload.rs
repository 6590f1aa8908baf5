//! Replaces the running process on a host without a gap: on SIGHUP it starts its program again, which asks it to hand over. Reports the new
//! process to systemd.

use parking_lot::Mutex;
use std::ffi::OsString;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::os::unix::process::{CommandExt, parent_id};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};

/// The program of this process, and the process that was started to replace this one. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Reload(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// The program's file when this process started. It may have been replaced since then.
    program: std::io::Result<PathBuf>,
    child: Mutex<Option<u32>>,
}

impl Reload {
    /// Notes the program's file. To be called when the process starts.
    pub(crate) fn new() -> Self {
        Self(Arc::new(Shared { program: std::env::current_exe(), child: Mutex::default() }))
    }

    /// Returns whether a process was started by this one.
    pub(super) fn is_child(&self, pid: i32) -> bool {
        self.0.child.lock().is_some_and(|child| u32::try_from(pid) == Ok(child))
    }

    /// Starts the program again for each SIGHUP. Never ends.
    pub(crate) async fn follow(self) {
        match signal(SignalKind::hangup()) {
            Ok(mut hangup) => {
                while hangup.recv().await.is_some() {
                    self.start();
                }
            }
            Err(error) => tracing::warn!(%error, "SIGHUP cannot be handled; it does not reload the plugin"),
        }
        std::future::pending::<()>().await;
    }

    /// Starts the program again, unless that was done and the new process lives.
    fn start(&self) {
        // The container ends with this process, and the new one with it.
        if std::process::id() == 1 {
            return tracing::warn!(
                "reload refused: this process is the first of its container; replace the pod instead"
            );
        }
        let mut current = self.0.child.lock();
        if let Some(pid) = *current {
            return tracing::warn!(
                pid,
                "reload refused: a process that was started before is still taking over"
            );
        }
        match self.spawn() {
            Ok(child) => {
                let pid = child.id();
                *current = Some(pid);
                tracing::info!(pid, "reload: started a new process");
                let shared = self.clone();
                let wait = move || shared.wait(child);
                if let Err(error) = std::thread::Builder::new().name("reload".to_owned()).spawn(wait) {
                    tracing::warn!(pid, %error, "the new process is not watched");
                }
            }
            Err(error) => tracing::error!(%error, "reload failed: the program could not be started"),
        }
    }

    /// Starts the program with the arguments and the environment of this process.
    fn spawn(&self) -> std::io::Result<Child> {
        let program = self.0.program.as_ref().map_err(|error| std::io::Error::from(error.kind()))?;
        let mut arguments = std::env::args_os();
        let name = arguments.next().unwrap_or_else(|| OsString::from(program));
        Command::new(program).arg0(name).args(arguments).stdin(Stdio::null()).spawn()
    }

    /// Waits for the end of the new process.
    fn wait(&self, mut child: Child) {
        let status = child.wait();
        *self.0.child.lock() = None;
        match status {
            Ok(status) => tracing::error!(%status, "reload failed: the new process has ended"),
            Err(error) => tracing::error!(%error, "reload failed: the new process cannot be waited for"),
        }
    }
}

/// Logs for each SIGHUP that it does not reload a process that runs the DRA driver. Never ends.
///
/// Without a handler the signal would end the process.
pub(crate) async fn refuse_with_dra<T>() -> T {
    match signal(SignalKind::hangup()) {
        Ok(mut hangup) => {
            while hangup.recv().await.is_some() {
                tracing::warn!(
                    "reload refused: with --offer dra a process does not hand over to another one; restart it instead"
                );
            }
        }
        Err(error) => tracing::warn!(%error, "SIGHUP cannot be handled; it ends the plugin"),
    }
    std::future::pending().await
}

/// Reports to systemd that this process is active, if systemd has started it (`sd_notify`). A process that was started by the one that `giver` names is
/// not the service's main process yet, and systemd takes its messages from no other.
pub(crate) fn notify_active(giver: Option<i32>) {
    if giver.and_then(|giver| u32::try_from(giver).ok()) != Some(parent_id()) {
        notify("READY=1");
    }
}

/// Reports to systemd that another process is the service's main process from now on.
pub(super) fn notify_successor(pid: i32) {
    notify(&format!("MAINPID={pid}\nREADY=1"));
}

/// Sends a message to the service manager, if there is one. A failure is logged: the service manager then takes the exit of this process
/// for the end of the service, and starts it again.
fn notify(message: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let address = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&path),
    };
    let sent = address.and_then(|address| {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.send_to_addr(message.as_bytes(), &address)
    });
    if let Err(error) = sent {
        tracing::warn!(%error, "the service manager could not be notified");
    }
}
