//! The clients that get an answer: few at a time, and each for a short time.

use crate::client_tasks::ClientTasks;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout};

/// Limit for the clients at a time, each of which has an answer in memory. The oldest is disconnected for a new one, unless its share
/// of time has not passed.
const MAX_CLIENTS: usize = 8;
const SHARE: Duration = Duration::from_millis(50);
/// A client that does not read is disconnected after this time.
const WRITE: Duration = Duration::from_secs(2);
/// How old an answer may be that is sent again while there are too many clients. Otherwise each gets a new one.
const FRESH: Duration = Duration::from_millis(100);

/// The clients that are being answered.
#[derive(Debug)]
pub(super) struct Clients {
    tasks: ClientTasks,
    latest: Option<(Instant, Arc<[u8]>)>,
}

impl Default for Clients {
    fn default() -> Self {
        Self { tasks: ClientTasks::new(MAX_CLIENTS, SHARE), latest: None }
    }
}

impl Clients {
    /// Answers a client, without waiting until it has read the answer. If there are too many clients, this makes room first: for at
    /// most 50 ms.
    ///
    /// # Errors
    /// `make` could not make an answer; the client is disconnected.
    pub(super) async fn answer<E>(
        &mut self,
        client: UnixStream,
        make: impl FnOnce() -> Result<Vec<u8>, E>,
    ) -> Result<(), E> {
        let is_crowded = self.tasks.make_room().await;
        let answer = match &self.latest {
            Some((made, answer)) if is_crowded && made.elapsed() < FRESH => Arc::clone(answer),
            _ => {
                let answer: Arc<[u8]> = make()?.into();
                self.latest = is_crowded.then(|| (Instant::now(), Arc::clone(&answer)));
                answer
            }
        };
        self.tasks.start(send(client, answer));
        Ok(())
    }
}

async fn send(mut client: UnixStream, answer: Arc<[u8]>) {
    let _ = timeout(WRITE, async {
        let _ = client.write_all(&answer).await;
        let _ = client.shutdown().await;
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;
    use tokio::io::AsyncReadExt;

    /// Longer than what fits into the buffer of a socket.
    const LENGTH: usize = 4 << 20;

    async fn answer(clients: &mut Clients, made: &mut usize) -> UnixStream {
        let (server, client) = UnixStream::pair().unwrap();
        let outcome: Result<(), Infallible> = clients
            .answer(server, || {
                *made += 1;
                Ok(vec![b'x'; LENGTH])
            })
            .await;
        outcome.unwrap();
        client
    }

    #[tokio::test]
    async fn idle_clients_make_room_and_share_answers() {
        let (mut clients, mut made) = (Clients::default(), 0);
        let mut idle = Vec::new();
        for _ in 0..MAX_CLIENTS * 20 {
            idle.push(answer(&mut clients, &mut made).await);
        }
        assert_eq!(clients.tasks.len(), MAX_CLIENTS);
        assert!(made < MAX_CLIENTS * 10, "{made} answers");
        let mut reader = answer(&mut clients, &mut made).await;
        let mut text = Vec::new();
        reader.read_to_end(&mut text).await.unwrap();
        assert_eq!(text.len(), LENGTH);
        let mut first = Vec::new();
        idle[0].read_to_end(&mut first).await.unwrap();
        assert!(first.len() < LENGTH, "it was disconnected");
    }

    #[tokio::test]
    async fn clients_that_read_get_new_answers() {
        let (mut clients, mut made) = (Clients::default(), 0);
        for number in 1..MAX_CLIENTS * 3 {
            let mut text = Vec::new();
            answer(&mut clients, &mut made).await.read_to_end(&mut text).await.unwrap();
            assert_eq!((text.len(), made), (LENGTH, number));
        }
    }

    #[tokio::test]
    async fn error_disconnects_the_client() {
        let (server, mut client) = UnixStream::pair().unwrap();
        assert_eq!(Clients::default().answer(server, || Err("no answer")).await, Err("no answer"));
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
    }
}
