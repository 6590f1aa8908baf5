//! The connection between the two processes of a hand-over: each message is a line of JSON.

use crate::run_dir::is_trusted;
use serde::{Deserialize, Serialize};
use std::io::{Error, ErrorKind, Result};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;
use vfio_plugin_policy::handover::Message;

/// Changes with every incompatible change of the messages or of the steps. Another version is refused.
const VERSION: u32 = 1;
/// Limit for a message in bytes. A resource's name has up to 320.
const MAX_LINE: u64 = 256 << 10;
/// How long a connect to a process that does not accept, and a write to one that does not read, may take.
const SHORT: Duration = Duration::from_secs(1);

/// A message as it is sent.
#[derive(Serialize, Deserialize)]
struct Line {
    version: u32,
    message: Word,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    kept: Vec<String>,
}

/// The kinds of messages.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    Request,
    Ready,
    Registered,
    Ended,
}

/// An open connection to the other process.
#[derive(Debug)]
pub(super) struct Connection {
    stream: BufReader<UnixStream>,
    /// The other process; 0 if it is in a pid namespace that this one does not see.
    pub(super) peer: i32,
}

impl Connection {
    /// Connects to the process that listens on a hand-over socket.
    ///
    /// # Errors
    /// No process listens, it does not accept, or it belongs to another user.
    pub(super) async fn open(path: &Path) -> Result<Self> {
        Self::new(timeout(SHORT, UnixStream::connect(path)).await??)
    }

    /// Returns the connection on a stream.
    ///
    /// # Errors
    /// The other process belongs to another user.
    pub(super) fn new(stream: UnixStream) -> Result<Self> {
        let peer = stream.peer_cred()?;
        if !is_trusted(peer.uid()) {
            let text = format!("the other process belongs to user {}", peer.uid());
            return Err(Error::new(ErrorKind::PermissionDenied, text));
        }
        Ok(Self { stream: BufReader::new(stream), peer: peer.pid().unwrap_or(0) })
    }

    /// Sends a message.
    ///
    /// # Errors
    /// The other process has closed the connection, or does not read.
    pub(super) async fn send(&mut self, message: &Message) -> Result<()> {
        let (message, kept) = match message {
            Message::Request => (Word::Request, Vec::new()),
            Message::Ready => (Word::Ready, Vec::new()),
            Message::Registered => (Word::Registered, Vec::new()),
            Message::Ended { kept } => (Word::Ended, kept.iter().map(ToString::to_string).collect()),
        };
        let mut line = serde_json::to_vec(&Line { version: VERSION, message, kept })?;
        line.push(b'\n');
        timeout(SHORT, self.stream.write_all(&line)).await?
    }

    /// Waits for a message for at most `limit`.
    ///
    /// # Errors
    /// `UnexpectedEof` if the other process has closed the connection, `TimedOut`, and `InvalidData` if what comes is no message of
    /// this version.
    pub(super) async fn receive(&mut self, limit: Duration) -> Result<Message> {
        let mut line = Vec::new();
        timeout(limit, (&mut self.stream).take(MAX_LINE).read_until(b'\n', &mut line)).await??;
        if line.is_empty() {
            return Err(Error::new(ErrorKind::UnexpectedEof, "the other process has closed the connection"));
        }
        let Line { version, message, kept } = serde_json::from_slice(&line).map_err(|_| {
            Error::new(ErrorKind::InvalidData, "the other process sent no message of a hand-over")
        })?;
        if version != VERSION {
            let text = format!("the other process speaks version {version}, this one version {VERSION}");
            return Err(Error::new(ErrorKind::InvalidData, text));
        }
        Ok(match message {
            Word::Request => Message::Request,
            Word::Ready => Message::Ready,
            Word::Registered => Message::Registered,
            Word::Ended => Message::Ended { kept: kept.into_iter().map(Arc::from).collect() },
        })
    }

    /// Waits until the other process closes the connection, or sends what it should not send now.
    pub(super) async fn closed(&mut self) {
        let _ = self.stream.fill_buf().await;
    }

    /// Waits for at most `limit` until the other process has closed its side. Returns whether it has.
    pub(super) async fn closed_within(&mut self, limit: Duration) -> bool {
        timeout(limit, async { while self.receive(limit).await.is_ok() {} }).await.is_ok()
    }

    /// Closes this side, and waits for at most `limit` until the other process has closed its side.
    pub(super) async fn close(&mut self, limit: Duration) {
        let _ = self.stream.shutdown().await;
        self.closed_within(limit).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Connection, UnixStream) {
        let (one, other) = UnixStream::pair().unwrap();
        (Connection::new(one).unwrap(), other)
    }

    const LIMIT: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn messages_arrive_as_they_were_sent() {
        let (one, other) = UnixStream::pair().unwrap();
        let (mut one, mut other) = (Connection::new(one).unwrap(), Connection::new(other).unwrap());
        let kept = vec!["a.b/c".into(), "a.b/d".into()];
        let messages = [Message::Request, Message::Ready, Message::Registered, Message::Ended { kept }];
        for message in &messages {
            one.send(message).await.unwrap();
        }
        for message in messages {
            assert_eq!(other.receive(LIMIT).await.unwrap(), message);
        }
        drop(one);
        assert_eq!(other.receive(LIMIT).await.unwrap_err().kind(), ErrorKind::UnexpectedEof);
    }

    #[tokio::test]
    async fn corrupt_foreign_and_endless_messages_are_errors() {
        let endless = "x".repeat(MAX_LINE as usize + 10);
        for text in [
            "\n",
            "GET / HTTP/1.1\n",
            "{}\n",
            r#"{"version":2,"message":"request"}"#,
            r#"{"version":1,"message":"other"}"#,
            r#"{"version":1,"message":"ended","kept":[7]}"#,
            &endless,
        ] {
            let (mut connection, mut peer) = pair();
            let (received, _) = tokio::join!(connection.receive(LIMIT), async {
                let _ = peer.write_all(text.as_bytes()).await;
                let _ = peer.shutdown().await;
            });
            assert_eq!(received.unwrap_err().kind(), ErrorKind::InvalidData, "{text:.40}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silent_peer_is_an_error_after_the_limit() {
        let (mut connection, _peer) = pair();
        assert_eq!(connection.receive(LIMIT).await.unwrap_err().kind(), ErrorKind::TimedOut);
    }
}
