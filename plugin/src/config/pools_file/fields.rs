//! Reads the known keys of a mapping.

use super::yaml::{Keys, Node};
use crate::config::pools_error::{PoolsError, excerpt};

/// A mapping whose keys are all known.
pub(super) struct Fields<'a> {
    node: &'a Node,
    keys: &'a Keys,
}

impl<'a> Fields<'a> {
    /// Takes a mapping with some of these keys.
    ///
    /// # Errors
    /// It is no mapping, or has another key.
    pub(super) fn of(node: &'a Node, known: &[&str]) -> Result<Self, PoolsError> {
        let keys = node.keys()?;
        // In the order of the file.
        let unknown = keys.iter().filter(|(name, _)| !known.contains(&name.as_ref()));
        match unknown.min_by_key(|(_, (line, _))| *line) {
            Some((name, (line, _))) => {
                let (name, known) = (excerpt(name), known.join(", "));
                let text = format!("unknown field `{}`, expected one of {known}", name.trim_matches('"'));
                Err(PoolsError::at(*line, text))
            }
            None => Ok(Self { node, keys }),
        }
    }

    /// Returns the value of a key; none if the mapping does not have it.
    pub(super) fn get(&self, name: &str) -> Option<&'a Node> {
        self.keys.get(name).map(|(_, value)| value.as_ref())
    }

    /// Returns the value of a key.
    ///
    /// # Errors
    /// The mapping does not have it.
    pub(super) fn required(&self, name: &str) -> Result<&'a Node, PoolsError> {
        self.get(name)
            .ok_or_else(|| self.node.error(format!("missing field `{name}`; each such item needs it")))
    }

    /// Parses the text of a key; `expected` is for the error. Returns none if the mapping does not have the key.
    ///
    /// # Errors
    /// The value is no text, or `parse` refuses it.
    pub(super) fn parsed<T>(
        &self,
        name: &str,
        parse: impl Fn(&str) -> Option<T>,
        expected: &str,
    ) -> Result<Option<T>, PoolsError> {
        let Some(node) = self.get(name) else { return Ok(None) };
        let text = node.text()?;
        match parse(text) {
            Some(value) => Ok(Some(value)),
            None => Err(node.error(format!("{}: expected {expected}", excerpt(text)))),
        }
    }

    /// Reads one of these values by its word. Returns none if the mapping does not have the key.
    ///
    /// # Errors
    /// The value is no text, or another word.
    pub(super) fn word<T: Copy, const N: usize>(
        &self,
        name: &str,
        values: [T; N],
        word: fn(T) -> &'static str,
    ) -> Result<Option<T>, PoolsError> {
        let parse = |text: &str| values.into_iter().find(|value| word(*value) == text);
        self.parsed(name, parse, &format!("one of {}", values.map(word).join(", ")))
    }
}
