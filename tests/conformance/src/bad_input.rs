//! The bad inputs that every language gets, and what each must report.
//!
//! A program of a language gets `ROOT errors CALL ARGUMENT CALL ARGUMENT...` and prints one object for each call: the type of
//! the error, its fields, or the result of a call that succeeded.

mod arguments;
mod failures;

/// One bad input.
pub(crate) struct BadInput {
    pub(crate) name: &'static str,
    /// What a program calls: `open`, `device` and so on.
    pub(crate) call: &'static str,
    /// The call's argument. `ROOT` at its start is the node's directory.
    pub(crate) argument: &'static [u8],
    pub(crate) expected: Expected,
}

/// What the call reports.
pub(crate) enum Expected {
    /// A failure of the system, with the same fields in every language.
    Alike(Failure),
    /// A result in every language but C, where it is a failure.
    ExceptC(&'static str, Failure),
    /// A result, the same in every language.
    Gives(&'static str),
    /// The type and the text of each language: Rust, C, Go, Python. Empty if the language has no such input.
    Each([(&'static str, &'static str); 4]),
}

/// A failure of the system.
#[derive(Clone, Copy)]
pub(crate) struct Failure {
    pub(crate) kind: &'static str,
    pub(crate) errno: i32,
    pub(crate) device: Option<&'static str>,
    pub(crate) group: Option<u32>,
    /// Bytes that are not printable ASCII are shown as `%FF`. `ROOT` is the node's directory.
    pub(crate) path: Option<&'static str>,
    pub(crate) text: &'static str,
}

impl Failure {
    pub(crate) const NONE: Self =
        Self { kind: "", errno: 0, device: None, group: None, path: None, text: "" };
}

const fn bad(
    name: &'static str,
    call: &'static str,
    argument: &'static [u8],
    expected: Expected,
) -> BadInput {
    BadInput { name, call, argument, expected }
}

/// Returns all bad inputs: those that the system reports, and those that are refused before.
pub(crate) fn all() -> Vec<&'static BadInput> {
    failures::ALL.iter().chain(arguments::ALL).collect()
}
