//! The commands: what an operator or a manifest runs.

pub(crate) mod doctor;
pub(crate) mod list;
pub(crate) mod offered;
pub(crate) mod ready;
pub(crate) mod serve;
pub(crate) mod table;
pub(crate) mod watch;
pub(crate) mod who;
