//! Asserts at compile time that threads may share the handles. C pointers hide the types from the compiler otherwise.

use super::root::vfp_root;
use super::snapshot::vfp_snapshot;
use super::watch::vfp_watch;

/// Compiles only for types that threads may move and share.
const fn assert_shareable<T: Send + Sync>() {}

const _: () = assert_shareable::<vfp_root>();
const _: () = assert_shareable::<vfp_watch>();
const _: () = assert_shareable::<vfp_snapshot>();
