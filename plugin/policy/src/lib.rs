//! Decides what the device plugin does, with pure functions and plain state machines.
//!
//! Nothing in this crate reads a file, a socket or a clock. What the kernel and the kubelet show comes in as values, time comes
//! in as an argument, and the plugin carries out the decisions. Therefore `tests/model` can check every reachable state.
//!
//! Modules import downward only:
//!
//! | module | decides |
//! | --- | --- |
//! | [`metrics`] | the values of the metrics that describe devices and resources |
//! | [`allocation`] | whether a request of the kubelet can be granted, and which devices are the best choice |
//! | [`handover`] | the steps in which one process of the plugin replaces another |
//! | [`health`] | what the plugin reports to the kubelet about each device, with a typed reason |
//! | [`assignments`] | which pod each device is assigned to, from what the kubelet shows over time |
//! | `dra` | what a DRA driver publishes of a node, and what it reads of claims (feature `dra`) |
//! | [`device`], [`holders`], [`sriov`] | what is known of a node at one moment |
//! | [`kubelet_id`] | device ids as the kubelet sends and stores them |
//! | [`unbound`] | why a function is not bound to VFIO, and whether the host needs it |
//! | [`cdi`] | names and contents of CDI specs |
//! | [`pools`] | which devices are offered, under which resource and on what terms |

// Tests take the current time where they need any moment.
#![cfg_attr(test, allow(clippy::disallowed_methods))]

pub mod allocation;
pub mod assignments;
pub mod cdi;
pub mod device;
#[cfg(feature = "dra")]
pub mod dra;
pub mod handover;
pub mod health;
pub mod holders;
pub mod kubelet_id;
pub mod metrics;
pub mod pools;
pub mod sriov;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod unbound;
