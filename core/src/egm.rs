//! Extended GPU memory of Grace systems: host memory that a GPU reaches as if it were its own. A machine that is given all GPUs
//! of such a memory may be given the memory too, as `/dev/egmN`.
//!
//! The driver that makes these nodes (nvgrace-egm) sits on an auxiliary device of nvgrace-gpu's, so that a host none of whose
//! devices is bound to that driver has none: nothing needs to be read there.

use crate::device::Device;
use crate::error::{Error, Result};
use crate::id::DeviceId;
use crate::root::{Buffer, PAGE, Root};
use crate::text::Text;
use rustix::io::Errno;

/// Where the driver's class is.
const CLASS: &str = "sys/class/egm";

/// Whether there may be extended memory for a device: whether its driver is the one that tells of it.
#[must_use]
pub fn may_have(device: &Device) -> bool {
    device.driver.is_some_and(|driver| driver.as_bytes().starts_with(b"nvgrace"))
}

impl Root {
    /// Calls `visit` with the name of each node in /dev of extended memory whose GPUs are all among `given`: to a machine that
    /// has only some of them it would be memory that another's GPUs write to. By name. Three system calls, and four a node.
    ///
    /// # Errors
    /// What there is cannot be listed; that there is none is no error. A memory whose GPUs cannot be read is an error item
    /// about itself.
    pub fn egm_nodes(
        &self,
        given: &[DeviceId],
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
            Err(errno) => return Err(Error::system(errno, "class/egm")),
        }
        names.sort_unstable();
        for name in names {
            match self.egm_is_whole(name, given) {
                Ok(true) => visit(Ok(name)),
                Ok(false) => {}
                Err(error) => visit(Err(error.of_entry(name.as_bytes()))),
            }
        }
        Ok(())
    }

    fn egm_is_whole(&self, name: Text<16>, given: &[DeviceId]) -> Result<bool> {
        const WHAT: &str = "gpu_devices";
        let mut buffer = [0; PAGE];
        let text = self
            .read(format_args!("{CLASS}/{name}/gpu_devices"), &mut buffer)
            .map_err(|errno| Error::system(errno, WHAT))?;
        // An address a line (`gpu_devices_show`).
        let mut gpus = text.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).peekable();
        // Memory of no GPU is nobody's.
        let mut whole = gpus.peek().is_some();
        for word in gpus {
            let gpu = DeviceId::parse(word).ok_or(Error::malformed(WHAT))?;
            whole &= given.contains(&gpu);
        }
        // As for other nodes: the class entry has a number if there is a node.
        Ok(whole && self.stat(format_args!("{CLASS}/{name}/dev")).is_ok())
    }
}

/// `egm` and a number, as the driver names them.
fn is_node(name: &[u8]) -> bool {
    name.strip_prefix(b"egm")
        .is_some_and(|number| !number.is_empty() && number.iter().all(u8::is_ascii_digit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// A tree with these memories: name, what its `gpu_devices` says, whether it has a node.
    fn tree(memories: &[(&str, &str, bool)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, gpus, has_node) in memories {
            let entry = folder.path().join(CLASS).join(name);
            fs::create_dir_all(&entry).unwrap();
            fs::write(entry.join("gpu_devices"), gpus).unwrap();
            if *has_node {
                fs::write(entry.join("dev"), "510:0\n").unwrap();
            }
        }
        folder
    }

    fn given(folder: &tempfile::TempDir, ids: &[&str]) -> Vec<String> {
        let root = Root::open(folder.path()).unwrap();
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
    fn memory_is_given_with_all_of_its_gpus() {
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
            assert_eq!(given(&tree, ids), expected, "{ids:?}");
        }
    }

    #[test]
    fn a_bad_one_costs_no_other() {
        let long = format!("{A}\n").repeat(400);
        let upper = "0008:0A:00.0\n";
        let tree = tree(&[
            ("egm0", "garbage\n", true),
            ("egm1", &long, true),
            ("egm2", A, true),
            ("egm3", upper, true),
        ]);
        fs::create_dir_all(tree.path().join(CLASS).join("egm4")).unwrap();
        let found = given(&tree, &[A, "0008:0a:00.0"]);
        assert_eq!(found.len(), 5, "{found:?}");
        for (text, words) in found.iter().zip(["gpu_devices", "gpu_devices", "egm2", "egm3", "No such file"])
        {
            assert!(text.contains(words), "{found:?}");
        }
        assert!(found[0].contains("egm0"), "{found:?}");
        assert_eq!(given(&tempfile::tempdir().unwrap(), &[A]), Vec::<String>::new(), "no Grace");
    }
}
