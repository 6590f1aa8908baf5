//! Texts from the caller, and texts in records: NUL-terminated, cut where they do not fit.

use super::status::Failure;
use std::ffi::{CStr, c_char};
use std::fmt::{Display, Write};

/// A text of a record while it is written.
struct Cut<'a> {
    bytes: &'a mut [c_char],
    len: usize,
}

impl Write for Cut<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        for character in text.chars() {
            let mut utf8 = [0; 4];
            let utf8 = character.encode_utf8(&mut utf8).as_bytes();
            // A character is written whole or not at all, and the last byte stays 0.
            let end = self.len + utf8.len();
            if end >= self.bytes.len() {
                return Err(std::fmt::Error);
            }
            let room = self.bytes.get_mut(self.len..end).unwrap_or_default();
            for (slot, &byte) in room.iter_mut().zip(utf8) {
                *slot = c_char::from_ne_bytes([byte]);
            }
            self.len = end;
        }
        Ok(())
    }
}

/// `value` as it is shown, in a record's field.
pub(super) fn shown<const N: usize>(value: &dyn Display) -> [c_char; N] {
    let mut bytes = [0; N];
    // The only error is that it was cut.
    let _ = write!(Cut { bytes: &mut bytes, len: 0 }, "{value}");
    bytes
}

/// The same; "" for none.
pub(super) fn shown_or_empty<const N: usize>(value: Option<impl Display>) -> [c_char; N] {
    value.map_or([0; N], |value| shown(&value))
}

/// The caller's text, none for NULL.
///
/// # Safety
/// `text` is NULL, or NUL-terminated and unchanged for as long as the result is used.
pub(super) unsafe fn optional<'a>(text: *const c_char) -> Option<&'a [u8]> {
    if text.is_null() {
        return None;
    }
    // SAFETY: not NULL, so by this function's contract NUL-terminated and unchanged.
    Some(unsafe { CStr::from_ptr(text) }.to_bytes())
}

/// The caller's text.
///
/// # Safety
/// As [`optional`].
pub(super) unsafe fn required<'a>(text: *const c_char, name: &'static str) -> Result<&'a [u8], Failure> {
    // SAFETY: this function's contract is the other's.
    unsafe { optional(text) }.ok_or(Failure::Argument(name, "is NULL"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn back(bytes: &[c_char]) -> String {
        let bytes: Vec<u8> = bytes.iter().map(|byte| byte.to_ne_bytes()[0]).collect();
        CStr::from_bytes_until_nul(&bytes).unwrap().to_str().unwrap().to_owned()
    }

    #[test]
    fn what_does_not_fit_is_cut_before_the_final_nul() {
        assert_eq!(back(&shown::<8>(&"vfio-pc")), "vfio-pc");
        assert_eq!(back(&shown::<8>(&"vfio-pci")), "vfio-pc");
        assert_eq!(back(&shown::<8>(&"123456ä")), "123456", "no half character");
        assert_eq!(back(&shown_or_empty::<8>(None::<u32>)), "");
    }
}
