//! The core in other languages: a C ABI (feature `capi`, the default) and a Python module (feature `python`).
//!
//! The features are additive: a library built with both exports the functions `vfp_*` and Python's entry point. What we
//! ship is built with one feature each. The C library is built with `capi` alone, so it does not need Python. The
//! wheel is built with `python` alone, so it does not export the C ABI. `ffi/test` and `python/test` check both.

#[cfg(feature = "capi")]
mod capi;
#[cfg(any(feature = "capi", feature = "python"))]
mod host;
#[cfg(feature = "python")]
mod python;
