//! Reads texts of the caller and writes texts into records: NUL-terminated, truncated to the field.

use super::status::Failure;
use std::ffi::{CStr, c_char};
use std::fmt::{Display, Write};
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use vfio_probe::Error;

/// Writes a text into a record's field and stops where the field ends.
struct Truncated<'a> {
    bytes: &'a mut [MaybeUninit<c_char>],
    len: usize,
}

impl<'a> Truncated<'a> {
    fn new(bytes: &'a mut [MaybeUninit<c_char>]) -> Self {
        Self { bytes, len: 0 }
    }

    /// Appends bytes completely or not at all: the last byte stays for the NUL.
    fn push(&mut self, bytes: &[u8]) -> std::fmt::Result {
        let end = self.len + bytes.len();
        if end >= self.bytes.len() {
            return Err(std::fmt::Error);
        }
        let room = self.bytes.get_mut(self.len..end).unwrap_or_default();
        for (slot, &byte) in room.iter_mut().zip(bytes) {
            slot.write(c_char::from_ne_bytes([byte]));
        }
        self.len = end;
        Ok(())
    }

    fn terminate(self) {
        if let Some(end) = self.bytes.get_mut(self.len) {
            end.write(0);
        }
    }
}

impl Write for Truncated<'_> {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        // A character is written completely or not at all.
        text.chars().try_for_each(|character| self.push(character.encode_utf8(&mut [0; 4]).as_bytes()))
    }
}

/// Formats `value` into a field of the caller, up to the NUL.
///
/// # Safety
/// The field is writable.
pub(super) unsafe fn write<const N: usize>(field: *mut [c_char; N], value: &dyn Display) {
    // SAFETY: this function's contract; MaybeUninit has the layout of its content.
    let mut text = Truncated::new(unsafe { &mut *field.cast::<[MaybeUninit<c_char>; N]>() });
    // The only error is that the text was truncated.
    let _ = write!(text, "{value}");
    text.terminate();
}

/// Copies bytes without a NUL into a field of the caller.
///
/// # Safety
/// The field is writable.
pub(super) unsafe fn write_bytes<const N: usize>(field: *mut [c_char; N], bytes: &[u8]) {
    // SAFETY: as in `write`.
    let mut text = Truncated::new(unsafe { &mut *field.cast::<[MaybeUninit<c_char>; N]>() });
    // Each byte by itself, so that what does not fit is cut off.
    let _ = bytes.iter().try_for_each(|byte| text.push(std::slice::from_ref(byte)));
    text.terminate();
}

/// Formats `value` into a record's field.
pub(super) fn shown<const N: usize>(value: &dyn Display) -> [c_char; N] {
    let mut bytes = [0; N];
    // SAFETY: a local array.
    unsafe { write(&raw mut bytes, value) };
    bytes
}

/// Formats `value` into a record's field; "" for `None`.
pub(super) fn shown_or_empty<const N: usize>(value: Option<impl Display>) -> [c_char; N] {
    value.map_or([0; N], |value| shown(&value))
}

/// Returns the path of an error for a record's field; "" for none.
pub(super) fn path<const N: usize>(error: &Error) -> [c_char; N] {
    let mut bytes = [0; N];
    if let Some(path) = error.path() {
        // SAFETY: a local array.
        unsafe { write_bytes(&raw mut bytes, path.as_os_str().as_bytes()) };
    }
    bytes
}

/// Returns bytes of the caller as a text of one line: control characters are escaped, and bytes
/// that are not UTF-8 become U+FFFD.
pub(super) fn escaped(bytes: &[u8]) -> String {
    let mut text = String::new();
    for character in String::from_utf8_lossy(bytes).chars() {
        if character.is_control() {
            text.extend(character.escape_default());
        } else {
            text.push(character);
        }
    }
    text
}

/// Returns the caller's text, or `None` for NULL.
///
/// # Safety
/// `text` is NULL, or NUL-terminated and unchanged while the result is in use.
pub(super) unsafe fn optional<'a>(text: *const c_char) -> Option<&'a [u8]> {
    if text.is_null() {
        return None;
    }
    // SAFETY: not NULL, so by this function's contract NUL-terminated and unchanged.
    Some(unsafe { CStr::from_ptr(text) }.to_bytes())
}

/// Returns the caller's text; fails if it is NULL.
///
/// # Safety
/// The same as for [`optional`].
pub(super) unsafe fn required<'a>(text: *const c_char, name: &'static str) -> Result<&'a [u8], Failure> {
    // SAFETY: both functions have the same contract.
    unsafe { optional(text) }.ok_or(Failure::Argument(name, "must not be NULL"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn back(bytes: &[c_char]) -> String {
        let bytes: Vec<u8> = bytes.iter().map(|byte| byte.to_ne_bytes()[0]).collect();
        CStr::from_bytes_until_nul(&bytes).unwrap().to_str().unwrap().to_owned()
    }

    #[test]
    fn long_text_is_truncated_before_the_final_nul() {
        assert_eq!(back(&shown::<8>(&"vfio-pc")), "vfio-pc");
        assert_eq!(back(&shown::<8>(&"vfio-pci")), "vfio-pc");
        assert_eq!(back(&shown::<8>(&"123456ä")), "123456", "no half character");
        assert_eq!(back(&shown_or_empty::<8>(None::<u32>)), "");
        let mut bytes = [0x55; 4];
        // SAFETY: a local array.
        unsafe { write_bytes(&raw mut bytes, b"12345") };
        assert_eq!(back(&bytes), "123");
    }
}
