//! Watches the plugin's tasks and threads: a panic, or the early end of one, ends the process.
//!
//! Without this, a task that panics leaves a process that seems alive and does only part of its work: frozen assignments, or a
//! resource that never registers again. Ending the process is safe: the kubelet keeps the devices of running pods, the DaemonSet
//! starts the plugin again, and the state files carry over what was known.

use crate::log::panic_message;
use parking_lot::Mutex;
use std::cell::Cell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Starts tasks and threads, and reports those that end before the process stops. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Supervisor {
    failures: mpsc::UnboundedSender<Failure>,
    stopping: CancellationToken,
    tasks: TaskTracker,
    /// The task or thread that panics when it starts.
    #[cfg(test)]
    fault: Option<&'static str>,
}

/// The receiving end of a supervisor's failures.
#[derive(Debug)]
pub(crate) struct Failures(mpsc::UnboundedReceiver<Failure>);

/// A task or thread that ended too early.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Failure {
    /// Its name in words: "the monitor thread", "resource nvidia.com/GPU".
    pub(crate) name: String,
    /// The panic's message; none if it returned.
    pub(crate) panic: Option<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.panic {
            Some(message) => write!(f, "{} panicked: {message}", self.name),
            None => write!(f, "{} ended unexpectedly", self.name),
        }
    }
}

tokio::task_local! {
    /// The name of the task that runs, for the panic hook.
    static TASK: String;
}

thread_local! {
    /// Whether this thread runs the work of [`contain`].
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work` on this thread. Returns none if it panics: the panic is printed, and the process goes on.
pub(crate) fn contain<T>(work: impl FnOnce() -> T) -> Option<T> {
    CONTAINED.set(true);
    let result = catch_unwind(AssertUnwindSafe(work)).ok();
    CONTAINED.set(false);
    result
}

/// Where every panic of the process is reported, also in tasks and threads that no supervisor has started: gRPC calls, the prober's
/// threads. Only a panic within [`contain`] is not reported.
#[derive(Debug, Default)]
pub(crate) struct PanicReports(Arc<Mutex<Option<Supervisor>>>);

impl PanicReports {
    /// Sets the process's hook, once. The hook that was set before, which logs the panic and its place, is called first.
    pub(crate) fn new() -> Self {
        let reports = Self::default();
        let (current, log) = (Arc::clone(&reports.0), std::panic::take_hook());
        std::panic::set_hook(Box::new(move |panic| {
            log(panic);
            let supervisor = current.lock().clone();
            if let Some(supervisor) = supervisor.filter(|_| !CONTAINED.get()) {
                supervisor.report(running(), Some(panic_message(panic.payload()).to_owned()));
            }
        }));
        reports
    }

    /// Reports to this supervisor from now on.
    pub(crate) fn report_to(&self, supervisor: &Supervisor) {
        *self.0.lock() = Some(supervisor.clone());
    }
}

impl Supervisor {
    /// Returns a supervisor and the end at which its failures arrive.
    pub(crate) fn new() -> (Self, Failures) {
        let (failures, receiver) = mpsc::unbounded_channel();
        let supervisor = Self {
            failures,
            stopping: CancellationToken::new(),
            tasks: TaskTracker::new(),
            #[cfg(test)]
            fault: None,
        };
        (supervisor, Failures(receiver))
    }

    /// Returns a supervisor that makes the task or thread of this name panic when it starts.
    #[cfg(test)]
    pub(crate) fn with_fault(name: &'static str) -> (Self, Failures) {
        let (supervisor, failures) = Self::new();
        (Self { fault: Some(name), ..supervisor }, failures)
    }

    /// Starts a task that runs until the process stops. The stop drops it.
    pub(crate) fn task(&self, name: impl Into<String>, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stopping.clone();
        self.task_until(name, self.stopping.clone(), async move {
            stop.run_until_cancelled(task).await;
        });
    }

    /// Starts a task that ends by itself soon after `stop` is cancelled. The handle ends with the task.
    pub(crate) fn task_until(
        &self,
        name: impl Into<String>,
        stop: CancellationToken,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> tokio::task::JoinHandle<()> {
        let (supervisor, name) = (self.clone(), name.into());
        #[cfg(test)]
        let task = fail_if(self.fault == Some(name.as_str()), task);
        let task = tokio::spawn(TASK.scope(name.clone(), task));
        self.tasks.spawn(async move {
            let panic = match task.await {
                Ok(()) => None,
                Err(error) => error.try_into_panic().ok().map(|panic| panic_message(&*panic).to_owned()),
            };
            if panic.is_some() || !stop.is_cancelled() {
                supervisor.report(name, panic);
            }
        })
    }

    /// Starts a thread that runs until the process stops. `stack` is its stack size in bytes.
    ///
    /// # Errors
    /// The kernel gives the process no further thread.
    pub(crate) fn thread(
        &self,
        name: &'static str,
        stack: usize,
        work: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<()> {
        self.thread_until(name, stack, self.stopping.clone(), work)
    }

    /// Starts a thread like [`thread`](Self::thread) that ends by itself soon after `stop` is cancelled.
    ///
    /// # Errors
    /// The kernel gives the process no further thread.
    pub(crate) fn thread_until(
        &self,
        name: &'static str,
        stack: usize,
        stop: CancellationToken,
        work: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<()> {
        let supervisor = self.clone();
        let thread = std::thread::Builder::new().name(name.to_owned()).stack_size(stack);
        thread.spawn(move || {
            let end = catch_unwind(AssertUnwindSafe(|| {
                #[cfg(test)]
                assert_ne!(supervisor.fault, Some(name), "injected");
                work();
            }));
            let panic = end.err().map(|panic| panic_message(&*panic).to_owned());
            if panic.is_some() || !stop.is_cancelled() {
                supervisor.report(thread_name(name), panic);
            }
        })?;
        Ok(())
    }

    /// Returns a token that is cancelled when the process stops, and can be cancelled before.
    pub(crate) fn child_token(&self) -> CancellationToken {
        self.stopping.child_token()
    }

    /// Begins the stop of the process: later ends are no failures.
    pub(crate) fn stop(&self) {
        self.stopping.cancel();
        self.tasks.close();
    }

    /// Waits until all tasks have ended after [`Supervisor::stop`]. Threads are not waited for: one that hangs in the kernel ends
    /// with the process.
    pub(crate) async fn ended(&self) {
        self.tasks.wait().await;
    }

    fn report(&self, name: String, panic: Option<String>) {
        if !self.stopping.is_cancelled() {
            // Without a receiver the process is ending already.
            let _ = self.failures.send(Failure { name, panic });
        }
    }
}

impl Failures {
    /// Waits for the first failure.
    pub(crate) async fn first(&mut self) -> Failure {
        match self.0.recv().await {
            Some(failure) => failure,
            None => Failure { name: "the supervisor".to_owned(), panic: None },
        }
    }
}

/// Returns the name of the task or thread that runs this.
fn running() -> String {
    TASK.try_with(String::clone).unwrap_or_else(|_| match std::thread::current().name() {
        // The runtime's thread: a task that a library has started, such as a gRPC call.
        None | Some("main") => "a task".to_owned(),
        Some(name) => thread_name(name),
    })
}

fn thread_name(name: &str) -> String {
    format!("the {name} thread")
}

/// Returns the task, or one that panics.
#[cfg(test)]
async fn fail_if(fault: bool, task: impl Future<Output = ()>) {
    assert!(!fault, "injected");
    task.await;
}

#[cfg(test)]
mod tests;
