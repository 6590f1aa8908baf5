//! The folder of CDI specs: each of ours is written before anybody is told of its devices, and again only when it changes or
//! somebody else has changed it.
//!
//! At our end they stay: the containers of running pods are restarted by them (the kubelet keeps the names in its checkpoint),
//! and the next process of ours takes them over. A reboot empties /var/run.

use crate::file_id::FileId;
use crate::state_file::{StateFile, replace};
use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeMap;
use std::fs;
use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use vfio_plugin_policy::cdi::names::{file, is_ours};
use vfio_plugin_policy::cdi::request::SpecDevice;
use vfio_plugin_policy::cdi::spec::Spec;
use vfio_probe::DeviceId;

/// How often it is looked whether the files are those that were written.
const LOOK: Duration = Duration::from_secs(5);
/// How long after a failure it is tried again, at first and at last; each time costs a look at all devices.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// The folder, and what of ours is in it.
#[derive(Debug)]
pub(crate) struct CdiDir {
    path: PathBuf,
    files: Vec<File>,
    /// Their names, kept for the process that comes after this one; files of others, and of another plugin beside this one,
    /// are theirs.
    state_file: StateFile,
    run_dir: PathBuf,
    /// What could not be done and has been told: the files, and why.
    owed: Vec<(String, ErrorKind)>,
    /// How long to wait before that is tried again, and when.
    retry: (Duration, Instant),
    looked: Instant,
    /// How many specs were written.
    count: u64,
    shared: Arc<CdiFiles>,
}

/// A file of ours.
#[derive(Debug)]
struct File {
    name: String,
    /// None where it is not known what it says, or whether it is there.
    known: Option<(String, u64)>,
}

/// A file as it was when it was written.
#[derive(Clone, PartialEq, Eq, Debug)]
struct WrittenSpec {
    path: PathBuf,
    file_id: FileId,
}

impl WrittenSpec {
    /// Whether it is still that one: one system call.
    fn is_there(&self) -> bool {
        FileId::of(&self.path).is_ok_and(|id| id == self.file_id)
    }
}

/// The spec files on disk by the number of their writing; shared with Allocate, which asks whether they are still there.
#[derive(Debug, Default)]
pub(crate) struct CdiFiles {
    written: Mutex<BTreeMap<u64, WrittenSpec>>,
}

impl CdiFiles {
    /// Returns whether the spec file of a container's devices is still the one that was written; one system call. It is one file,
    /// because the devices are of one resource.
    pub(crate) fn are_there(&self, on_disk: &[SpecDevice], devices: &[DeviceId]) -> bool {
        let entry = on_disk.iter().find(|entry| devices.contains(&entry.device));
        entry.is_some_and(|entry| self.is_there(entry.written))
    }

    fn is_there(&self, number: u64) -> bool {
        let written = self.lock().get(&number).cloned();
        written.is_some_and(|written| written.is_there())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, WrittenSpec>> {
        self.written.lock()
    }
}

impl CdiDir {
    /// The folder need not be there. What an earlier process of ours with the same `run_dir` has left in it is ours.
    pub(crate) fn new(path: PathBuf, run_dir: &Path) -> Self {
        let state_file = StateFile::new(run_dir, "cdi.json");
        let names: Vec<String> = state_file.read();
        let files =
            names.into_iter().filter(|name| is_ours(name)).map(|name| File { name, known: None }).collect();
        let now = Instant::now();
        let owed = Vec::new();
        Self {
            path,
            files,
            state_file,
            run_dir: run_dir.into(),
            owed,
            retry: (RETRY.0, now),
            looked: now,
            count: 0,
            shared: Arc::default(),
        }
    }

    /// The files that it has written.
    pub(crate) fn files(&self) -> Arc<CdiFiles> {
        Arc::clone(&self.shared)
    }

    /// Whether it is to be brought up to date though no device has changed: what failed is tried again, and somebody may have
    /// removed or overwritten a file, by which the containers of running pods are restarted. Costs nothing where there is none.
    pub(crate) fn is_due(&mut self) -> bool {
        let now = Instant::now();
        if !self.owed.is_empty() && now >= self.retry.1 {
            return true;
        }
        if self.files.is_empty() || now.saturating_duration_since(self.looked) < LOOK {
            return false;
        }
        self.looked = now;
        self.files
            .iter()
            .filter_map(|file| file.known.as_ref())
            .any(|(_, written)| !self.shared.is_there(*written))
    }

