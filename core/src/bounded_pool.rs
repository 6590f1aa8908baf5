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
use std::io;
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

    /// Returns the deadline for the start of the call. None means that the call may start at any
    /// time.
    fn deadline(&self) -> Option<Instant>;

    /// Makes the call. Runs on a thread of the pool and may block. A call that panics loses its
    /// thread and blocks its key.
    fn run(&mut self) -> Self::Output;

    /// Takes the output, on the same thread. None means that the deadline passed before the call
    /// started. `more` means that further calls are queued, so that a receiver may wait before it
    /// wakes up. Must neither block nor panic, because the thread has taken its next call already.
    fn finish(self, output: Option<Self::Output>, more: bool);
}

/// Limits of a [`BoundedPool`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Largest number of threads, and so of calls that run at the same time.
    pub threads: usize,
    /// A call that runs at least this long counts as hanging. If calls are submitted while all
    /// threads run calls, and the latest of those hangs, one more thread starts.
    pub hang: Duration,
    /// Name of the threads, at most 15 bytes.
    pub name: &'static str,
    /// Stack size of a thread in bytes.
    pub stack_size: usize,
}

/// Identifies one submitted call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ticket(u64);

/// A call that was queued.
#[derive(Debug)]
pub struct Submitted {
    /// Identifies the call.
    pub ticket: Ticket,
    /// An error if the pool needed another thread and could not start it. The call stays queued
    /// for the threads that exist, and a later submission tries to start one again.
    pub thread: io::Result<()>,
}

/// Runs calls on a bounded number of threads, in the order of submission.
///
/// A thread starts when it is first needed. One idle thread stays, further idle threads end. Any
/// number of threads can share a pool. Dropping the pool [closes](Self::close) it.
pub struct BoundedPool<C: Call> {
    limits: Limits,
    shared: Arc<Shared<C>>,
}

struct Shared<C: Call> {
    state: Mutex<State<C>>,
    wake: Condvar,
}

/// A call in the queue.
struct Queued<C> {
    ticket: Ticket,
    call: C,
    /// Whether it was submitted before all others. Such calls are at the front of the queue.
    first: bool,
}

struct State<C: Call> {
    queue: VecDeque<Queued<C>>,
    /// Number of calls submitted so far.
    submitted: u64,
    /// Keys of the queued and the running calls.
    outstanding: Vec<C::Key>,
    threads: usize,
    idle: usize,
    /// Number of calls that run. The other threads are idle or about to take a call.
    running: usize,
    /// When a thread last took a call.
    taken: Option<Instant>,
    closed: bool,
}

impl<C: Call> State<C> {
    /// Reserves the key of a call. Returns none if a call with this key is outstanding, or if the
    /// pool is closed.
    fn admit(&mut self, call: &C) -> Option<Ticket> {
        let key = call.key();
        if self.closed || self.outstanding.contains(&key) {
            return None;
        }
        self.outstanding.push(key);
        self.submitted += 1;
        Some(Ticket(self.submitted))
    }

    fn release(&mut self, key: &C::Key) {
        self.outstanding.retain(|outstanding| outstanding != key);
    }

    /// Takes the first call of the queue to run it.
    fn take(&mut self) -> Option<C> {
        let Queued { call, .. } = self.queue.pop_front()?;
        self.running += 1;
        self.taken = Some(Instant::now());
        Some(call)
    }

