//! Reads the pools file: YAML, used as a whole or not at all.

mod convert;
pub(super) mod raw;
#[cfg(test)]
mod tests;

use crate::config::pools_error::PoolsError;
use crate::files::{self, Links};
use crate::supervise::contain;
use raw::PoolsFile;
use std::io::ErrorKind;
use std::path::Path;
use vfio_plugin_policy::pools::Pools;
use vfio_plugin_policy::pools::terms::OfferBy;

/// Limit for the size of the file in bytes. The time to read it grows with its size, and the monitor reads it between two checks of
/// the devices.
const MAX_SIZE: u64 = 64 << 10;
/// The stack of the parser's thread in bytes. The parser recurses once for each level of the document, which a small stack does
/// not survive.
const STACK: usize = 4 << 20;
/// Limit for the levels of the document. A list of pools has 5.
const MAX_DEPTH: usize = 16;
/// Limit for the values that aliases repeat. Without it a small file becomes a million values.
const MAX_REPLAYED: usize = 20_000;

/// Reads the file. `offer` is that of pools that do not say how they offer their devices. Parses on a thread with a stack of its own. A panic of the parser is an error of the file: a file that is replaced
/// under a running plugin must not end it.
///
/// # Errors
/// The file cannot be read, has more than 64 KiB, or has an error: its line, and what was expected. No pool is used then.
pub(crate) fn read(path: &Path, offer: OfferBy) -> Result<Pools, PoolsError> {
    let text = read_text(path)?;
    let thread = std::thread::Builder::new().name("pools".into()).stack_size(STACK);
    let parser = thread
        .spawn(move || contain(|| parse(&text, offer)))
        .map_err(|error| PoolsError::of_file(format!("cannot be read: no thread for the parser: {error}")))?;
    let pools = parser.join().ok().flatten();
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
    let options = serde_saphyr::options! {
        with_snippet: false,
        budget: serde_saphyr::budget! { max_depth: MAX_DEPTH },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: MAX_REPLAYED },
    };
    let file: PoolsFile =
        serde_saphyr::from_str_with_options(text, options).map_err(|error| PoolsError::of_parser(&error))?;
    convert::pools(file, offer)
}
