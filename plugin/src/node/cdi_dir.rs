//! Keeps the directory of CDI specs up to date.
//!
//! A spec is on disk before any other component learns of its devices. It is written again when its content changes, and when
//! another program has changed or removed the file.
//!
//! The specs stay when the plugin ends: runtimes restart the containers of running pods by them, because the kubelet keeps the
//! names in its checkpoint. The next process of the plugin takes them over. A reboot empties /var/run.

mod own_files;
#[cfg(test)]
mod tests;
pub(crate) mod written;

use crate::files::{Links, create_directories, names, read, remove_leftovers, replace};
use crate::node::retry::Retry;
use crate::problems::{ProblemCode, Problems};
use crate::run_dir::RunDir;
use own_files::{Content, FILE, OwnFiles};
use std::fs;
use std::io::{Error, ErrorKind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vfio_plugin_policy::cdi::names::file;
use vfio_plugin_policy::cdi::request::SpecDevice;
use vfio_plugin_policy::cdi::spec::Spec;
use written::WrittenSpecs;

/// The time between two checks whether the files are still those that were written.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// The first and the longest pause before a failed write is repeated. Each time costs a read of all devices' nodes.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// The permissions of a spec: every runtime may read it.
const MODE: u32 = 0o644;
const CODE: ProblemCode = ProblemCode::CdiSpecNotUpdated;
/// The problem while the names of the previous process' files are unknown.
const NO_LIST: &str =
    "the list of the plugin's CDI specs could not be read; devices are allocated by device nodes alone";

/// The directory, and the plugin's files in it.
#[derive(Debug)]
pub(crate) struct CdiDir {
    path: PathBuf,
    run_dir: RunDir,
    files: OwnFiles,
    written: Arc<WrittenSpecs>,
    /// The number of the latest write.
    writes: u64,
    /// Has the files that could not be written or removed.
    problems: Problems,
    retry: Retry,
    checked: Instant,
}

impl CdiDir {
    /// Returns the directory at `path`, which need not exist. The files of the previous process with this run directory belong to
    /// the plugin.
    pub(crate) fn new(path: PathBuf, run_dir: &RunDir) -> Self {
        if run_dir.may_write() {
            remove_leftovers(&path, &names(&path));
        }
        Self {
            path,
            run_dir: run_dir.clone(),
            files: OwnFiles::new(run_dir),
            written: Arc::default(),
            writes: 0,
            problems: run_dir.problems.clone(),
            retry: Retry::new(RETRY.0, RETRY.1),
            checked: Instant::now(),
        }
    }

    /// Returns the specs on disk as they were written, for Allocate.
    pub(crate) fn written(&self) -> Arc<WrittenSpecs> {
        Arc::clone(&self.written)
    }

    /// Returns whether the specs must be written again although no device has changed: a failed write is to be repeated, or
    /// another program has changed or removed a file. Costs one system call a file every five seconds, and none without files.
    pub(crate) fn is_due(&mut self, now: Instant) -> bool {
        if self.retry.is_due(now) {
            return true;
        }
        if self.files.is_empty() || now.saturating_duration_since(self.checked) < CHECK_INTERVAL {
            return false;
        }
        self.checked = now;
        self.files.writes().any(|written| !self.written.is_unchanged(written))
    }

    /// Writes these specs and removes the plugin's others. Returns the devices that are in specs on disk then. Costs one system call
    /// a file if nothing changes.
    ///
    /// A failure is logged once, is repeated with growing pauses, and affects no other file. Only if the names of the previous
    /// process' files cannot be read, no spec is written: the plugin would lose track of those files.
    pub(crate) fn write_all(&mut self, specs: &[Spec], now: Instant) -> Vec<SpecDevice> {
        if !self.run_dir.may_write() {
            self.retry.failed(now);
            return self.adopt(specs);
        }
        if let Err(error) = self.files.read() {
            self.retry.failed(now);
            if self.problems.begin(CODE, FILE, NO_LIST) {
                tracing::warn!(
                    %error,
                    "list of the plugin's CDI specs could not be read; devices are allocated by device nodes alone until it can"
                );
            }
            return Vec::new();
        }
        let mut failures: Vec<(String, Error)> = Vec::new();
        let wanted: Vec<String> = specs.iter().map(|spec| file(&spec.resource)).collect();
        for name in self.files.others_than(&wanted) {
            if let Err(error) = self.remove(&name) {
                failures.push((name, error));
            }
        }
        let mut devices = Vec::new();
        for (name, spec) in wanted.into_iter().zip(specs) {
            match self.write(&name, spec) {
                Ok(written) => {
                    devices.extend(spec.entries().into_iter().map(|entry| SpecDevice { written, ..entry }));
                }
                Err(error) => failures.push((name, error)),
            }
        }
        self.record(failures, now);
        devices
    }

    /// Returns the devices of the specs that another process of the plugin has written with this content. It still serves, so nothing
    /// is written.
    fn adopt(&mut self, specs: &[Spec]) -> Vec<SpecDevice> {
        let mut devices = Vec::new();
        for spec in specs {
            let path = self.path.join(file(&spec.resource));
            let is_same = |text: String| {
                let limit = u64::try_from(text.len()).unwrap_or(u64::MAX);
                read(&path, Links::Refuse, limit).is_ok_and(|found| found == text.as_bytes())
            };
            if spec.text().is_ok_and(is_same) && self.written.record(self.writes + 1, &path).is_ok() {
                self.writes += 1;
                let written = self.writes;
                devices.extend(spec.entries().into_iter().map(|entry| SpecDevice { written, ..entry }));
            }
        }
        devices
    }

    /// Logs new failures and sets the time of the next retry.
    fn record(&mut self, failures: Vec<(String, Error)>, now: Instant) {
        let path = |name: &str| self.path.join(name).display().to_string();
        self.problems.keep(CODE, |about| failures.iter().any(|(failed, _)| path(failed) == about));
        if failures.is_empty() {
            self.retry.succeeded();
        } else {
            self.retry.failed(now);
        }
        for (name, error) in failures {
            let text =
                format!("could not be updated: {error}; its devices are allocated by device nodes alone");
            if self.problems.begin(CODE, path(&name), text) {
                tracing::warn!(
                    directory = %self.path.display(), file = name, %error,
                    "CDI spec could not be updated; its devices are allocated by device nodes alone until it can"
                );
            }
        }
    }

    /// Writes a spec unless the file has its content already. Returns the number of the file's write.
    fn write(&mut self, name: &str, spec: &Spec) -> std::io::Result<u64> {
        let (path, text) = (self.path.join(name), spec.text()?);
        let known = self.files.take_content(name);
        let is_first = known.is_none();
        if let Some(known) = known.filter(|known| known.text == text) {
            let written = known.written;
            if self.written.is_unchanged(written) {
                self.files.set_content(name, known);
                return Ok(written);
            }
            tracing::warn!(file = %path.display(), "another program changed or removed a CDI spec; writing it again");
        }
        self.create_directory()?;
        self.files.add(name);
        replace(&path, text.as_bytes(), MODE)?;
        self.writes += 1;
        self.written.record(self.writes, &path)?;
        self.files.set_content(name, Content { text, written: self.writes });
        tracing::info!(resource = %spec.resource, kind = spec.kind, devices = spec.len(), "CDI spec written");
        if is_first && spec.kind != *spec.resource {
            tracing::warn!(
                resource = %spec.resource, kind = spec.kind,
                "resource name is no CDI kind, so Kata cannot find the devices by it; set another resource or an alias"
            );
        }
        Ok(self.writes)
    }

    /// Creates the directory, but not its parent: in a container without the host's directory no runtime would find it.
    fn create_directory(&self) -> std::io::Result<()> {
        if self.path.parent().is_some_and(|parent| !parent.is_dir()) {
            let text = "cannot create the directory: its parent is missing; is the host's directory mounted?";
            return Err(Error::new(ErrorKind::NotFound, text));
        }
        create_directories(&self.path)
    }

    fn remove(&mut self, name: &str) -> std::io::Result<()> {
        let path = self.path.join(name);
        match fs::symlink_metadata(&path) {
            // If the directory itself is missing, for example after its mount was removed, the host may still have the file.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                fs::metadata(&self.path)?;
            }
            Err(error) => return Err(error),
            Ok(_) => fs::remove_file(&path)?,
        }
        tracing::info!(file = name, "CDI spec removed, because its resource has no devices any more");
        self.files.remove(name);
        Ok(())
    }
}
