//! The tasks of `./verify`: the runner of its steps, the test suites that drive other languages, and the tools they need.
//!
//! The crate is in Rust because Rust is the one language that every contributor has. It uses the standard library
//! only, so that `./verify` starts within seconds on a host where nothing is built.

pub mod artifacts;
pub mod context;
pub mod counts;
pub mod disk;
pub mod log;
pub mod node;
pub mod packages;
pub mod process;
pub mod release;
pub mod scratch;
pub mod suite;
pub mod suites;
pub mod tools;
pub mod verify;
pub mod vm;

/// An error: a text for the person at the terminal.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
/// The result of most functions here.
pub type Result<T = (), E = Error> = std::result::Result<T, E>;
