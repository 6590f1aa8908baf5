//! One process of the plugin: its log as events, and a kill that follows a line of the log at once.

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Which side of a hand-over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Side {
    /// The process that serves.
    Old,
    /// The process that takes over.
    New,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Old => "old",
            Self::New => "new",
        })
    }
}

/// A line of the log that reports a step of the hand-over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Step {
    /// The process that writes it.
    pub(crate) side: Side,
    /// The number of the step in docs/upgrades.md.
    pub(crate) number: u64,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.side, self.number)
    }
}

/// What the reader of a log does when it reads a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trap {
    pub(crate) step: Step,
    /// The process that is killed.
    pub(crate) victim: Pid,
}

/// The log so far. Fields of its lines.
#[derive(Debug, Default)]
struct Log {
    lines: Vec<serde_json::Value>,
    trap: Option<Trap>,
    is_sprung: bool,
}

/// A running process of the plugin. Dropping it kills the process.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    shared: Arc<Mutex<Log>>,
}

impl Process {
    /// Starts the process. Its standard error must be a pipe; it is copied to `copy`.
    pub(crate) fn start(command: &mut Command, copy: File) -> anyhow::Result<Self> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let stderr = child.stderr.take().context("no standard error")?;
        let shared = Arc::<Mutex<Log>>::default();
        let reader = Arc::clone(&shared);
        std::thread::spawn(move || read(stderr, copy, &reader));
        Ok(Self { child, shared })
    }

    /// Returns the process id.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Kills a process when this one writes a step, or at once if it has written it already.
    pub(crate) fn set_trap(&self, trap: Trap) {
        let mut log = self.lock();
        if log.lines.iter().any(|fields| is_step(fields, trap.step)) {
            let _ = kill_process(trap.victim, Signal::KILL);
            log.is_sprung = true;
        } else {
            log.trap = Some(trap);
        }
    }

    /// Returns whether the trap has killed its victim.
    pub(crate) fn trap_is_sprung(&self) -> bool {
        self.lock().is_sprung
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Log> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts the lines with this message.
    pub(crate) fn count(&self, message: &str) -> usize {
        self.lock().lines.iter().filter(|fields| fields["message"] == message).count()
    }

    /// Returns whether a step was written.
    pub(crate) fn has(&self, step: Step) -> bool {
        self.lock().lines.iter().any(|fields| is_step(fields, step))
    }

    /// Asks the process to end. Returns its status.
    pub(crate) fn terminate(&mut self, patience: Duration) -> anyhow::Result<ExitStatus> {
        kill_process(self.pid(), Signal::TERM)?;
        self.wait(patience)
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        Ok(kill_process(self.pid(), signal)?)
    }

    /// Waits for the end of the process.
    pub(crate) fn wait(&mut self, patience: Duration) -> anyhow::Result<ExitStatus> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!("process {} has not ended within {patience:?}", self.child.id());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Returns the status of a process that has ended.
    pub(crate) fn status(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Kills the process and waits for its end.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Returns whether a line reports that a step was done. The report of a failed one has a `reason`.
fn is_step(fields: &serde_json::Value, step: Step) -> bool {
    let side = step.side.to_string();
    fields["side"] == side.as_str()
        && fields["step"].as_u64() == Some(step.number)
        && fields["reason"].is_null()
}

/// Reads a log until its end.
fn read(stderr: ChildStderr, mut copy: File, shared: &Mutex<Log>) {
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        let mut record: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
        let fields = record["fields"].take();
        let mut log = shared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(trap) = log.trap.filter(|trap| is_step(&fields, trap.step)) {
            let _ = kill_process(trap.victim, Signal::KILL);
            (log.trap, log.is_sprung) = (None, true);
        }
        log.lines.push(fields);
        let _ = writeln!(copy, "{line}");
    }
}
