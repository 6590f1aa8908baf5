//! Another static library of Rust, which a program links beside ours.

use std::cell::Cell;

thread_local! {
    static DROPPED: Cell<u32> = const { Cell::new(0) };
}

/// Counts its drops on this thread.
struct Counted;

impl Drop for Counted {
    fn drop(&mut self) {
        DROPPED.set(DROPPED.get() + 1);
    }
}

fn panics() -> u32 {
    let dropped = std::panic::catch_unwind(|| {
        let _counted = Counted;
        std::panic::resume_unwind(Box::new("on purpose"));
    });
    assert!(dropped.is_err());
    DROPPED.get()
}

/// Catches a panic on this thread and one on another. Returns 2 if each has run one destructor on its own thread.
#[unsafe(no_mangle)]
pub extern "C" fn other_catches_two_panics() -> u32 {
    panics() + std::thread::spawn(panics).join().unwrap_or(100)
}