    /// Brings the folder to these specs; what of them is there then. Costs a look at each file where nothing changes.
    pub(crate) fn bring_to(&mut self, specs: &[Spec]) -> Vec<SpecDevice> {
        let mut failures: Vec<(String, Error)> = Vec::new();
        let wanted: Vec<String> = specs.iter().map(|spec| file(&spec.resource)).collect();
        let names: Vec<String> = self.files.iter().map(|file| file.name.clone()).collect();
        for name in names.into_iter().filter(|name| !wanted.contains(name)) {
            if let Err(error) = self.remove(&name) {
                failures.push((name, error));
            }
        }
        let mut on_disk = Vec::new();
        for (name, spec) in wanted.into_iter().zip(specs) {
            match self.write(&name, spec) {
                Ok(written) => {
                    on_disk.extend(spec.entries().into_iter().map(|entry| SpecDevice { written, ..entry }));
                }
                Err(error) => failures.push((name, error)),
            }
        }
        self.owe(failures);
        on_disk
    }

    /// Tells of each failure that is another one than before, and tries later each time.
    fn owe(&mut self, failures: Vec<(String, Error)>) {
        let now = Instant::now();
        let mut owed = Vec::new();
        for (file, error) in failures {
            let folder = self.path.display();
            let failure = (file, error.kind());
            if !self.owed.contains(&failure) {
                tracing::warn!(
                    %folder, file = failure.0, %error,
                    "a CDI spec cannot be brought up to date; until it can, its devices are given by their nodes alone"
                );
            }
            owed.push(failure);
        }
        if self.owed.is_empty() {
            self.retry = (RETRY.0, now + RETRY.0);
        } else if now >= self.retry.1 {
            let pause = (self.retry.0 * 2).min(RETRY.1);
            self.retry = (pause, now + pause);
        }
        self.owed = owed;
    }

    /// Writes a spec if another one is there, or none.
    fn write(&mut self, name: &str, spec: &Spec) -> std::io::Result<u64> {
        let (path, text) = (self.path.join(name), spec.text());
        let place = self.files.iter().position(|file| file.name == name);
        let known = place.and_then(|place| self.files.get_mut(place)).and_then(|file| file.known.take());
        let first = known.is_none();
        if let Some((before, written)) = known.filter(|(before, _)| *before == text) {
            if self.shared.is_there(written) {
                self.know(name, before, written);
                return Ok(written);
            }
            tracing::warn!(file = %path.display(), "somebody has removed or changed a CDI spec: it is written anew");
        }
        // Its parent is not made: in a container without the host's folder that would be nobody's.
        match fs::create_dir(&self.path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let text = format!("{error}: is the host's folder mounted?");
                return Err(Error::new(error.kind(), text));
            }
            made => made?,
        }
        if place.is_none() {
            // Before it is there, so that none is forgotten.
            self.files.push(File { name: name.to_owned(), known: None });
            self.remember();
        }
        replace(&path, text.as_bytes(), Some(0o644))?;
        self.count += 1;
        let written = self.count;
        let file_id = FileId::of(&path)?;
        self.shared.lock().retain(|_, known| known.path != path);
        self.shared.lock().insert(written, WrittenSpec { path, file_id });
        self.know(name, text, written);
        tracing::info!(resource = %spec.resource, kind = spec.kind, devices = spec.len(), "CDI spec written");
        if first && spec.kind != *spec.resource {
            tracing::warn!(
                resource = %spec.resource, kind = spec.kind,
                "the resource's name is none that CDI takes: Kata, which asks by it, does not find its devices; give them another"
            );
        }
        Ok(written)
    }

    fn know(&mut self, name: &str, text: String, written: u64) {
        if let Some(file) = self.files.iter_mut().find(|file| file.name == name) {
            file.known = Some((text, written));
        }
    }

