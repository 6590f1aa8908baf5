//! Names of vGPU types. A driver reports names only at times, so each reported name is kept.
//!
//! A driver lists the types of which it could create another vGPU now. A type that is in use and cannot be created again has no
//! name for a while. Its name is read from every device that may report it, and stays in the run directory over restarts.

use crate::log_once::LogOnce;
use crate::node::retry::Retry;
use crate::problems::{ProblemCode, Problems};
use crate::run_dir::RunDir;
use crate::state_file::StateFile;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::time::{Duration, Instant};
use vfio_plugin_policy::pools::resource_name::type_name;
use vfio_plugin_policy::pools::selector::VgpuType;
use vfio_probe::{Device, Kind, Root};

/// The version of the state file's content.
const VERSION: u32 = 1;
/// The first and the longest pause before a name that could not be read is read again.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The names of vGPU types.
#[derive(Debug)]
pub(crate) struct VgpuTypes {
    /// Names as part of a resource, by the type's number.
    names: BTreeMap<String, String>,
    state_file: StateFile,
    /// The names in the state file. Read when the first type needs a name, because most nodes have no vGPUs. None until the file
    /// was read; until then it is not written.
    saved: Option<SavedNames>,
    /// Whether the latest read of the state file failed.
    is_unread: bool,
    /// Why the state file could not be read, as far as it was logged.
    read_failures: LogOnce<ErrorKind>,
    retry: Retry,
    /// Types whose latest read failed.
    failing: BTreeSet<VgpuType>,
    /// Types that were logged as advertised by number.
    nameless: LogOnce<VgpuType>,
    /// Has the types whose names are unreadable.
    problems: Problems,
}

/// The content of the state file.
#[derive(Debug, Default, Serialize, Deserialize)]
struct SavedNames {
    names: BTreeMap<String, String>,
}

impl VgpuTypes {
    /// Returns no names yet; the state file is in `run_dir`.
    pub(crate) fn new(run_dir: &RunDir) -> Self {
        Self {
            names: BTreeMap::new(),
            state_file: StateFile::new(run_dir, "types.json"),
            saved: None,
            is_unread: false,
            read_failures: LogOnce::default(),
            retry: Retry::new(RETRY.0, RETRY.1),
            failing: BTreeSet::new(),
            nameless: LogOnce::default(),
            problems: run_dir.problems.clone(),
        }
    }

    /// Returns the name of a type as part of a resource, if it is known.
    pub(crate) fn name(&self, number: &VgpuType) -> Option<&str> {
        self.names.get(number.as_str()).map(String::as_str)
    }

