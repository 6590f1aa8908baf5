//! What every task knows: the repository, cargo's target directory, the user's cache, and the environment of its commands.

use std::collections::BTreeMap;
use std::env;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;

use crate::Result;

/// The places and the environment of a task's commands.
#[derive(Debug)]
pub struct Context {
    /// The repository.
    pub top: PathBuf,
    /// Cargo's target directory, absolute.
    pub target: PathBuf,
    /// The directory of this project in the user's cache.
    pub cache: PathBuf,
    /// Whether apt's package lists were updated in this run.
    pub(crate) apt_is_fresh: AtomicBool,
    /// Changes to this process's environment for commands. None removes a variable.
    environment: BTreeMap<OsString, Option<OsString>>,
}

impl Context {
    /// Reads the environment of this process.
    ///
    /// # Errors
    ///
    /// Fails if the current directory or the home directory is unknown.
    pub fn new() -> Result<Self> {
        let top = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .ok_or("the crate xtask has no parent directory")?;
        let home = PathBuf::from(env::var_os("HOME").ok_or("HOME is not set")?);
        let cache = env::var_os("XDG_CACHE_HOME")
            .map_or_else(|| home.join(".cache"), PathBuf::from)
            .join("vfio-probe");
        // A relative CARGO_TARGET_DIR is relative to the caller's directory.
        let target = match env::var_os("CARGO_TARGET_DIR") {
            Some(directory) => env::current_dir()?.join(directory),
            None => top.join("target"),
        };
        let mut context = Self {
            top: top.into(),
            target,
            cache,
            apt_is_fresh: AtomicBool::new(false),
            environment: BTreeMap::new(),
        };
        context.set("CARGO_TARGET_DIR", context.target.clone());
        context.set("PIP_DISABLE_PIP_VERSION_CHECK", "1");
        // modprobe and other tools are there; Debian leaves these directories out of a user's PATH.
        let mut path = env::var_os("PATH").unwrap_or_default();
        path.push(":/usr/sbin:/sbin");
        context.set("PATH", path);
        // What `cargo run` and `cargo test` set is about this crate.
        for (name, _) in env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") || text == "CARGO" {
                context.environment.insert(name, None);
            }
        }
        Ok(context)
    }

    /// Sets a variable for all later commands.
    pub fn set(&mut self, name: &str, value: impl Into<OsString>) {
        self.environment.insert(name.into(), Some(value.into()));
    }

    /// Returns the value of a variable in the environment of commands.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<OsString> {
        match self.environment.get(OsStr::new(name)) {
            Some(changed) => changed.clone(),
            None => env::var_os(name),
        }
    }

    /// Puts a directory before all others of PATH.
    pub fn prepend_path(&mut self, directory: &Path) {
        let mut path = directory.as_os_str().to_owned();
        path.push(":");
        path.push(self.get("PATH").unwrap_or_default());
        self.set("PATH", path);
    }

    /// Returns a command with this environment, in the repository. The program is searched on PATH; a path with a slash is
    /// relative to the repository.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let program = program.as_ref();
        let path = Path::new(program);
        let mut command = if path.components().count() > 1 {
            Command::new(self.top.join(path))
        } else {
            Command::new(program)
        };
        command.current_dir(&self.top);
        for (name, value) in &self.environment {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
    }

    /// Returns cargo with the arguments.
    #[must_use]
    pub fn cargo(&self, arguments: &[&str]) -> Command {
        let mut command = self.command("cargo");
        command.args(arguments);
        command
    }

    /// Returns where a program is on PATH.
    #[must_use]
    pub fn find(&self, program: &str) -> Option<PathBuf> {
        let path = self.get("PATH")?;
        env::split_paths(&path).map(|directory| directory.join(program)).find(|file| is_executable(file))
    }

    /// Returns the path of a program of a crate in the debug profile.
    #[must_use]
    pub fn debug(&self, program: &str) -> PathBuf {
        self.target.join("debug").join(program)
    }

    /// Returns the version of the workspace.
    ///
    /// # Errors
    ///
    /// Fails if Cargo.toml has none.
    pub fn version(&self) -> Result<String> {
        let manifest = crate::process::read(&self.top.join("Cargo.toml"))?;
        let version = manifest.lines().find_map(|line| line.strip_prefix("version = \"")?.strip_suffix('"'));
        Ok(version.ok_or("Cargo.toml has no version")?.into())
    }
}

/// Returns whether a file is a program.
fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata().is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}
