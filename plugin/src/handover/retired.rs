//! What a process does after it has handed over: it ends if it has started its successor itself. Otherwise it waits, and serves again if
//! the successor ends.
//!
//! In a pod it must not end by itself: the kubelet would start its container again, which would ask for a hand-over back.

use crate::handover::connection::Connection;
use crate::handover::lock::Lock;
use crate::handover::reload::notify_successor;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::sleep;

/// How long the taker may take to get the lock. It gets it within milliseconds and closes the connection some time later.
const TAKE: Duration = Duration::from_secs(5);
/// The pause between two checks of the lock.
const CHECK: Duration = Duration::from_secs(1);

/// A process that has handed over.
pub(crate) struct Retired {
    run_dir: PathBuf,
    connection: Connection,
    is_parent: bool,
}

/// What follows.
pub(crate) enum AfterRetirement {
    /// The process exits: it has started the one that serves now.
    Exit,
    /// The process that serves has ended. This one has the lock.
    Serve(Lock),
}

impl Retired {
    /// `is_parent`: this process has started the taker.
    pub(super) fn new(run_dir: &Path, connection: Connection, is_parent: bool) -> Self {
        Self { run_dir: run_dir.to_owned(), connection, is_parent }
    }

    /// Waits until the taker serves, and then until it has ended. All servers of this process must have ended.
    ///
    /// The taker has the lock when it closes the connection. If the lock is free then, the taker has ended. Later the lock is free for
    /// a moment when the process that serves hands over to a third one, so it counts as free only if it is at two checks in a row.
    pub(crate) async fn wait(self) -> AfterRetirement {
        let Self { run_dir, mut connection, is_parent } = self;
        let successor = connection.peer;
        let (mut was_free, mut is_logged) = (connection.closed_within(TAKE).await, false);
        drop(connection);
        loop {
            match Lock::try_take(&run_dir) {
                Ok(Some(lock)) if was_free => {
                    tracing::warn!(side = "old", "hand-over: the other process has ended; serving again");
                    return AfterRetirement::Serve(lock);
                }
                Ok(lock) => was_free = lock.is_some(),
                // A run directory that is gone says nothing about the other process.
                Err(_) => was_free = false,
            }
            if !was_free && is_parent {
                tracing::info!(
                    side = "old",
                    step = 6,
                    pid = successor,
                    "hand-over: the new process serves; exiting"
                );
                notify_successor(successor);
                return AfterRetirement::Exit;
            }
            if !was_free && !is_logged {
                is_logged = true;
                tracing::info!(
                    side = "old",
                    step = 6,
                    pid = successor,
                    "hand-over: the new process serves; waiting for SIGTERM"
                );
            }
            sleep(CHECK).await;
        }
    }
}
