//! Which pod has which device, from what the kubelet shows over time.
//!
//! [`observation`] is what comes in, [`ledger`] the memory, [`merge`] and [`expiry`] its rules, [`index`] what comes out.

pub mod expiry;
pub mod index;
pub mod ledger;
mod merge;
pub mod observation;
pub mod record;
pub mod reserved;
