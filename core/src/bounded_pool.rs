//! Runs calls that may hang in the kernel on a bounded number of threads.
//!
//! The kernel can hold an open or a read for seconds, for example during a device reset. A
//! [`BoundedPool`] makes such calls off the caller's thread, with three guarantees:
//!
//! * At most [`Limits::threads`] calls run at the same time, so hanging calls cannot use up the
//!   process' threads.
//! * At most one call is outstanding for each key, because a second one would only queue behind it
//!   in the kernel.
//! * A call that has not started by its deadline is not made.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// A call for a [`BoundedPool`].
pub trait Call: Send + 'static {
    /// What the call is about. At most one call for each key is outstanding.
    type Key: PartialEq + Send;
    /// What the call returns.
    type Output;

    /// Returns the key.
    fn key(&self) -> Self::Key;

    /// Returns the deadline for the start of the call.
    fn deadline(&self) -> Instant;

    /// Makes the call. Runs on a thread of the pool and may block. A call that panics loses its
    /// thread and blocks its key.
    fn run(&mut self) -> Self::Output;

    /// Takes the output, on the same thread. None means that the deadline passed before the call
    /// started. `more` means that further calls are queued, so that a receiver may wait before it
    /// wakes up. Must not block.
    fn finish(self, output: Option<Self::Output>, more: bool);
}

/// Limits of a [`BoundedPool`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Largest number of threads, and so of calls that run at the same time.
    pub threads: usize,
    /// A call that runs longer than this counts as hanging. A call that is submitted then gets
    /// another thread.
    pub hang: Duration,
    /// Name of the threads, at most 15 bytes.
    pub name: &'static str,
    /// Stack size of a thread in bytes.
    pub stack_size: usize,
}

/// Identifies one submitted call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ticket(u64);

/// Runs calls on a bounded number of threads, in the order of submission.
///
/// A thread starts when it is first needed. One idle thread stays, further idle threads end. Any
/// number of threads can share a pool. Dropping the pool drops the queued calls and does not wait
/// for the running ones: a call that hangs in the kernel must not hang an exit.
pub struct BoundedPool<C: Call> {
    limits: Limits,
    shared: Arc<Shared<C>>,
}

/// An end of the queue.
#[derive(Clone, Copy)]
enum End {
    Front,
    Back,
}

struct Shared<C: Call> {
    state: Mutex<State<C>>,
    wake: Condvar,
}

struct State<C: Call> {
    queue: VecDeque<(Ticket, C)>,
    /// Number of calls submitted so far.
    submitted: u64,
    /// Keys of the queued and the running calls.
    outstanding: Vec<C::Key>,
    threads: usize,
    idle: usize,
    /// When a thread last took a call.
    taken: Option<Instant>,
    closed: bool,
}

impl<C: Call> State<C> {
    /// Reserves the key of a call. Returns none if a call with this key is outstanding.
    fn admit(&mut self, call: &C) -> Option<Ticket> {
        let key = call.key();
        if self.outstanding.contains(&key) {
            return None;
        }
        self.outstanding.push(key);
        self.submitted += 1;
        Some(Ticket(self.submitted))
    }

    fn release(&mut self, key: &C::Key) {
        self.outstanding.retain(|outstanding| outstanding != key);
    }
}