    fn remove(&mut self, name: &str) -> std::io::Result<()> {
        let path = self.path.join(name);
        match fs::symlink_metadata(&path) {
            // Where the folder itself is missing, as when its mount was taken away, nobody knows: the host may have it.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                fs::metadata(&self.path)?;
            }
            Err(error) => return Err(error),
            Ok(_) => fs::remove_file(&path)?,
        }
        // What a process that was killed while it wrote has left.
        let _ = fs::remove_file(path.with_extension("new"));
        tracing::info!(file = name, "CDI spec removed: it has no devices any more");
        self.files.retain(|file| file.name != name);
        self.remember();
        Ok(())
    }

    fn remember(&mut self) {
        // Nobody may have been here yet.
        let _ = fs::create_dir_all(&self.run_dir);
        self.state_file.write(&self.files.iter().map(|file| file.name.as_str()).collect::<Vec<_>>());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use tempfile::TempDir;

    /// A folder in a place, and its plugin's run folder there.
    fn folder(place: &TempDir) -> CdiDir {
        CdiDir::new(place.path().join("cdi"), place.path())
    }

    fn specs(resources: &[(&str, &[u32])]) -> Vec<Spec> {
        let spec = |(resource, groups): &(&str, &[u32])| {
            let mut spec = Spec::of(&(*resource).into());
            for group in *groups {
                let id = format!("0000:{group:02x}:00.0").parse().unwrap();
                spec.add(id, vec!["/dev/vfio/vfio".to_owned(), format!("/dev/vfio/{group}")]);
            }
            spec
        };
        resources.iter().map(spec).collect()
    }

    fn names(place: &TempDir) -> Vec<String> {
        let entries = fs::read_dir(place.path().join("cdi")).unwrap().flatten();
        let mut names: Vec<String> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn the_folder_follows_and_what_does_not_change_is_not_touched() {
        let place = tempfile::tempdir().unwrap();
        let mut folder = folder(&place);
        let on_disk = folder.bring_to(&specs(&[("a.b/c", &[1, 2]), ("a.b/d", &[3])]));
        assert_eq!(on_disk.len(), 3);
        assert_eq!(names(&place), ["vfio-device-plugin_a.b_c.json", "vfio-device-plugin_a.b_d.json"]);
        let meta = || fs::metadata(place.path().join("cdi/vfio-device-plugin_a.b_c.json")).unwrap();
        assert_eq!(meta().permissions().mode() & 0o777, 0o644);
        let inode = meta().ino();
        assert_eq!(folder.bring_to(&specs(&[("a.b/c", &[1, 2])])).len(), 2);
        assert_eq!(names(&place), ["vfio-device-plugin_a.b_c.json"]);
        assert_eq!(meta().ino(), inode);
        folder.bring_to(&specs(&[("a.b/c", &[1])]));
        assert_ne!(meta().ino(), inode, "replaced, not written in place");
        assert_eq!(folder.bring_to(&[]), []);
        assert_eq!(names(&place), [""; 0]);
        assert!(folder.owed.is_empty());
    }

    #[test]
    fn who_has_no_specs_writes_nothing_anywhere() {
        let place = tempfile::tempdir().unwrap();
        assert_eq!(folder(&place).bring_to(&[]), []);
        assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_an_earlier_process_has_left_goes_and_what_others_have_stays() {
        let place = tempfile::tempdir().unwrap();
        folder(&place).bring_to(&specs(&[("a.b/c", &[1]), ("a.b/old", &[2])]));
        let other = tempfile::tempdir().unwrap();
        CdiDir::new(place.path().join("cdi"), other.path()).bring_to(&specs(&[("a.b/theirs", &[3])]));
        fs::write(place.path().join("cdi/vfio-device-plugin_a.b_old.new"), "{").unwrap();
        fs::write(place.path().join("cdi/nvidia.yaml"), "---").unwrap();
        let mut folder = folder(&place);
        assert_eq!(folder.bring_to(&specs(&[("a.b/c", &[1])])).len(), 1);
        let kept = ["nvidia.yaml", "vfio-device-plugin_a.b_c.json", "vfio-device-plugin_a.b_theirs.json"];
        assert_eq!(names(&place), kept);
        let state_file = fs::read_to_string(place.path().join("cdi.json")).unwrap();
        assert_eq!(state_file, "[\"vfio-device-plugin_a.b_c.json\"]");
        // Whatever the state_file says, only what can be ours is removed.
        fs::write(place.path().join("cdi.json"), "[\"nvidia.yaml\", \"../cdi.json\"]").unwrap();
        CdiDir::new(place.path().join("cdi"), place.path()).bring_to(&[]);
        assert_eq!(names(&place), kept);
    }

    #[test]
    fn what_cannot_be_written_is_not_on_disk_and_is_tried_again() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("cdi");
        // Whoever runs this: a file is no folder.
        fs::write(&path, "").unwrap();
        let mut folder = folder(&place);
        let wanted = specs(&[("a.b/c", &[1])]);
        assert_eq!(folder.bring_to(&wanted), []);
        assert!(!folder.owed.is_empty());
        fs::remove_file(&path).unwrap();
        assert_eq!(folder.bring_to(&wanted).len(), 1);
        assert!(folder.owed.is_empty());
        // A folder in the place of one file costs the other nothing.
        let taken = path.join(file("a.b/d"));
        fs::create_dir_all(taken.join("x")).unwrap();
        assert_eq!(folder.bring_to(&specs(&[("a.b/c", &[1]), ("a.b/d", &[2])])).len(), 1);
        assert!(!folder.owed.is_empty());
        fs::remove_dir_all(&taken).unwrap();
        assert_eq!(folder.bring_to(&specs(&[("a.b/c", &[1]), ("a.b/d", &[2])])).len(), 2);
    }

    #[test]
    fn what_somebody_removes_or_overwrites_is_written_anew() {
        let place = tempfile::tempdir().unwrap();
        let mut folder = folder(&place);
        let wanted = specs(&[("a.b/c", &[1])]);
        let path = place.path().join("cdi").join(file("a.b/c"));
        let remove = || fs::remove_file(&path).unwrap();
        let overwrite = || fs::write(&path, "{}").unwrap();
        let replace_folder = || {
            fs::remove_dir_all(place.path().join("cdi")).unwrap();
            fs::create_dir(place.path().join("cdi")).unwrap();
        };
        let remove_folder = || fs::remove_dir_all(place.path().join("cdi")).unwrap();
        for disturb in [&remove as &dyn Fn(), &overwrite, &replace_folder, &remove_folder] {
            let before = folder.bring_to(&wanted);
            let devices = [before[0].device];
            assert!(folder.files().are_there(&before, &devices));
            folder.looked -= LOOK;
            assert!(!folder.is_due());
            disturb();
            assert!(!folder.files().are_there(&before, &devices));
            assert!(!folder.is_due(), "not at each look");
            folder.looked -= LOOK;
            assert!(folder.is_due());
            let after = folder.bring_to(&wanted);
            assert!(folder.files().are_there(&after, &devices));
            assert_eq!(fs::read_to_string(&path).unwrap(), wanted[0].text());
        }
    }

    #[test]
    fn a_folder_that_is_taken_away_is_owed_and_nothing_is_made_in_its_place() {
        let place = tempfile::tempdir().unwrap();
        let (mount, away) = (place.path().join("mount"), place.path().join("away"));
        fs::create_dir(&mount).unwrap();
        let new = || CdiDir::new(mount.join("cdi"), place.path());
        new().bring_to(&specs(&[("a.b/c", &[1])]));
        fs::rename(&mount, &away).unwrap();
        let mut folder = new();
        assert_eq!(folder.bring_to(&[]), []);
        assert_eq!(folder.owed, [(file("a.b/c"), ErrorKind::NotFound)]);
        assert!(!folder.is_due(), "later");
        folder.retry.1 = Instant::now();
        assert!(folder.is_due());
        // What is wanted cannot be written either: no name is given, and no folder made that the host does not have.
        assert_eq!(folder.bring_to(&specs(&[("a.b/d", &[1])])), []);
        assert!(!mount.exists());
        assert_eq!(folder.owed.len(), 2);
        assert!(folder.retry.0 > RETRY.0);
        fs::rename(&away, &mount).unwrap();
        assert_eq!(folder.bring_to(&[]), []);
        assert!(folder.owed.is_empty());
        assert_eq!(fs::read_dir(mount.join("cdi")).unwrap().count(), 0);
    }
}
