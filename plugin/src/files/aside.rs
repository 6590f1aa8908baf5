//! Keeps a file that cannot be used under another name, so that neither its content nor the place is lost.

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use std::io::Result;
use std::path::{Path, PathBuf};

/// How many files of one name are kept aside. When all places are taken, the last one is replaced: the first is the one that an
/// operator will want to see.
const PLACES: usize = 4;
const SUFFIX: &str = ".unreadable";

/// Renames whatever is at `path` to `NAME.unreadable`, `NAME.unreadable.1` and so on. Returns the new path. Needs no descriptor, so it
/// works without any left, and follows no link.
///
/// # Errors
/// The rename failed, for example on a read-only file system. What was at `path` is still there.
pub(crate) fn set_aside(path: &Path) -> Result<PathBuf> {
    let mut last = path.to_owned();
    for place in places(path) {
        match rename_new(path, &place) {
            Err(Errno::EXIST) => last = place,
            Err(error) => return Err(error.into()),
            Ok(()) => return Ok(place),
        }
    }
    std::fs::rename(path, &last)?;
    Ok(last)
}

/// Returns whether a name is one that [`set_aside`] gives.
pub(crate) fn is_kept_aside(name: &str) -> bool {
    let number = name.rsplit_once(SUFFIX).map(|(_, number)| number);
    number.is_some_and(|number| {
        number.is_empty() || number.strip_prefix('.').is_some_and(|n| n.parse::<u8>().is_ok())
    })
}

fn places(path: &Path) -> impl Iterator<Item = PathBuf> {
    let first = path.as_os_str().to_owned();
    (0..PLACES).map(move |place| {
        let mut name = first.clone();
        name.push(SUFFIX);
        if place > 0 {
            name.push(format!(".{place}"));
        }
        name.into()
    })
}

/// Renames unless the new name exists.
fn rename_new(from: &Path, to: &Path) -> std::result::Result<(), Errno> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // File systems without the flag (`vfs_rename`), such as NFS.
        Err(Errno::INVAL | Errno::NOSYS) if to.symlink_metadata().is_err() => rustix::fs::rename(from, to),
        Err(Errno::INVAL | Errno::NOSYS) => Err(Errno::EXIST),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn files_are_kept_up_to_a_number() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.json");
        for content in ["0", "1", "2", "3", "4", "5"] {
            std::fs::write(&path, content).unwrap();
            let place = set_aside(&path).unwrap();
            assert_eq!(std::fs::read_to_string(place).unwrap(), content);
            assert!(!path.exists());
        }
        for (number, content) in [("", "0"), (".1", "1"), (".2", "2"), (".3", "5")] {
            let name = format!("x.json.unreadable{number}");
            assert!(is_kept_aside(&name));
            assert_eq!(std::fs::read_to_string(directory.path().join(name)).unwrap(), content);
        }
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), PLACES);
        for name in ["x.json", "unreadable", "x.unreadable.old", "x.unreadable."] {
            assert!(!is_kept_aside(name), "{name}");
        }
    }

    #[test]
    fn link_is_moved_itself_and_a_directory_too() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.json");
        symlink("/nonexistent", &path).unwrap();
        assert!(set_aside(&path).unwrap().is_symlink());
        std::fs::create_dir(&path).unwrap();
        assert!(set_aside(&path).unwrap().is_dir());
        assert!(set_aside(&path).is_err(), "nothing is there");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2);
    }
}
