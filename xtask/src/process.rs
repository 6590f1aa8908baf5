//! Commands and files, with errors that name them.

use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use crate::Result;

/// Returns the command as a person would type it.
#[must_use]
pub fn text(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}

/// Returns an error that names the command, unless the status is success.
pub(crate) fn check(command: &Command, status: ExitStatus) -> Result {
    if status.success() { Ok(()) } else { Err(format!("{}: {status}", text(command)).into()) }
}

/// Names the command in an error of the attempt to start it.
pub(crate) fn cannot_start(command: &Command) -> impl FnOnce(io::Error) -> String {
    move |error| format!("cannot run {}: {error}", text(command))
}

/// Runs a command. Its standard output goes to standard error, so that the output of a task is the task's own.
///
/// # Errors
///
/// Fails if the command cannot be started or fails.
pub fn run(command: &mut Command) -> Result {
    let status = command.stdout(io::stderr()).status().map_err(cannot_start(command))?;
    check(command, status)
}

/// Runs a command and returns its standard output without the last newline.
///
/// # Errors
///
/// Fails if the command cannot be started or fails.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command.stderr(Stdio::inherit()).output().map_err(cannot_start(command))?;
    check(command, output.status)?;
    Ok(String::from_utf8_lossy(&output.stdout).trim_end().into())
}

/// Runs a command without any output and returns whether it succeeds.
#[must_use]
pub fn succeeds(command: &mut Command) -> bool {
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// Runs a command and passes each line of its output and errors to a function, with the newline if there is one.
///
/// # Errors
///
/// Fails if the command cannot be started or its output cannot be read.
pub fn each_line(mut command: Command, mut line: impl FnMut(&str)) -> Result<ExitStatus> {
    let (reader, writer) = io::pipe()?;
    command.stdin(Stdio::null()).stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn().map_err(cannot_start(&command))?;
    // The command has the writing ends; without them the reader ends with the child.
    drop(command);
    let mut reader = BufReader::new(reader);
    let mut bytes = Vec::new();
    while reader.read_until(b'\n', &mut bytes)? > 0 {
        line(&String::from_utf8_lossy(&bytes));
        bytes.clear();
    }
    Ok(child.wait()?)
}

/// Prints a text. A reader that has gone is no error.
pub fn print(text: &str) {
    // The test harness captures the macro's output only.
    if cfg!(test) {
        print!("{text}");
    } else {
        let _ = io::stdout().write_all(text.as_bytes());
    }
}

/// Prints a line. A reader that has gone is no error.
pub fn print_line(line: impl std::fmt::Display) {
    print(&format!("{line}\n"));
}

/// Reads a text file.
///
/// # Errors
///
/// Fails with the file's name.
pub fn read(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).map_err(|error| format!("cannot read {}: {error}", file.display()).into())
}

/// Writes a file.
///
/// # Errors
///
/// Fails with the file's name.
pub fn write(file: &Path, text: impl AsRef<[u8]>) -> Result {
    std::fs::write(file, text).map_err(|error| format!("cannot write {}: {error}", file.display()).into())
}

/// Creates a directory and its parents.
///
/// # Errors
///
/// Fails with the directory's name.
pub fn make_directory(directory: &Path) -> Result {
    std::fs::create_dir_all(directory)
        .map_err(|error| format!("cannot create {}: {error}", directory.display()).into())
}

/// Returns the paths of a directory's entries in the order of their names, or nothing if there is no such directory.
#[must_use]
pub fn entries(directory: &Path) -> Vec<std::path::PathBuf> {
    let mut paths: Vec<_> =
        std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// Returns the last component of a path as text.
#[must_use]
pub fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
