//! What tells one content of a file from another, at one system call.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A ConfigMap is replaced by swapping a link in the path, so that the file behind it is another one; whoever writes in place
/// changes its time or length.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct FileId {
    device: u64,
    inode: u64,
    length: u64,
    changed: (i64, i64),
}

impl FileId {
    /// That of a file.
    pub(crate) fn of(path: &Path) -> std::io::Result<Self> {
        let meta = std::fs::metadata(path)?;
        let changed = (meta.ctime(), meta.ctime_nsec());
        Ok(Self { device: meta.dev(), inode: meta.ino(), length: meta.len(), changed })
    }
}
