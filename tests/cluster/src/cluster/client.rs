//! The API server's client: kubectl as a user with all rights.

use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::Value;
use xtask::process;

use super::Cluster;
use crate::Result;
use crate::process::take_over;

impl Cluster {
    /// Runs kubectl with `-o json` and returns its output.
    ///
    /// # Errors
    ///
    /// Fails with the errors of kubectl.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.kubectl_text(&[arguments, &["-o", "json"]].concat())?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Runs kubectl and returns its output.
    ///
    /// # Errors
    ///
    /// Fails with the errors of kubectl.
    pub fn kubectl_text(&self, arguments: &[&str]) -> Result<String> {
        let mut kubectl = self.kubectl_command();
        output(kubectl.args(arguments), None)
    }

    /// Applies objects, as YAML or JSON.
    ///
    /// # Errors
    ///
    /// Fails with the errors of kubectl.
    pub fn apply(&self, objects: &str) -> Result {
        let mut kubectl = self.kubectl_command();
        output(kubectl.args(["apply", "-f", "-"]), Some(objects)).map(|_| ())
    }

    /// Returns kubectl as a user with all rights.
    #[must_use]
    pub fn kubectl_command(&self) -> Command {
        self.control_plane.kubectl(&self.context)
    }

    /// Returns a pod of the namespace default, or None if there is none with this name.
    ///
    /// # Errors
    ///
    /// Fails if the API server does not answer.
    pub fn pod(&self, name: &str) -> Result<Option<Value>> {
        let text = self.kubectl_text(&["get", "pod", name, "--ignore-not-found", "-o", "json"])?;
        if text.is_empty() { Ok(None) } else { Ok(Some(serde_json::from_str(&text)?)) }
    }

    /// Returns the events of an object, one a line.
    #[must_use]
    pub fn events(&self, name: &str) -> String {
        let selector = format!("--field-selector=involvedObject.name={name}");
        let columns = "-o=custom-columns=:.type,:.reason,:.message";
        let found = self.kubectl_text(&["get", "events", "-A", &selector, columns]);
        found.unwrap_or_else(|error| format!("no events: {error}"))
    }
}

/// Runs a command with an input and returns its output, in at most five minutes.
fn output(command: &Command, input: Option<&str>) -> Result<String> {
    let text = process::text(command);
    let mut limited = Command::new("timeout");
    limited.args(["-k", "5", "300"]).arg(command.get_program());
    let mut command = take_over(limited, command);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("cannot run {text}: {error}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // kubectl reads all of its input before it writes.
        let _ = stdin.write_all(input.unwrap_or_default().as_bytes());
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim_end().into());
    }
    Err(format!("{text}: {}", String::from_utf8_lossy(&output.stderr).trim_end()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_of_a_command_has_its_own_text() {
        let mut command = Command::new("sh");
        let error = output(command.args(["-c", "cat >&2; exit 1"]), Some("no such pod")).unwrap_err();
        assert!(error.to_string().ends_with("no such pod"));
    }
}
