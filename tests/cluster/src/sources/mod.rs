//! What three independent sources say about the devices of the node, and whether they agree.
//!
//! - The API server: the node's status, and the requests of the pods on it (`api.rs`).
//! - The kubelet: the devices of each container, by pod resources (`node.rs`).
//! - The kernel: which process has each group open, and what an open of each group gives (`node.rs`).
//!
//! Samples of the node's allocatable devices over time have their gaps found in `samples.rs`.
//!
//! The last two come from the program `sources` (tests/cluster/parts/tools), which shares no code with the product.

mod api;
mod compare;
mod node;
mod samples;

pub use api::{Api, ApiPod, allocatable};
pub use compare::{Disagreement, Exceptions, Figures, compare};
pub use node::{Group, Holder, NodeSources, Opened, PodDevices};
pub use samples::{Gap, Sample, Summary};
