//! Decides whether Allocates are answered, wait or are refused: during a hand-over, one process answers after the other.

use std::sync::Arc;
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

/// The gate of all Allocates of this process. Clones share it. It is open at first.
#[derive(Clone, Debug)]
pub(crate) struct AllocateGate(Arc<RwLock<bool>>);

/// Keeps the gate closed: Allocates wait as long as this exists. If it is dropped, they are refused.
#[derive(Debug)]
pub(crate) struct ClosedGate(OwnedRwLockWriteGuard<bool>);

/// An Allocate that is being answered. The gate does not close before this is dropped.
#[derive(Debug)]
pub(super) struct Answering(#[expect(dead_code, reason = "held for its drop")] OwnedRwLockReadGuard<bool>);

/// Another process of the plugin answers Allocates.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct AnsweredElsewhere;

impl Default for AllocateGate {
    fn default() -> Self {
        Self(Arc::new(RwLock::new(true)))
    }
}

impl AllocateGate {
    /// Returns a gate that is closed from the start.
    pub(crate) fn closed() -> (Self, Option<ClosedGate>) {
        let gate = Self(Arc::new(RwLock::new(false)));
        let closed = Arc::clone(&gate.0).try_write_owned().ok().map(ClosedGate);
        (gate, closed)
    }

    /// Waits until the Allocates that are being answered have ended. Later ones wait from the call on.
    pub(crate) async fn close(&self) -> ClosedGate {
        let mut closed = Arc::clone(&self.0).write_owned().await;
        *closed = false;
        ClosedGate(closed)
    }

    /// Returns at once if the gate is open, and none if it is closed.
    pub(super) fn try_enter(&self) -> Option<Result<Answering, AnsweredElsewhere>> {
        Arc::clone(&self.0).try_read_owned().ok().map(entered)
    }

    /// Waits until the gate is not closed.
    ///
    /// # Errors
    /// Another process answers.
    pub(super) async fn enter(&self) -> Result<Answering, AnsweredElsewhere> {
        entered(Arc::clone(&self.0).read_owned().await)
    }
}

fn entered(guard: OwnedRwLockReadGuard<bool>) -> Result<Answering, AnsweredElsewhere> {
    if *guard { Ok(Answering(guard)) } else { Err(AnsweredElsewhere) }
}

impl ClosedGate {
    /// Answers the waiting and all later Allocates.
    pub(crate) fn answer(mut self) {
        *self.0 = true;
    }

    /// Refuses the waiting and all later Allocates.
    pub(crate) fn refuse(self) {
        drop(self);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn gate_closes_after_the_last_allocate_and_later_ones_wait() {
        let gate = AllocateGate::default();
        let running = gate.enter().await.unwrap();
        let closing = tokio::spawn({
            let gate = gate.clone();
            async move { gate.close().await }
        });
        tokio::task::yield_now().await;
        assert!(!closing.is_finished() && gate.try_enter().is_none());
        drop(running);
        let closed = closing.await.unwrap();
        let waiting = tokio::spawn({
            let gate = gate.clone();
            async move { gate.enter().await.map(drop) }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        closed.answer();
        assert_eq!(waiting.await.unwrap(), Ok(()));
        gate.close().await.refuse();
        assert_eq!(gate.enter().await.map(drop), Err(AnsweredElsewhere));
    }

    #[tokio::test]
    async fn gate_of_a_new_process_is_closed() {
        let (gate, closed) = AllocateGate::closed();
        assert!(gate.try_enter().is_none());
        closed.unwrap().answer();
        assert!(gate.try_enter().is_some_and(|entered| entered.is_ok()));
        let (gate, closed) = AllocateGate::closed();
        drop(closed);
        assert!(gate.try_enter().is_some_and(|entered| entered.is_err()), "it never got the lock");
    }
}
