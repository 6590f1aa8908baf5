//! Carries out the hand-over from one process of the plugin to another without a gap. docs/upgrades.md has the steps, and
//! `vfio_plugin_policy::handover` decides them.
//!
//! | module | purpose |
//! | --- | --- |
//! | [`lock`] | the lock of the run directory: the process that has it answers Allocates |
//! | [`connection`] | the messages between the two processes |
//! | [`taker`] | the new process |
//! | [`giver`] | the running process |
//! | [`retired`] | what a process does after it has handed over |
//! | [`reload`] | starts a new process on SIGHUP, and reports to systemd |
//!
//! The hand-over has a socket of its own in the run directory. The status socket sends its answer without reading, so a new process could
//! not distinguish an older version from one that hands over. Where there is no hand-over socket and no lock, the new process starts as if
//! there were no other.

mod connection;
pub(crate) mod giver;
pub(crate) mod lock;
pub(crate) mod reload;
pub(crate) mod retired;
pub(crate) mod taker;

use crate::allocate::gate::AllocateGate;
use crate::assignments::AssignmentsHandle;
use crate::device_plugin::orders::Registrations;
use crate::handover::lock::Lock;
use crate::kubelet::registry::Registry;
use crate::node::monitor::MonitorHandle;
use crate::publisher::HealthPublisher;
use crate::run_dir::RunDir;
use crate::status::socket::SocketFile;
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::sync::watch;

/// The hand-over socket's name in the run directory.
const SOCKET: &str = "handover.sock";

/// The parts of a running plugin that a hand-over changes.
pub(crate) struct Parts {
    /// Whether this process hands over to another one. The DRA driver's record of claims is not handed over.
    pub(crate) hands_over: bool,
    /// May be written from the moment on that this process has the lock.
    pub(crate) run_dir: RunDir,
    /// The registrations of all resources.
    pub(crate) registrations: Registrations,
    /// The state of the registrations.
    pub(crate) registry: Arc<Registry>,
    /// Lets Allocates wait.
    pub(crate) gate: AllocateGate,
    /// Which pod each device is assigned to.
    pub(crate) assignments: AssignmentsHandle,
    /// Writes CDI specs.
    pub(crate) monitor: MonitorHandle,
    /// Writes the state file of the devices' health.
    pub(crate) publisher: Arc<HealthPublisher>,
    /// Whether this process is the one that answers: on the status socket, for `--listen`, and Allocates.
    pub(crate) active: watch::Sender<bool>,
    /// The status socket's file.
    pub(crate) status_socket: Mutex<Option<SocketFile>>,
    /// The lock of the run directory. A process that stops gives it up after its last Allocate and its last write.
    pub(crate) lock: Mutex<Option<Lock>>,
}

impl Parts {
    /// Makes this process the active one. It has the lock, or the run directory cannot be used.
    pub(crate) fn activate(&self) {
        if let Some(lock) = &*self.lock.lock() {
            lock.sign();
        }
        self.run_dir.begin_writing();
        self.active.send_replace(true);
    }

    /// Ends what only the active process does, and gives up the lock.
    fn retire(&self) {
        self.run_dir.end_writing();
        self.active.send_replace(false);
        drop(self.status_socket.lock().take());
        drop(self.lock.lock().take());
    }
}