    /// Returns whether a failed read of a name or of the state file is to be repeated. A type that the driver does not name is no failure; it is looked
    /// up again whenever a device changes.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.retry.is_due(now)
    }

    /// Looks up those of the types that have no name. Reads one attribute for each device that may report it, up to the first
    /// that does: devices of the type, then other virtual functions of the model. The saved name comes last, because an update of
    /// the driver may have renamed the type.
    pub(crate) fn learn<'a>(
        &mut self,
        root: &Root,
        types: impl IntoIterator<Item = VgpuType>,
        devices: &(impl Iterator<Item = &'a Device> + Clone),
        now: Instant,
    ) {
        let unnamed: Vec<VgpuType> = types.into_iter().filter(|number| self.name(number).is_none()).collect();
        if self.is_unread || !unnamed.is_empty() {
            self.read_saved();
        }
        for number in unnamed {
            match self.look_up(root, &number, devices.clone()) {
                Ok(()) => self.failing.remove(&number),
                Err(_) => self.failing.insert(number),
            };
        }
        let failing = |about: &str| self.failing.iter().any(|number| about == format!("vGPU type {number}"));
        self.problems.keep(ProblemCode::VgpuTypeUnreadable, failing);
        // A call may be about other devices than the failed one.
        match self.failing.is_empty() && !self.is_unread {
            true => self.retry.succeeded(),
            false => self.retry.failed(now),
        }
    }

    /// Reads the state file unless it was read before. After a late read, saves the names that were learned until then.
    fn read_saved(&mut self) {
        if self.saved.is_some() {
            return;
        }
        match self.state_file.read_versioned(VERSION) {
            Ok(saved) => {
                self.saved = Some(saved.unwrap_or_default());
                self.read_failures.clear();
                if std::mem::take(&mut self.is_unread) {
                    self.save();
                }
            }
            Err(error) => {
                self.is_unread = true;
                if self.read_failures.is_new(error.kind()) {
                    tracing::warn!(%error, "saved names of vGPU types could not be read; none is saved until they can");
                }
            }
        }
    }

    /// Looks up one type. Fails if a read failed and the type has no name yet.
    fn look_up<'a>(
        &mut self,
        root: &Root,
        number: &VgpuType,
        devices: impl Iterator<Item = &'a Device> + Clone,
    ) -> vfio_probe::Result<()> {
        let reported = reported_name(root, number, devices);
        let about = format_args!("vGPU type {number}");
        if let Err(error) = &reported
            && self.problems.begin(
                ProblemCode::VgpuTypeUnreadable,
                about,
                format_args!("its name cannot be read: {error}"),
            )
        {
            tracing::warn!(%error, vgpu_type = %number, "name of a vGPU type could not be read");
        }
        let saved = self.saved.as_ref().and_then(|saved| saved.names.get(number.as_str()));
        let name = reported.clone().unwrap_or_default().or_else(|| saved.cloned());
        if let Some(name) = name {
            self.names.insert(number.to_string(), type_name(number.as_str(), Some(&name)));
            self.problems.end(ProblemCode::VgpuTypeUnnamed, about);
            return Ok(());
        }
        // Until the state file was read, the type may still have a saved name.
        if !self.is_unread && self.nameless.is_new(*number) {
            let text = "it is offered by its number, until the driver reports its name";
            self.problems.begin(ProblemCode::VgpuTypeUnnamed, about, text);
            tracing::warn!(vgpu_type = %number, "vGPU type is advertised by its number until the driver reports its name");
        }
        reported.map(|_| ())
    }

    /// Saves new names for the next process. Does nothing until the state file was read, because a write would lose its names.
    pub(crate) fn save(&mut self) {
        let Some(saved) = &mut self.saved else { return };
        let new = self.names.iter().filter(|(number, name)| saved.names.get(*number) != Some(*name));
        let new: Vec<_> = new.map(|(number, name)| (number.clone(), name.clone())).collect();
        if !new.is_empty() {
            saved.names.extend(new);
            self.state_file.write_versioned(VERSION, saved);
        }
    }
}

