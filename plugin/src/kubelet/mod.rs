//! The kubelet's side: its files and sockets, and what it is sent.

pub(crate) mod checkpoint;
pub(crate) mod list_and_watch;
pub(crate) mod pod_resources;
pub(crate) mod registry;
pub(crate) mod socket_watch;
