//! Reads the pools file: YAML, used as a whole or not at all.

mod convert;
mod fields;
#[cfg(test)]
mod tests;
mod yaml;

use crate::config::pools_error::PoolsError;
use crate::files::{self, Links};
use crate::supervise::contain;
use std::io::ErrorKind;
use std::path::Path;
use vfio_plugin_policy::pools::Pools;
use vfio_plugin_policy::pools::terms::OfferBy;

/// Limit for the size of the file in bytes. The time to read it grows with its size, and the monitor reads it between two checks of
/// the devices.
const MAX_SIZE: u64 = 64 << 10;

/// Reads the file. `offer` is that of pools that do not say how they offer their devices. A panic of the parser is an error of the file:
/// a file that is replaced under a running plugin must not end it.
///
/// # Errors
/// The file cannot be read, has more than 64 KiB, or has an error: its line, and what was expected. No pool is used then.
pub(crate) fn read(path: &Path, offer: OfferBy) -> Result<Pools, PoolsError> {
    let text = read_text(path)?;
    let pools = contain(|| parse(&text, offer));
    pools.unwrap_or_else(|| Err(PoolsError::of_file("the YAML parser failed on this file")))
}

/// Reads the text. Follows links, because a ConfigMap's files are links.
fn read_text(path: &Path) -> Result<String, PoolsError> {
    let text = files::read(path, Links::Follow, MAX_SIZE).map_err(|error| match error.kind() {
        ErrorKind::InvalidInput | ErrorKind::FileTooLarge => {
            PoolsError::of_file("expected a regular file of at most 64 KiB")
        }
        _ => PoolsError::of_file(format!("cannot be read: {error}")),
    })?;
    String::from_utf8(text).map_err(|_| PoolsError::of_file("cannot be read: it is no UTF-8 text"))
}

/// Parses the text of a file. `offer` is that of pools without the key.
///
/// # Errors
/// As [`read`].
pub(crate) fn parse(text: &str, offer: OfferBy) -> Result<Pools, PoolsError> {
    convert::pools(yaml::document(text)?.as_ref(), offer)
}
