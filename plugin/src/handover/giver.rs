//! The running process: hands over to a new one that asks.

use crate::allocate::gate::ClosedGate;
use crate::device_plugin::orders::Order;
use crate::handover::connection::Connection;
use crate::handover::lock::Lock;
use crate::handover::reload::Reload;
use crate::handover::retired::Retired;
use crate::handover::taker::renew;
use crate::handover::{Parts, SOCKET};
use crate::status::socket;
use crate::status::socket::SocketFile;
use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;
use tokio::time::{sleep, timeout};
use vfio_plugin_policy::handover::Message;
use vfio_plugin_policy::handover::giver::{Action, Giver, Input};

/// How long a connected process may take to ask.
const REQUEST: Duration = Duration::from_secs(2);
/// How long the taker may take to start and to register.
const REGISTERED: Duration = Duration::from_secs(30);
/// How long the running Allocates may take: two seconds, and the time to write the state file.
const DRAIN: Duration = Duration::from_secs(5);
/// How long the streams of all resources may take to end.
const END: Duration = Duration::from_secs(10);
/// How long the taker may take to end its servers after a hand-over has failed. This process registers again after that.
const WITHDRAW: Duration = Duration::from_secs(3);
/// The pause between two attempts to take the lock of a run directory that could not be used.
const LOCK_AGAIN: Duration = Duration::from_secs(5);

/// The giver's side of one hand-over.
struct Handover<'a> {
    parts: &'a Parts,
    giver: Giver,
    connection: Connection,
    inputs: VecDeque<Input>,
    gate: Option<ClosedGate>,
    /// The hand-over socket's file. None once this process has given up the lock.
    socket: &'a mut Option<SocketFile>,
}

/// Hands over to a process that asks, one at a time. Returns when a hand-over has succeeded; this process is retired then. Returns none if
/// this process serves without the lock, and another one has it: this one has to end its servers and to ask that one.
pub(crate) async fn serve(parts: &Parts, reload: &Reload) -> Option<Retired> {
    if parts.lock.lock().is_none() {
        let Some(lock) = lock_of_unusable_directory(parts.run_dir.path()).await else {
            tracing::warn!(
                "another process has the lock of the run directory, which this one could not use at its start; stepping back"
            );
            parts.retire();
            return None;
        };
        *parts.lock.lock() = Some(lock);
    }
    let (socket, mut listener) = socket::new(&parts.run_dir, SOCKET, None);
    let mut socket = Some(socket);
    loop {
        let connection = match Connection::new(listener.accept().await) {
            Ok(connection) => connection,
            Err(error) => {
                tracing::warn!(side = "old", step = 1, %error, "hand-over refused");
                continue;
            }
        };
        let peer = connection.peer;
        let handover = Handover {
            parts,
            giver: Giver::default(),
            connection,
            inputs: VecDeque::new(),
            gate: None,
            socket: &mut socket,
        };
        let refuse_others = async {
            loop {
                drop(listener.accept().await);
            }
        };
        let retired = tokio::select! {
            retired = handover.run() => retired,
            () = refuse_others => None,
        };
        if let Some(connection) = retired {
            return Some(Retired::new(parts.run_dir.path(), connection, reload.is_child(peer)));
        }
    }
}

/// Waits until a run directory that could not be used can be locked. Without the lock, nothing is handed over. Returns none if another
/// process has the lock.
async fn lock_of_unusable_directory(run_dir: &Path) -> Option<Lock> {
    loop {
        sleep(LOCK_AGAIN).await;
        if let Ok(lock) = Lock::try_take(run_dir) {
            return lock;
        }
    }
}

