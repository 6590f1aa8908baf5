//! The folder of CDI specs: each of ours is written before anybody is told of its devices, and only when it changes.
//!
//! At our end they stay: the containers of running pods are restarted by them (the kubelet keeps the names in its checkpoint),
//! and the next process of ours takes them over. A reboot empties /var/run.

use super::Entry;
use super::names::{file, is_ours};
use super::spec::Spec;
use crate::memory::{Memory, replace};
use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};

/// The folder, and what of ours is in it.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    files: Vec<File>,
    /// Their names, kept for the process that comes after this one; files of others, and of another plugin beside this one,
    /// are theirs.
    memory: Memory,
    run_dir: PathBuf,
    /// Something could not be done and is tried again; it has been told.
    owes: bool,
}

/// A file of ours.
#[derive(Debug)]
struct File {
    name: String,
    /// None where it is not known what it says, or whether it is there.
    text: Option<String>,
}

impl Folder {
    /// The folder need not be there. What an earlier process of ours with the same `run_dir` has left in it is ours.
    pub(crate) fn new(path: PathBuf, run_dir: &Path) -> Self {
        let memory = Memory::new(run_dir, "cdi.json");
        let names: Vec<String> = memory.read();
        let files =
            names.into_iter().filter(|name| is_ours(name)).map(|name| File { name, text: None }).collect();
        Self { path, files, memory, run_dir: run_dir.into(), owes: false }
    }

    /// Whether it is to be tried again though nothing changes.
    pub(crate) fn owes(&self) -> bool {
        self.owes
    }

    /// Brings the folder to these specs; what of them is there then. Costs nothing where nothing changes.
    pub(crate) fn bring_to(&mut self, specs: &[Spec]) -> Vec<Entry> {
        let mut failure: Option<(String, Error)> = None;
        let wanted: Vec<String> = specs.iter().map(|spec| file(&spec.resource)).collect();
        let names: Vec<String> = self.files.iter().map(|file| file.name.clone()).collect();
        for name in names.into_iter().filter(|name| !wanted.contains(name)) {
            if let Err(error) = self.remove(&name) {
                failure = Some((name, error));
            }
        }
        let mut on_disk = Vec::new();
        for (name, spec) in wanted.into_iter().zip(specs) {
            match self.write(&name, spec) {
                Ok(()) => on_disk.extend(spec.entries()),
                Err(error) => failure = Some((name, error)),
            }
        }
        if let (Some((file, error)), false) = (&failure, self.owes) {
            tracing::warn!(
                folder = %self.path.display(), file, %error,
                "a CDI spec cannot be brought up to date; until it can, its devices are given by their nodes alone"
            );
        }
        self.owes = failure.is_some();
        on_disk
    }

    /// Writes a spec if it is another one than before.
    fn write(&mut self, name: &str, spec: &Spec) -> std::io::Result<()> {
        if !self.files.iter().any(|file| file.name == name) {
            // Before it is there, so that none is forgotten.
            self.files.push(File { name: name.to_owned(), text: None });
            self.remember();
        }
        let Some(known) = self.files.iter_mut().find(|file| file.name == name) else { return Ok(()) };
        let text = spec.text();
        if known.text.as_ref() == Some(&text) {
            return Ok(());
        }
        let first = known.text.take().is_none();
        std::fs::create_dir_all(&self.path)?;
        replace(&self.path.join(name), text.as_bytes(), Some(0o644))?;
        known.text = Some(text);
        tracing::info!(resource = %spec.resource, kind = spec.kind, devices = spec.len(), "CDI spec written");
        if first && spec.kind != *spec.resource {
            tracing::warn!(
                resource = %spec.resource, kind = spec.kind,
                "the resource's name is none that CDI takes: Kata, which asks by it, does not find its devices; give them another"
            );
        }
        Ok(())
    }

    fn remove(&mut self, name: &str) -> std::io::Result<()> {
        let path = self.path.join(name);
        match std::fs::remove_file(&path) {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
            done => done?,
        }
        // What a process that was killed while it wrote has left.
        let _ = std::fs::remove_file(path.with_extension("new"));
        tracing::info!(file = name, "CDI spec removed: it has no devices any more");
        self.files.retain(|file| file.name != name);
        self.remember();
        Ok(())
    }