    /// Returns the number of queued calls that were submitted before all others.
    fn first(&self) -> usize {
        self.queue.iter().take_while(|queued| queued.first).count()
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
            running: 0,
            taken: None,
            closed: false,
        };
        Self { limits, shared: Arc::new(Shared { state: Mutex::new(state), wake: Condvar::new() }) }
    }

    /// Queues a call and returns at once.
    ///
    /// # Errors
    /// Returns the call if another one with its key is outstanding, or if the pool is closed.
    pub fn submit(&self, call: C) -> Result<Submitted, C> {
        let mut state = self.shared.lock();
        let Some(ticket) = state.admit(&call) else { return Err(call) };
        state.queue.push_back(Queued { ticket, call, first: false });
        Ok(Submitted { ticket, thread: self.begin(state) })
    }

    /// Queues an urgent call and returns at once. It runs before all calls of
    /// [`submit`](Self::submit), and after the urgent calls before it. It waits for no running
    /// call, as long as the limit allows another thread.
    ///
    /// # Errors
    /// Returns the call if another one with its key is outstanding, or if the pool is closed.
    pub fn submit_first(&self, call: C) -> Result<Submitted, C> {
        let mut state = self.shared.lock();
        let Some(ticket) = state.admit(&call) else { return Err(call) };
        let place = state.first();
        state.queue.insert(place, Queued { ticket, call, first: true });
        let thread = if state.threads < state.running + place + 1 {
            self.spawn(&mut state)
        } else {
            drop(state);
            self.shared.wake.notify_one();
            Ok(())
        };
        Ok(Submitted { ticket, thread })
    }

    /// Queues many calls at once, so that one thread can take the batch. `refused` gets each call
    /// whose key is outstanding, and all calls if the pool is closed. It must not use the pool.
    ///
    /// # Errors
    /// The pool needed another thread and could not start it. The calls stay queued, see
    /// [`Submitted::thread`].
    pub fn submit_all(
        &self,
        calls: impl IntoIterator<Item = C>,
        mut refused: impl FnMut(C),
    ) -> io::Result<()> {
        let mut state = self.shared.lock();
        for call in calls {
            match state.admit(&call) {
                Some(ticket) => state.queue.push_back(Queued { ticket, call, first: false }),
                None => refused(call),
            }
        }
        self.begin(state)
    }

    /// Starts another thread if calls are queued and no thread is idle, because a running call
    /// hangs. The caller uses this when a result is overdue.
    ///
    /// # Errors
    /// The thread could not be started.
    pub fn ensure_progress(&self) -> io::Result<()> {
        let mut state = self.shared.lock();
        if state.queue.is_empty() || state.idle > 0 {
            return Ok(());
        }
        self.spawn(&mut state)
    }

    /// Waits at most `timeout` for the value that a call sends to `receiver`. Starts another thread
    /// if the value is late.
    ///
    /// Returns none after the timeout. A call that has not started by then is removed from the
    /// queue. A call that has started goes on, and its value is lost.
    pub fn wait<T>(&self, ticket: Ticket, receiver: &mpsc::Receiver<T>, timeout: Duration) -> Option<T> {
        let first = timeout.min(self.limits.hang);
        let received = receiver.recv_timeout(first).or_else(|_| {
            // Without another thread the call is only later, which the caller sees by the timeout.
            let _ = self.ensure_progress();
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
        let place = state.queue.iter().position(|queued| queued.ticket == ticket)?;
        let Queued { call, .. } = state.queue.remove(place)?;
        state.release(&call.key());
        Some(call)
    }

    /// Removes all queued calls for which `keep` returns false. `keep` may change a call, except
    /// for its key. It must not use the pool.
    pub fn retain(&self, mut keep: impl FnMut(&mut C) -> bool) {
        let mut state = self.shared.lock();
        let State { queue, outstanding, .. } = &mut *state;
        queue.retain_mut(|Queued { call, .. }| {
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

    /// Closes the pool: drops the queued calls, and refuses all further ones. Does not wait for the
    /// running calls, because a call that hangs in the kernel must not hang an exit. They still
    /// finish. The threads end.
    pub fn close(&self) {
        let mut state = self.shared.lock();
        state.closed = true;
        let dropped = std::mem::take(&mut state.queue);
        for Queued { call, .. } in &dropped {
            state.release(&call.key());
        }
        drop(state);
        self.shared.wake.notify_all();
    }

    /// Sees to it that a thread takes the queue: wakes one, or starts one if all are busy.
    fn begin(&self, mut state: MutexGuard<'_, State<C>>) -> io::Result<()> {
        if state.queue.is_empty() {
            return Ok(());
        }
        if state.threads > state.running + state.first() {
            // The thread takes the lock at once. Waiting for it would cost three system calls.
            drop(state);
            self.shared.wake.notify_one();
            return Ok(());
        }
        // One thread takes a whole batch, because a call usually takes microseconds. Another thread
        // starts only if the last call seems to hang.
        let hangs = state.taken.is_some_and(|taken| taken.elapsed() >= self.limits.hang);
        if state.threads == 0 || hangs { self.spawn(&mut state) } else { Ok(()) }
    }

    /// Starts a thread unless there are as many as the limit allows.
    fn spawn(&self, state: &mut State<C>) -> io::Result<()> {
        if state.threads >= self.limits.threads {
            return Ok(());
        }
        let shared = Arc::clone(&self.shared);
        let thread = thread::Builder::new().name(self.limits.name.into()).stack_size(self.limits.stack_size);
        thread.spawn(move || work(&shared))?;
        state.threads += 1;
        Ok(())
    }
}

impl<C: Call> Drop for BoundedPool<C> {
    fn drop(&mut self) {
        self.close();
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
        if let Some(call) = state.take() {
            drop(state);
            run_queue(shared, call);
            state = shared.lock();
        } else if state.idle > 0 {
            break; // Another thread is idle already. The extra threads of a hang end here.
        } else {
            state.idle += 1;
            state = shared.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }
    state.threads -= 1;
}

/// Makes a call, then the queued ones until there are none.
fn run_queue<C: Call>(shared: &Shared<C>, mut call: C) {
    loop {
        let started = Instant::now();
        let in_time = call.deadline().is_none_or(|deadline| started <= deadline);
        let output = in_time.then(|| call.run());
        let mut state = shared.lock();
        state.running -= 1;
        state.release(&call.key());
        // In the same step, so that the thread counts as free only if the queue is empty.
        let next = state.take();
        drop(state);
        call.finish(output, next.is_some());
        match next {
            Some(next) => call = next,
            None => return,
        }
    }
}
