//! Logs panics through the queue. The standard hook writes to standard error itself, and blocks as long as that does.

use super::print;
use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt;
use std::panic::{Location, PanicHookInfo};

/// Replaces the panic hook of the process. With `RUST_BACKTRACE` the event has a backtrace.
pub(crate) fn log_panics() {
    std::panic::set_hook(Box::new(log_panic));
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    let (place, message) = (Place(panic.location()), message(panic.payload()));
    let backtrace = Backtrace::capture();
    let backtrace =
        (backtrace.status() == BacktraceStatus::Captured).then(|| tracing::field::display(backtrace));
    if tracing::enabled!(tracing::Level::ERROR) {
        tracing::error!(thread, %place, panic = message, backtrace, "thread panicked");
    } else {
        print(format_args!("vfio-device-plugin: thread {thread} panicked at {place}: {message}"));
    }
}

/// Returns the message of a panic.
pub(crate) fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

/// Where a panic was.
struct Place<'a>(Option<&'a Location<'a>>);

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(place) => write!(f, "{}:{}", place.file(), place.line()),
            None => f.write_str("an unknown place"),
        }
    }
}
