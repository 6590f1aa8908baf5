//! The listening socket of the HTTP server.

use crate::backoff::Backoff;
use crate::config::ListenAddress;
use crate::http::{RETRY, report};
use crate::problems::{ProblemCode, Problems};
use std::io::{Error, Result};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

/// Accepts connections for as long as the process runs.
#[derive(Debug)]
pub(super) struct Listener {
    address: ListenAddress,
    problems: Problems,
    socket: Option<TcpListener>,
    retry: Backoff,
}

impl Listener {
    /// Returns a listener that is bound with the first accept.
    pub(super) fn new(address: ListenAddress, problems: Problems) -> Self {
        Self { address, problems, socket: None, retry: RETRY }
    }

    /// Waits for the next connection. Binds the address if needed, and again after a failure, with pauses between.
    pub(super) async fn accept(&mut self) -> TcpStream {
        loop {
            let error = match self.next().await {
                Ok(client) => {
                    self.retry.reset();
                    return client;
                }
                Err(error) => error,
            };
            report(&self.problems, self.address, &error);
            if !is_shortage(&error) {
                // The socket may be dead: shut down from outside, or its network gone.
                self.socket = None;
            }
            sleep(self.retry.pause()).await;
        }
    }

    async fn next(&mut self) -> Result<TcpStream> {
        let socket = match &mut self.socket {
            Some(socket) => socket,
            none => {
                let socket = bind(self.address).await?;
                let address = socket.local_addr()?;
                self.problems.end(ProblemCode::ListenFailed, self.address);
                tracing::info!(%address, "listening for metrics and probes over HTTP");
                none.insert(socket)
            }
        };
        let (client, _) = socket.accept().await?;
        self.problems.end(ProblemCode::ListenFailed, self.address);
        Ok(client)
    }
}

async fn bind(address: ListenAddress) -> Result<TcpListener> {
    let mut outcome = Err(Error::from(std::io::ErrorKind::AddrNotAvailable));
    for candidate in address.candidates() {
        outcome = TcpListener::bind(candidate).await;
        // socket(2): a kernel without this IP version.
        if !outcome.as_ref().is_err_and(|error| error.raw_os_error() == Some(AFNOSUPPORT)) {
            break;
        }
    }
    outcome
}

const AFNOSUPPORT: i32 = rustix::io::Errno::AFNOSUPPORT.raw_os_error();

/// Returns whether an error of accept(2) is about the connection or about a lack of memory or descriptors, so that the socket is
/// good.
fn is_shortage(error: &Error) -> bool {
    use rustix::io::Errno;
    let about_others = [
        Errno::MFILE,
        Errno::NFILE,
        Errno::NOBUFS,
        Errno::NOMEM,
        Errno::CONNABORTED,
        Errno::PERM,
        Errno::PROTO,
    ];
    error.raw_os_error().is_some_and(|code| about_others.iter().any(|errno| errno.raw_os_error() == code))
}
