//! Replaces a file in one step: a reader sees the former file or the whole new one.

use super::read::{Links, open};
use rustix::fs::{FlockOperation, OFlags, flock, statfs};
use std::fs::{File, Permissions};
use std::io::{ErrorKind, Result, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// The names of temporary files: `.vfio-device-plugin-`, 12 random letters and digits, `.tmp`.
const PREFIX: &str = ".vfio-device-plugin-";
const SUFFIX: &str = ".tmp";
const RANDOM: usize = 12;
/// File systems in memory (`linux/magic.h`): tmpfs and ramfs.
const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];

/// Replaces the file at `path`. Whatever has that name is replaced and never written to: a link itself, not its target. A directory
/// is an error. The new file has the permissions `mode`, whatever the umask is.
///
/// The content is written to a file with a random name (O_CREAT and O_EXCL, which follow no link) and renamed. On a disk the file is
/// synchronized before that, and the directory after it, so a power cut leaves the former file or the new one.
///
/// # Errors
/// The former file is still there, unless only the last synchronization failed.
pub(crate) fn replace(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    replace_on(is_on_disk(path.parent().unwrap_or(Path::new("/"))), path, content, mode)
}

/// Replaces the file at `path` like [`replace`], where the caller says whether it is synchronized.
///
/// # Errors
/// As [`replace`].
pub(crate) fn replace_on(is_synchronized: bool, path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let mut names = tempfile::Builder::new();
    // Not `tempfile_in`, whose errors have the random name: each would look like another one.
    let mut new = names.prefix(PREFIX).suffix(SUFFIX).rand_bytes(RANDOM).make_in(directory, create_new)?;
    let file = new.as_file_mut();
    // Shows other processes that the file is in use. A file system without locks only loses that.
    let _ = flock(&*file, FlockOperation::NonBlockingLockExclusive);
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(content)?;
    if is_synchronized {
        file.sync_all()?;
    }
    new.persist(path).map_err(|error| error.error)?;
    if is_synchronized { sync_directory(directory) } else { Ok(()) }
}

/// Creates a file for writing, and fails if anything has its name.
fn create_new(path: &Path) -> Result<File> {
    let flags = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or(0);
    File::options().write(true).create_new(true).mode(0o600).custom_flags(flags).open(path)
}

/// Returns whether a directory is on a file system that outlives a power cut, and whose writes can take long. Unknown counts as yes.
pub(crate) fn is_on_disk(directory: &Path) -> bool {
    let in_memory = |kind: u64| IN_MEMORY.contains(&kind);
    #[allow(
        clippy::unnecessary_cast,
        clippy::cast_sign_loss,
        reason = "the type differs between architectures"
    )]
    statfs(directory).map_or(true, |system| !in_memory(system.f_type as u64 & 0xffff_ffff))
}

fn sync_directory(directory: &Path) -> Result<()> {
    match File::open(directory)?.sync_all() {
        // Some network file systems cannot.
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported) => Ok(()),
        result => result,
    }
}

/// Removes the temporary files that killed processes left in a directory with these names. The file of a process that is writing
/// it stays, and so does anything that is no regular file.
pub(crate) fn remove_leftovers(directory: &Path, names: &[String]) {
    for name in names.iter().filter(|name| is_temporary(name)) {
        let path = directory.join(name);
        let is_unused = open(&path, Links::Refuse)
            .is_ok_and(|(file, _)| flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok());
        if is_unused && std::fs::remove_file(&path).is_ok() {
            tracing::info!(file = %path.display(), "removed a temporary file of an earlier process");
        }
    }
}

/// Returns whether a file name is one of a temporary file.
fn is_temporary(name: &str) -> bool {
    let random = name.strip_prefix(PREFIX).and_then(|name| name.strip_suffix(SUFFIX));
    random.is_some_and(|random| {
        random.len() == RANDOM && random.bytes().all(|byte| byte.is_ascii_alphanumeric())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    use std::os::unix::fs::{MetadataExt, symlink};

    fn names(directory: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(directory).unwrap().flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn link_or_fifo_is_replaced_and_its_target_untouched() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::write(path("target"), "precious").unwrap();
        std::fs::set_permissions(path("target"), Permissions::from_mode(0o600)).unwrap();
        symlink(path("target"), path("link")).unwrap();
        mknodat(CWD, path("fifo"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        std::fs::hard_link(path("target"), path("hard link")).unwrap();
        for name in ["link", "fifo", "hard link", "new"] {
            replace(&path(name), b"content", 0o644).unwrap();
            let metadata = std::fs::symlink_metadata(path(name)).unwrap();
            assert!(metadata.is_file() && metadata.mode() & 0o7777 == 0o644, "{name}");
            assert_eq!(std::fs::read(path(name)).unwrap(), b"content");
        }
        assert_eq!(std::fs::read(path("target")).unwrap(), b"precious");
        assert_eq!(std::fs::metadata(path("target")).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(names(directory.path()), ["fifo", "hard link", "link", "new", "target"]);
    }

    #[test]
    fn failed_replacement_leaves_no_temporary_file() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("x")).unwrap();
        assert!(replace(&directory.path().join("x"), b"", 0o644).is_err());
        assert!(replace(&directory.path().join("missing/x"), b"", 0o644).is_err());
        assert_eq!(names(directory.path()), ["x"]);
    }

    #[test]
    fn only_unused_temporary_files_are_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let name = |middle: &str| format!("{PREFIX}{middle}{SUFFIX}");
        let used = File::create(path(&name("used00000000"))).unwrap();
        flock(&used, FlockOperation::LockExclusive).unwrap();
        for middle in ["unused000000", "short", "with-a-dash0"] {
            std::fs::write(path(&name(middle)), "").unwrap();
        }
        std::fs::write(path("other.tmp"), "").unwrap();
        std::fs::create_dir(path(&name("directory000"))).unwrap();
        symlink("other.tmp", path(&name("link00000000"))).unwrap();
        mknodat(CWD, path(&name("fifo00000000")), FileType::Fifo, Mode::RUSR, 0).unwrap();
        remove_leftovers(directory.path(), &names(directory.path()));
        let mut left =
            ["directory000", "fifo00000000", "link00000000", "short", "used00000000", "with-a-dash0"]
                .map(name)
                .to_vec();
        left.push("other.tmp".to_owned());
        assert_eq!(names(directory.path()), left);
        drop(used);
        remove_leftovers(directory.path(), &names(directory.path()));
        assert!(!path(&name("used00000000")).exists());
    }
}
