//! What the DRA driver talks to: a stand-in for the API server, and the side of the kubelet that has claims prepared.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "a test may fail loudly"
)]

pub mod api_server;
pub mod kubelet;

pub use api_server::{ApiServer, uid};
pub use kubelet::DraKubelet;
