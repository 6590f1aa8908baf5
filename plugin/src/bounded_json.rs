//! Reads JSON from a file or a socket within limits, as a stream: the text is never in memory as a whole.
//!
//! serde_json alone bounds neither the length of a text, nor the nesting of a value that is skipped, nor the number of values. A
//! file of 16 MiB can therefore take a hundred times its size.

use serde::de::{DeserializeOwned, DeserializeSeed};
use serde_json::Deserializer;
use std::fmt;
use std::io::{BufReader, Error, ErrorKind, Read};
use std::marker::PhantomData;

/// The bytes that are read at once.
const CHUNK: usize = 64 << 10;

/// How much a JSON text may have of everything.
#[derive(Clone, Copy, Debug)]
pub(crate) struct JsonLimits {
    /// Bytes of the whole text.
    pub(crate) bytes: u64,
    /// Bytes of one string, as it is written.
    pub(crate) string: usize,
    /// Arrays and objects within each other.
    pub(crate) depth: usize,
    /// Values, counted by the commas and brackets between them.
    pub(crate) values: usize,
}

/// What a JSON text has too much of.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum JsonLimit {
    /// Bytes.
    Bytes,
    /// Bytes in one string.
    String,
    /// Arrays and objects within each other.
    Depth,
    /// Values.
    Values,
}

/// Why no value could be read.
#[derive(Debug)]
pub(crate) enum JsonError {
    /// The reader failed.
    Read(Error),
    /// A limit was exceeded.
    Over(JsonLimit),
    /// The text is not JSON, or not of the expected type.
    Malformed(serde_json::Error),
}

