//! Short texts of bounded length, held inline so that a record that has them is `Copy` and needs no heap.

use std::fmt;

/// A text of at most `N` bytes (`N` below 256), printable ASCII only.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Text<const N: usize> {
    bytes: [u8; N],
    len: u8,
}

/// A driver's name. The kernel's longest VFIO driver names have some 25 characters.
pub type DriverName = Text<32>;

impl<const N: usize> Text<N> {
    /// The empty text.
    pub const EMPTY: Self = Self { bytes: [0; N], len: 0 };

    /// Takes `bytes` if they fit and are printable ASCII; sysfs names and attributes of interest always are.
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

    /// Takes what fits and puts `?` for every byte that is not printable ASCII: for names that other processes choose.
    #[must_use]
    pub fn lossy(bytes: &[u8]) -> Self {
        let mut text = Self::EMPTY;
        for (slot, &byte) in text.bytes.iter_mut().zip(bytes).take(usize::from(u8::MAX)) {
            *slot = if (0x20..0x7f).contains(&byte) { byte } else { b'?' };
            text.len += 1;
        }
        text
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Both constructors admit printable ASCII only.
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }

    /// The text's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.len)).unwrap_or_default()
    }

    /// Whether there is nothing in it.
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
    fn holds_what_fits_and_is_printable() {
        assert_eq!(Text::<8>::new(b"vfio-pci").unwrap().as_str(), "vfio-pci");
        assert_eq!(Text::<8>::new(b"vfio-pci2"), None);
        assert_eq!(Text::<8>::new(b"a\nb"), None);
        assert!(Text::<8>::new(b"").unwrap().is_empty());
    }

    #[test]
    fn lossy_never_fails() {
        assert_eq!(Text::<4>::lossy(b"\xffq\0emu").as_str(), "?q?e");
        assert_eq!(Text::<255>::lossy(&[b'x'; 300]).as_str().len(), 255);
    }
}
