//! `serve`: the device plugin itself, from the first wait for another process to the exit.
//!
//! A process waits while another one serves, takes over from it, and hands over to the next. Every task and thread is supervised.

mod parts;
mod publishing;
#[cfg(test)]
mod tests;

use crate::allocate::gate::ClosedGate;
use crate::commands::stderr;
use crate::config::Config;
use crate::device_plugin::sockets;
use crate::handover::reload::{self, Reload, notify_active};
use crate::handover::retired::{AfterRetirement, Retired};
use crate::handover::taker::{self, Beginning, Taken, Withdrawn};
use crate::handover::{Parts, giver};
use crate::problems::Problems;
use crate::run_dir::RunDir;
use crate::status::ProcessStatus;
use crate::status::socket::SocketFile;
use crate::status::words::RoleWord;
use crate::supervise::{Failures, PanicReports, Supervisor};
use anyhow::{Context, bail};
use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, umask};
use std::pin::pin;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

/// How long streams and sockets may take to end after a SIGTERM. What is left ends with the process.
const SHUTDOWN: Duration = Duration::from_millis(800);

/// Serve failed, and why is in its log.
#[derive(Debug)]
pub(crate) struct Logged;

/// Runs until SIGTERM or SIGINT. Waits for a kubelet that is not there.
///
/// # Errors
/// The root cannot be opened, the kernel gives the process no thread or descriptor, or a task or thread of the plugin has
/// panicked or ended. The log has the reason, so that every line is JSON with `--log-format json`. Standard error has it if the
/// log is off.
pub(crate) fn run(config: &Config) -> Result<(), Logged> {
    // Files and directories get explicit modes where they are created. Nothing is ever open to others before that.
    umask(Mode::RWXG | Mode::RWXO);
    run_until_signal(config).map_err(|error| {
        if tracing::enabled!(tracing::Level::ERROR) {
            tracing::error!(error = %format_args!("{error:#}"), "serve failed");
        } else {
            stderr::print(format_args!("vfio-device-plugin: {error:#}"));
        }
        Logged
    })
}

fn run_until_signal(config: &Config) -> anyhow::Result<()> {
    let reload = Reload::new();
    raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start the async runtime")?;
    let end = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
        // Only the active process reloads. Another one is not ended by the signal either.
        let _hangup = signal(SignalKind::hangup()).context("cannot handle SIGHUP")?;
        let stop = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        serve_until_any_panic(config, &reload, stop).await
    });
    // A blocking call that hangs in the kernel must not hang the exit.
    runtime.shutdown_background();
    end
}

/// Raises the soft limit of open descriptors to the hard one. A soft limit of 1024 is a default for programs that call select(2),
/// and this one does not; the only program that it starts, and that inherits the limit, is itself. Before any thread starts.
fn raise_descriptor_limit() {
    let limits = getrlimit(Resource::Nofile);
    if limits.current != limits.maximum {
        // Where this is refused, the soft limit stays: the monitor keeps descriptors for half of it.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limits.maximum, ..limits });
    }
}

/// Runs [`serve`] with a supervisor of its own that reports every panic of the process, also of threads and tasks that it has not
/// started: the readers of the hardware, the prober's threads, gRPC calls. Does that again as long as this process is to serve after a
/// hand-over.
async fn serve_until_any_panic(
    config: &Config,
    reload: &Reload,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let (mut stop, mut before) = (pin!(stop), Before::Started);
    let panics = PanicReports::new();
    loop {
        let (supervisor, failures) = Supervisor::new();
        panics.report_to(&supervisor);
        before = match serve(config, &supervisor, failures, reload, before, &mut stop).await? {
            Next::Exit => return Ok(()),
            Next::Wait(before) => before,
        };
    }
}

/// What comes before a process serves.
enum Before {
    /// It has just been started.
    Started,
    /// It has served without the lock, which another process has.
    SteppedBack,
    /// Another process went on in a hand-over to this one. It waits until the connection is closed.
    Withdrawn(Withdrawn),
    /// It has handed over.
    Retired(Retired),
}

