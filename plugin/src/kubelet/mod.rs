//! The kubelet's files and sockets, and the lists that the plugin sends to it.

pub(crate) mod checkpoint;
#[cfg(any(feature = "dra", feature = "fuzzing"))]
pub(crate) mod claim_state;
pub(crate) mod kept;
pub(crate) mod list_and_watch;
pub(crate) mod pod_list;
pub(crate) mod pod_resources;
pub(crate) mod registry;
pub(crate) mod socket_watch;
pub(crate) mod unix_channel;
mod wire;
