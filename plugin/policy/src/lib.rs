//! The device plugin's decisions, as pure functions and plain state machines.
//!
//! Nothing in this crate reads a file, a socket or a clock: what the kernel and the kubelet show comes in as values, time comes
//! in as an argument, and the plugin carries out what is decided. That is why `tests/model` can check every reachable state.
//! Modules import downward only:
//!
//! | module | what it decides |
//! | --- | --- |
//! | [`allocation`] | whether a request of the kubelet can be granted, and which devices are the best choice |
//! | [`health`] | what the kubelet is told about each device, with a typed reason |
//! | [`assignments`] | which pod has which device, from what the kubelet shows over time |
//! | [`cdi`] | names and contents of CDI specs |
//! | [`device`], [`holders`], [`sriov`] | what is known of a node at one moment |
//! | [`pools`] | which devices are offered, under which resource and on what terms |

// Tests may take the time where they need some moment.
#![cfg_attr(test, allow(clippy::disallowed_methods))]

pub mod allocation;
pub mod assignments;
pub mod cdi;
pub mod device;
pub mod health;
pub mod holders;
pub mod pools;
pub mod sriov;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
