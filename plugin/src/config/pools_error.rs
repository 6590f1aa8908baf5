//! Errors of the pools file: the line, what is wrong, and what was expected.

use serde_saphyr::{DefaultMessageFormatter, Error, MessageFormatter};
use std::fmt;

/// Limit for the length of a parser's error, in characters. The error of a text that is no list of pools can be long.
const MAX_LENGTH: usize = 200;

/// An error of the pools file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PoolsError {
    /// The line, from 1; 0 if the error is about the whole file.
    line: u64,
    text: String,
}

impl PoolsError {
    /// Returns an error about the whole file.
    pub(crate) fn of_file(text: impl Into<String>) -> Self {
        Self { line: 0, text: text.into() }
    }

    /// Returns an error about a line.
    pub(super) fn at(line: u64, text: impl Into<String>) -> Self {
        Self { line, text: text.into() }
    }

    /// Returns the error of the YAML parser, in our words where it speaks of its own types and options.
    pub(super) fn of_parser(error: &Error) -> Self {
        let line = error.location().map_or(0, |location| location.line());
        Self { line, text: describe(error).chars().take(MAX_LENGTH).collect() }
    }
}

impl fmt::Display for PoolsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "line {}: ", self.line)?;
        }
        f.write_str(&self.text)
    }
}

impl std::error::Error for PoolsError {}

/// Returns what is wrong and what was expected.
fn describe(error: &Error) -> String {
    match error {
        Error::WithSnippet { error, .. } | Error::AliasError { error, .. } => describe(error),
        Error::Eof { .. } => "the file ends here; expected `pools:` with at least one pool".to_owned(),
        Error::Unexpected { expected: "sequence start", .. } => {
            "expected a list, with `- ` before each item or all items in [ ]".to_owned()
        }
        Error::Unexpected { expected: "mapping start", .. } => {
            "expected keys with values, like `vendor: 10de`".to_owned()
        }
        Error::Unexpected { expected: "string scalar", .. }
        | Error::ExternallyTaggedEnumExpectedScalarOrMapping { .. } => {
            "expected a single value, not a list or keys".to_owned()
        }
        Error::NullIntoString { .. } => "the key has no value; expected a value, or no such key".to_owned(),
        Error::SerdeUnknownVariant { variant, expected, .. } => {
            format!("{variant:?}: expected one of {}", expected.join(", "))
        }
        Error::SerdeMissingField { field, .. } => {
            format!("missing field `{field}`; each such item needs it")
        }
        Error::DuplicateMappingKey { key: Some(key), .. } => {
            format!("{key:?} is set twice; expected each key once")
        }
        Error::MultipleDocuments { .. } => {
            "a second document begins; expected one document with all pools".to_owned()
        }
        Error::Budget { .. } => "the file nests or repeats more than a list of pools does".to_owned(),
        // Not the error's `Display`, which contains a renderer of snippets.
        other => without_place(&DefaultMessageFormatter.format_message(other)),
    }
}

/// Returns the parser's own words without the place, which [`PoolsError`] prints first.
fn without_place(text: &str) -> String {
    let text = text.lines().next().unwrap_or_default();
    let text = text.strip_prefix("error: ").unwrap_or(text);
    let text = match text.split_once(": ") {
        Some((place, rest)) if place.starts_with("line ") => rest,
        _ => text.split(" at line ").next().unwrap_or(text),
    };
    if text.starts_with("tabs disallowed") {
        return "the line begins with a tab; expected spaces".to_owned();
    }
    let mut printable = String::new();
    for character in text.chars() {
        match character.is_control() {
            true => printable.extend(character.escape_debug()),
            false => printable.push(character),
        }
    }
    printable
}