impl Handover<'_> {
    /// Returns the connection if this process has handed over, and none if it goes on.
    async fn run(mut self) -> Option<Connection> {
        match self.connection.receive(REQUEST).await {
            Ok(Message::Request) => self.inputs.push_back(Input::Received(Message::Request)),
            Ok(_) => {
                tracing::warn!(
                    side = "old",
                    step = 1,
                    reason = "it sent a message out of order",
                    "hand-over refused"
                );
                return None;
            }
            // A process that only connects asks for nothing.
            Err(error) => {
                tracing::warn!(side = "old", step = 1, reason = %error, "hand-over refused");
                return None;
            }
        }
        tracing::info!(
            side = "old",
            step = 1,
            pid = self.connection.peer,
            "hand-over: requested by a new process"
        );
        loop {
            let input = match self.inputs.pop_front() {
                Some(input) => input,
                None => self.next().await,
            };
            for action in self.giver.take(input) {
                self.act(action).await;
            }
            match self.giver {
                Giver::Retired => return Some(self.connection),
                Giver::Serving => {
                    tracing::info!(side = "old", "hand-over: going on");
                    return None;
                }
                Giver::Waiting | Giver::Sealing | Giver::Ending => {}
            }
        }
    }

    /// Waits for what the taker sends next.
    async fn next(&mut self) -> Input {
        match self.connection.receive(REGISTERED).await {
            Ok(message) => Input::Received(message),
            Err(error) => left(3, &error.to_string()),
        }
    }

    async fn act(&mut self, action: Action) {
        let parts = self.parts;
        match action {
            Action::HoldRegistrations => {
                parts.registrations.hold(true);
                parts.assignments.pause_polls(true);
            }
            Action::Send(message) => {
                let sent = self.connection.send(&message).await;
                match (sent, &message) {
                    (Ok(()), Message::Ready) => {
                        tracing::info!(side = "old", step = 2, "hand-over: ready");
                        tracing::info!(
                            side = "old",
                            step = 3,
                            "hand-over: waiting until the new process has registered"
                        );
                    }
                    // The taker is gone, and the lock will show it.
                    (_, Message::Ended { .. }) => {}
                    (Ok(()), _) => {}
                    (Err(error), _) => self.inputs.push_back(left(2, &error.to_string())),
                }
            }
            Action::HoldAllocates => {
                let input = tokio::select! {
                    closed = timeout(DRAIN, parts.gate.close()) => match closed {
                        Ok(gate) => {
                            self.gate = Some(gate);
                            match parts.assignments.save() {
                                true => Input::Drained,
                                false => left(4, "assignments.json could not be written"),
                            }
                        }
                        Err(_) => left(4, "an Allocate has not ended in time"),
                    },
                    () = self.connection.closed() => left(4, "the new process has left"),
                };
                self.inputs.push_back(input);
            }
            Action::EndStreams => {
                let input = tokio::select! {
                    ended = timeout(END, parts.registrations.order(Order::EndStreams, None)) => match ended {
                        Ok(kept) => {
                            tracing::info!(side = "old", step = 4, ?kept, "hand-over: ended the streams");
                            Input::StreamsEnded { kept }
                        }
                        Err(_) => left(4, "the streams have not ended in time"),
                    },
                    () = self.connection.closed() => left(4, "the new process has left"),
                };
                self.inputs.push_back(input);
            }
            Action::RefuseAllocates => {
                if let Some(gate) = self.gate.take() {
                    gate.refuse();
                }
            }
            Action::ReleaseLock => {
                // The taker makes its own as soon as it has the lock.
                *self.socket = None;
                parts.retire();
                tracing::info!(side = "old", step = 5, "hand-over: gave up the lock");
            }
            Action::AnswerAllocates => {
                if let Some(gate) = self.gate.take() {
                    gate.answer();
                }
            }
            // The taker ends its servers, and then its side of the connection.
            Action::Disconnect => self.connection.close(WITHDRAW).await,
            Action::RegisterAgain => {
                renew(parts, Order::RenewAll, None).await;
                parts.registrations.hold(false);
                parts.assignments.pause_polls(false);
            }
            // `serve` ends all servers of a retired process, and `Retired` waits for the lock.
            Action::EndServers | Action::AwaitLock => {}
        }
    }
}

/// Logs why the taker counts as gone.
fn left(step: u8, reason: &str) -> Input {
    tracing::warn!(side = "old", step, reason, "hand-over failed");
    Input::TakerLeft
}
