//! Names of PCI device models: from the table in the library, or from a pci.ids file.
//!
//! [`built_in`] is the default: its names are the same on every host. [`open`] and [`find`] search a
//! file in one pass, without building a database.
//!
//! ```
//! let name = vfio_probe::names::built_in(0x10de, 0x2330).unwrap();
//! assert_eq!(name.to_string(), "GH100 [H100 SXM5 80GB]");
//! ```

mod table;

pub use table::{ModelName, built_in};

use crate::error::{Error, Result};
use rustix::fs::{FileType, Mode, OFlags};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// What an error calls the file.
const WHAT: &str = "pci.ids";

/// Limit for the size of a pci.ids file in bytes. No real file comes near it. It also ends the read
/// of a file that grows during the read.
const MAX_SIZE: usize = 64 << 20;

/// The paths where distributions and images install the file.
pub const PLACES: [&str; 3] = ["/usr/pci.ids", "/usr/share/misc/pci.ids", "/usr/share/hwdata/pci.ids"];

/// Opens the pci.ids file at `path`. Without a path it opens the first that exists of /usr/pci.ids,
/// /usr/share/misc/pci.ids and /usr/share/hwdata/pci.ids. Never blocks.
///
/// # Errors
/// The file cannot be opened, or is not a regular file (kind `Malformed`). The error has the path.
/// Without a path: the error for the last of the three.
pub fn open(path: Option<&Path>) -> Result<File> {
    if let Some(path) = path {
        return open_regular(path);
    }
    let [first, second, last] = PLACES.map(Path::new);
    open_regular(first).or_else(|_| open_regular(second)).or_else(|_| open_regular(last))
}

/// Opens a regular file and refuses all others: the open of a FIFO would block, and the read of a
/// device might.
fn open_regular(path: &Path) -> Result<File> {
    let failed = |errno| Error::system(errno, WHAT).of_path(path);
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(failed)?;
    let mode = rustix::fs::fstat(&file).map_err(failed)?.st_mode;
    if FileType::from_raw_mode(mode).is_file() {
        return Ok(file.into());
    }
    Err(Error::not_regular(WHAT, path.as_os_str()))
}

/// Calls `visit` with the index in `wanted` and the name, for each (vendor, device) pair that the
/// file names.
///
/// The form of the file: a vendor has a line like `10de  NVIDIA Corporation`. The lines of its
/// devices follow and begin with one tab. The lines of their subsystems begin with two tabs.
/// Reading stops when all pairs are found, or after the block of the last wanted vendor. The name
/// is trimmed and otherwise as written. A malformed line and a name with control characters are
/// skipped.
///
/// # Errors
/// The reader failed, or it has more than 64 MiB, which is forty times the size of today's file.
pub fn find(
    file: &mut dyn Read,
    wanted: &[(u16, u16)],
    visit: &mut dyn FnMut(usize, &str),
) -> std::io::Result<()> {
    let mut vendors: Vec<u16> = wanted.iter().map(|(vendor, _)| *vendor).collect();
    vendors.sort_unstable();
    vendors.dedup();
    let mut left = vendors.len();
    let mut unnamed = wanted.len();
    let mut vendor = None;
    lines(file, &mut |line| {
        match line {
            [b'\t', b'\t', ..] | [b'#', ..] | [] => {}
            [b'\t', device @ ..] => {
                if let (Some(vendor), Some((device, name))) = (vendor, entry(device)) {
                    for (index, _) in wanted.iter().enumerate().filter(|(_, pair)| **pair == (vendor, device))
                    {
                        visit(index, name);
                        unnamed = unnamed.saturating_sub(1);
                    }
                }
            }
            _ => {
                if vendor.take().is_some() {
                    left -= 1;
                }
                // The vendors are sorted. The device classes (`C 03`) follow them, and entry()
                // refuses those.
                vendor = entry(line)
                    .map(|(vendor, _)| vendor)
                    .filter(|vendor| vendors.binary_search(vendor).is_ok());
            }
        }
        left > 0 && unnamed > 0
    })
}

fn entry(line: &[u8]) -> Option<(u16, &str)> {
    let (id, name) = line.split_at_checked(4)?;
    let id = u16::from_str_radix(std::str::from_utf8(id).ok()?, 16).ok()?;
    let name = std::str::from_utf8(name.strip_prefix(b" ")?).ok()?.trim();
    // A name is printed on terminals, so it must not contain control characters.
    (!name.is_empty() && !name.contains(char::is_control)).then_some((id, name))
}