/// Returns the name that the first device with one reports. Returns the last error if none does.
fn reported_name<'a>(
    root: &Root,
    number: &VgpuType,
    devices: impl Iterator<Item = &'a Device> + Clone,
) -> vfio_probe::Result<Option<String>> {
    let of_type = devices.clone().filter(|device| device.vgpu_type == Some(*number));
    let models: BTreeSet<_> = of_type.clone().map(|device| (device.vendor, device.device)).collect();
    let same_model = |device: &&Device| {
        device.kind == Kind::VendorVf
            && device.vgpu_type != Some(*number)
            && models.contains(&(device.vendor, device.device))
    };
    // A mediated device's type has a directory with its name, or never has a name.
    let is_function = of_type.clone().any(|device| device.kind == Kind::VendorVf);
    let others = devices.filter(same_model).filter(|_| is_function);
    let mut failed = Ok(None);
    for device in of_type.chain(others) {
        let mut typed = *device;
        typed.vgpu_type = Some(*number);
        match root.vgpu_type_name(&typed) {
            Ok(Some(name)) => return Ok(Some(name.to_string())),
            Ok(None) if device.kind == Kind::Mdev => break,
            Ok(None) => {}
            Err(error) => failed = Err(error),
        }
    }
    failed
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::PathBuf;
    use vfio_plugin_policy::testing::device_state;
    use vfio_probe::text::Text;
    use vfio_probe::{Occupancy, Viability};

    const UUID: &str = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";

    /// A tree with a mediated device. The name of its type cannot be read: a directory is in the file's place.
    fn unreadable() -> (tempfile::TempDir, PathBuf, Device) {
        let tree = tempfile::tempdir().unwrap();
        let name = tree.path().join(format!("sys/bus/mdev/devices/{UUID}/mdev_type/name"));
        fs::create_dir_all(&name).unwrap();
        let now = Instant::now();
        let mut mdev =
            device_state("0000:01:00.0", 51, Occupancy::Free, now, Viability::Viable, false).device;
        (mdev.id, mdev.kind) = (UUID.parse().unwrap(), Kind::Mdev);
        mdev.vgpu_type = Text::new(b"nvidia-222");
        (tree, name, mdev)
    }

    #[test]
    fn failed_read_of_a_name_is_repeated_with_growing_pauses() {
        let (tree, name, mdev) = unreadable();
        let root = Root::open(tree.path()).unwrap();
        let mut types = VgpuTypes::new(&RunDir::of_serve(tree.path(), &Problems::default()));
        let number = mdev.vgpu_type.unwrap();
        let now = Instant::now();
        types.learn(&root, [number], &[mdev].iter(), now);
        assert!(types.name(&number).is_none() && !types.is_due(now) && types.is_due(now + RETRY.0));
        let now = now + RETRY.0;
        types.learn(&root, [number], &[mdev].iter(), now);
        assert!(!types.is_due(now + RETRY.0) && types.is_due(now + RETRY.0 * 2));
        fs::remove_dir(&name).unwrap();
        fs::write(&name, "GRID T4-1Q\n").unwrap();
        let now = now + RETRY.0 * 2;
        types.learn(&root, [number], &[mdev].iter(), now);
        assert_eq!(types.name(&number), Some("GRID_T4-1Q"));
        assert!(!types.is_due(now + RETRY.1));
    }

    #[test]
    fn call_without_the_failed_type_keeps_its_retry() {
        let (tree, _, mdev) = unreadable();
        let root = Root::open(tree.path()).unwrap();
        let mut types = VgpuTypes::new(&RunDir::of_serve(tree.path(), &Problems::default()));
        let now = Instant::now();
        types.learn(&root, [mdev.vgpu_type.unwrap()], &[mdev].iter(), now);
        let now = now + RETRY.0;
        types.learn(&root, [], &[].iter(), now);
        assert!(!types.is_due(now) && types.is_due(now + RETRY.0 * 2));
    }

    #[test]
    fn type_without_a_name_is_no_failure() {
        let (tree, name, mdev) = unreadable();
        fs::remove_dir(&name).unwrap();
        let root = Root::open(tree.path()).unwrap();
        let mut types = VgpuTypes::new(&RunDir::of_serve(tree.path(), &Problems::default()));
        let number = mdev.vgpu_type.unwrap();
        let now = Instant::now();
        types.learn(&root, [number], &[mdev].iter(), now);
        assert!(types.name(&number).is_none() && !types.is_due(now + RETRY.1));
    }

    #[test]
    fn saved_name_serves_the_next_process() {
        let (tree, name, mdev) = unreadable();
        let root = Root::open(tree.path()).unwrap();
        let number = mdev.vgpu_type.unwrap();
        let now = Instant::now();
        fs::remove_dir(&name).unwrap();
        fs::write(&name, "GRID T4-1Q\n").unwrap();
        let mut types = VgpuTypes::new(&RunDir::of_serve(tree.path(), &Problems::default()));
        types.learn(&root, [number], &[mdev].iter(), now);
        types.save();
        fs::remove_file(&name).unwrap();
        let mut types = VgpuTypes::new(&RunDir::of_serve(tree.path(), &Problems::default()));
        types.learn(&root, [number], &[mdev].iter(), now);
        assert_eq!(types.name(&number), Some("GRID_T4-1Q"));
    }

    #[test]
    fn state_file_that_cannot_be_read_is_read_later_and_kept() {
        let (tree, name, mdev) = unreadable();
        let root = Root::open(tree.path()).unwrap();
        let number = mdev.vgpu_type.unwrap();
        let now = Instant::now();
        fs::remove_dir(&name).unwrap();
        let path = tree.path().join("types.json");
        // A directory cannot be read, also by root, and not be kept aside either while all places are taken.
        fs::create_dir(&path).unwrap();
        for number in ["", ".1", ".2", ".3"] {
            fs::create_dir_all(tree.path().join(format!("types.json.unreadable{number}/full"))).unwrap();
        }
        let mut types = VgpuTypes::new(&RunDir::of_serve(tree.path(), &Problems::default()));
        types.learn(&root, [number], &[mdev].iter(), now);
        assert!(types.name(&number).is_none() && !types.is_due(now) && types.is_due(now + RETRY.0));
        // The driver reports the name of another type meanwhile.
        types.names.insert("nvidia-223".into(), "GRID_T4-2Q".into());
        types.save();
        fs::remove_dir(&path).unwrap();
        types.save();
        assert!(!path.exists(), "nothing is written before the file was read");
        fs::write(&path, r#"{"version":1,"names":{"nvidia-222":"GRID T4-1Q"}}"#).unwrap();
        types.learn(&root, [number], &[mdev].iter(), now + RETRY.0);
        assert_eq!(types.name(&number), Some("GRID_T4-1Q"));
        assert!(!types.is_due(now + RETRY.1));
        types.save();
        let saved = fs::read_to_string(&path).unwrap();
        assert!(saved.contains("nvidia-222") && saved.contains("nvidia-223"), "{saved}");
    }
}
