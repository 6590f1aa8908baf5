//! Tests of state files, on temporary directories.

use super::*;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde::Serializer;
use std::fs;

#[derive(Serialize, Deserialize, PartialEq, Debug, Default)]
struct Content {
    held: Vec<u32>,
}

/// A type that no serializer can write.
struct Unserializable;

impl Serialize for Unserializable {
    fn serialize<S: Serializer>(&self, _: S) -> std::result::Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("unserializable"))
    }
}

fn run_dir(path: &Path) -> RunDir {
    RunDir::of_serve(path, &Problems::default())
}

fn file(run_dir: &RunDir) -> StateFile {
    StateFile::new(run_dir, "x.json")
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn codes(run_dir: &RunDir) -> Vec<ProblemCode> {
    run_dir.problems.current().into_iter().map(|problem| problem.code).collect()
}

#[test]
fn first_write_makes_the_run_directory_with_explicit_modes() {
    let directory = tempfile::tempdir().unwrap();
    let run_dir = run_dir(&directory.path().join("run/vfio-device-plugin"));
    file(&run_dir).write(&[1]);
    let mode = |path: PathBuf| fs::metadata(path).unwrap().mode() & 0o7777;
    assert_eq!(text(&run_dir.file("x.json")), "[1]");
    assert_eq!(mode(run_dir.file("x.json")), 0o644);
    assert_eq!(mode(directory.path().join("run/vfio-device-plugin")), 0o755);
}

#[test]
fn failed_write_keeps_the_former_file_and_is_repeated() {
    let directory = tempfile::tempdir().unwrap();
    let run_dir = run_dir(directory.path());
    let mut state_file = file(&run_dir);
    state_file.write(&[1, 2]);
    state_file.write(&Unserializable);
    assert_eq!(text(&run_dir.file("x.json")), "[1,2]");
    assert!(run_dir.problems.current()[0].text.contains("unserializable"));
    // The next write must not be skipped as unchanged.
    fs::remove_file(run_dir.file("x.json")).unwrap();
    state_file.write(&[1, 2]);
    assert_eq!((text(&run_dir.file("x.json")), codes(&run_dir)), ("[1,2]".to_owned(), vec![]));
    fs::write(run_dir.file("x.json"), "other").unwrap();
    state_file.write(&[1, 2]);
    assert_eq!(text(&run_dir.file("x.json")), "other", "unchanged content is not written again");
}

#[test]
fn write_succeeds_once_the_directory_can_be_made() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run");
    // A file has the directory's name.
    fs::write(&path, "").unwrap();
    let run_dir = run_dir(&path);
    let mut state_file = file(&run_dir);
    state_file.write(&[1]);
    assert_eq!(codes(&run_dir), [ProblemCode::StateFileNotWritten]);
    fs::remove_file(&path).unwrap();
    state_file.write(&[1]);
    assert_eq!((text(&run_dir.file("x.json")), codes(&run_dir)), ("[1]".to_owned(), vec![]));
}

#[test]
fn content_of_the_expected_version_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let run_dir = run_dir(directory.path());
    let mut state_file = file(&run_dir);
    assert_eq!(state_file.read_versioned::<Content>(1).unwrap(), None);
    let content = Content { held: vec![51] };
    state_file.write_versioned(1, &content);
    assert_eq!(text(&run_dir.file("x.json")), "{\"version\":1,\"held\":[51]}");
    assert_eq!(state_file.read_versioned(1).unwrap(), Some(content));
    assert_eq!(codes(&run_dir), []);
}

#[test]
fn file_that_is_not_understood_is_kept_aside_and_reported() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.json");
    let kept = directory.path().join("x.json.unreadable");
    for text in [
        "[]",
        "{}",
        "{\"version\":2,\"held\":[51]}",
        "{\"version\":1,\"held\":\"x\"}",
        "{\"version\":\"1\"}",
        "{\"version\":1",
        "",
    ] {
        let run_dir = run_dir(directory.path());
        fs::write(&path, text).unwrap();
        assert_eq!(file(&run_dir).read_versioned::<Content>(1).unwrap(), None, "{text}");
        assert_eq!(fs::read_to_string(&kept).unwrap(), text);
        assert_eq!(codes(&run_dir), [ProblemCode::StateFileKeptAside], "{text}");
        assert!(!path.exists());
        // The next process reports it too, until it is removed.
        let next = self::run_dir(directory.path());
        assert_eq!(codes(&next), [ProblemCode::StateFileKeptAside]);
        fs::remove_file(&kept).unwrap();
        forget_removed(&next.problems);
        assert_eq!(codes(&next), []);
    }
}

