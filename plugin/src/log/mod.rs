//! Writes to standard error without ever blocking, failing or ending a task.
//!
//! A line is written at once where the kernel can do that without blocking (RWF_NOWAIT: sockets, and pipes of recent kernels). From
//! the first line on for which it cannot, every line goes into a bounded queue, and one thread writes the queue to the descriptor.
//! A write can fail (full disk, closed pipe) or block without end (a pipe that no process reads, a stopped terminal): only that
//! thread notices. Lines that do not fit into the queue and lines that could not be written are counted, and the log says so once a
//! write succeeds again.
//!
//! `tracing-appender` has such a thread too. It was not used: it does not count failed writes, and at the end it may wait for over a
//! second and may print with `println!`, which panics.

mod panics;
mod queue;
mod writer;

use queue::{Lines, Queue};
use std::fmt;
use std::io::Write;
use std::sync::LazyLock;
use std::time::Duration;
use tracing_subscriber::fmt::MakeWriter;

pub(crate) use panics::{log_panics, message as panic_message};

/// The stack of the thread in bytes.
const STACK: usize = 128 * 1024;
/// How long the end of the process waits for a write that makes no progress.
const NO_PROGRESS: Duration = Duration::from_millis(150);
/// How long the end of the process waits for all lines.
const FLUSH: Duration = Duration::from_secs(1);

/// The lines for standard error. A process has one standard error, so it has one queue for it, as it has one `std::io::stderr`.
static STDERR: LazyLock<Queue> = LazyLock::new(|| {
    Queue::new(writer::write_now, |lines| {
        let thread = std::thread::Builder::new().name("log".to_owned()).stack_size(STACK);
        thread.spawn(move || write_lines(&lines)).is_ok()
    })
});

/// Prints a line on standard error. Never blocks. A line that cannot be written is counted in [`lost`].
pub(crate) fn print(line: fmt::Arguments<'_>) {
    STDERR.push(format!("{line}\n").into_bytes());
}

/// Returns how many lines were lost since the start of the process, and whether the log has not reported all of them yet.
pub(crate) fn lost() -> (u64, bool) {
    STDERR.lost()
}

/// Passes the log's lines to the queue, for `tracing_subscriber`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogWriter;

/// Takes one event.
#[derive(Debug)]
pub(crate) struct EventWriter;

impl MakeWriter<'_> for LogWriter {
    type Writer = EventWriter;

    fn make_writer(&self) -> EventWriter {
        EventWriter
    }
}

impl Write for EventWriter {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        STDERR.push(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Waits when dropped until the lines are written, but not for a write that hangs. `main` holds one, so a panic flushes too.
#[derive(Debug)]
pub(crate) struct FlushAtExit;

impl Drop for FlushAtExit {
    fn drop(&mut self) {
        STDERR.flush(NO_PROGRESS, FLUSH);
    }
}

/// Writes the queue's lines to standard error. Never returns.
fn write_lines(lines: &Lines) {
    let stderr = std::io::stderr();
    let mut writer = writer::LineWriter::new(&stderr);
    let mut reported = 0;
    loop {
        let line = lines.next();
        let written = writer.write(&line);
        lines.done(line.len(), written.is_ok());
        let lost = lines.lost();
        if written.is_err() {
            continue;
        }
        if lost == reported {
            lines.set_reported(lost);
        } else {
            reported = lost;
            // This event goes through the queue too. If it is lost, the number grows and the next success reports it.
            tracing::warn!(
                lost_since_start = lost,
                "log lines were lost, because standard error was full or blocked"
            );
        }
    }
}
