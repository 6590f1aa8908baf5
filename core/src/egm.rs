//! Finds the device nodes of extended GPU memory (EGM) on Grace systems.
//!
//! Extended GPU memory is host memory that a GPU accesses like its own. A VM that gets all GPUs of
//! such a memory may also get the memory, as `/dev/egmN`. The driver nvgrace-egm creates these
//! nodes. It binds to an auxiliary device of nvgrace-gpu, so a host without a device on that driver
//! has no such node, and callers can skip the search there.

use crate::device::Device;
use crate::error::{Error, Result};
use crate::id::DeviceId;
use crate::root::{Buffer, PAGE, Root};
use crate::text::Text;
use rustix::io::Errno;

/// The directory of the driver's class.
const CLASS: &str = "sys/class/egm";

/// Returns whether a device may have extended memory: whether its driver is one of the nvgrace
/// drivers. No I/O.
#[must_use]
pub fn may_have(device: &Device) -> bool {
    device.driver.is_some_and(|driver| driver.as_bytes().starts_with(b"nvgrace"))
}

impl Root {
    /// Calls `visit` with the name in /dev of each extended memory whose GPUs are all in
    /// `allocated`, sorted by name.
    ///
    /// A memory of which the VM gets only some GPUs is left out, because the GPUs of another VM
    /// write to it. A memory whose GPUs cannot be read is passed to `visit` as an error about
    /// itself. Needs three system calls, and four more for each memory. Allocates.
    ///
    /// # Errors
    /// The class exists and cannot be listed. A host without extended memory is no error.
    pub fn egm_nodes(
        &self,
        allocated: &[DeviceId],
        buffer: &mut Buffer,
        mut visit: impl FnMut(Result<Text<16>>),
    ) -> Result<()> {
        let mut names: Vec<Text<16>> = Vec::new();
        let listed = self.list(format_args!("{CLASS}"), buffer, |name| {
            names.extend(Text::new(name).filter(|name: &Text<16>| is_node(name.as_bytes())));
        });
        match listed {
            Ok(()) => {}
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(Error::system(errno, CLASS)),
        }
        names.sort_unstable();
        for name in names {
            match self.egm_is_complete(name, allocated) {
                Ok(true) => visit(Ok(name)),
                Ok(false) => {}
                Err(error) => visit(Err(error.of_entry(format!("{name}/gpu_devices").as_bytes()))),
            }
        }
        Ok(())
    }

    /// Returns whether a memory has a device node and all its GPUs are in `allocated`.
    fn egm_is_complete(&self, name: Text<16>, allocated: &[DeviceId]) -> Result<bool> {
        let mut buffer = [0; PAGE];
        let text = self
            .read(format_args!("{CLASS}/{name}/gpu_devices"), &mut buffer)
            .map_err(|errno| Error::system(errno, CLASS))?;
        // The attribute has one address a line (`gpu_devices_show`).
        let mut gpus = text.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).peekable();
        // A memory without a GPU belongs to no VM.
        let mut complete = gpus.peek().is_some();
        for word in gpus {
            let gpu = DeviceId::parse(word).ok_or(Error::malformed(CLASS))?;
            complete &= allocated.contains(&gpu);
        }
        // As with all devices, the class entry has a `dev` attribute only if it has a device node.
        Ok(complete && self.stat(format_args!("{CLASS}/{name}/dev")).is_ok())
    }
}

/// Returns whether a name is `egm` and a number, as the driver names its entries.
fn is_node(name: &[u8]) -> bool {
    name.strip_prefix(b"egm")
        .is_some_and(|number| !number.is_empty() && number.iter().all(u8::is_ascii_digit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// Creates a tree with memories. Each has a name, the text of `gpu_devices`, and a device node
    /// or none.
    fn tree(memories: &[(&str, &str, bool)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        for (name, gpus, has_node) in memories {
            let entry = directory.path().join(CLASS).join(name);
            fs::create_dir_all(&entry).unwrap();
            fs::write(entry.join("gpu_devices"), gpus).unwrap();
            if *has_node {
                fs::write(entry.join("dev"), "510:0\n").unwrap();
            }
        }
        directory
    }

    fn nodes(directory: &tempfile::TempDir, ids: &[&str]) -> Vec<String> {
        let root = Root::open(directory.path()).unwrap();
        let ids: Vec<DeviceId> = ids.iter().map(|id| id.parse().unwrap()).collect();
        let mut found = Vec::new();
        let visit = |node: Result<Text<16>>| {
            found.push(node.map_or_else(|error| error.to_string(), |name| name.to_string()));
        };
        root.egm_nodes(&ids, &mut Buffer::new(), visit).unwrap();
        found
    }

    const A: &str = "0008:01:00.0";
    const B: &str = "0009:01:00.0";
    const C: &str = "0018:01:00.0";

    #[test]
    fn memory_goes_with_all_of_its_gpus_only() {
        let tree = tree(&[
            ("egm5", &format!("{C}\n"), true),
            ("egm4", &format!("{A}\n{B}\n"), true),
            ("egm6", "", true),
            ("egm7", &format!("{A}\n"), false),
            ("other", &format!("{A}\n"), true),
        ]);
        for (ids, expected) in [
            (&[][..], &[][..]),
            (&[A], &[]),
            (&[B, A], &["egm4"]),
            (&[C], &["egm5"]),
            (&[A, C], &["egm5"]),
            (&[C, B, A], &["egm4", "egm5"]),
        ] {
            assert_eq!(nodes(&tree, ids), expected, "{ids:?}");
        }
    }

    #[test]
    fn unreadable_memory_hides_no_other() {
        let long = format!("{A}\n").repeat(400);
        let upper = "0008:0A:00.0\n";
        let tree = tree(&[
            ("egm0", "garbage\n", true),
            ("egm1", &long, true),
            ("egm2", A, true),
            ("egm3", upper, true),
        ]);
        fs::create_dir_all(tree.path().join(CLASS).join("egm4")).unwrap();
        let found = nodes(&tree, &[A, "0008:0a:00.0"]);
        assert_eq!(found.len(), 5, "{found:?}");
        for (text, words) in found.iter().zip(["gpu_devices", "gpu_devices", "egm2", "egm3", "No such file"])
        {
            assert!(text.contains(words), "{found:?}");
        }
        assert!(found[0].contains("egm0"), "{found:?}");
        assert_eq!(nodes(&tempfile::tempdir().unwrap(), &[A]), Vec::<String>::new(), "no Grace");
    }
}
