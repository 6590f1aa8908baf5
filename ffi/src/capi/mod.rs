//! The C ABI; include/vfio_probe.h is generated from it, and its head comment (ffi/cbindgen.toml) has the conventions.
//!
//! | module | one idea |
//! | --- | --- |
//! | [`status`] | status codes, the error record, and the wall that no panic passes |
//! | [`record`] | records of the caller's size in the caller's arrays |
//! | [`text`] | texts from the caller, and texts in records |
//! | [`root`], [`device`], [`group`], [`occupancy`], [`holder`], [`name`] | one subject each: its records and functions |
//! | [`watch`], [`watched`] | events behind a descriptor, and what the watch knows |
//! | [`sharing`] | what threads may share, asked of the compiler |
//! | [`words`], [`version`] | static texts |
#![allow(unsafe_code, reason = "pointers from C; every block says what it rests on")]
#![allow(non_camel_case_types, reason = "the names are C's")]
#![allow(unreachable_pub, reason = "what is exported is read by cbindgen and the linker, not by a crate")]
#![allow(clippy::missing_safety_doc, reason = "the head of the header says it once for all functions")]

mod device;
mod group;
mod holder;
mod name;
mod occupancy;
mod record;
mod root;
mod sharing;
mod status;
mod text;
mod version;
mod watch;
mod watched;
mod words;
