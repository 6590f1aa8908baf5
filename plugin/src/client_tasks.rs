//! The tasks that answer the clients of a socket: few at a time, the oldest of which makes room for a new one.

use std::collections::VecDeque;
use std::future::Future;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

/// The tasks, each for one client.
#[derive(Debug)]
pub(crate) struct ClientTasks {
    active: VecDeque<(Instant, JoinHandle<()>)>,
    limit: usize,
    share: Duration,
}

impl ClientTasks {
    /// Creates a container for at most `limit` tasks. None is ended for another before it had the time `share`.
    pub(crate) fn new(limit: usize, share: Duration) -> Self {
        Self { active: VecDeque::new(), limit, share }
    }

    /// Makes room for a task: if there are too many, waits until the oldest has ended or had its time, and ends it then. Returns
    /// whether there were too many.
    pub(crate) async fn make_room(&mut self) -> bool {
        self.active.retain(|(_, task)| !task.is_finished());
        let is_crowded = self.active.len() >= self.limit;
        if is_crowded
            && let Some((began, mut oldest)) = self.active.pop_front()
            && timeout_at(began + self.share, &mut oldest).await.is_err()
        {
            oldest.abort();
            // Its socket is closed once the runtime has dropped it.
            let _ = oldest.await;
        }
        is_crowded
    }

    /// Starts the task of a client, for which [`ClientTasks::make_room`] made room.
    pub(crate) fn start(&mut self, answering: impl Future<Output = ()> + Send + 'static) {
        self.active.push_back((Instant::now(), tokio::spawn(answering)));
    }

    /// Returns the number of tasks, also of those that have ended since the last start.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.active.len()
    }
}
