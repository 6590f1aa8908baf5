//! The demo's checks pass with the plugin that this workspace builds, with and without privileges.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail loudly")]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

const DEMO: &str = env!("CARGO_BIN_EXE_vfio-demo");
const PLUGIN: &str = "vfio-device-plugin";
/// The uid and gid of the user `nobody` on every Linux distribution.
const NOBODY: u32 = 65534;

/// Returns the plugin's program, built from the sources as they are now.
///
/// `cargo test --workspace` has built it beside vfio-demo: this is the program to test, since another cargo command would
/// select other features and compile tonic again. `cargo test -p vfio-demo` builds no other package, so that the program may
/// be missing or old; cargo is called then.
fn plugin() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let beside = Path::new(DEMO).with_file_name(PLUGIN);
        if is_current(&beside).unwrap_or(false) { beside } else { build() }
    })
}

/// Returns true if no source that the program was built from is newer. cargo names program and sources in `PROGRAM.d`; another
/// program's name there means that the target directory is a copy.
fn is_current(program: &Path) -> Option<bool> {
    let built = fs::metadata(program).ok()?.modified().ok()?;
    let sources = fs::read_to_string(program.with_extension("d")).ok()?;
    let (target, sources) = sources.split_once(": ")?;
    if Path::new(target) != program {
        return Some(false);
    }
    // A space in a path is written as "\ ". Such a path cannot be read here, and the program is built again.
    let current =
        |source: &str| fs::metadata(source).and_then(|file| file.modified()).is_ok_and(|at| at <= built);
    Some(sources.split_whitespace().all(current))
}

/// Builds the program. cargo prints a JSON object for each artefact; the executable's path is in the one of the program.
fn build() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into());
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Cargo.toml");
    let output = Command::new(cargo)
        .args(["build", "--quiet", "--package", PLUGIN, "--message-format", "json", "--manifest-path"])
        .arg(manifest)
        .output()
        .unwrap();
    assert!(output.status.success(), "cargo build: {}", text(&output));
    let messages = String::from_utf8_lossy(&output.stdout);
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let executable = |message: serde_json::Value| Some(PathBuf::from(message.get("executable")?.as_str()?));
    messages.filter_map(executable).next_back().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// Fails unless the demo exits with 0 and each of its checks passed.
fn assert_passes(command: &mut Command) {
    let output = command.output().unwrap();
    let text = text(&output);
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(!text.contains("FAILED"), "{text}");
    assert!(text.lines().filter(|line| line.starts_with("ok ")).count() >= 20, "{text}");
}

#[test]
fn every_check_passes() {
    assert_passes(Command::new(DEMO).arg("--once").arg("--plugin").arg(plugin()));
}

/// Root gives up all privileges. Another user has none, and runs the demo as it is.
#[test]
fn every_check_passes_without_privileges() {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    // The user `nobody` may not be allowed to enter the directory of the sources.
    let demo = directory.path().join("vfio-demo");
    fs::copy(DEMO, &demo).unwrap();
    fs::copy(plugin(), directory.path().join(PLUGIN)).unwrap();
    let mut command = Command::new(demo);
    command.arg("--once").current_dir("/").env_remove("TMPDIR");
    if rustix::process::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    assert_passes(&mut command);
}

/// On a terminal of 80 columns, no line of a table is wrapped.
#[test]
fn tables_fit_the_terminal() {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use rustix::termios::{Winsize, tcsetwinsize};
    use std::io::{BufRead, BufReader};
    use unicode_width::UnicodeWidthStr;
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    tcsetwinsize(&master, Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let terminal = fs::File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
    let mut command = Command::new(DEMO);
    let mut demo = command
        .args(["--once", "--plugin"])
        .arg(plugin())
        .env_remove("COLUMNS")
        .stdout(terminal)
        .spawn()
        .unwrap();
    drop(command);
    let lines = BufReader::new(fs::File::from(master)).lines().map_while(Result::ok);
    let rows: Vec<String> = lines.filter(|line| line.starts_with("     0000:")).collect();
    assert!(demo.wait().unwrap().success());
    assert!(rows.len() > 8 && rows.iter().any(|row| row.contains('…')), "{rows:#?}");
    for row in &rows {
        assert!(row.trim_end().width() <= 80, "{row}");
    }
}

#[test]
fn missing_plugin_exits_with_2_and_says_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let demo = directory.path().join("vfio-demo");
    fs::copy(DEMO, &demo).unwrap();
    let output = Command::new(demo).arg("--once").env("PATH", directory.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let text = text(&output);
    assert!(
        text.contains("cannot find the program vfio-device-plugin") && text.contains("--plugin PATH"),
        "{text}"
    );
}