/// Calls `take` with one line after the other until it returns false. Of a line longer than the
/// buffer it gets the beginning only.
fn lines(file: &mut dyn Read, take: &mut dyn FnMut(&[u8]) -> bool) -> std::io::Result<()> {
    // pci.ids has 1.5 MB and the block of NVIDIA ends after a third. 128 KiB need four reads and
    // stay in the cache.
    let mut buffer = vec![0; 128 * 1024];
    let mut filled = 0;
    let mut all = 0;
    let mut inside_long_line = false;
    loop {
        let length = file.read(buffer.get_mut(filled..).unwrap_or_default())?;
        filled += length;
        all += length;
        if all > MAX_SIZE {
            return Err(std::io::Error::new(
                std::io::ErrorKind::InvalidData,
                "larger than 64 MiB, so it is no pci.ids file",
            ));
        }
        let mut begin = 0;
        while let Some(end) = find_newline(buffer.get(begin..filled).unwrap_or_default()) {
            let enough = !inside_long_line && !take(buffer.get(begin..begin + end).unwrap_or_default());
            if enough {
                return Ok(());
            }
            inside_long_line = false;
            begin += end + 1;
        }
        if length == 0 {
            if !inside_long_line {
                take(buffer.get(begin..filled).unwrap_or_default());
            }
            return Ok(());
        }
        if begin == 0 && filled == buffer.len() {
            if !inside_long_line {
                take(&buffer);
            }
            inside_long_line = true;
            filled = 0;
        } else {
            buffer.copy_within(begin..filled, 0);
            filled -= begin;
        }
    }
}

fn find_newline(bytes: &[u8]) -> Option<usize> {
    memchr::memchr(b'\n', bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use proptest::prelude::*;

    const FILE: &str = "# comment\n\
        1002  Advanced Micro Devices\n\t2330  Wrong vendor\n\
        10de  NVIDIA Corporation\n\t20b0  GA100 [A100 SXM4 40GB]\n\t\t10de 1450  Subsystem\n\t2330  GH100 [H100 SXM5 80GB] \n\
        \tzzzz  bad\n\t2331\n\
        8086  Intel Corporation\n\t2330  Wrong again\nC 03  Display controller\n\t02  3D controller\n";

    fn names(file: &str, wanted: &[(u16, u16)]) -> Vec<(usize, String)> {
        let mut found = Vec::new();
        find(&mut file.as_bytes(), wanted, &mut |index, name| found.push((index, name.to_owned()))).unwrap();
        found
    }

    #[test]
    fn device_of_the_right_vendor_is_found() {
        let found = names(FILE, &[(0x10de, 0x2330), (0x10de, 0x20b0), (0x10de, 0x9999), (0x10de, 0x2331)]);
        assert_eq!(found, [(1, "GA100 [A100 SXM4 40GB]".into()), (0, "GH100 [H100 SXM5 80GB]".into())]);
        assert_eq!(names(FILE, &[(0x0003, 0x0002)]), []);
    }

    #[test]
    fn long_line_hides_no_other_line() {
        let file = format!("10de  NVIDIA\n\t2330  {}\n\t20b0  Short\n", "x".repeat(200_000));
        assert!(names(&file, &[(0x10de, 0x20b0)]).contains(&(0, "Short".into())));
    }

    #[test]
    fn only_regular_bounded_files_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, Mode::RUSR, 0).unwrap();
        for path in [fifo.as_path(), Path::new("/dev/zero"), directory.path()] {
            let error = open(Some(path)).unwrap_err();
            assert_eq!((error.kind, error.path().as_deref()), (ErrorKind::Malformed, Some(path)));
            assert_eq!(error.to_string(), format!("pci.ids {}: not a regular file", path.display()));
        }
        let error = find(&mut std::io::repeat(b'x'), &[(1, 2)], &mut |_, _| {}).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
    }

    #[test]
    fn error_of_an_open_has_the_path() {
        let missing = Path::new("/nowhere/pci.ids");
        let error = open(Some(missing)).unwrap_err();
        assert_eq!((error.kind, error.path().as_deref()), (ErrorKind::Missing, Some(missing)));
        assert_eq!(error.to_string(), "pci.ids /nowhere/pci.ids: No such file or directory");
        let converted = std::io::Error::from(error);
        assert_eq!(converted.kind(), std::io::ErrorKind::NotFound);
        assert!(converted.to_string().contains("/nowhere/pci.ids"));
    }

    #[test]
    fn name_with_control_characters_is_skipped() {
        let file = "10de  NVIDIA\n\t2330  Red \u{1b}[31mcard\n\t20b0  Caf\u{e9}\n";
        assert_eq!(names(file, &[(0x10de, 0x2330), (0x10de, 0x20b0)]), [(1, "Caf\u{e9}".into())]);
    }

    proptest! {
        #[test]
        fn arbitrary_file_never_panics(bytes: Vec<u8>) {
            find(&mut bytes.as_slice(), &[(0x10de, 0x2330)], &mut |_, _| {}).unwrap();
        }
    }
}
