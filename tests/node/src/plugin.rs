//! The plugin's program on this node.

use crate::Node;
use serde_json::Value;
use std::ffi::OsString;
use std::io::{Error, Result};
use std::path::{Path, PathBuf};
use std::process::Command;

impl Node {
    /// Returns the options that point `serve` and the other commands at this node.
    #[must_use]
    pub fn plugin_options(&self) -> Vec<OsString> {
        let option = |name: &str, place: PathBuf| [name.into(), place.into_os_string()];
        [
            option("--root", self.root().to_owned()),
            option("--kubelet-dir", self.kubelet_dir()),
            option("--pod-resources", self.pod_resources_socket()),
            option("--run-dir", self.run_dir()),
        ]
        .concat()
    }

    /// Returns the devices of `list --json`.
    ///
    /// # Errors
    /// The program cannot be started, or prints no JSON; the error then has its standard error.
    pub fn listed(&self, program: &Path) -> Result<Vec<Value>> {
        let output = Command::new(program)
            .args(["list", "--json", "--pci-ids", "/dev/null"])
            .args(["--root".as_ref(), self.root()])
            .args(["--run-dir".as_ref(), self.run_dir().as_path()])
            .output()?;
        let mut list: Value = serde_json::from_slice(&output.stdout).map_err(|error| {
            Error::other(format!("list --json: {error}: {}", String::from_utf8_lossy(&output.stderr)))
        })?;
        Ok(list.get_mut("devices").and_then(Value::as_array_mut).map(std::mem::take).unwrap_or_default())
    }
}
