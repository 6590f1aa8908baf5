//! Tests of the directory of CDI specs, on a temporary directory.

use super::*;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use tempfile::TempDir;

/// The directory of specs in a place, with its run directory there.
fn cdi_dir(place: &TempDir) -> CdiDir {
    CdiDir::new(place.path().join("cdi"), &run_dir(place))
}

fn run_dir(place: &TempDir) -> RunDir {
    RunDir::of_serve(place.path(), &Problems::default())
}

/// Returns the files that have a problem.
fn problems(cdi_dir: &CdiDir) -> Vec<String> {
    cdi_dir.problems.current().into_iter().map(|problem| problem.about).collect()
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
fn process_without_the_lock_adopts_equal_files_and_writes_none() {
    let now = Instant::now();
    let place = tempfile::tempdir().unwrap();
    cdi_dir(&place).write_all(&specs(&[("a.b/c", &[1]), ("a.b/d", &[2])]), now);
    let run_dir = RunDir::of_waiting_serve(place.path(), &Problems::default());
    let mut waiting = CdiDir::new(place.path().join("cdi"), &run_dir);
    let wanted = specs(&[("a.b/c", &[1]), ("a.b/e", &[3])]);
    assert_eq!(waiting.write_all(&wanted, now).len(), 1);
    let before = ["vfio-device-plugin_a.b_c.json", "vfio-device-plugin_a.b_d.json"];
    assert_eq!(names(&place), before);
    run_dir.begin_writing();
    assert_eq!(waiting.write_all(&wanted, now).len(), 2);
    assert_eq!(names(&place), ["vfio-device-plugin_a.b_c.json", "vfio-device-plugin_a.b_e.json"]);
}

#[test]
fn directory_follows_and_unchanged_files_are_kept() {
    let now = Instant::now();
    let place = tempfile::tempdir().unwrap();
    let mut cdi_dir = cdi_dir(&place);
    let devices = cdi_dir.write_all(&specs(&[("a.b/c", &[1, 2]), ("a.b/d", &[3])]), now);
    assert_eq!(devices.len(), 3);
    assert_eq!(names(&place), ["vfio-device-plugin_a.b_c.json", "vfio-device-plugin_a.b_d.json"]);
    let meta = || fs::metadata(place.path().join("cdi/vfio-device-plugin_a.b_c.json")).unwrap();
    assert_eq!(meta().permissions().mode() & 0o777, 0o644);
    let inode = meta().ino();
    assert_eq!(cdi_dir.write_all(&specs(&[("a.b/c", &[1, 2])]), now).len(), 2);
    assert_eq!(names(&place), ["vfio-device-plugin_a.b_c.json"]);
    assert_eq!(meta().ino(), inode);
    cdi_dir.write_all(&specs(&[("a.b/c", &[1])]), now);
    assert_ne!(meta().ino(), inode, "replaced, not written in place");
    assert_eq!(cdi_dir.write_all(&[], now), []);
    assert_eq!(names(&place), [""; 0]);
    assert!(!cdi_dir.retry.is_failing());
}

#[test]
fn without_specs_nothing_is_written() {
    let now = Instant::now();
    let place = tempfile::tempdir().unwrap();
    assert_eq!(cdi_dir(&place).write_all(&[], now), []);
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 0);
}

#[test]
fn former_files_are_removed_and_foreign_ones_are_kept() {
    let now = Instant::now();
    let place = tempfile::tempdir().unwrap();
    cdi_dir(&place).write_all(&specs(&[("a.b/c", &[1]), ("a.b/old", &[2])]), now);
    let other = tempfile::tempdir().unwrap();
    CdiDir::new(place.path().join("cdi"), &run_dir(&other)).write_all(&specs(&[("a.b/theirs", &[3])]), now);
    fs::write(place.path().join("cdi/.vfio-device-plugin-0123456789ab.tmp"), "{").unwrap();
    fs::write(place.path().join("cdi/nvidia.yaml"), "---").unwrap();
    let mut cdi_dir = cdi_dir(&place);
    assert_eq!(cdi_dir.write_all(&specs(&[("a.b/c", &[1])]), now).len(), 1);
    let kept = ["nvidia.yaml", "vfio-device-plugin_a.b_c.json", "vfio-device-plugin_a.b_theirs.json"];
    assert_eq!(names(&place), kept);
    let state_file = place.path().join("cdi.json");
    let saved = fs::read_to_string(&state_file).unwrap();
    assert_eq!(saved, "{\"version\":1,\"files\":[\"vfio-device-plugin_a.b_c.json\"]}");
    fs::write(&state_file, "{\"version\":1,\"files\":[\"nvidia.yaml\",\"../cdi.json\"]}").unwrap();
    CdiDir::new(place.path().join("cdi"), &run_dir(&place)).write_all(&[], now);
    assert_eq!(names(&place), kept, "only a file that can be the plugin's is removed");
}

