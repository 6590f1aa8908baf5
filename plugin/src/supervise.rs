//! Watches the plugin's tasks and threads: the early end of one ends the process.
//!
//! Without this, a task that panics leaves a process that looks alive and does only part of its work: frozen assignments, or a
//! resource that never registers again. Ending the process is safe: the kubelet keeps the devices of running pods, the DaemonSet
//! starts the plugin again, and the state files carry over what was known.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Starts tasks and threads, and reports those that end before the process is told to stop. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Supervisor {
    failures: mpsc::UnboundedSender<Failure>,
    stopping: CancellationToken,
}

/// The receiving end: the first failure ends the process.
#[derive(Debug)]
pub(crate) struct Failures(mpsc::UnboundedReceiver<Failure>);

/// A task or thread that ended too early.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Failure {
    /// Which one, in words: "the monitor", "resource nvidia.com/GPU".
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

impl Supervisor {
    /// Returns a supervisor and the end at which its failures arrive. `stopping` is cancelled when the process stops: ends after
    /// that are no failures.
    pub(crate) fn new(stopping: CancellationToken) -> (Self, Failures) {
        let (failures, receiver) = mpsc::unbounded_channel();
        (Self { failures, stopping }, Failures(receiver))
    }

    /// Starts a task that runs until the process stops.
    pub(crate) fn task(
        &self,
        name: impl Into<String>,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> tokio::task::JoinHandle<()> {
        self.task_until(name, self.stopping.clone(), task)
    }

    /// Starts a task that may end once `stop` is cancelled. The handle ends with the task.
    pub(crate) fn task_until(
        &self,
        name: impl Into<String>,
        stop: CancellationToken,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> tokio::task::JoinHandle<()> {
        let (supervisor, name) = (self.clone(), name.into());
        let task = tokio::spawn(task);
        tokio::spawn(async move {
            let panic = match task.await {
                Ok(()) => None,
                Err(error) => error.try_into_panic().ok().map(|panic| message(&*panic)),
            };
            if panic.is_some() || !stop.is_cancelled() {
                supervisor.report(name, panic);
            }
        })
    }

    /// Starts a thread that runs until the process stops.
    ///
    /// # Errors
    /// The kernel gives the process no further thread.
    pub(crate) fn thread(
        &self,
        name: &'static str,
        stack: usize,
        work: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<()> {
        let supervisor = self.clone();
        let thread = std::thread::Builder::new().name(name.to_owned()).stack_size(stack);
        thread.spawn(move || {
            let end = catch_unwind(AssertUnwindSafe(work));
            supervisor.report(format!("the {name} thread"), end.err().map(|panic| message(&*panic)));
        })?;
        Ok(())
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

/// Returns the message of a panic.
fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::timeout;

    fn supervisor() -> (Supervisor, Failures, CancellationToken) {
        let stopping = CancellationToken::new();
        let (supervisor, failures) = Supervisor::new(stopping.clone());
        (supervisor, failures, stopping)
    }

    #[tokio::test]
    async fn panicking_task_is_reported_with_its_message() {
        let (supervisor, mut failures, _stopping) = supervisor();
        supervisor.task("the poller", async { panic!("boom") });
        assert_eq!(failures.first().await.to_string(), "the poller panicked: boom");
    }

    #[tokio::test]
    async fn task_that_returns_early_is_reported() {
        let (supervisor, mut failures, _stopping) = supervisor();
        supervisor.task("the socket watcher", async {});
        assert_eq!(failures.first().await.to_string(), "the socket watcher ended unexpectedly");
    }

    #[tokio::test]
    async fn thread_that_panics_or_returns_is_reported() {
        let (supervisor, mut failures, _stopping) = supervisor();
        supervisor.thread("monitor", 64 * 1024, || panic!("{} descriptors", 0)).unwrap();
        assert_eq!(failures.first().await.to_string(), "the monitor thread panicked: 0 descriptors");
        supervisor.thread("monitor", 64 * 1024, || {}).unwrap();
        assert_eq!(failures.first().await.to_string(), "the monitor thread ended unexpectedly");
    }

    #[tokio::test(start_paused = true)]
    async fn ends_after_the_stop_are_not_reported() {
        let (supervisor, mut failures, stopping) = supervisor();
        let resource = CancellationToken::new();
        resource.cancel();
        supervisor.task_until("resource a/b", resource, async {}).await.unwrap();
        assert!(timeout(Duration::from_secs(1), failures.first()).await.is_err());
        stopping.cancel();
        supervisor.task("the poller", async {}).await.unwrap();
        assert!(timeout(Duration::from_secs(1), failures.first()).await.is_err());
    }
}
