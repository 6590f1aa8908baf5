//! A whole Kubernetes cluster of one node with real VFIO groups, and the stories that the plugin must pass in it.
//!
//! The control plane runs as processes on this host's loopback. The node is a VM that reaches it by QEMU's user network.
//! docs/testing.md describes the parts and what is cached.

#![allow(clippy::indexing_slicing, reason = "only JSON values are indexed; a missing key is null")]

pub mod certificates;
pub mod cluster;
pub mod control_plane;
pub mod node;
pub mod parts;
pub mod process;
pub mod progress;
pub mod runner;
pub mod sources;
pub mod stories;
pub mod versions;
pub mod wait;

pub use cluster::Cluster;
pub use node::{Function, Node};
pub use stories::Story;
pub use xtask::{Error, Result};
