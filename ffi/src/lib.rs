//! The core in other people's processes: a C ABI (feature `capi`, the default), or a Python module (feature `python`).
//!
//! The two are never built together: one library exports `vfp_*` and nothing else, the other Python's entry point.
#[cfg(all(feature = "capi", feature = "python"))]
compile_error!("capi and python are built one at a time: --no-default-features --features python");

#[cfg(feature = "capi")]
mod capi;
mod host;
#[cfg(feature = "python")]
mod python;