impl fmt::Display for JsonLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bytes => "too many bytes",
            Self::String => "too long a string",
            Self::Depth => "too deep a nesting",
            Self::Values => "too many values",
        })
    }
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(error) => error.fmt(f),
            Self::Over(limit) => limit.fmt(f),
            Self::Malformed(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for JsonError {}

/// Reads one value and the end of the text.
///
/// # Errors
/// The reader failed, the text exceeds a limit, or it is not of this type.
pub(crate) fn read<T: DeserializeOwned>(from: impl Read, limits: JsonLimits) -> Result<T, JsonError> {
    read_seed(from, limits, PhantomData)
}

/// Reads one value with a seed, and the end of the text.
///
/// # Errors
/// As [`read`].
pub(crate) fn read_seed<T, S: for<'de> DeserializeSeed<'de, Value = T>>(
    from: impl Read,
    limits: JsonLimits,
    seed: S,
) -> Result<T, JsonError> {
    let mut reader = Bounded::new(from, limits);
    let chunk = usize::try_from(limits.bytes).map_or(CHUNK, |bytes| bytes.clamp(1, CHUNK));
    let mut json = Deserializer::from_reader(BufReader::with_capacity(chunk, &mut reader));
    let value = seed.deserialize(&mut json).and_then(|value| json.end().map(|()| value));
    drop(json);
    match (reader.over, value) {
        (Some(limit), _) => Err(JsonError::Over(limit)),
        (None, Err(error)) if error.is_io() => Err(JsonError::Read(error.into())),
        (None, value) => value.map_err(JsonError::Malformed),
    }
}

/// A reader of JSON that fails where the text exceeds a limit.
struct Bounded<R> {
    from: R,
    left: JsonLimits,
    limits: JsonLimits,
    inside: Inside,
    over: Option<JsonLimit>,
}

/// What the next byte is part of.
#[derive(Clone, Copy, PartialEq)]
enum Inside {
    Structure,
    String,
    Escape,
}

impl<R> Bounded<R> {
    fn new(from: R, limits: JsonLimits) -> Self {
        Self { from, left: limits, limits, inside: Inside::Structure, over: None }
    }

    /// Counts a byte. Malformed JSON is the parser's concern: only what it would accept must be counted right.
    fn count(&mut self, byte: u8) -> Result<(), JsonLimit> {
        match (self.inside, byte) {
            (Inside::Structure, b'"') => {
                self.inside = Inside::String;
                self.left.string = self.limits.string;
            }
            (Inside::Structure, b'[' | b'{') => {
                self.left.depth = self.left.depth.checked_sub(1).ok_or(JsonLimit::Depth)?;
                self.left.values = self.left.values.checked_sub(1).ok_or(JsonLimit::Values)?;
            }
            (Inside::Structure, b']' | b'}') => {
                self.left.depth = self.limits.depth.min(self.left.depth.saturating_add(1));
            }
            (Inside::Structure, b',') => {
                self.left.values = self.left.values.checked_sub(1).ok_or(JsonLimit::Values)?;
            }
            (Inside::Structure, _) => {}
            (Inside::String, b'"') => self.inside = Inside::Structure,
            (inside, _) => {
                self.left.string = self.left.string.checked_sub(1).ok_or(JsonLimit::String)?;
                let escapes = inside == Inside::String && byte == b'\\';
                self.inside = if escapes { Inside::Escape } else { Inside::String };
            }
        }
        Ok(())
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.over.is_some() {
            return Err(ErrorKind::InvalidData.into());
        }
        let length = self.from.read(buffer)?;
        let mut count = || {
            let bytes = u64::try_from(length).unwrap_or(u64::MAX);
            self.left.bytes = self.left.bytes.checked_sub(bytes).ok_or(JsonLimit::Bytes)?;
            buffer.get(..length).unwrap_or_default().iter().try_for_each(|&byte| self.count(byte))
        };
        let counted = count();
        self.over = counted.err();
        match self.over {
            Some(_) => Err(ErrorKind::InvalidData.into()),
            None => Ok(length),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    const LIMITS: JsonLimits = JsonLimits { bytes: 200, string: 10, depth: 3, values: 20 };

    fn over(text: &str) -> Option<JsonLimit> {
        match read::<Value>(text.as_bytes(), LIMITS) {
            Ok(_) => None,
            Err(JsonError::Over(limit)) => Some(limit),
            Err(error) => panic!("{text}: {error}"),
        }
    }

    #[test]
    fn each_limit_is_exact() {
        assert_eq!(over("[[[]]]"), None);
        assert_eq!(over("[[[[]]]]"), Some(JsonLimit::Depth));
        assert_eq!(over("[[[]],[[]],[[]]]"), None, "depth is given back");
        assert_eq!(over(r#""0123456789""#), None);
        assert_eq!(over(r#""0123456789a""#), Some(JsonLimit::String));
        assert_eq!(over(r#"["0123456789","0123456789"]"#), None, "each string counts for itself");
        assert_eq!(over(&format!("[{}0]", "0,".repeat(19))), None);
        assert_eq!(over(&format!("[{}0]", "0,".repeat(20))), Some(JsonLimit::Values));
        assert_eq!(over(&format!("0{}", " ".repeat(199))), None);
        assert_eq!(over(&format!("0{}", " ".repeat(200))), Some(JsonLimit::Bytes));
    }

    #[test]
    fn brackets_in_strings_do_not_count() {
        assert_eq!(over(r#""[[[[[\"[[""#), None);
        assert_eq!(over(r#"["\\",[["\\"]]]"#), None);
        assert_eq!(over(r#"["\\",[[["\\"]]]]"#), Some(JsonLimit::Depth));
    }

    #[test]
    fn rest_after_the_value_is_malformed_and_a_failed_read_is_not() {
        assert!(matches!(read::<u8>(&b"1 2"[..], LIMITS), Err(JsonError::Malformed(_))));
        struct Failing;
        impl Read for Failing {
            fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
                Err(ErrorKind::ConnectionReset.into())
            }
        }
        let failed = read::<u8>(Failing, LIMITS);
        assert!(matches!(failed, Err(JsonError::Read(error)) if error.kind() == ErrorKind::ConnectionReset));
    }

    proptest! {
        #[test]
        fn within_the_limits_nothing_changes(text: Vec<u8>) {
            let limits = JsonLimits { bytes: u64::MAX, string: usize::MAX, depth: usize::MAX, values: usize::MAX };
            let plain = serde_json::from_slice::<Value>(&text).ok();
            prop_assert_eq!(read::<Value>(&*text, limits).ok(), plain);
        }
    }
}
