//! Processes that end with this one, however it ends.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use xtask::context::Context;

use crate::Result;

/// How long a process has to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(10);

/// A process with a log. It is ended when this is dropped, and the kernel kills it when this process ends.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts a program with these words before it, for example `unshare --mount`. Must be called on the main thread: the kernel
    /// kills the process when the thread that started it ends (prctl(2), PR_SET_PDEATHSIG).
    ///
    /// # Errors
    ///
    /// Fails if the program cannot be started.
    pub fn start(context: &Context, name: &str, log: &Path, command: &Command) -> Result<Self> {
        let output = File::options().create(true).append(true).open(log)?;
        // A group of its own: an interrupt from the terminal reaches this process only.
        let mut guarded = guarded(context, command);
        guarded.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = guarded.spawn().map_err(|error| format!("cannot start {name}: {error}"))?;
        Ok(Self { name: name.into(), child, log: log.into() })
    }

    /// Fails if the process has ended.
    ///
    /// # Errors
    ///
    /// Fails with the exit status and the end of the log.
    pub fn check(&mut self) -> Result {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => {
                let (name, end) = (&self.name, tail(&self.log, 15));
                Err(format!("{name} has ended ({status}); the end of {}:\n{end}", self.log.display()).into())
            }
        }
    }

    /// The process's id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the process ends by itself.
    ///
    /// # Errors
    ///
    /// Fails if it has not ended within the limit.
    pub fn wait(&mut self, limit: Duration) -> Result {
        let deadline = Instant::now() + limit;
        while self.child.try_wait()?.is_none() {
            if Instant::now() >= deadline {
                return Err(format!("{} does not end within {} s", self.name, limit.as_secs()).into());
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Ends the process at once.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // The standard library sends no SIGTERM.
        let _ = Command::new("kill").arg(self.child.id().to_string()).stderr(Stdio::null()).status();
        if self.wait(GRACE).is_err() {
            self.kill();
        }
    }
}

/// Returns the command as one that the kernel kills with this process, in a process group of its own.
fn guarded(context: &Context, command: &Command) -> Command {
    use std::os::unix::process::CommandExt;
    let mut guarded = context.command("setpriv");
    guarded.args(["--pdeathsig", "KILL"]).arg(command.get_program());
    let mut guarded = take_over(guarded, command);
    guarded.process_group(0);
    guarded
}

/// Adds the arguments, the environment and the directory of another command.
pub(crate) fn take_over(mut command: Command, other: &Command) -> Command {
    command.args(other.get_args());
    for (name, value) in other.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    if let Some(directory) = other.get_current_dir() {
        command.current_dir(directory);
    }
    command
}

/// A directory for the files of a run. It is removed with this value, and also if this process is killed.
#[derive(Debug)]
pub struct WorkDirectory {
    path: PathBuf,
    // It closes with this process, which lets the other process remove the directory.
    guard: Option<ChildStdin>,
    remover: Child,
}

impl WorkDirectory {
    /// Creates an empty directory.
    ///
    /// # Errors
    ///
    /// Fails if it cannot be created.
    pub fn new(parent: &Path) -> Result<Self> {
        use std::os::unix::process::CommandExt;
        let path = parent.join(format!("run-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        xtask::process::make_directory(&path)?;
        let mut remover = Command::new("sh");
        // Killed processes end a moment later and may write until then.
        remover.args(["-c", "cat >/dev/null; rm -rf \"$1\" || { sleep 1; rm -rf \"$1\"; }", "sh"]).arg(&path);
        let mut remover = remover.process_group(0).current_dir("/").stdin(Stdio::piped()).spawn()?;
        Ok(Self { path, guard: remover.stdin.take(), remover })
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for WorkDirectory {
    fn drop(&mut self) {
        self.guard = None;
        let _ = self.remover.wait();
    }
}

/// Returns the last lines of a file, or nothing.
#[must_use]
pub fn tail(file: &Path, lines: usize) -> String {
    let text =
        std::fs::read(file).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join("\n")
}

/// Returns free ports of the loopback. Another process could take one before it is used; the program that wants it then fails.
///
/// # Errors
///
/// Fails if the kernel has no free port.
pub fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let mut ports = [0; N];
    // All listeners stay open until all ports are known.
    let mut listeners = Vec::new();
    for port in &mut ports {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        *port = listener.local_addr()?.port();
        listeners.push(listener);
    }
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn daemon_ends_when_it_is_dropped() {
        let context = Context::new().unwrap();
        let log = std::env::temp_dir().join(format!("vfio-cluster-daemon-{}", std::process::id()));
        let mut command = Command::new("sleep");
        command.arg("1000");
        let mut daemon = Daemon::start(&context, "sleep", &log, &command).unwrap();
        daemon.check().unwrap();
        let entry = PathBuf::from("/proc").join(daemon.id().to_string());
        assert!(entry.exists());
        drop(daemon);
        assert!(!entry.exists());
        std::fs::remove_file(log).unwrap();
    }

    #[test]
    fn ended_daemon_is_reported_with_its_log() {
        let context = Context::new().unwrap();
        let log = std::env::temp_dir().join(format!("vfio-cluster-ended-{}", std::process::id()));
        let mut command = Command::new("sh");
        command.args(["-c", "echo no such disk; exit 3"]);
        let mut daemon = Daemon::start(&context, "the node", &log, &command).unwrap();
        daemon.wait(Duration::from_secs(60)).unwrap();
        let error = daemon.check().unwrap_err().to_string();
        assert!(error.starts_with("the node has ended (exit status: 3)"), "{error}");
        assert!(error.ends_with("no such disk"), "{error}");
        std::fs::remove_file(log).unwrap();
    }

    #[test]
    fn work_directory_is_removed() {
        let parent = std::env::temp_dir().join(format!("vfio-cluster-work-{}", std::process::id()));
        let work = WorkDirectory::new(&parent).unwrap();
        let path = work.path().to_owned();
        std::fs::write(path.join("file"), "text").unwrap();
        drop(work);
        assert!(!path.exists());
        std::fs::remove_dir(parent).unwrap();
    }

    /// Waits until a condition holds. What the kernel and the remover do takes a moment.
    fn until(condition: impl Fn() -> bool) {
        let limit = Duration::from_secs(60);
        crate::wait::wait("the condition", limit, || Ok(condition().then_some(()))).unwrap();
    }

    /// Where the test below wants its process to work.
    const PARENT: &str = "VFIO_CLUSTER_TEST_PARENT";

    /// The process that the test below kills: it starts a daemon, writes its id and waits.
    #[test]
    #[ignore = "a part of killed_run_leaves_no_process_and_no_file"]
    fn run_that_is_killed() {
        let Some(parent) = std::env::var_os(PARENT) else { return };
        let work = WorkDirectory::new(Path::new(&parent)).unwrap();
        let mut sleep = Command::new("sleep");
        let log = work.path().join("sleep.log");
        let daemon = Daemon::start(&Context::new().unwrap(), "sleep", &log, sleep.arg("1000")).unwrap();
        let id = work.path().join("id");
        std::fs::write(id.with_extension("new"), daemon.id().to_string()).unwrap();
        std::fs::rename(id.with_extension("new"), id).unwrap();
        thread::sleep(Duration::from_secs(1000));
    }

    #[test]
    fn killed_run_leaves_no_process_and_no_file() {
        let parent = std::env::temp_dir().join(format!("vfio-cluster-killed-{}", std::process::id()));
        let mut run = Command::new(std::env::current_exe().unwrap());
        run.args(["--ignored", "--exact", "process::tests::run_that_is_killed"]).env(PARENT, &parent);
        let mut run = run.stdout(Stdio::null()).spawn().unwrap();
        let work = parent.join(format!("run-{}", run.id()));
        until(|| work.join("id").exists());
        let daemon = Path::new("/proc").join(std::fs::read_to_string(work.join("id")).unwrap());
        // Before setpriv becomes the daemon, a kill of its parent does not reach it.
        until(|| std::fs::read_to_string(daemon.join("comm")).is_ok_and(|name| name == "sleep\n"));
        run.kill().unwrap();
        run.wait().unwrap();
        until(|| !daemon.exists() && !work.exists());
        std::fs::remove_dir(parent).unwrap();
    }

    #[test]
    fn free_ports_differ() {
        let [a, b] = free_ports().unwrap();
        assert_ne!(a, b);
    }
}
