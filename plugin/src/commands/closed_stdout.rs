//! Finds out whether standard output was closed when the program started (`>&-`).
//!
//! Rust's runtime opens /dev/null for a closed standard descriptor before `main` (std::sys::pal::unix::init). After that,
//! a closed descriptor cannot be distinguished from a /dev/null that the caller passed, and every write succeeds.

use rustix::io::fcntl_getfd;
use rustix::stdio::stdout;
use std::sync::atomic::{AtomicBool, Ordering};

static CLOSED: AtomicBool = AtomicBool::new(false);

/// The C library calls this function before `main`, and so before Rust's runtime (System V ABI, section DT_INIT_ARRAY).
#[expect(unsafe_code, reason = "the place in the program has no safe form; the function itself is safe")]
#[used]
// SAFETY: the section contains pointers to functions of the C ABI. The function makes one system call and stores a byte; it
// needs nothing that Rust's runtime prepares.
#[unsafe(link_section = ".init_array")]
static AT_START: extern "C" fn() = check;

extern "C" fn check() {
    CLOSED.store(fcntl_getfd(stdout()).is_err(), Ordering::Relaxed);
}

/// Returns whether standard output was closed when the program started.
pub(crate) fn was_closed() -> bool {
    CLOSED.load(Ordering::Relaxed)
}
