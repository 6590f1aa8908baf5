//! That what stands behind a handle may be used by many threads at once: C's pointers hide it from the compiler, so that it
//! is asked here.

use super::root::vfp_root;
use super::watch::vfp_watch;

/// Compiles only for what may be moved to another thread and used from several.
const fn may_be_shared<T: Send + Sync>() {}

const _: () = may_be_shared::<vfp_root>();
const _: () = may_be_shared::<vfp_watch>();
