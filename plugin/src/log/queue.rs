//! A bounded queue of lines, from the threads that log to the thread that writes.

use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Limit for the lines that wait, in bytes. A burst at the start of a node with 4,000 devices has about 1 MiB.
const MAX_BYTES: usize = 4 << 20;

/// Starts the thread that writes. Returns false if the kernel provides no thread.
type Start = fn(Lines) -> bool;
/// Writes a line, or its beginning, if that cannot block. Returns how many bytes were written.
type WriteNow = fn(&[u8]) -> usize;

/// The end of the queue at which lines are put in.
pub(super) struct Queue {
    lines: Lines,
    write_now: WriteNow,
    start: Start,
}

/// The end of the queue at which the thread takes lines out.
#[derive(Clone, Debug)]
pub(super) struct Lines(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Signals the thread that a line waits.
    filled: Condvar,
    /// Signals that a write has ended.
    progress: Condvar,
    /// Read without the lock: a scrape of metrics must not delay a thread that logs.
    lost: AtomicU64,
    /// The number of lost lines that the log has reported.
    reported: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Whether the thread writes a line now.
    is_writing: bool,
    /// Lines that were written or whose write has failed.
    done: u64,
    is_started: bool,
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.fmt(f)
    }
}

impl Queue {
    /// Returns an empty queue. `start` is called with the first line that `write_now` cannot write. Most processes therefore have no
    /// thread.
    pub(super) fn new(write_now: WriteNow, start: Start) -> Self {
        Self { lines: Lines(Arc::default()), write_now, start }
    }

    /// Writes a line, or adds it to the queue. Never blocks: a line that does not fit is lost.
    pub(super) fn push(&self, mut line: Vec<u8>) {
        let mut state = self.lines.0.state.lock();
        if !state.is_started {
            // Once the thread runs, it writes all lines, which keeps their order.
            if state.waiting.is_empty() {
                let written = (self.write_now)(&line).min(line.len());
                if written == line.len() {
                    state.done += 1;
                    return;
                }
                line.drain(..written);
            }
            // A failure is repeated with the next line.
            state.is_started = (self.start)(self.lines.clone());
        }
        if state.bytes + line.len() > MAX_BYTES {
            self.lines.0.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        state.bytes += line.len();
        state.waiting.push_back(line);
        drop(state);
        self.lines.0.filled.notify_one();
    }

    /// Returns how many lines were lost, and whether the log has not reported all of them yet.
    pub(super) fn lost(&self) -> (u64, bool) {
        let shared = &self.lines.0;
        let lost = shared.lost.load(Ordering::Relaxed);
        (lost, lost > shared.reported.load(Ordering::Relaxed))
    }

    /// Waits until all lines are written, for at most `longest`, and for at most `no_progress` without the end of a write.
    pub(super) fn flush(&self, no_progress: Duration, longest: Duration) {
        let shared = &self.lines.0;
        let deadline = Instant::now() + longest;
        let mut state = shared.state.lock();
        while state.is_started && (state.is_writing || !state.waiting.is_empty()) {
            let done = state.done;
            let until = deadline.min(Instant::now() + no_progress);
            shared.progress.wait_until(&mut state, until);
            if state.done == done && Instant::now() >= until || Instant::now() >= deadline {
                return;
            }
        }
    }
}

impl Lines {
    /// Waits for the next line. [`done`](Self::done) must follow.
    pub(super) fn next(&self) -> Vec<u8> {
        let mut state = self.0.state.lock();
        loop {
            if let Some(line) = state.waiting.pop_front() {
                state.is_writing = true;
                return line;
            }
            // Give back the memory of a burst.
            state.waiting.shrink_to(64);
            self.0.filled.wait(&mut state);
        }
    }

    /// Records the end of the write of a line that has `length` bytes.
    pub(super) fn done(&self, length: usize, is_written: bool) {
        let mut state = self.0.state.lock();
        state.is_writing = false;
        state.bytes = state.bytes.saturating_sub(length);
        state.done += 1;
        drop(state);
        self.0.lost.fetch_add(u64::from(!is_written), Ordering::Relaxed);
        self.0.progress.notify_all();
    }

    /// Returns how many lines were lost.
    pub(super) fn lost(&self) -> u64 {
        self.0.lost.load(Ordering::Relaxed)
    }

    /// Records that the log has reported this many lost lines.
    pub(super) fn set_reported(&self, lost: u64) {
        self.0.reported.store(lost, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(1);

    /// A queue without a thread: the test takes the lines out.
    fn queue() -> Queue {
        Queue::new(|_| 0, |_| true)
    }

    #[test]
    fn lines_keep_their_order() {
        let queue = queue();
        for line in ["1", "2", "3"] {
            queue.push(line.into());
        }
        for line in ["1", "2", "3"] {
            assert_eq!(queue.lines.next(), line.as_bytes());
            queue.lines.done(1, true);
        }
        assert_eq!(queue.lost(), (0, false));
        queue.flush(Duration::MAX, Duration::from_secs(600));
    }

    #[test]
    fn full_queue_loses_new_lines_and_counts_them() {
        let queue = queue();
        let line = vec![b'x'; MAX_BYTES / 4];
        (0..7).for_each(|_| queue.push(line.clone()));
        assert_eq!(queue.lost(), (3, true));
        // The line that is being written still counts: it is in memory.
        assert_eq!(queue.lines.next().len(), line.len());
        queue.push(line.clone());
        assert_eq!(queue.lost(), (4, true));
        queue.lines.done(line.len(), false);
        assert_eq!(queue.lost(), (5, true), "a failed write is a lost line");
        queue.lines.set_reported(5);
        queue.push(line);
        assert_eq!(queue.lost(), (5, false));
    }

    #[test]
    fn flush_gives_up_without_progress() {
        let queue = queue();
        queue.push("stuck".into());
        queue.flush(SHORT, Duration::from_secs(600));
        let _ = queue.lines.next();
        queue.flush(SHORT, Duration::from_secs(600));
    }

    #[test]
    fn line_that_is_written_at_once_starts_no_thread() {
        let queue = Queue::new(|line| if line.len() < 10 { line.len() } else { 4 }, |_| true);
        queue.push("short".into());
        assert!(!queue.lines.0.state.lock().is_started);
        queue.push("the end of a long line".into());
        assert_eq!(queue.lines.next(), b"end of a long line");
        queue.lines.done(1, true);
        queue.push("2".into());
        assert_eq!(queue.lines.next(), b"2", "the thread writes all further lines");
    }

    #[test]
    fn thread_that_cannot_start_is_tried_with_the_next_line() {
        let queue = Queue::new(|_| 0, |_| false);
        queue.push("1".into());
        queue.flush(Duration::MAX, Duration::from_secs(600));
        assert!(!queue.lines.0.state.lock().is_started);
    }
}
