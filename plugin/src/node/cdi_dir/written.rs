//! The CDI specs on disk as this process wrote them, shared with Allocate.

use crate::file_id::FileId;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use vfio_plugin_policy::cdi::request::{SpecDevice, entry_of};
use vfio_probe::DeviceId;

/// The spec files that were written, each by the number of its write.
#[derive(Debug, Default)]
pub(crate) struct WrittenSpecs {
    specs: Mutex<BTreeMap<u64, WrittenSpec>>,
}

/// A file as it was right after its write.
#[derive(Clone, PartialEq, Eq, Debug)]
struct WrittenSpec {
    path: PathBuf,
    file_id: FileId,
}

impl WrittenSpecs {
    /// Returns whether the spec file of one container's devices is unchanged since it was written. Costs one system call: the
    /// devices are of one resource, so they are in one file.
    pub(crate) fn has_unchanged(&self, spec_devices: &[SpecDevice], devices: &[DeviceId]) -> bool {
        let entry = devices.first().and_then(|device| entry_of(spec_devices, *device));
        entry.is_some_and(|entry| self.is_unchanged(entry.written))
    }

    /// Returns whether the file of a write is unchanged. Costs one system call.
    pub(super) fn is_unchanged(&self, number: u64) -> bool {
        let written = self.specs.lock().get(&number).cloned();
        written.is_some_and(|written| FileId::of(&written.path).is_ok_and(|id| id == written.file_id))
    }

    /// Records a write, which replaces the file's former write.
    ///
    /// # Errors
    /// The file cannot be found any more.
    pub(super) fn record(&self, number: u64, path: &Path) -> std::io::Result<()> {
        let file_id = FileId::of(path)?;
        let mut specs = self.specs.lock();
        specs.retain(|_, known| known.path != path);
        specs.insert(number, WrittenSpec { path: path.to_owned(), file_id });
        Ok(())
    }
}
