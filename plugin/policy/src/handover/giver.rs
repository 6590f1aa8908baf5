//! The running process, which hands over.

use crate::handover::Message;
use std::sync::Arc;

/// How far the giver is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Giver {
    /// It serves alone.
    #[default]
    Serving,
    /// It answers Allocates and keeps its streams. The taker starts and registers.
    Waiting,
    /// The kubelet calls the taker. Allocates that came before still run here.
    Sealing,
    /// It answers no Allocate. Its streams are ending.
    Ending,
    /// The taker serves. The giver waits for SIGTERM, and for the lock in case the taker ends first.
    Retired,
}

/// What has happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// A message of the taker.
    Received(Message),
    /// No Allocate runs any more, and the state files are written.
    Drained,
    /// The streams have ended; `kept` as in [`Message::Ended`].
    StreamsEnded {
        /// The resources whose connections the kubelet has not closed within a second.
        kept: Vec<Arc<str>>,
    },
    /// The taker has closed its connection, ended, or not done its step by the deadline. Or a step of the giver's own has failed.
    TakerLeft,
    /// This process has the lock again.
    LockTaken,
}

/// What the caller has to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Register nothing, also if the kubelet ends a stream.
    HoldRegistrations,
    /// Let Allocates wait that come from now on, and report when none runs and the state files are written.
    HoldAllocates,
    /// Answer waiting and later Allocates.
    AnswerAllocates,
    /// Refuse waiting and later Allocates: the other process answers.
    RefuseAllocates,
    /// Send a message to the taker.
    Send(Message),
    /// Close the connection to the taker, which then knows that the hand-over has failed.
    Disconnect,
    /// End the streams, keep the servers, and report when the streams have ended.
    EndStreams,
    /// End the servers and remove their sockets.
    EndServers,
    /// Serve and register all resources on new sockets, as [`crate::handover::taker::Action::RenewAll`] does.
    RegisterAgain,
    /// Give up the lock.
    ReleaseLock,
    /// Wait for the lock.
    AwaitLock,
}

impl Giver {
    /// Returns whether this process may answer an Allocate.
    #[must_use]
    pub fn answers(self) -> bool {
        matches!(self, Self::Serving | Self::Waiting)
    }

    /// Takes an input in. Returns the actions. An input that does not fit the state changes nothing: a message out of order comes
    /// from another version, and the deadline ends that hand-over.
    pub fn take(&mut self, input: Input) -> Vec<Action> {
        let (next, actions) = match (*self, input) {
            (Self::Serving, Input::Received(Message::Request)) => {
                (Self::Waiting, vec![Action::HoldRegistrations, Action::Send(Message::Ready)])
            }
            (Self::Waiting, Input::Received(Message::Registered)) => {
                (Self::Sealing, vec![Action::HoldAllocates])
            }
            (Self::Sealing, Input::Drained) => (Self::Ending, vec![Action::EndStreams]),
            // The lock is free before the taker learns that the streams have ended: it takes the lock at once.
            (Self::Ending, Input::StreamsEnded { kept }) => (
                Self::Retired,
                vec![
                    Action::RefuseAllocates,
                    Action::ReleaseLock,
                    Action::Send(Message::Ended { kept }),
                    Action::EndServers,
                ],
            ),
            // The kubelet may have the taker as its endpoint, or have dropped both.
            (Self::Waiting | Self::Sealing | Self::Ending, Input::TakerLeft) => {
                (Self::Serving, vec![Action::AnswerAllocates, Action::Disconnect, Action::RegisterAgain])
            }
            // The taker leaves when it has the lock, or ends without it. To wait earlier would be to take the lock before the taker.
            (Self::Retired, Input::TakerLeft) => (Self::Retired, vec![Action::AwaitLock]),
            // The taker has ended: only its end or its own hand-over gives the lock free.
            (Self::Retired, Input::LockTaken) => {
                (Self::Serving, vec![Action::RegisterAgain, Action::AnswerAllocates])
            }
            (state, _) => (state, Vec::new()),
        };
        *self = next;
        actions
    }
}
