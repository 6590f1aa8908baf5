//! Waits only for a time for work that can hang in the kernel, such as a write to a disk that does not respond.

use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

/// The stack of the thread in bytes.
const STACK: usize = 128 * 1024;

/// The outcome of work that was waited for.
#[derive(Debug)]
pub(crate) enum Waited<T> {
    /// The work is done.
    Done(T),
    /// The work goes on. Its result arrives here; a disconnected receiver means that it has panicked.
    Late(Receiver<T>),
}

/// Runs work on a thread of its own, and waits for it for at most `patience`. Without a thread the work runs here, and is waited for.
/// The end of the process does not wait for the thread.
pub(crate) fn within<T: Send + 'static>(
    patience: Duration,
    work: impl FnOnce() -> T + Clone + Send + 'static,
) -> Waited<T> {
    let (sender, receiver) = sync_channel(1);
    let spare = work.clone();
    let thread = std::thread::Builder::new().name("disk".to_owned()).stack_size(STACK);
    if thread.spawn(move || sender.send(work())).is_err() {
        return Waited::Done(spare());
    }
    match receiver.recv_timeout(patience) {
        Ok(result) => Waited::Done(result),
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => Waited::Late(receiver),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[test]
    fn work_is_waited_for_up_to_a_time() {
        assert!(matches!(within(Duration::from_secs(60), || 7), Waited::Done(7)));
        let gate = Arc::new(Mutex::new(()));
        let closed = gate.lock().unwrap();
        let shared = Arc::clone(&gate);
        let Waited::Late(receiver) = within(Duration::from_millis(10), move || drop(shared.lock())) else {
            panic!("it cannot be done")
        };
        drop(closed);
        receiver.recv().unwrap();
    }
}
