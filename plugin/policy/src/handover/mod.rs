//! Decides the steps of a hand-over: one process of the plugin, the taker, replaces a running one, the giver.
//!
//! Each side is a state machine. Its inputs are what has happened; its outputs are actions that the caller carries out in their
//! order. docs/upgrades.md has the steps, and what the kubelet does in each.
//!
//! **At most one process answers Allocate**: the one that has the lock of the run directory (flock(2)). The kernel gives the lock
//! free when its process ends, so no process has to conclude from silence that the other is gone.

pub mod giver;
pub mod succession;
pub mod taker;
#[cfg(test)]
mod tests;

use std::sync::Arc;

/// The messages between the two processes, in this order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    /// The taker asks for the hand-over.
    Request,
    /// The giver registers nothing until the hand-over ends. It still answers Allocates.
    Ready,
    /// The taker has registered all resources, and the kubelet up to 1.36 knows no client of their names.
    Registered,
    /// The giver's streams have ended, its state files are written, and it has given up the lock. `kept` are the resources whose
    /// connections the kubelet has not closed: kubelets up to 1.36 close none, later ones close all.
    Ended {
        /// The resources whose streams the taker has to renew.
        kept: Vec<Arc<str>>,
    },
}
