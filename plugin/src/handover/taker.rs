//! The new process: asks the running one to hand over, and takes over from it.

use crate::allocate::gate::ClosedGate;
use crate::backoff::Backoff;
use crate::device_plugin::orders::Order;
use crate::handover::connection::Connection;
use crate::handover::lock::{self, Lock};
use crate::handover::{Parts, SOCKET};
use crate::log_once::LogOnce;
use crate::state_file::is_passing;
use std::collections::VecDeque;
use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use vfio_plugin_policy::handover::Message;
use vfio_plugin_policy::handover::taker::{Action, Input, Taker};

/// Pauses between two requests.
const ASK_AGAIN: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
/// The pause between two attempts to take the lock meanwhile.
const LOCK_AGAIN: Duration = Duration::from_millis(500);
/// How long the giver may take to be ready.
const READY: Duration = Duration::from_secs(10);
/// How long this process may take to start and to register all resources.
const REGISTER: Duration = Duration::from_secs(60);
/// The pause between two checks whether all resources are registered.
const CHECK: Duration = Duration::from_millis(10);
/// The last list reaches the kubelet's device manager within this time.
const REACHES_KUBELET: Duration = Duration::from_millis(100);
/// How long an order to the registrations may take: the kubelet answers a Register within 15 s.
const ORDER: Duration = Duration::from_secs(40);
/// How long the giver may take to end its streams.
const END: Duration = Duration::from_secs(20);
/// How long the lock may be taken by a retired process that only tests whether it is free.
const LOCK: Duration = Duration::from_secs(1);

/// How a process begins.
pub(crate) enum Beginning {
    /// It serves alone. It has the lock, unless the run directory cannot be used.
    Alone(Option<Lock>),
    /// It takes over from a running process.
    Taking(Box<Takeover>),
}

/// A hand-over that has begun.
pub(crate) struct Takeover {
    run_dir: PathBuf,
    taker: Taker,
    connection: Connection,
    inputs: VecDeque<Input>,
    gate: Option<ClosedGate>,
    pauses: Backoff,
}

/// The end of a hand-over.
pub(crate) enum Taken {
    /// This process has the lock and serves.
    Serves,
    /// The other process goes on. This one has to end its servers, and then to drop the connection, for which the other process waits.
    Withdrawn(Withdrawn),
}

/// Has the connection, for [`begin_again`] to close.
pub(crate) struct Withdrawn {
    connection: Connection,
    pauses: Backoff,
}

/// Takes the lock, or asks the process that has it to hand over. Asks again until one of both succeeds.
pub(crate) async fn begin(run_dir: &Path) -> Beginning {
    begin_at(run_dir, Some(Instant::now()), ASK_AGAIN).await
}

/// Waits for the lock, and asks no process to hand over.
#[cfg(feature = "dra")]
pub(crate) async fn begin_alone(run_dir: &Path) -> Beginning {
    begin_at(run_dir, None, ASK_AGAIN).await
}

/// Closes the connection of a hand-over that has failed, and then does what [`begin`] does. Each failure doubles the pause before the
/// next request: the other process registers all its resources again after each.
pub(crate) async fn begin_again(run_dir: &Path, withdrawn: Withdrawn) -> Beginning {
    let Withdrawn { connection, mut pauses } = withdrawn;
    drop(connection);
    let ask_at = Instant::now() + pauses.pause();
    begin_at(run_dir, Some(ask_at), pauses).await
}

/// Without `ask_at`, this waits for the lock only.
async fn begin_at(run_dir: &Path, mut ask_at: Option<Instant>, mut pauses: Backoff) -> Beginning {
    let mut logged = LogOnce::default();
    loop {
        match Lock::try_take(run_dir) {
            Ok(Some(lock)) => return Beginning::Alone(Some(lock)),
            Ok(None) => {}
            // That says nothing about another process.
            Err(error) if is_passing(&error) => {
                sleep(LOCK_AGAIN).await;
                continue;
            }
            Err(error) => {
                let run_dir = run_dir.display();
                tracing::debug!(%run_dir, %error, "the run directory cannot be locked; serving without the lock");
                return Beginning::Alone(None);
            }
        }
        if ask_at.is_none_or(|time| Instant::now() < time) {
            if ask_at.is_none() && logged.is_new(String::new()) {
                tracing::info!(run_dir = %run_dir.display(), "waiting for the process that serves: it has the lock of the run directory");
            }
            sleep(LOCK_AGAIN).await;
            continue;
        }
        let asked = match lock::may_ask(run_dir) {
            true => Takeover::ask(run_dir, pauses).await,
            false => Err(Error::other("the pod of that process has replaced this one")),
        };
        match asked {
            Ok(takeover) => return Beginning::Taking(Box::new(takeover)),
            Err(error) => {
                if logged.is_new(error.to_string()) {
                    let run_dir = run_dir.display();
                    tracing::warn!(%run_dir, %error,
                        "waiting for the process that serves: it has the lock of the run directory and does not hand over");
                }
            }
        }
        ask_at = Some(Instant::now() + pauses.pause());
    }
}

impl Takeover {
    /// Asks the running process, and waits until it is ready.
    async fn ask(run_dir: &Path, pauses: Backoff) -> std::io::Result<Self> {
        let mut taker = Taker::default();
        let mut connection = Connection::open(&run_dir.join(SOCKET)).await?;
        for action in taker.take(Input::Connected) {
            if let Action::Send(message) = action {
                connection.send(&message).await?;
            }
        }
        tracing::info!(
            side = "new",
            step = 1,
            pid = connection.peer,
            "hand-over: requested from the running process"
        );
        let message = connection.receive(READY).await?;
        if !taker.take(Input::Received(message)).contains(&Action::Start) {
            let text = "the running process sent a message out of order";
            return Err(Error::new(ErrorKind::InvalidData, text));
        }
        tracing::info!(side = "new", step = 2, "hand-over: the running process is ready");
        let run_dir = run_dir.to_owned();
        Ok(Self { run_dir, taker, connection, inputs: VecDeque::new(), gate: None, pauses })
    }

