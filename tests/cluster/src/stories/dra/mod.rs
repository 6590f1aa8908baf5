//! The driver for Dynamic Resource Allocation, as its manifests install it.

mod access;
mod claims;
mod install;
mod modes;
mod restarts;
mod timing;
mod view;
mod watch;

use super::{foreign, pods};

pub(super) use claims::run as claims;
pub(super) use modes::run as modes;
pub(super) use restarts::run as restarts;

/// The command name of the driver, of which the kernel keeps 15 characters.
const COMMAND: &str = "vfio-device-plu";
