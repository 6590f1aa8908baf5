//! A running `serve` whose log is read while it runs.

use crate::common::{PATIENCE, program};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use vfio_sim_node::Node;

/// A running `serve`. It is killed when this is dropped.
pub(crate) struct Process {
    name: &'static str,
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
}

impl Process {
    pub(crate) fn start(node: &Node, name: &'static str) -> Self {
        Self::spawn(program(node, &["serve"]), name)
    }

    /// Starts a command that becomes `serve`.
    pub(crate) fn spawn(mut command: Command, name: &'static str) -> Self {
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let log = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                sink.lock().unwrap().push(line);
            }
        });
        Self { name, child, log }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    /// Waits until the log has a line with these words. Returns the line.
    pub(crate) async fn wait_for(&self, words: &str) -> String {
        let deadline = Instant::now() + PATIENCE * 6;
        loop {
            let line = self.log.lock().unwrap().iter().find(|line| line.contains(words)).cloned();
            if let Some(line) = line {
                return line;
            }
            assert!(Instant::now() < deadline, "{} never logged {words:?}:\n{}", self.name, self.log());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Waits for the exit. Returns the code.
    pub(crate) async fn exited(&mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "{} does not exit:\n{}", self.name, self.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until something is so. `log` says what has happened.
pub(crate) async fn wait_until(log: impl Fn() -> String, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "{}", log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Returns the role and the process id of the process that answers on status.sock.
pub(crate) fn role(node: &Node) -> (String, u32) {
    let mut text = String::new();
    let deadline = Instant::now() + PATIENCE;
    let mut stream = loop {
        match UnixStream::connect(node.run_dir().join("status.sock")) {
            Ok(stream) => break stream,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    stream.read_to_string(&mut text).unwrap();
    let report: Value = serde_json::from_str(&text).unwrap();
    let pid = u32::try_from(report["pid"].as_u64().unwrap()).unwrap();
    (report["role"].as_str().unwrap().to_owned(), pid)
}
