//! Reads the pools file: YAML, used as a whole or not at all.

mod convert;
pub(super) mod raw;
#[cfg(test)]
mod tests;

use crate::config::pools_error::PoolsError;
use crate::supervise::contain;
use raw::PoolsFile;
use std::io::Read;
use std::path::Path;
use vfio_plugin_policy::pools::Pools;

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

/// Reads the file on a thread with a stack of its own. A panic of the parser is an error of the file: a file that is replaced
/// under a running plugin must not end it.
///
/// # Errors
/// The file cannot be read, has more than 64 KiB, or has an error: its line, and what was expected. No pool is used then.
pub(crate) fn read(path: &Path) -> Result<Pools, PoolsError> {
    let text = read_text(path).map_err(|error| PoolsError::of_file(format!("cannot be read: {error}")))?;
    let Some(text) = text else {
        return Err(PoolsError::of_file("expected a regular file of at most 64 KiB"));
    };
    let thread = std::thread::Builder::new().name("pools".into()).stack_size(STACK);
    let parser = thread
        .spawn(move || contain(|| parse(&text)))
        .map_err(|error| PoolsError::of_file(format!("cannot be read: no thread for the parser: {error}")))?;
    let pools = parser.join().ok().flatten();
    pools.unwrap_or_else(|| Err(PoolsError::of_file("the YAML parser failed on this file")))
}

/// Returns the text; none if it is too large or not a regular file.
fn read_text(path: &Path) -> std::io::Result<Option<String>> {
    let file = std::fs::File::open(path)?;
    if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return Ok(None);
    }
    let mut text = String::new();
    file.take(MAX_SIZE + 1).read_to_string(&mut text)?;
    Ok(Some(text).filter(|text| text.len() as u64 <= MAX_SIZE))
}

/// Parses the text of a file.
///
/// # Errors
/// As [`read`].
pub(crate) fn parse(text: &str) -> Result<Pools, PoolsError> {
    let options = serde_saphyr::options! {
        with_snippet: false,
        budget: serde_saphyr::budget! { max_depth: MAX_DEPTH },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: MAX_REPLAYED },
    };
    let file: PoolsFile =
        serde_saphyr::from_str_with_options(text, options).map_err(|error| PoolsError::of_parser(&error))?;
    convert::pools(file)
}
