//! The ListAndWatch streams of one registration: their lists, their number, and the list that was sent last.

use kubelet_api::v1beta1::{Device, ListAndWatchResponse};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_stream::Stream;
use tokio_stream::wrappers::WatchStream;
use tonic::Status;

/// The devices of one resource, as the kubelet receives them. Each list is complete.
pub(crate) type DeviceList = Arc<Vec<Device>>;

/// Sends the newest list to all streams of a registration. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct DeviceListBroadcast {
    /// The newest list. When its sender is dropped, all streams end.
    list: watch::Receiver<DeviceList>,
    streams: watch::Sender<Streams>,
    last_sent: watch::Sender<DeviceList>,
}

/// The streams of a registration.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Streams {
    /// The number of open streams.
    pub(crate) open: usize,
    /// Whether a list went out through any stream, also one that has ended.
    pub(crate) first_list_sent: bool,
}

/// One stream. Counts itself as long as it exists.
pub(crate) struct DeviceListStream {
    lists: WatchStream<DeviceList>,
    broadcast: DeviceListBroadcast,
}

impl DeviceListBroadcast {
    /// Returns a broadcast without streams.
    pub(crate) fn new(list: watch::Receiver<DeviceList>) -> Self {
        Self { list, streams: watch::Sender::default(), last_sent: watch::Sender::default() }
    }

    /// Opens a stream. It begins with the newest list. A slow reader skips lists, since each is complete.
    pub(crate) fn open(&self) -> DeviceListStream {
        self.streams.send_modify(|streams| streams.open += 1);
        DeviceListStream { lists: WatchStream::new(self.list.clone()), broadcast: self.clone() }
    }

    /// Returns the state of the streams and its changes.
    pub(crate) fn streams(&self) -> watch::Receiver<Streams> {
        self.streams.subscribe()
    }

    /// Waits until a list with the `wanted` property was sent, at most for `limit`. Returns at once if no stream is open.
    pub(crate) async fn wait_until_sent(&self, limit: Duration, wanted: impl FnMut(&DeviceList) -> bool) {
        if self.streams.borrow().open > 0 {
            let mut last_sent = self.last_sent.subscribe();
            let _ = timeout(limit, last_sent.wait_for(wanted)).await;
        }
    }
}

impl Stream for DeviceListStream {
    type Item = Result<ListAndWatchResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = Pin::new(&mut self.lists).poll_next(context);
        next.map(|list| {
            list.map(|list| {
                let devices = list.to_vec();
                self.broadcast.last_sent.send_replace(list);
                self.broadcast
                    .streams
                    .send_if_modified(|streams| !std::mem::replace(&mut streams.first_list_sent, true));
                Ok(ListAndWatchResponse { devices })
            })
        })
    }
}

impl Drop for DeviceListStream {
    fn drop(&mut self) {
        self.broadcast.streams.send_modify(|streams| streams.open -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_stream::StreamExt;

    #[tokio::test]
    async fn first_list_is_sent_when_a_stream_is_read() {
        let (_sender, list) = watch::channel(DeviceList::default());
        let broadcast = DeviceListBroadcast::new(list);
        let streams = broadcast.streams();
        let state = || *streams.borrow();
        let mut stream = broadcast.open();
        assert_eq!(state(), Streams { open: 1, first_list_sent: false });
        assert!(stream.next().await.unwrap().unwrap().devices.is_empty());
        assert_eq!(state(), Streams { open: 1, first_list_sent: true });
        drop(stream);
        assert_eq!(state(), Streams { open: 0, first_list_sent: true });
    }
}
