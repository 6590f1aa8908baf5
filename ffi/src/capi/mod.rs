//! The C ABI. include/vfio_probe.h is generated from it; ffi/vfio_probe.h.in holds its head.
//!
//! | module | contents |
//! | --- | --- |
//! | [`status`] | status codes, the error record, and the conversion of panics into a status |
//! | [`record`] | writes records of the caller's size into the caller's arrays |
//! | [`text`] | reads texts of the caller, writes texts into records |
//! | [`root`], [`device`], [`group`], [`occupancy`], [`holder`], [`name`] | records and functions, by subject |
//! | [`group_state`] | the state of a group, in snapshots and watches |
//! | [`snapshot`] | devices, groups, holders and coverage at one moment |
//! | [`watch`], [`wait`], [`watched`] | events behind one descriptor, waits for them, and the state that the watch knows |
//! | [`device_nodes`], [`hardware`] | what a VM needs of a group, and the state of a function's hardware |
//! | [`sharing`] | asserts that threads may share the handles |
//! | [`words`], [`version`] | static texts: words of enumerations, the version |
#![allow(unsafe_code, reason = "pointers from C; every block states its precondition")]
#![allow(non_camel_case_types, reason = "C naming convention")]
#![allow(unreachable_pub, reason = "cbindgen and the linker read the exported items; no crate does")]
#![allow(
    clippy::missing_safety_doc,
    reason = "the conventions at the head of the header cover all functions"
)]

mod device;
mod device_nodes;
mod group;
mod group_state;
mod hardware;
mod holder;
mod name;
mod occupancy;
mod record;
mod root;
mod sharing;
mod snapshot;
mod status;
mod text;
mod version;
mod wait;
mod watch;
mod watched;
mod words;