    fn remember(&mut self) {
        // Nobody may have been here yet.
        let _ = std::fs::create_dir_all(&self.run_dir);
        self.memory.write(&self.files.iter().map(|file| file.name.as_str()).collect::<Vec<_>>());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use tempfile::TempDir;

    /// A folder in a place, and its plugin's run folder there.
    fn folder(place: &TempDir) -> Folder {
        Folder::new(place.path().join("cdi"), place.path())
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
        let entries = std::fs::read_dir(place.path().join("cdi")).unwrap().flatten();
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
        let meta = || std::fs::metadata(place.path().join("cdi/vfio-device-plugin_a.b_c.json")).unwrap();
        assert_eq!(meta().permissions().mode() & 0o777, 0o644);
        let inode = meta().ino();
        assert_eq!(folder.bring_to(&specs(&[("a.b/c", &[1, 2])])).len(), 2);
        assert_eq!(names(&place), ["vfio-device-plugin_a.b_c.json"]);
        assert_eq!(meta().ino(), inode);
        folder.bring_to(&specs(&[("a.b/c", &[1])]));
        assert_ne!(meta().ino(), inode, "replaced, not written in place");
        assert_eq!(folder.bring_to(&[]), []);
        assert_eq!(names(&place), [""; 0]);
        assert!(!folder.owes());
    }

    #[test]
    fn who_has_no_specs_writes_nothing_anywhere() {
        let place = tempfile::tempdir().unwrap();
        assert_eq!(folder(&place).bring_to(&[]), []);
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_an_earlier_process_has_left_goes_and_what_others_have_stays() {
        let place = tempfile::tempdir().unwrap();
        folder(&place).bring_to(&specs(&[("a.b/c", &[1]), ("a.b/old", &[2])]));
        let other = tempfile::tempdir().unwrap();
        Folder::new(place.path().join("cdi"), other.path()).bring_to(&specs(&[("a.b/theirs", &[3])]));
        std::fs::write(place.path().join("cdi/vfio-device-plugin_a.b_old.new"), "{").unwrap();
        std::fs::write(place.path().join("cdi/nvidia.yaml"), "---").unwrap();
        let mut folder = folder(&place);
        assert_eq!(folder.bring_to(&specs(&[("a.b/c", &[1])])).len(), 1);
        let kept = ["nvidia.yaml", "vfio-device-plugin_a.b_c.json", "vfio-device-plugin_a.b_theirs.json"];
        assert_eq!(names(&place), kept);
        let memory = std::fs::read_to_string(place.path().join("cdi.json")).unwrap();
        assert_eq!(memory, "[\"vfio-device-plugin_a.b_c.json\"]");
        // Whatever the memory says, only what can be ours is removed.
        std::fs::write(place.path().join("cdi.json"), "[\"nvidia.yaml\", \"../cdi.json\"]").unwrap();
        Folder::new(place.path().join("cdi"), place.path()).bring_to(&[]);
        assert_eq!(names(&place), kept);
    }

    #[test]
    fn what_cannot_be_written_is_not_on_disk_and_is_tried_again() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("cdi");
        // Whoever runs this: a file is no folder.
        std::fs::write(&path, "").unwrap();
        let mut folder = folder(&place);
        let wanted = specs(&[("a.b/c", &[1])]);
        assert_eq!(folder.bring_to(&wanted), []);
        assert!(folder.owes());
        std::fs::remove_file(&path).unwrap();
        assert_eq!(folder.bring_to(&wanted).len(), 1);
        assert!(!folder.owes());
        // A folder in the place of one file costs the other nothing.
        let taken = path.join(file("a.b/d"));
        std::fs::create_dir_all(taken.join("x")).unwrap();
        assert_eq!(folder.bring_to(&specs(&[("a.b/c", &[1]), ("a.b/d", &[2])])).len(), 1);
        assert!(folder.owes());
        std::fs::remove_dir_all(&taken).unwrap();
        assert_eq!(folder.bring_to(&specs(&[("a.b/c", &[1]), ("a.b/d", &[2])])).len(), 2);
    }
}
