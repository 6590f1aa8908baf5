//! Runs the program `vfio-device-plugin`: `serve` as a process, `list` for the table and the facts.

use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use vfio_sim_node::Node;

const NAME: &str = "vfio-device-plugin";

/// The plugin's program.
#[derive(Clone, Debug)]
pub(crate) struct Plugin {
    program: PathBuf,
}

/// One device of `list --json`; the fields that the demo checks.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Device {
    pub(crate) address: String,
    pub(crate) numa_node: Option<u16>,
    /// `free`, `held`, `absent` or `unknown`.
    pub(crate) state: String,
    /// The pod that the device is assigned to.
    pub(crate) assignment: Option<Assignment>,
    pub(crate) holders: Vec<Holder>,
}

/// The pod that a device is assigned to.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Assignment {
    /// `None` while only the pod's uid is known, or nothing yet.
    pub(crate) pod: Option<String>,
}

/// A process that holds a device.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Holder {
    pub(crate) pid: u32,
}

#[derive(Deserialize)]
struct Listing {
    devices: Vec<Device>,
}

impl Plugin {
    /// Finds the program: the path in `wanted`, else the file beside this executable, else the first one on PATH.
    ///
    /// # Errors
    /// There is no such file.
    pub(crate) fn find(wanted: Option<PathBuf>) -> anyhow::Result<Self> {
        if let Some(program) = wanted {
            ensure!(program.is_file(), "--plugin {}: no such file", program.display());
            return Ok(Self { program });
        }
        let beside = std::env::current_exe().context("cannot read the path of this executable")?;
        let beside = beside.with_file_name(NAME);
        if beside.is_file() {
            return Ok(Self { program: beside });
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        match on_path(&path) {
            Some(program) => Ok(Self { program }),
            None => bail!(
                "cannot find the program {NAME}: neither {} nor a directory on PATH has it; build it with \
                 `cargo build -p {NAME}` or name it with --plugin PATH",
                beside.display()
            ),
        }
    }

    /// Starts `serve` on the node, with its default interval and the policy `busy`. Its log shows errors only.
    ///
    /// # Errors
    /// The process cannot be started.
    pub(crate) fn serve(&self, node: &Node, busy: &str) -> anyhow::Result<Child> {
        let mut command = self.command(node, "serve");
        // The demo's kubelet knows its pods as soon as it starts. A kubelet on a node needs the default time, in which the plugin keeps
        // the assignments of pods that are not listed.
        command.args(["--kubelet-start", "1s"]);
        command.args(["--interval", "1s", "--busy", busy, "--log-level", "error"]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        child.with_context(|| format!("cannot start {} serve", self.program.display()))
    }

    /// Returns what `list` prints: the table of devices, for a terminal of `columns`, or for none.
    ///
    /// # Errors
    /// See [`Plugin::list`].
    pub(crate) fn table(&self, node: &Node, columns: Option<usize>) -> anyhow::Result<String> {
        let columns = columns.map(|columns| format!("--columns={columns}"));
        self.list(node, &columns.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Returns the devices of `list --json`.
    ///
    /// # Errors
    /// See [`Plugin::list`]; the output is not the JSON that is expected.
    pub(crate) fn devices(&self, node: &Node) -> anyhow::Result<Vec<Device>> {
        let text = self.list(node, &["--json"])?;
        let listing: Listing = serde_json::from_str(&text)
            .with_context(|| format!("{} list --json printed {text:?}", self.program.display()))?;
        Ok(listing.devices)
    }

    /// Runs `list` to its end.
    ///
    /// # Errors
    /// The program cannot be started, or it exits with another code than 0.
    fn list(&self, node: &Node, words: &[&str]) -> anyhow::Result<String> {
        let output = self.command(node, "list").args(words).output();
        let output = output.with_context(|| format!("cannot start {} list", self.program.display()))?;
        ensure!(
            output.status.success(),
            "{} list: {}: {}",
            self.program.display(),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// One command of the program, with the options that point it at the node.
    fn command(&self, node: &Node, name: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(name).args(node.plugin_options()).args(["--select", "10de/03"]);
        command
    }
}

/// Returns the first file of the plugin's name in the directories of `path`.
fn on_path(path: &OsStr) -> Option<PathBuf> {
    std::env::split_paths(path)
        .map(|directory: PathBuf| directory.join(NAME))
        .find(|file: &PathBuf| file.is_file())
}

/// Sends SIGTERM. Returns true if the process exits with 0 within `limit`; after `patience` it is killed.
pub(crate) fn terminate(mut child: Child, limit: Duration, patience: Duration) -> bool {
    let began = Instant::now();
    let pid = rustix::process::Pid::from_child(&child);
    if rustix::process::kill_process(pid, rustix::process::Signal::TERM).is_err() {
        return false;
    }
    while began.elapsed() < patience {
        if let Ok(Some(status)) = child.try_wait() {
            return status.success() && began.elapsed() < limit;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let _ = child.kill();
    let _ = child.wait();
    false
}

/// Returns the number of sockets that the plugin has left in the kubelet's directory.
pub(crate) fn own_sockets(kubelet_dir: &Path) -> std::io::Result<usize> {
    let entries = std::fs::read_dir(kubelet_dir)?.flatten();
    Ok(entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("vfio-")).count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_program_on_path_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let other = tempfile::tempdir().unwrap();
        let path = std::env::join_paths([other.path(), directory.path()]).unwrap();
        assert_eq!(on_path(&path), None);
        std::fs::write(directory.path().join(NAME), "").unwrap();
        assert_eq!(on_path(&path), Some(directory.path().join(NAME)));
    }

    #[test]
    fn missing_program_is_named_in_the_error() {
        let error = Plugin::find(Some("/no/such/file".into())).unwrap_err().to_string();
        assert_eq!(error, "--plugin /no/such/file: no such file");
    }
}