impl Before {
    /// Waits until this process serves or takes over. Returns none if it is to exit.
    async fn wait(self, config: &Config) -> Option<Beginning> {
        match self {
            // The driver's record of claims is not handed over.
            #[cfg(feature = "dra")]
            _ if runs_driver(config) => Some(taker::begin_alone(&config.run_dir).await),
            Self::Started | Self::SteppedBack => Some(taker::begin(&config.run_dir).await),
            Self::Withdrawn(withdrawn) => Some(taker::begin_again(&config.run_dir, withdrawn).await),
            Self::Retired(retired) => match retired.wait().await {
                AfterRetirement::Serve(lock) => Some(Beginning::Alone(Some(lock))),
                AfterRetirement::Exit => None,
            },
        }
    }

    fn role(&self) -> RoleWord {
        match self {
            Self::Started | Self::SteppedBack | Self::Withdrawn(_) => RoleWord::Waiting,
            Self::Retired(_) => RoleWord::HandedOver,
        }
    }
}

/// Returns whether this process is to run the DRA driver. False if the record of claims cannot be read now, which is read again before
/// anything is served.
#[cfg(feature = "dra")]
fn runs_driver(config: &Config) -> bool {
    crate::dra::Role::of(config).is_ok_and(crate::dra::Role::runs_driver)
}

/// What comes after a process has served.
enum Next {
    /// It exits.
    Exit,
    /// It waits until it serves again.
    Wait(Before),
}

/// Waits until this process is to serve, starts the plugin, and runs it until `stop`, the first failure of a task or thread, or a
/// hand-over. In all cases streams end and sockets are removed before this returns.
async fn serve(
    config: &Config,
    supervisor: &Supervisor,
    mut failures: Failures,
    reload: &Reload,
    before: Before,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<Next> {
    let status = ProcessStatus::new(before.role(), config.busy.to_string());
    let _own_socket = start_own_socket(config, supervisor, status.clone());
    let mut stop = pin!(stop);
    let beginning = tokio::select! {
        beginning = before.wait(config) => beginning,
        () = &mut stop => None,
        failure = failures.first() => {
            supervisor.stop();
            bail!("{failure}; stopped, to be started again")
        }
    };
    let Some(beginning) = beginning else {
        supervisor.stop();
        return Ok(Next::Exit);
    };
    let (parts, gate) =
        parts::start(config, supervisor, &status, matches!(beginning, Beginning::Alone(_))).await?;
    let end = tokio::select! {
        () = stop => Ok(Next::Exit),
        failure = failures.first() => Err(failure),
        before = hand_over(beginning, &parts, gate, supervisor, reload) => Ok(Next::Wait(before)),
    };
    tracing::info!("stopping");
    supervisor.stop();
    parts.monitor.stop();
    let _ = timeout(SHUTDOWN, supervisor.ended()).await;
    // Until here a process that waits for the lock must not serve: an Allocate may still have been answered.
    drop(parts);
    end.or_else(|failure| bail!("{failure}; stopped, to be started again"))
}

/// Starts the status socket of this process, and removes those that killed processes left.
fn start_own_socket(config: &Config, supervisor: &Supervisor, status: ProcessStatus) -> SocketFile {
    let run_dir = RunDir::of_waiting_serve(&config.run_dir, &Problems::default());
    let name = sockets::new_name();
    let (socket, answering) = status.start_own(&run_dir, &name);
    let directory = config.run_dir.clone();
    supervisor.task("the status socket of the process", async move {
        tokio::join!(answering, sockets::remove_stale(&directory, Some(&name)));
    });
    socket
}

/// Takes over if another process serves, and then serves until another process takes over.
async fn hand_over(
    beginning: Beginning,
    parts: &Parts,
    gate: Option<ClosedGate>,
    supervisor: &Supervisor,
    reload: &Reload,
) -> Before {
    let giver = match beginning {
        Beginning::Alone(lock) => {
            *parts.lock.lock() = lock;
            parts.activate();
            if let Some(gate) = gate {
                gate.answer();
            }
            None
        }
        Beginning::Taking(takeover) => {
            let giver = takeover.peer();
            match takeover.run(parts, gate).await {
                Taken::Serves => Some(giver),
                Taken::Withdrawn(withdrawn) => return Before::Withdrawn(withdrawn),
            }
        }
    };
    notify_active(giver);
    if !parts.hands_over {
        return reload::refuse_with_dra().await;
    }
    supervisor.task("the reload", reload.clone().follow());
    match giver::serve(parts, reload).await {
        Some(retired) => Before::Retired(retired),
        None => Before::SteppedBack,
    }
}
