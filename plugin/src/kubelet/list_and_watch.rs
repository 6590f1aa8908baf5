//! One registration's streams of lists: what they carry, how many there are, and what went out last.

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

/// What the kubelet is sent: one resource's whole list.
pub(crate) type DeviceList = Arc<Vec<Device>>;

/// The streams. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct DeviceListBroadcast {
    /// The list; when the sender goes, all streams end.
    list: watch::Receiver<DeviceList>,
    streams: watch::Sender<usize>,
    /// The list that went into a stream last.
    given: watch::Sender<DeviceList>,
}

/// A stream of lists that counts itself.
pub(crate) struct DeviceListStream {
    lists: WatchStream<DeviceList>,
    broadcast: DeviceListBroadcast,
}

impl DeviceListBroadcast {
    /// No stream yet.
    pub(crate) fn new(list: watch::Receiver<DeviceList>) -> Self {
        Self { list, streams: watch::Sender::new(0), given: watch::Sender::default() }
    }

    /// One more stream. It begins with the list as it is; a slow reader skips to the newest, since each is the whole.
    pub(crate) fn open(&self) -> DeviceListStream {
        self.streams.send_modify(|count| *count += 1);
        DeviceListStream { lists: WatchStream::new(self.list.clone()), broadcast: self.clone() }
    }

    /// How many there are.
    pub(crate) fn streams(&self) -> watch::Receiver<usize> {
        self.streams.subscribe()
    }

    /// Waits, at most so long, until a list as wanted was sent; not at all if nobody follows.
    pub(crate) async fn sent(&self, longest: Duration, wanted: impl FnMut(&DeviceList) -> bool) {
        if *self.streams.borrow() > 0 {
            let mut given = self.given.subscribe();
            let _ = timeout(longest, given.wait_for(wanted)).await;
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
                self.broadcast.given.send_replace(list);
                Ok(ListAndWatchResponse { devices })
            })
        })
    }
}

impl Drop for DeviceListStream {
    fn drop(&mut self) {
        self.broadcast.streams.send_modify(|count| *count -= 1);
    }
}
