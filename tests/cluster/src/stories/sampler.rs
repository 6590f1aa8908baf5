//! Samples allocatable devices every 200 ms while something happens: in the API server's node status, and in the kubelet itself,
//! which reports its status every ten seconds only.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::step::{NODE, PREFIX};
use crate::process::Daemon;
use crate::sources::{Sample, Summary, allocatable};
use crate::{Cluster, Result};

/// The time between two samples.
const INTERVAL: Duration = Duration::from_millis(200);
/// How long the API server may take for an answer.
const ANSWER: Duration = Duration::from_secs(20);
/// The kubelet's samples, on the node.
const FILE: &str = "/run/samples";

/// A running sampler. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Sampler {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<Sample>>>,
    pid: String,
    // It ends after the thread that uses it.
    _proxy: Daemon,
}

/// The samples of both sources during one event.
#[derive(Clone, Debug, Default)]
pub(super) struct Samples {
    /// In the API server's node status.
    pub(super) api: Summary,
    /// In the kubelet, by pod resources.
    pub(super) kubelet: Summary,
}

impl Samples {
    /// Whether one of the sources showed fewer devices.
    #[must_use]
    pub(super) fn has_gap(&self) -> bool {
        !self.api.gaps.is_empty() || !self.kubelet.gaps.is_empty()
    }
}

impl Sampler {
    /// Starts to sample.
    ///
    /// # Errors
    ///
    /// Fails if a program cannot be started, or one of the sources does not answer.
    pub(super) fn start(cluster: &Cluster) -> Result<Self> {
        let socket = cluster.work().join("proxy");
        let _ = std::fs::remove_file(&socket);
        let mut command = cluster.kubectl_command();
        command.arg("proxy").arg(xtask::artifacts::assignment("--unix-socket=", &socket));
        let log = cluster.work().join("proxy.log");
        let proxy = Daemon::start(cluster.context(), "kubectl proxy", &log, &command)?;
        cluster.wait("the API server answers the sampler", ANSWER, |_| ask(&socket).map(Some))?;
        let milliseconds = INTERVAL.as_millis();
        let script =
            format!("setsid sources --sample {PREFIX} {milliseconds}ms >{FILE} 2>&1 </dev/null & echo $!");
        let pid = cluster.node().run(&script)?;
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let stop = Arc::clone(&stop);
            move || sample(&socket, &stop)
        });
        Ok(Self { stop, thread: Some(thread), pid, _proxy: proxy })
    }

    /// Ends the sampler and returns what it saw of a node with so many devices.
    ///
    /// # Errors
    ///
    /// Fails if the sampler on the node has ended by itself, or a source never answered.
    pub(super) fn finish(mut self, cluster: &Cluster, full: i64) -> Result<Samples> {
        let printed = cluster.node().run(&format!("kill {} && cat {FILE}", self.pid.trim()))?;
        self.stop.store(true, Ordering::Relaxed);
        let api = self.thread.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        let samples = Samples { api: Summary::of(&api, full), kubelet: Summary::of(&read(&printed)?, full) };
        if samples.api.samples == 0 || samples.kubelet.samples == 0 {
            return Err(format!("a source never answered: {samples:?}").into());
        }
        Ok(samples)
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Asks every 200 ms, also if an answer takes longer: the next request then comes at the next multiple of the interval.
fn sample(socket: &Path, stop: &AtomicBool) -> Vec<Sample> {
    let start = Instant::now();
    let mut samples = Vec::new();
    let mut next = Duration::ZERO;
    while !stop.load(Ordering::Relaxed) {
        let allocatable = ask(socket).ok();
        samples.push(Sample { at: start.elapsed(), allocatable });
        while next <= start.elapsed() {
            next += INTERVAL;
        }
        thread::sleep(next.saturating_sub(start.elapsed()));
    }
    samples
}

/// Reads the node's allocatable devices. HTTP/1.0, because an answer then ends with the connection.
fn ask(socket: &Path) -> Result<i64> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(ANSWER))?;
    // In one call: `write!` makes several, and a server that answers after the first may be gone at the next.
    let request = format!("GET /api/v1/nodes/{NODE} HTTP/1.0\r\nHost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    // A node's status has some 10 kB.
    stream.take(16 << 20).read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("the API server's answer has no body")?;
    if head.split(' ').nth(1) != Some("200") {
        return Err(format!("the API server answered {head:?}").into());
    }
    allocatable(&serde_json::from_str::<Value>(body)?["status"], PREFIX)
}

/// Reads the samples that `sources --sample` printed. Its last line may be incomplete.
fn read(printed: &str) -> Result<Vec<Sample>> {
    let whole = printed.rsplit_once('\n').map(|(whole, _)| whole).unwrap_or_default();
    let sample = |line: &str| -> Result<Sample> {
        let (time, count) = line.split_once(' ').ok_or_else(|| format!("sources printed {line:?}"))?;
        Ok(Sample { at: Duration::from_millis(time.parse()?), allocatable: count.parse().ok() })
    };
    whole.lines().map(sample).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_the_node_are_read_without_the_last_line() {
        let samples = read("1000 6\n1200 error: the kubelet is away\n1400 0\n16").unwrap();
        let values: Vec<_> =
            samples.iter().map(|sample| (sample.at.as_millis(), sample.allocatable)).collect();
        assert_eq!(values, [(1000, Some(6)), (1200, None), (1400, Some(0))]);
        assert!(read("sources: no such option\n1\n").is_err());
    }

    #[test]
    fn allocatable_is_read_from_a_socket() {
        let directory = xtask::scratch::Scratch::new().unwrap();
        let socket = directory.join("proxy");
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let server = thread::spawn(move || {
            for answer in ["200 OK", "503 Service Unavailable"] {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 256];
                let length = stream.read(&mut request).unwrap();
                assert!(request[..length].ends_with(b"\r\n\r\n"), "the whole request comes at once");
                let body = r#"{"status":{"allocatable":{"cpu":"1","nvidia.com/A":"5"}}}"#;
                write!(stream, "HTTP/1.0 {answer}\r\nContent-Type: application/json\r\n\r\n{body}").unwrap();
            }
        });
        assert_eq!(ask(&socket).unwrap(), 5);
        assert!(ask(&socket).is_err());
        server.join().unwrap();
    }
}
