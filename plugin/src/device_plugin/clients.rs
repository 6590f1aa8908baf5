//! The connections of a plugin socket, few at a time. For a new one the least useful is closed, so that no number of clients keeps
//! the kubelet from calling.
//!
//! The kubelet has one connection, and its first calls are GetDevicePluginOptions and ListAndWatch. A client that only answers pings
//! would otherwise stay for good.

use parking_lot::Mutex;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// A connection is not closed for another one before it had this time to call.
const SHARE: Duration = Duration::from_millis(100);

/// The open connections of one socket. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Clients(Arc<Mutex<Open>>);

#[derive(Debug, Default)]
struct Open {
    next: u64,
    clients: BTreeMap<u64, Client>,
}

#[derive(Debug)]
struct Client {
    /// The process that connected. None if the kernel does not show it, as for one outside of this pid namespace.
    peer: Option<i32>,
    activity: Activity,
    close: CancellationToken,
}

/// What a client has called. Clones share it; the requests of a connection carry it as an extension.
#[derive(Clone, Debug)]
pub(super) struct Activity(Arc<Mutex<Calls>>);

#[derive(Clone, Copy, Debug)]
struct Calls {
    /// The time of the latest call, or of the connection.
    latest: Instant,
    usefulness: Usefulness,
}

/// What a client has done for its place. The least is first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Usefulness {
    Silent,
    Called,
    /// Called ListAndWatch, as the kubelet does.
    Follows,
}

/// The place of an open connection, free again when dropped.
#[derive(Debug)]
pub(super) struct Place {
    clients: Clients,
    id: u64,
    /// What the client calls.
    pub(super) activity: Activity,
    /// Cancelled when the connection has to close.
    pub(super) close: CancellationToken,
}

impl Activity {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Calls { latest: Instant::now(), usefulness: Usefulness::Silent })))
    }

    /// Notes a call of the connection that a request came on.
    pub(super) fn called(extensions: &tonic::Extensions) {
        Self::note(extensions, Usefulness::Called);
    }

    /// Notes a call of ListAndWatch.
    pub(super) fn follows(extensions: &tonic::Extensions) {
        Self::note(extensions, Usefulness::Follows);
    }

    fn note(extensions: &tonic::Extensions, usefulness: Usefulness) {
        let Some(Self(calls)) = extensions.get::<Self>() else { return };
        let mut calls = calls.lock();
        *calls = Calls { latest: Instant::now(), usefulness: usefulness.max(calls.usefulness) };
    }
}

impl Clients {
    /// Returns a place for a new connection. If there are `limit` connections, closes one: waits until it had 100 ms to call, and
    /// not longer if it calls all the time.
    ///
    /// `all` closes all connections.
    pub(super) async fn admit(&self, limit: usize, peer: Option<i32>, all: &CancellationToken) -> Place {
        let patience = Instant::now() + SHARE;
        loop {
            let wait_until = {
                let mut open = self.0.lock();
                if open.clients.len() < limit {
                    let (id, close, activity) = (open.next, all.child_token(), Activity::new());
                    open.next += 1;
                    let client = Client { peer, activity: activity.clone(), close: close.clone() };
                    open.clients.insert(id, client);
                    return Place { clients: self.clone(), id, activity, close };
                }
                open.close_one(patience)
            };
            if let Some(at) = wait_until {
                sleep_until(at).await;
            }
        }
    }

    /// Returns whether a connection is open on which a client has called ListAndWatch, also if its stream has ended.
    pub(super) fn has_follower(&self) -> bool {
        let open = self.0.lock();
        open.clients.values().any(|client| client.activity.0.lock().usefulness == Usefulness::Follows)
    }
}

impl Open {
    /// Closes the least useful connection: one that has called nothing, of the process with the most connections, longest idle.
    /// Returns when it may be closed, if it may not now. From `patience` on, any may: each had the time to call by then.
    fn close_one(&mut self, patience: Instant) -> Option<Instant> {
        let mut of_peers: BTreeMap<Option<i32>, usize> = BTreeMap::new();
        for client in self.clients.values() {
            *of_peers.entry(client.peer).or_default() += 1;
        }
        let calls = |client: &Client| *client.activity.0.lock();
        let rank = |client: &Client| {
            let Calls { latest, usefulness } = calls(client);
            (usefulness, Reverse(of_peers.get(&client.peer).copied()), latest)
        };
        let (&id, client) = self.clients.iter().min_by_key(|(_, client)| rank(client))?;
        // The others stay: one of them can be the kubelet's.
        let may_close = patience.min(calls(client).latest + SHARE);
        if may_close > Instant::now() {
            return Some(may_close);
        }
        if let Some(client) = self.clients.remove(&id) {
            client.close.cancel();
        }
        None
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.clients.0.lock().clients.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn least_useful_client_makes_room() {
        let (clients, all) = (Clients::default(), CancellationToken::new());
        let mut places: Vec<Place> = Vec::new();
        for peer in [1, 2, 2, 3] {
            tokio::time::advance(Duration::from_secs(1)).await;
            places.push(clients.admit(4, Some(peer), &all).await);
        }
        let note = |place: &Place, usefulness| {
            let mut extensions = tonic::Extensions::new();
            extensions.insert(place.activity.clone());
            Activity::note(&extensions, usefulness);
        };
        // The kubelet, long idle; a process with two connections that calls; and one that is silent.
        note(&places[0], Usefulness::Follows);
        tokio::time::advance(Duration::from_secs(1)).await;
        note(&places[1], Usefulness::Called);
        tokio::time::advance(Duration::from_secs(1)).await;
        note(&places[2], Usefulness::Called);
        note(&places[0], Usefulness::Called);
        let closed = |places: &[Place]| -> Vec<bool> {
            places.iter().map(|place| place.close.is_cancelled()).collect()
        };
        places.push(clients.admit(4, Some(4), &all).await);
        assert_eq!(closed(&places), [false, false, false, true, false], "the silent one");
        note(&places[4], Usefulness::Called);
        tokio::time::advance(Duration::from_secs(1)).await;
        places.push(clients.admit(4, Some(5), &all).await);
        assert_eq!(closed(&places), [false, true, false, true, false, false], "one of two, longest idle");
        // The others: the kubelet's stays as long as there is another one.
        for _ in 0..20 {
            places.push(clients.admit(4, Some(6), &all).await);
        }
        assert!(!places[0].close.is_cancelled());
        assert_eq!(clients.0.lock().clients.len(), 4);
        places.clear();
        assert_eq!(clients.0.lock().clients.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn clients_that_call_all_the_time_make_room() {
        let (clients, all) = (Clients::default(), CancellationToken::new());
        let places = [clients.admit(2, Some(1), &all).await, clients.admit(2, Some(1), &all).await];
        let activities = places.each_ref().map(|place| place.activity.clone());
        let calls = async {
            loop {
                for activity in &activities {
                    let mut extensions = tonic::Extensions::new();
                    extensions.insert(activity.clone());
                    Activity::follows(&extensions);
                }
                tokio::time::sleep(SHARE / 4).await;
            }
        };
        let began = Instant::now();
        tokio::select! {
            _ = clients.admit(2, Some(2), &all) => {}
            () = calls => {}
            () = tokio::time::sleep(SHARE * 100) => panic!("no place was made"),
        }
        assert!(began.elapsed() >= SHARE, "each client had its time");
        assert_eq!(places.iter().filter(|place| place.close.is_cancelled()).count(), 1);
    }
}
