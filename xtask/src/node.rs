//! Drives a simulated node of eight GPUs by its program.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use crate::Result;
use crate::artifacts::SIM_NODE;
use crate::context::Context;

/// A running node. It ends with its VMs, and its directory is deleted, when this is dropped.
#[derive(Debug)]
pub struct Node {
    child: Child,
    orders: Option<ChildStdin>,
    replies: BufReader<ChildStdout>,
    root: PathBuf,
}

impl Node {
    /// Builds and starts the program.
    ///
    /// # Errors
    ///
    /// Fails if the program does not build or start.
    pub fn start(context: &mut Context) -> Result<Self> {
        context.simulated_node()?;
        Self::start_built(context)
    }

    /// Starts the program, which is built.
    ///
    /// # Errors
    ///
    /// Fails if the program does not start.
    pub fn start_built(context: &Context) -> Result<Self> {
        let mut command = context.command(context.get(SIM_NODE).ok_or("the simulated node is not built")?);
        command.args(["serve", "--eight-gpus"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let orders = child.stdin.take();
        let output = child.stdout.take().ok_or("the simulated node has no output")?;
        let mut node = Self { child, orders, replies: BufReader::new(output), root: PathBuf::new() };
        let reply = node.reply()?;
        node.root = field(&reply, "root").ok_or("the simulated node does not start")?.into();
        Ok(node)
    }

    /// The directory that stands for the root directory of the node.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Gives an order as JSON and returns the reply.
    ///
    /// # Errors
    ///
    /// Fails if the reply is an error.
    pub fn order(&mut self, json: &str) -> Result<String> {
        writeln!(self.orders.as_ref().ok_or("the simulated node has ended")?, "{json}")?;
        let reply = self.reply()?;
        if reply.is_empty() || reply.contains("\"error\"") {
            return Err(format!("the simulated node replies to {json}: {reply}").into());
        }
        Ok(reply)
    }

    /// Starts a process that holds a device, for a pod if there is one. Returns its id.
    ///
    /// # Errors
    ///
    /// Fails if the process does not start.
    pub fn start_vm(&mut self, address: &str, pod: Option<&str>) -> Result<u32> {
        let pod = pod.map(|uid| format!(",\"pod_uid\":\"{uid}\"")).unwrap_or_default();
        let reply = self.order(&format!("{{\"start_vm\":{{\"addresses\":[\"{address}\"]{pod}}}}}"))?;
        let digits: String = reply.chars().filter(char::is_ascii_digit).collect();
        Ok(digits.parse().map_err(|_| format!("the simulated node cannot start a VM: {reply}"))?)
    }

    fn reply(&mut self) -> Result<String> {
        let mut line = String::new();
        self.replies.read_line(&mut line)?;
        Ok(line.trim_end().into())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.orders = None;
        let _ = self.child.wait();
    }
}

/// Returns a text field of a flat JSON object without escapes.
pub(crate) fn field<'a>(json: &'a str, name: &str) -> Option<&'a str> {
    Some(value(json, name)?.strip_prefix('"')?.split_once('"')?.0)
}

/// Returns a number of a flat JSON object.
pub(crate) fn number(json: &str, name: &str) -> Option<f64> {
    value(json, name)?.split([',', '}']).next()?.trim().parse().ok()
}

/// Returns the text from the value of a field on. Writers differ in spaces.
fn value<'a>(json: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = json.split_once(&format!("\"{name}\""))?;
    Some(rest.trim_start().strip_prefix(':')?.trim_start())
}

#[cfg(test)]
mod tests {
    use super::{field, number};

    const REPLY: &str = r#"{"language":"go","cgo_ns":44.5,"peek_ns": 1200,"probe_ns":9}"#;

    #[test]
    fn fields_are_found_by_their_names() {
        assert_eq!(field(REPLY, "language"), Some("go"));
        assert_eq!(field(REPLY, "lang"), None);
        assert_eq!(number(REPLY, "cgo_ns"), Some(44.5));
        assert_eq!(number(REPLY, "peek_ns"), Some(1200.0));
        assert_eq!(number(REPLY, "probe_ns"), Some(9.0));
        assert_eq!(number(REPLY, "language"), None);
        assert_eq!(field("{\"language\": \"python\", \"peek_ns\" : 1}", "language"), Some("python"));
        assert_eq!(number("{\"language\": \"python\", \"peek_ns\" : 1}", "peek_ns"), Some(1.0));
    }
}
