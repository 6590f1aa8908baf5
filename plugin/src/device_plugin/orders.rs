//! What a hand-over orders the registrations of all resources to do.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot, watch};

/// An order. docs/upgrades.md says when each is given, and what the kubelet does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Order {
    /// Let a registration fail in GetDevicePluginOptions, so that a kubelet up to 1.36 knows no client of the resource's name.
    Void,
    /// End the streams and keep the server. The answer is whether the kubelet kept its connection open.
    EndStreams,
    /// End the streams, and register on a new socket. The old server answers calls until then.
    Renew,
    /// Register on a new socket while the old stream is open, in the fourth order of docs/upgrades.md, or just register again if there is
    /// no stream.
    RenewAll,
}

/// An order with the place for its answer.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) order: Order,
    pub(super) done: oneshot::Sender<bool>,
}

/// The orders of one resource.
pub(super) type Orders = mpsc::UnboundedReceiver<Command>;

/// Gives orders to the registrations of all resources. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Registrations(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Whether the resources register nothing except by order.
    held: watch::Sender<bool>,
    resources: Mutex<BTreeMap<Arc<str>, mpsc::UnboundedSender<Command>>>,
}

impl Registrations {
    /// Sets whether the resources register nothing except by order, also if the kubelet ends a stream.
    pub(crate) fn hold(&self, hold: bool) {
        self.0.held.send_replace(hold);
    }

    /// Waits until resources may register by themselves.
    pub(super) async fn may_register(&self) {
        // The sender lives as long as this.
        let _ = self.0.held.subscribe().wait_for(|held| !held).await;
    }

    /// Gives an order to all resources, or to those of these names. Returns the resources that answer yes. A resource that ends
    /// meanwhile answers no.
    pub(crate) async fn order(&self, order: Order, only: Option<&[Arc<str>]>) -> Vec<Arc<str>> {
        let mut answers = Vec::new();
        for (name, commands) in &*self.0.resources.lock() {
            if only.is_none_or(|only| only.contains(name)) {
                let (done, answer) = oneshot::channel();
                // Without a receiver the resource has ended, and the answer is dropped with the command.
                let _ = commands.send(Command { order, done });
                answers.push((Arc::clone(name), answer));
            }
        }
        let mut yes = Vec::new();
        for (name, answer) in answers {
            if answer.await == Ok(true) {
                yes.push(name);
            }
        }
        yes
    }

    /// Returns the orders of a resource that starts.
    pub(super) fn add(&self, resource: &Arc<str>) -> Orders {
        let (commands, orders) = mpsc::unbounded_channel();
        self.0.resources.lock().insert(Arc::clone(resource), commands);
        orders
    }

    /// Gives a resource that has ended no more orders.
    pub(super) fn remove(&self, resource: &str) {
        self.0.resources.lock().remove(resource);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn orders_reach_the_named_resources_and_ended_ones_answer_no() {
        let registrations = Registrations::default();
        let (one, other): (Arc<str>, Arc<str>) = ("a.b/one".into(), "a.b/other".into());
        let mut orders = registrations.add(&one);
        drop(registrations.add(&other));
        tokio::spawn(async move {
            while let Some(Command { order, done }) = orders.recv().await {
                let _ = done.send(order == Order::EndStreams);
            }
        });
        assert_eq!(registrations.order(Order::EndStreams, None).await, [Arc::clone(&one)]);
        assert!(registrations.order(Order::EndStreams, Some(&[other])).await.is_empty());
        assert!(registrations.order(Order::Void, None).await.is_empty());
        registrations.remove(&one);
        assert!(registrations.order(Order::EndStreams, None).await.is_empty());
    }
}
