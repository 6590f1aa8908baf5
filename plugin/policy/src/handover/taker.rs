//! The new process, which takes over.

use crate::handover::Message;
use std::sync::Arc;

/// How far the taker is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Taker {
    /// It connects to a running process, or takes the lock if there is none.
    #[default]
    Asking,
    /// It waits until the giver is ready.
    Waiting,
    /// It registers its resources.
    Registering,
    /// A registration fails on purpose for each resource, so that a kubelet up to 1.36 knows no client of its name.
    Voiding,
    /// It waits for the end of the giver's streams.
    Registered,
    /// The giver's streams have ended. It takes the lock.
    Taking {
        /// The resources whose streams it renews then.
        kept: Vec<Arc<str>>,
    },
    /// The giver has left. Its lock says whether it has ended.
    Orphaned,
    /// It serves alone.
    Serving,
}

/// What has happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// A connection to the giver is open.
    Connected,
    /// A message of the giver.
    Received(Message),
    /// All resources are registered and their first lists sent.
    AllRegistered,
    /// The registrations that had to fail have failed.
    Voided,
    /// The giver has closed the connection or ended.
    GiverLeft,
    /// This process has the lock.
    LockTaken,
    /// Another process has the lock.
    LockHeld,
}

/// What the caller has to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Send a message to the giver.
    Send(Message),
    /// Try to take the lock, and report whether this process has it.
    TryLock,
    /// Read the state files, start, serve and register all resources. Allocates wait.
    Start,
    /// Register each resource with a socket that refuses GetDevicePluginOptions.
    Void,
    /// Read the state files again, since the giver has answered Allocates meanwhile. Answer waiting and later Allocates.
    AnswerAllocates,
    /// For each of these resources, end the stream and register on a new socket. The old server answers until then.
    Renew(Vec<Arc<str>>),
    /// Replace the registration of each resource by one on a new socket, in the fourth order of docs/upgrades.md: register the new
    /// one, void, end the old stream, and renew the new stream if the kubelet keeps the old connection.
    RenewAll,
    /// Close the connection to the giver.
    Disconnect,
    /// End all servers, forget what was read, and ask again after a pause.
    Withdraw,
}

impl Taker {
    /// Returns whether this process may answer an Allocate.
    #[must_use]
    pub fn answers(&self) -> bool {
        *self == Self::Serving
    }

    /// Takes an input in. Returns the actions. An input that does not fit the state changes nothing.
    pub fn take(&mut self, input: Input) -> Vec<Action> {
        let (next, actions) = match (std::mem::take(self), input) {
            (Self::Asking, Input::Connected) => (Self::Waiting, vec![Action::Send(Message::Request)]),
            (Self::Asking, Input::LockTaken) => (Self::Serving, vec![Action::Start, Action::AnswerAllocates]),
            (Self::Waiting, Input::Received(Message::Ready)) => (Self::Registering, vec![Action::Start]),
            (Self::Waiting, Input::GiverLeft) => (Self::Asking, vec![Action::TryLock]),
            (Self::Registering, Input::AllRegistered) => (Self::Voiding, vec![Action::Void]),
            (Self::Voiding, Input::Voided) => (Self::Registered, vec![Action::Send(Message::Registered)]),
            (Self::Registered, Input::Received(Message::Ended { kept })) => {
                (Self::Taking { kept }, vec![Action::TryLock])
            }
            (Self::Taking { kept }, Input::LockTaken) => {
                (Self::Serving, vec![Action::AnswerAllocates, Action::Renew(kept), Action::Disconnect])
            }
            // The giver ends its connection after its last message; only the lock counts from here on.
            (Self::Taking { kept }, Input::GiverLeft) => (Self::Taking { kept }, Vec::new()),
            (Self::Registering | Self::Voiding | Self::Registered, Input::GiverLeft) => {
                (Self::Orphaned, vec![Action::TryLock])
            }
            // The kubelet may have dropped this process with the giver's stream, or know no client.
            (Self::Orphaned, Input::LockTaken) => {
                (Self::Serving, vec![Action::AnswerAllocates, Action::RenewAll])
            }
            // The giver lives and goes on, or a third process was faster.
            (Self::Orphaned | Self::Taking { .. }, Input::LockHeld) => (Self::Asking, vec![Action::Withdraw]),
            (state, _) => (state, Vec::new()),
        };
        *self = next;
        actions
    }
}
