//! Remembers which conditions were logged, so that a lasting condition is logged once and not in every pass.

use std::collections::BTreeSet;

/// The conditions that were logged and still hold.
#[derive(Clone, Debug)]
pub(crate) struct LogOnce<K> {
    logged: BTreeSet<K>,
}

impl<K> Default for LogOnce<K> {
    fn default() -> Self {
        Self { logged: BTreeSet::new() }
    }
}

impl<K: Ord> LogOnce<K> {
    /// Returns whether a condition is new. It is new again after it was forgotten.
    pub(crate) fn is_new(&mut self, condition: K) -> bool {
        self.logged.insert(condition)
    }

    /// Forgets the conditions for which `holds` returns false.
    pub(crate) fn keep(&mut self, holds: impl FnMut(&K) -> bool) {
        self.logged.retain(holds);
    }

    /// Forgets all conditions.
    pub(crate) fn clear(&mut self) {
        self.logged.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn condition_is_new_once_until_it_has_ended() {
        let mut log = LogOnce::default();
        assert!(log.is_new("full disk") && !log.is_new("full disk"));
        log.keep(|known| *known != "full disk");
        assert!(log.is_new("full disk"));
        log.clear();
        assert!(log.is_new("full disk"));
    }
}
