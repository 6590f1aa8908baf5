//! The commands that an operator, a script or a manifest runs: one module each, and what several of them use.

pub(crate) mod doctor;
#[cfg(feature = "dra")]
pub(crate) mod dra;
pub(crate) mod escape;
pub(crate) mod exit_code;
pub(crate) mod list;
pub(crate) mod offered;
pub(crate) mod ready;
pub(crate) mod serve;
pub(crate) mod stderr;
pub(crate) mod stdout;
pub(crate) mod table;
pub(crate) mod terminal;
pub(crate) mod watch;
pub(crate) mod who;
