//! Reads the kubelet's checkpoint (`pkg/kubelet/cm/devicemanager/checkpoint`): the devices of each container, with pod uids and
//! with init containers.
//!
//! The file is no stable interface: if any part of it is malformed, none of it is used. It shows the devices of all plugins, so it
//! is read as a stream, and only what can be this plugin's is kept.

mod entries;
mod fields;
mod reading;
mod response;

use crate::bounded_json::{self, JsonError, JsonLimit, JsonLimits};
use crate::files::read_all;
use crate::kubelet::kept::{Fault, Limit, OfferedResources};
use reading::Reading;
use rustix::fs::{Mode, OFlags};
use std::fmt;
use std::fs::File;
use std::io::{Error, ErrorKind, Read};
use std::path::Path;
use vfio_plugin_policy::assignments::observation::CheckpointEntry;

/// The limits of the file. An entry has a few hundred bytes, and its longest text is a response in base64. The deepest value that
/// the kubelet writes is 6 levels down.
const LIMITS: JsonLimits = JsonLimits {
    bytes: 16 << 20,
    string: response::MAX_RESPONSE.div_ceil(3) * 4,
    depth: 32,
    values: usize::MAX,
};

/// A file of at most this length is read at once, which needs the fewest system calls. A larger one is read as a stream.
const SMALL: u64 = 16 << 10;

/// Why the checkpoint is not used. A file that is not understood is not a missing file: it may name pods.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum CheckpointError {
    /// There is no such file: the kubelet has allocated nothing yet, or the directory is not the kubelet's.
    Missing,
    /// The file could not be opened or read.
    Unreadable(ErrorKind),
    /// The path leads to a symbolic link, a directory, a FIFO or a device.
    NotRegular,
    /// The file has more than 16 MiB.
    TooLarge,
    /// The file has no content: the disk was full, or the host lost power.
    Empty,
    /// The content is no checkpoint: half written, or of an unknown version.
    Malformed,
    /// The content has more of something than any node has.
    OverLimit(Limit),
}

impl fmt::Display for CheckpointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("the file does not exist"),
            Self::Unreadable(kind) => write!(f, "the file cannot be read: {kind}"),
            Self::NotRegular => f.write_str("the file is not a regular file"),
            Self::TooLarge => f.write_str("the file has more than 16 MiB"),
            Self::Empty => f.write_str("the file is empty"),
            Self::Malformed => f.write_str("the file is not a checkpoint that this version understands"),
            Self::OverLimit(limit) => write!(f, "the file has {limit}"),
        }
    }
}

/// Reads the checkpoint in the kubelet's directory of device plugins: the entries with ids that can be this plugin's, and one entry
/// without ids for each other pod. Reads regular files only, so it never waits for a FIFO's writer.
///
/// # Errors
/// The checkpoint does not exist, cannot be read or is not understood. None of it may be used then.
pub(crate) fn read(
    kubelet_dir: &Path,
    offered: &OfferedResources,
) -> Result<Vec<CheckpointEntry>, CheckpointError> {
    let path = kubelet_dir.join(kubelet_api::CHECKPOINT);
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::NOENT) => return Err(CheckpointError::Missing),
        // A symbolic link, and a socket.
        Err(rustix::io::Errno::LOOP | rustix::io::Errno::NXIO) => return Err(CheckpointError::NotRegular),
        Err(error) => return Err(CheckpointError::Unreadable(Error::from(error).kind())),
    };
    let metadata = file.metadata().map_err(|error| CheckpointError::Unreadable(error.kind()))?;
    match (metadata.is_file(), metadata.len() > LIMITS.bytes) {
        (true, false) if metadata.len() == 0 => Err(CheckpointError::Empty),
        (true, false) if metadata.len() <= SMALL => {
            let text = read_all(file, metadata.len(), LIMITS.bytes);
            let text = text.map_err(|error| CheckpointError::Unreadable(error.kind()))?;
            parse_within(&*text, JsonLimits { bytes: text.len() as u64, ..LIMITS }, offered)
        }
        (true, false) => parse(file, offered),
        (true, true) => Err(CheckpointError::TooLarge),
        (false, _) => Err(CheckpointError::NotRegular),
    }
}

/// Parses a checkpoint. The checksum is ignored: it is a hash of Go's own print of the data (`checksum.New`), which only Go can
/// compute.
///
/// # Errors
/// As [`read`].
pub(crate) fn parse(
    text: impl Read,
    offered: &OfferedResources,
) -> Result<Vec<CheckpointEntry>, CheckpointError> {
    parse_within(text, LIMITS, offered)
}

fn parse_within(
    text: impl Read,
    limits: JsonLimits,
    offered: &OfferedResources,
) -> Result<Vec<CheckpointEntry>, CheckpointError> {
    let mut reading = Reading::new(offered);
    let result = bounded_json::read_seed(text, limits, entries::File(&mut reading));
    match (result, reading.fault) {
        (Ok(()), _) => Ok(reading.finish()),
        (Err(JsonError::Read(error)), _) => Err(CheckpointError::Unreadable(error.kind())),
        (Err(JsonError::Over(JsonLimit::Bytes)), _) => Err(CheckpointError::TooLarge),
        (Err(JsonError::Over(JsonLimit::Depth)), _) => Err(CheckpointError::OverLimit(Limit::Depth)),
        (Err(JsonError::Over(JsonLimit::String | JsonLimit::Values)), _) => {
            Err(CheckpointError::OverLimit(Limit::Text))
        }
        (Err(JsonError::Malformed(_)), Some(Fault::Over(limit))) => Err(CheckpointError::OverLimit(limit)),
        (Err(JsonError::Malformed(_)), _) => Err(CheckpointError::Malformed),
    }
}

#[cfg(test)]
mod tests;
