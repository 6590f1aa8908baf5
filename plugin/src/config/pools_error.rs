//! What is wrong with the pools' file, where, and what was expected: also where the parser says it in words of its own.

use serde_saphyr::Error;
use std::fmt;

/// Of a text that is no list of pools, the beginning is enough.
const LONGEST: usize = 200;

/// What is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PoolsError {
    /// 1 is the first line; 0 where it is about the whole file.
    line: u64,
    text: String,
}

impl PoolsError {
    /// About the whole file.
    pub(super) fn whole(text: &impl ToString) -> Self {
        Self { line: 0, text: text.to_string() }
    }

    /// About a line.
    pub(super) fn at(line: u64, text: impl Into<String>) -> Self {
        Self { line, text: text.into() }
    }

    /// The parser's.
    pub(super) fn of_parser(error: &Error) -> Self {
        let line = error.location().map_or(0, |location| location.line());
        Self { line, text: in_words(error).chars().take(LONGEST).collect() }
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

/// Says what was expected where the parser speaks of its own types and options.
fn in_words(error: &Error) -> String {
    match error {
        Error::WithSnippet { error, .. } | Error::AliasError { error, .. } => in_words(error),
        Error::Eof { .. } => "the file ends: expected `pools:` with at least one pool".to_owned(),
        Error::Unexpected { expected: "sequence start", .. } => {
            "expected a list: a `- ` before each item, or all of them in [ ]".to_owned()
        }
        Error::Unexpected { expected: "mapping start", .. } => {
            "expected keys with their values, like `vendor: 10de`".to_owned()
        }
        Error::Unexpected { expected: "string scalar", .. }
        | Error::ExternallyTaggedEnumExpectedScalarOrMapping { .. } => {
            "expected one value, neither a list nor keys".to_owned()
        }
        Error::NullIntoString { .. } => {
            "there is no value: expected one, or the key left out, too".to_owned()
        }
        Error::SerdeUnknownVariant { variant, expected, .. } => {
            format!("{variant:?}: expected one of {}", expected.join(", "))
        }
        Error::SerdeMissingField { field, .. } => {
            format!("missing field `{field}`: expected in each such item")
        }
        Error::DuplicateMappingKey { key: Some(key), .. } => {
            format!("{key:?} is there twice: expected each key once")
        }
        Error::MultipleDocuments { .. } => "another document begins: expected one, with all pools".to_owned(),
        Error::Budget { .. } => "expected a list of pools, which nests less and repeats less".to_owned(),
        other => without_place(&other.to_string()),
    }
}

/// The parser's own words, without the place that we put before them.
fn without_place(text: &str) -> String {
    let text = text.lines().next().unwrap_or_default();
    let text = text.strip_prefix("error: ").unwrap_or(text);
    let text = match text.split_once(": ") {
        Some((place, rest)) if place.starts_with("line ") => rest,
        _ => text.split(" at line ").next().unwrap_or(text),
    };
    if text.starts_with("tabs disallowed") {
        return "a tab before the text: expected spaces".to_owned();
    }
    text.to_owned()
}