#[test]
fn failed_write_returns_no_device_and_is_repeated() {
    let now = Instant::now();
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("cdi");
    // A file in the directory's place stops root too.
    fs::write(&path, "").unwrap();
    let mut cdi_dir = cdi_dir(&place);
    let wanted = specs(&[("a.b/c", &[1])]);
    assert_eq!(cdi_dir.write_all(&wanted, now), []);
    assert!(cdi_dir.retry.is_failing());
    fs::remove_file(&path).unwrap();
    assert_eq!(cdi_dir.write_all(&wanted, now).len(), 1);
    assert!(!cdi_dir.retry.is_failing());
    // A directory in the place of one file does not affect the other.
    let taken = path.join(file("a.b/d"));
    fs::create_dir_all(taken.join("x")).unwrap();
    assert_eq!(cdi_dir.write_all(&specs(&[("a.b/c", &[1]), ("a.b/d", &[2])]), now).len(), 1);
    assert!(cdi_dir.retry.is_failing());
    fs::remove_dir_all(&taken).unwrap();
    assert_eq!(cdi_dir.write_all(&specs(&[("a.b/c", &[1]), ("a.b/d", &[2])]), now).len(), 2);
}

#[test]
fn changed_or_removed_file_is_written_again() {
    let place = tempfile::tempdir().unwrap();
    let mut cdi_dir = cdi_dir(&place);
    let mut now = Instant::now();
    let wanted = specs(&[("a.b/c", &[1])]);
    let path = place.path().join("cdi").join(file("a.b/c"));
    let remove = || fs::remove_file(&path).unwrap();
    let overwrite = || fs::write(&path, "{}").unwrap();
    let replace_directory = || {
        fs::remove_dir_all(place.path().join("cdi")).unwrap();
        fs::create_dir(place.path().join("cdi")).unwrap();
    };
    let remove_directory = || fs::remove_dir_all(place.path().join("cdi")).unwrap();
    for disturb in [&remove as &dyn Fn(), &overwrite, &replace_directory, &remove_directory] {
        let before = cdi_dir.write_all(&wanted, now);
        let devices = [before[0].device];
        assert!(cdi_dir.written().has_unchanged(&before, &devices));
        now += CHECK_INTERVAL;
        assert!(!cdi_dir.is_due(now));
        disturb();
        assert!(!cdi_dir.written().has_unchanged(&before, &devices));
        assert!(!cdi_dir.is_due(now), "not in each pass");
        now += CHECK_INTERVAL;
        assert!(cdi_dir.is_due(now));
        let after = cdi_dir.write_all(&wanted, now);
        assert!(cdi_dir.written().has_unchanged(&after, &devices));
        assert_eq!(fs::read_to_string(&path).unwrap(), wanted[0].text().unwrap());
    }
}

#[test]
fn missing_mount_is_a_failure_and_nothing_is_created() {
    let now = Instant::now();
    let place = tempfile::tempdir().unwrap();
    let (mount, away) = (place.path().join("mount"), place.path().join("away"));
    fs::create_dir(&mount).unwrap();
    let new = || CdiDir::new(mount.join("cdi"), &run_dir(&place));
    new().write_all(&specs(&[("a.b/c", &[1])]), now);
    fs::rename(&mount, &away).unwrap();
    let mut cdi_dir = new();
    assert_eq!(cdi_dir.write_all(&[], now), []);
    let path = |resource: &str| mount.join("cdi").join(file(resource)).display().to_string();
    assert_eq!(problems(&cdi_dir), [path("a.b/c")]);
    assert!(!cdi_dir.is_due(now), "later");
    let now = now + RETRY.0;
    assert!(cdi_dir.is_due(now));
    // The wanted spec cannot be written either, and no directory appears that the host does not have.
    assert_eq!(cdi_dir.write_all(&specs(&[("a.b/d", &[1])]), now), []);
    assert!(!mount.exists());
    assert_eq!(problems(&cdi_dir), [path("a.b/c"), path("a.b/d")]);
    let now = now + RETRY.0;
    assert!(!cdi_dir.is_due(now), "the second pause is longer");
    fs::rename(&away, &mount).unwrap();
    assert_eq!(cdi_dir.write_all(&[], now), []);
    assert!(!cdi_dir.retry.is_failing() && problems(&cdi_dir).is_empty());
    assert_eq!(fs::read_dir(mount.join("cdi")).unwrap().count(), 0);
}

#[test]
fn state_file_that_cannot_be_read_is_read_later_and_kept() {
    let now = Instant::now();
    let place = tempfile::tempdir().unwrap();
    cdi_dir(&place).write_all(&specs(&[("a.b/old", &[1])]), now);
    let (state_file, away) = (place.path().join("cdi.json"), place.path().join("away"));
    fs::rename(&state_file, &away).unwrap();
    // A directory cannot be read, also by root, and not be kept aside either while all places are taken.
    fs::create_dir(&state_file).unwrap();
    let places =
        ["", ".1", ".2", ".3"].map(|number| place.path().join(format!("cdi.json.unreadable{number}")));
    places.iter().for_each(|place| fs::create_dir_all(place.join("full")).unwrap());
    let mut cdi_dir = cdi_dir(&place);
    let wanted = specs(&[("a.b/c", &[1])]);
    assert_eq!(cdi_dir.write_all(&wanted, now), []);
    assert_eq!(names(&place), [file("a.b/old")], "no file is written that the next process would not know");
    assert!(!cdi_dir.is_due(now) && cdi_dir.is_due(now + RETRY.0));
    fs::remove_dir(&state_file).unwrap();
    fs::rename(&away, &state_file).unwrap();
    assert_eq!(cdi_dir.write_all(&wanted, now + RETRY.0).len(), 1);
    assert_eq!(names(&place), [file("a.b/c")], "the former file is removed");
    assert!(!cdi_dir.retry.is_failing());
}
