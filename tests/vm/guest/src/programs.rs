//! Runs programs in C and Go that have the library linked into them, with real groups.

use crate::host::{ALONE, Holder, PATIENCE, group, wait_until};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use vfio_probe::{Buffer, GroupId, Root};

/// A running program and the lines that it prints. The program is killed when dropped.
struct Program {
    child: Child,
    lines: Receiver<String>,
}

impl Program {
    fn start(command: &mut Command) -> Result<Self> {
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().context("cannot start it")?;
        let out = child.stdout.take().context("no output")?;
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                let _ = send.send(line);
            }
        });
        Ok(Self { child, lines })
    }

    /// Waits for a line with this beginning, and returns it.
    fn expect_line(&self, beginning: &str) -> Result<String> {
        let mut other = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            if line.starts_with(beginning) {
                return Ok(line);
            }
            other.push(line);
        }
        bail!("no line begins with {beginning:?}; the lines are {other:?}")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The agent in C prints which process takes a group, and that the group is free again.
pub(crate) fn c_agent() -> Result<String> {
    let agent = Program::start(Command::new("/bin/c-agent").args(["--interval", "100"]))?;
    agent.expect_line(&format!("bound {ALONE}"))?;
    let id = group(ALONE)?;
    let holder = Holder::full(ALONE)?;
    agent.expect_line(&format!("held group {id} {ALONE} by pid {} (", holder.pid()))?;
    holder.kill();
    agent.expect_line(&format!("freed group {id} {ALONE}"))?;
    Ok(String::new())
}

const METRICS: &str = "127.0.0.1:9185";

fn metrics() -> Result<String> {
    let mut stream = TcpStream::connect(METRICS)?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// The agent in Go exports the state of each group.
pub(crate) fn go_agent() -> Result<String> {
    let _agent =
        Program::start(Command::new("/bin/go-agent").args(["-listen", METRICS, "-interval", "100ms"]))?;
    let id = format!("group=\"{}\"", group(ALONE)?);
    let shows = |state: &str| {
        let state = format!("state=\"{state}\"");
        let line = |line: &str| line.contains(&id) && line.contains(&state) && line.ends_with(" 1");
        wait_until(&format!("{state} of {id}"), || Ok(metrics().is_ok_and(|text| text.lines().any(line))))
    };
    shows("free")?;
    let holder = Holder::full(ALONE)?;
    shows("held")?;
    holder.kill();
    shows("free")?;
    Ok(String::new())
}

fn dump(program: &str) -> Result<Value> {
    let output = Command::new(program).arg("/").output().context(program.to_owned())?;
    ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).context(program.to_owned())
}

/// C and Go return the same for real groups as the core does, by opens that the kernel refuses as well.
pub(crate) fn dumps() -> Result<String> {
    let holder = Holder::full(ALONE)?;
    let id: u32 = group(ALONE)?.parse()?;
    let (c, go) = (dump("/bin/c-dump")?, dump("/bin/go-dump")?);
    for part in ["devices", "groups", "holders"] {
        ensure!(c[part] == go[part], "C: {c}, Go: {go}");
    }
    let groups = c["groups"].as_array().context("no groups")?;
    let root = Root::host()?;
    for group in groups {
        let id = GroupId(u32::try_from(group["group"].as_u64().unwrap_or(u64::MAX))?);
        let (state, peek) = (root.probe(id), root.peek(id, &mut Buffer::new())?);
        ensure!(
            group["state"] == state.as_str() && group["peek"] == peek.as_str(),
            "core: {state:?}, {peek:?}; C: {c}"
        );
    }
    ensure!(c["holders"][0]["pid"] == holder.pid() && c["holders"][0]["group"] == id, "{c}");
    let held: Vec<&Value> = groups.iter().filter(|group| group["state"] == "held").collect();
    ensure!(
        held.len() == 1 && held.iter().all(|group| group["group"] == id && group["peek"] == "looks-held"),
        "{c}"
    );
    ensure!(groups.iter().any(|group| group["state"] == "free" && group["peek"] == "looks-free"), "{c}");
    ensure!(
        groups.iter().any(|group| group["viable"] == false && group["offender_driver"] == "e1000"),
        "{c}"
    );
    Ok(format!(": {} groups", groups.len()))
}
