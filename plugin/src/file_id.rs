//! Identifies a file's version with one `stat`.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The version of a file: two equal values mean that the file did not change in between.
///
/// It shows both kinds of change. A ConfigMap is replaced by a swap of a symbolic link in its path, so that the path leads to
/// another inode. A program that writes in place changes the length or the change time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct FileId {
    device: u64,
    inode: u64,
    length: u64,
    changed: (i64, i64),
}

impl FileId {
    /// Returns the version of the file at `path`, and follows symbolic links.
    ///
    /// # Errors
    /// `stat` failed, for example because there is no such file.
    pub(crate) fn of(path: &Path) -> std::io::Result<Self> {
        let meta = std::fs::metadata(path)?;
        let changed = (meta.ctime(), meta.ctime_nsec());
        Ok(Self { device: meta.dev(), inode: meta.ino(), length: meta.len(), changed })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_changes_with_content_and_with_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        assert!(FileId::of(&path).is_err());
        std::fs::write(&path, "one").unwrap();
        let first = FileId::of(&path).unwrap();
        assert_eq!(FileId::of(&path).unwrap(), first);
        std::fs::write(&path, "longer").unwrap();
        let second = FileId::of(&path).unwrap();
        assert_ne!(second, first);
        std::fs::write(directory.path().join("new"), "longer").unwrap();
        std::fs::rename(directory.path().join("new"), &path).unwrap();
        assert_ne!(FileId::of(&path).unwrap(), second);
    }
}