    /// Returns the process that hands over; 0 if this one does not see it.
    pub(crate) fn peer(&self) -> i32 {
        self.connection.peer
    }

    /// Takes over, after this process has started with a closed gate.
    pub(crate) async fn run(mut self, parts: &Parts, gate: Option<ClosedGate>) -> Taken {
        self.gate = gate;
        loop {
            let input = match self.inputs.pop_front() {
                Some(input) => input,
                None => self.next(parts).await,
            };
            for action in self.taker.take(input) {
                match action {
                    Action::Withdraw => return self.withdraw(parts).await,
                    action => self.act(action, parts).await,
                }
            }
            if self.taker == Taker::Serving {
                tracing::info!(side = "new", step = 6, "hand-over: took over");
                return Taken::Serves;
            }
        }
    }

    /// Waits for what happens next.
    async fn next(&mut self, parts: &Parts) -> Input {
        match self.taker {
            Taker::Registering => tokio::select! {
                () = all_registered(parts) => {
                    tracing::info!(side = "new", step = 3, "hand-over: registered");
                    Input::AllRegistered
                }
                () = self.connection.closed() => left(3, "the running process has left"),
                () = sleep(REGISTER) => left(3, "this process could not register all resources in time"),
            },
            _ => match self.connection.receive(END).await {
                Ok(message) => {
                    if let Message::Ended { kept } = &message {
                        tracing::info!(
                            side = "new",
                            step = 5,
                            ?kept,
                            "hand-over: the running process gave up the lock"
                        );
                    }
                    Input::Received(message)
                }
                Err(error) => left(5, &error.to_string()),
            },
        }
    }

    async fn act(&mut self, action: Action, parts: &Parts) {
        match action {
            Action::Send(message) => {
                if self.connection.send(&message).await.is_err() {
                    self.inputs.push_back(left(4, "the running process has left"));
                }
            }
            Action::Void => {
                let input = tokio::select! {
                    voided = timeout(ORDER, parts.registrations.order(Order::Void, None)) => match voided {
                        Ok(_) => Input::Voided,
                        Err(_) => left(4, "the kubelet answers no registration"),
                    },
                    () = self.connection.closed() => left(4, "the running process has left"),
                };
                if input == Input::Voided {
                    tracing::info!(side = "new", step = 4, "hand-over: registrations failed on purpose");
                }
                self.inputs.push_back(input);
            }
            Action::TryLock => {
                let lock = take_lock(&self.run_dir).await;
                let input = if lock.is_some() { Input::LockTaken } else { Input::LockHeld };
                *parts.lock.lock() = lock;
                if input == Input::LockTaken && self.taker == Taker::Orphaned {
                    tracing::info!(side = "new", "hand-over: going on alone");
                }
                self.inputs.push_back(input);
            }
            Action::AnswerAllocates => {
                parts.activate();
                parts.assignments.reload(&parts.run_dir);
                parts.publisher.changed.notify_one();
                parts.monitor.refresh_cdi_specs();
                if let Some(gate) = self.gate.take() {
                    gate.answer();
                }
            }
            Action::Renew(kept) => {
                renew(parts, Order::Renew, Some(&kept)).await;
            }
            Action::RenewAll => renew(parts, Order::RenewAll, None).await,
            // `serve` has started; the connection closes when this is dropped; `run` withdraws.
            Action::Start | Action::Disconnect | Action::Withdraw => {}
        }
    }

    /// Leaves the kubelet to the other process. A kubelet up to 1.36 must not evict that one when the streams of this process end.
    async fn withdraw(self, parts: &Parts) -> Taken {
        tracing::warn!(side = "new", "hand-over: withdrew; asking again later");
        let _ = timeout(ORDER, parts.registrations.order(Order::Void, None)).await;
        Taken::Withdrawn(Withdrawn { connection: self.connection, pauses: self.pauses })
    }
}

/// Logs why the giver counts as gone.
fn left(step: u8, reason: &str) -> Input {
    tracing::warn!(side = "new", step, reason, "hand-over failed");
    Input::GiverLeft
}

/// Waits until all resources are registered and their first lists sent.
async fn all_registered(parts: &Parts) {
    loop {
        let resources = parts.registry.resources();
        if parts.registry.is_set()
            && resources.iter().all(|resource| resource.registered && resource.first_list_sent)
        {
            return sleep(REACHES_KUBELET).await;
        }
        sleep(CHECK).await;
    }
}

/// Takes the lock, for which a retired process tests now and then whether it is free.
async fn take_lock(run_dir: &Path) -> Option<Lock> {
    let deadline = Instant::now() + LOCK;
    loop {
        let lock = Lock::try_take(run_dir).ok().flatten();
        if lock.is_some() || Instant::now() >= deadline {
            return lock;
        }
        sleep(CHECK).await;
    }
}

/// Renews registrations. A resource that cannot be renewed registers again by itself.
pub(super) async fn renew(parts: &Parts, order: Order, only: Option<&[std::sync::Arc<str>]>) {
    if timeout(ORDER, parts.registrations.order(order, only)).await.is_err() {
        tracing::warn!(
            "not all registrations could be renewed in time; their resources register again by themselves"
        );
    }
}
