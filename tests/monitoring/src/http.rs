//! Gets a page from a local server.

use anyhow::{Context, ensure};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Limit for the size of an answer in bytes.
const MOST: u64 = 16 << 20;
/// A server that is silent for longer has failed.
const DEADLINE: Duration = Duration::from_secs(10);

/// Returns the body of the answer to a GET.
///
/// # Errors
/// The server does not answer with 200.
pub(crate) fn get(port: u16, path: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).with_context(|| format!("port {port}"))?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.set_write_timeout(Some(DEADLINE))?;
    // A server of HTTP/1.0 closes the connection after the body, and does not send it in chunks.
    let request =
        format!("GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\nAccept: text/plain, application/json\r\n\r\n");
    // In one call: `write!` makes several, and a server that refuses after the first may be gone at the next.
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(MOST).read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").context("not an HTTP answer")?;
    let status = head.lines().next().unwrap_or_default();
    ensure!(status.split_whitespace().nth(1) == Some("200"), "GET {path}: {status}: {body}");
    Ok(body.to_owned())
}

/// Returns a port on which no process listens now.
///
/// # Errors
/// The kernel has no free port.
pub(crate) fn free_port() -> std::io::Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// Returns a text with all but letters and digits escaped, for a query string.
pub(crate) fn escaped(text: &str) -> String {
    let escape = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(escape).collect()
}
