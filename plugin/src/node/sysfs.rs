//! Reads attributes and links of sysfs by their path, for commands that need more than the core's records have.

use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Longest attribute in bytes: one page (`sysfs_emit`).
const PAGE: u64 = 4096;

/// Reads an attribute, without white space around it. None if it cannot be read or is not UTF-8. Never blocks, whatever kind of
/// file is there.
pub(crate) fn attribute(path: &Path) -> Option<String> {
    bounded(path, PAGE).map(|text| text.trim().to_owned())
}

/// Reads at most `limit` bytes of a file. None if it cannot be read, is longer, or is not UTF-8. Never blocks.
pub(crate) fn bounded(path: &Path, limit: u64) -> Option<String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty()).ok()?);
    let mut text = String::new();
    file.take(limit + 1).read_to_string(&mut text).ok()?;
    u64::try_from(text.len()).is_ok_and(|length| length <= limit).then_some(text)
}

/// Returns the last component of a link's text, such as a driver's name. None if it is no link or not UTF-8.
pub(crate) fn link_name(path: &Path) -> Option<String> {
    Some(std::fs::read_link(path).ok()?.file_name()?.to_str()?.to_owned())
}

/// Returns a link's text. None if it is no link or not UTF-8.
#[cfg(feature = "dra")]
pub(crate) fn link_target(path: &Path) -> Option<String> {
    std::fs::read_link(path).ok()?.into_os_string().into_string().ok()
}

/// Returns the names in a directory, sorted, at most `limit` of them. Empty if it cannot be read.
pub(crate) fn names(directory: &Path, limit: usize) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names.take(limit).collect();
    names.sort_unstable();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_are_bounded_and_never_block() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("attribute");
        std::fs::write(&path, " up\n").unwrap();
        assert_eq!(attribute(&path).as_deref(), Some("up"));
        std::fs::write(&path, "x".repeat(4097)).unwrap();
        assert_eq!(attribute(&path), None);
        std::fs::remove_file(&path).unwrap();
        let mode = Mode::RUSR | Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        assert_eq!(attribute(&path).as_deref(), Some(""), "a FIFO without a writer");
        assert_eq!((link_name(&path), names(&path, 9)), (None, Vec::new()));
    }
}
