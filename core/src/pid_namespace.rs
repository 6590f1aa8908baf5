//! Finds out whether a root's /proc shows the host's pid namespace.
//!
//! A mount of procfs shows the processes of one pid namespace and of the namespaces below it. A
//! search in the /proc of a container therefore finds no process of the host, and nothing in the
//! listing says so.

mod detection;

/// The pid namespace that a root's /proc shows. Exhaustive: whatever shows neither is
/// [`PidNamespace::Unknown`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum PidNamespace {
    /// The initial pid namespace. It contains every process of this kernel.
    Host,
    /// Another pid namespace, as in a container without `hostPID`. Processes outside are invisible.
    Foreign,
    /// /proc does not show it. A mount with `hidepid=invisible` hides processes of other users, and
    /// a test's directory has no namespaces.
    #[default]
    Unknown,
}

impl PidNamespace {
    /// Returns `host`, `foreign` or `unknown`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Foreign => "foreign",
            Self::Unknown => "unknown",
        }
    }
}