impl<C: Call> Shared<C> {
    // A thread that panics leaves the counters consistent with a call that never returns, so poison
    // is ignored.
    fn lock(&self) -> MutexGuard<'_, State<C>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C: Call> BoundedPool<C> {
    /// Creates a pool. Starts no thread yet.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let state = State {
            queue: VecDeque::new(),
            submitted: 0,
            outstanding: Vec::new(),
            threads: 0,
            idle: 0,
            taken: None,
            closed: false,
        };
        Self { limits, shared: Arc::new(Shared { state: Mutex::new(state), wake: Condvar::new() }) }
    }

    /// Queues a call and returns at once.
    ///
    /// # Errors
    /// Returns the call if another one with its key is outstanding.
    pub fn submit(&self, call: C) -> Result<Ticket, C> {
        self.submit_at(call, End::Back)
    }

    /// Queues a call before all others and returns at once.
    ///
    /// # Errors
    /// Returns the call if another one with its key is outstanding.
    pub fn submit_first(&self, call: C) -> Result<Ticket, C> {
        self.submit_at(call, End::Front)
    }

    fn submit_at(&self, call: C, end: End) -> Result<Ticket, C> {
        let mut state = self.shared.lock();
        let Some(ticket) = state.admit(&call) else { return Err(call) };
        match end {
            End::Front => state.queue.push_front((ticket, call)),
            End::Back => state.queue.push_back((ticket, call)),
        }
        self.begin(&mut state);
        Ok(ticket)
    }

    /// Queues many calls at once, so that one thread can take the batch. `refused` gets each call
    /// whose key is outstanding.
    pub fn submit_all(&self, calls: impl IntoIterator<Item = C>, mut refused: impl FnMut(C)) {
        let mut state = self.shared.lock();
        for call in calls {
            match state.admit(&call) {
                Some(ticket) => state.queue.push_back((ticket, call)),
                None => refused(call),
            }
        }
        self.begin(&mut state);
    }

    /// Starts another thread if calls are queued and no thread is idle, because a running call
    /// hangs. The caller uses this when a result is overdue.
    pub fn ensure_progress(&self) {
        let mut state = self.shared.lock();
        if !state.queue.is_empty() && state.idle == 0 {
            self.spawn(&mut state);
        }
    }

    /// Waits at most `timeout` for the value that a call sends to `receiver`. Starts another thread
    /// if the value is late.
    ///
    /// Returns none after the timeout. A call that has not started by then is removed from the
    /// queue. A call that has started goes on, and its value is lost.
    pub fn wait<T>(&self, ticket: Ticket, receiver: &mpsc::Receiver<T>, timeout: Duration) -> Option<T> {
        let first = timeout.min(self.limits.hang);
        let received = receiver.recv_timeout(first).or_else(|_| {
            self.ensure_progress();
            receiver.recv_timeout(timeout.saturating_sub(first))
        });
        if received.is_err() {
            self.withdraw(ticket);
        }
        received.ok()
    }

    /// Removes a call from the queue. Returns none if the call has started.
    pub fn withdraw(&self, ticket: Ticket) -> Option<C> {
        let mut state = self.shared.lock();
        let place = state.queue.iter().position(|(queued, _)| *queued == ticket)?;
        let (_, call) = state.queue.remove(place)?;
        state.release(&call.key());
        Some(call)
    }

    /// Removes all queued calls for which `keep` returns false. `keep` may change a call, except
    /// for its key.
    pub fn retain(&self, mut keep: impl FnMut(&mut C) -> bool) {
        let mut state = self.shared.lock();
        let State { queue, outstanding, .. } = &mut *state;
        queue.retain_mut(|(_, call)| {
            let keeps = keep(call);
            if !keeps {
                let key = call.key();
                outstanding.retain(|outstanding| *outstanding != key);
            }
            keeps
        });
    }

    /// Returns whether a call with this key is queued or running.
    #[must_use]
    pub fn is_outstanding(&self, key: &C::Key) -> bool {
        self.shared.lock().outstanding.contains(key)
    }

    /// Returns the present number of threads.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.shared.lock().threads
    }

    fn begin(&self, state: &mut State<C>) {
        // One thread takes a whole batch, because a call usually takes microseconds. Another thread
        // starts only if the last call seems to hang.
        let hangs = state.taken.is_some_and(|taken| taken.elapsed() > self.limits.hang);
        if state.idle > 0 {
            self.shared.wake.notify_one();
        } else if state.threads == 0 || hangs {
            self.spawn(state);
        }
    }

    fn spawn(&self, state: &mut State<C>) {
        if state.threads >= self.limits.threads {
            return;
        }
        let shared = Arc::clone(&self.shared);
        let thread = thread::Builder::new().name(self.limits.name.into()).stack_size(self.limits.stack_size);
        // If no thread can be created, the call stays queued until the next attempt or its
        // deadline.
        if thread.spawn(move || work(&shared)).is_ok() {
            state.threads += 1;
        }
    }
}

impl<C: Call> Drop for BoundedPool<C> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.closed = true;
        state.queue.clear();
        self.shared.wake.notify_all();
    }
}

impl<C: Call> fmt::Debug for BoundedPool<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundedPool").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// The loop of one thread.
fn work<C: Call>(shared: &Shared<C>) {
    let mut state = shared.lock();
    while !state.closed {
        let Some((_, mut call)) = state.queue.pop_front() else {
            if state.idle > 0 {
                break; // Another thread is idle already. The extra threads of a hang end here.
            }
            state.idle += 1;
            state = shared.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
            continue;
        };
        let started = Instant::now();
        state.taken = Some(started);
        drop(state);
        let output = (started <= call.deadline()).then(|| call.run());
        state = shared.lock();
        state.release(&call.key());
        let more = !state.queue.is_empty();
        drop(state);
        call.finish(output, more);
        state = shared.lock();
    }
    state.threads -= 1;
}
