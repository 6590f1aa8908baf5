//! The plugin's answers as their consumers read them: KubeVirt the variables, Kata the pod resources and the CDI specs.
//! docs/consumers.md names the source of each rule. The readers here are written from those rules.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail loudly")]

#[path = "../common/mod.rs"]
mod common;
mod kata;
mod kubevirt;
mod passthrough;
mod virtual_gpus;

const GPU: &str = "0000:1b:00.0";
const OTHER: &str = "0000:3d:00.0";