#[cfg(feature = "dra")]
#[test]
fn empty_file_of_this_boot_counts_as_missing() {
    let directory = tempfile::tempdir().unwrap();
    let run_dir = run_dir(directory.path());
    let path = run_dir.file("x.json");
    fs::write(&path, "").unwrap();
    assert_eq!(file(&run_dir).of_this_boot().read_versioned::<Content>(1).unwrap(), None);
    assert!(path.exists() && codes(&run_dir).is_empty());
    fs::write(&path, "{").unwrap();
    assert_eq!(file(&run_dir).of_this_boot().read_versioned::<Content>(1).unwrap(), None);
    assert_eq!((path.exists(), codes(&run_dir)), (false, vec![ProblemCode::StateFileKeptAside]));
}

#[test]
fn file_with_too_many_values_is_refused() {
    #[derive(Deserialize)]
    struct Content {
        #[serde(rename = "x")]
        _x: Vec<u8>,
    }
    let text = |values| format!("{{\"version\":1,\"x\":[{}0]}}", "0,".repeat(values));
    assert!(decode_versioned::<Content>(text(200_000).as_bytes(), 1).is_ok());
    let error = decode_versioned::<Content>(text(7 << 20).as_bytes(), 1).err().unwrap();
    assert!(matches!(error, JsonError::Over(bounded_json::JsonLimit::Values)), "{error}");
}

#[test]
fn anything_that_is_no_plain_file_of_ours_is_kept_aside() {
    let directory = tempfile::tempdir().unwrap();
    let run_dir = run_dir(directory.path());
    let path = run_dir.file("x.json");
    let target = directory.path().join("target");
    let content = "{\"version\":1,\"held\":[51]}";
    fs::write(&target, content).unwrap();
    let plant: [(&str, &dyn Fn()); 6] = [
        ("a directory", &|| fs::create_dir(&path).unwrap()),
        ("a link", &|| std::os::unix::fs::symlink(&target, &path).unwrap()),
        ("a device", &|| std::os::unix::fs::symlink("/dev/zero", &path).unwrap()),
        ("a FIFO", &|| mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap()),
        ("a socket", &|| drop(std::os::unix::net::UnixListener::bind(&path).unwrap())),
        ("too large", &|| fs::File::create(&path).unwrap().set_len(MAX_SIZE + 1).unwrap()),
    ];
    for (what, plant) in plant {
        plant();
        let mut state_file = file(&run_dir);
        assert_eq!(state_file.read_once::<Content>(1), Content::default(), "{what}");
        assert!(path.symlink_metadata().is_err(), "{what}");
        state_file.write_versioned(1, &Content::default());
        assert!(path.symlink_metadata().unwrap().is_file(), "{what}");
        fs::remove_file(&path).unwrap();
    }
    assert_eq!(text(&target), content);
    if rustix::process::geteuid().is_root() {
        fs::write(&path, content).unwrap();
        std::os::unix::fs::chown(&path, Some(4711), None).unwrap();
        assert_eq!(file(&run_dir).read_once::<Content>(1), Content::default(), "another user wrote it");
    }
}

#[test]
fn file_that_cannot_be_kept_aside_is_not_overwritten() {
    let directory = tempfile::tempdir().unwrap();
    let run_dir = run_dir(directory.path());
    // All places are taken, and the last cannot be replaced.
    for place in ["", ".1", ".2", ".3"] {
        fs::create_dir_all(run_dir.file(&format!("x.json.unreadable{place}/full"))).unwrap();
    }
    fs::write(run_dir.file("x.json"), "half").unwrap();
    let mut state_file = file(&run_dir);
    assert!(state_file.read_versioned::<Content>(1).unwrap_err().to_string().contains("x.json"));
    assert!(codes(&run_dir).contains(&ProblemCode::StateFileUnread));
    assert_eq!(state_file.read_once::<Content>(1), Content::default());
    state_file.write_versioned(1, &Content::default());
    assert_eq!(text(&run_dir.file("x.json")), "half");
    fs::remove_dir_all(run_dir.file("x.json.unreadable")).unwrap();
    state_file.write_versioned(1, &Content::default());
    assert_eq!(text(&run_dir.file("x.json.unreadable")), "half");
    assert_eq!(text(&run_dir.file("x.json")), "{\"version\":1,\"held\":[]}");
    assert!(!codes(&run_dir).contains(&ProblemCode::StateFileUnread));
}

#[test]
fn reader_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let run_dir = RunDir::of_reader(directory.path());
    fs::write(run_dir.file("x.json"), "half").unwrap();
    let mut state_file = file(&run_dir);
    assert_eq!(state_file.read_versioned::<Content>(1).unwrap(), None);
    state_file.write_versioned(1, &Content::default());
    assert_eq!(text(&run_dir.file("x.json")), "half");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
}
