//! Decides which pod each device is assigned to, from what the kubelet shows over time.
//!
//! | module | purpose |
//! | --- | --- |
//! | [`record`] | an assignment and its pod |
//! | [`claims`] | a prepared ResourceClaim and its devices |
//! | [`observation`] | the input: what the kubelet shows at one moment |
//! | [`kubelet`] | which kubelet process that is, and how long it has run |
//! | [`ledger`] | the memory: takes in observations, with the rules in `merge` and `expiry`; `lookup` finds pods and records |
//! | [`index`] | the output: assignments by device, in `shards` that versions share |
//! | [`stored_answer`] | the device nodes in the kubelet's stored response, beside those of now |
//! | [`reserved`] | the output for the monitor: what it must not probe |

pub mod claims;
mod expiry;
pub mod index;
pub mod kubelet;
pub mod ledger;
mod lookup;
mod merge;
pub mod observation;
pub mod record;
pub mod reserved;
mod shards;
pub mod stored_answer;
