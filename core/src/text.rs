//! Stores short texts inline, so that a record with texts is `Copy` and needs no heap.

use std::fmt;

/// A text of at most `N` bytes of printable ASCII. `N` is below 256.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Text<const N: usize> {
    bytes: [u8; N],
    len: u8,
}

/// A driver's name. The longest VFIO driver name in the kernel has about 25 characters.
pub type DriverName = Text<32>;

impl<const N: usize> Text<N> {
    /// The empty text.
    pub const EMPTY: Self = Self { bytes: [0; N], len: 0 };

    /// Copies `bytes`. Returns none if they do not fit or are not printable ASCII. The sysfs names
    /// and attributes that this crate reads are always printable ASCII.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Self> {
        if !bytes.iter().all(|byte| (0x20..0x7f).contains(byte)) {
            return None;
        }
        let mut text = Self::EMPTY;
        text.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        text.len = u8::try_from(bytes.len()).ok()?;
        Some(text)
    }

    /// Copies the bytes that fit and replaces each byte that is not printable ASCII by `?`. Used
    /// for names that other processes choose.
    #[must_use]
    pub fn lossy(bytes: &[u8]) -> Self {
        let mut text = Self::EMPTY;
        for (slot, &byte) in text.bytes.iter_mut().zip(bytes).take(usize::from(u8::MAX)) {
            *slot = if (0x20..0x7f).contains(&byte) { byte } else { b'?' };
            text.len += 1;
        }
        text
    }

    /// Returns the text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Both constructors store printable ASCII only.
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }

    /// Returns the bytes of the text.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }

    /// Returns true for the empty text.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl<const N: usize> fmt::Display for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl<const N: usize> fmt::Debug for Text<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_short_printable_text_is_accepted() {
        assert_eq!(Text::<8>::new(b"vfio-pci").unwrap().as_str(), "vfio-pci");
        assert_eq!(Text::<8>::new(b"vfio-pci2"), None);
        assert_eq!(Text::<8>::new(b"a\nb"), None);
        assert!(Text::<8>::new(b"").unwrap().is_empty());
    }

    #[test]
    fn lossy_cuts_and_replaces_instead_of_failing() {
        assert_eq!(Text::<4>::lossy(b"\xffq\0emu").as_str(), "?q?e");
        assert_eq!(Text::<255>::lossy(&[b'x'; 300]).as_str().len(), 255);
    }
}
