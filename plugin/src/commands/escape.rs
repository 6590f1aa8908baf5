//! Escapes what a terminal would obey or hide: control characters, escape sequences, bidirectional and zero-width characters.
//!
//! A process chooses its command name and an API server's pods their names. Without escapes such a text could move the cursor,
//! hide a line or imitate another one.

use std::borrow::Cow;

/// Returns the text with each such character as `\n`, `\r`, `\t` or `\u{1b}`. Text for one line: a line break is escaped too.
/// Backslashes stay as they are; JSON has the true text.
pub(crate) fn escaped(text: &str) -> Cow<'_, str> {
    if text.chars().all(is_plain) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_plain(c) {
            safe.push(c);
        } else {
            safe.extend(c.escape_debug());
        }
    }
    Cow::Owned(safe)
}

/// Returns whether a terminal prints the character as one visible character of its own. std escapes all others: the categories
/// Cc, Cf, Cn, Co, Cs, Zl, Zp and Zs except the space, and characters that join the one before them (Grapheme_Extend).
fn is_plain(c: char) -> bool {
    c == ' ' || c.is_ascii_graphic() || (!c.is_ascii() && c.escape_debug().len() == 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_a_terminal_obeys_or_hides_is_escaped() {
        for (text, expected) in [
            ("vm-1", "vm-1"),
            ("a\u{1b}[2Jb", "a\\u{1b}[2Jb"),
            ("a\nb\tc\rd\0", "a\\nb\\tc\\rd\\0"),
            ("\u{7f}\u{9b}31m\u{85}", "\\u{7f}\\u{9b}31m\\u{85}"),
            // Right-to-left override and isolates, marks, the Arabic letter mark.
            (
                "\u{202e}\u{2066}\u{2069}\u{200e}\u{200f}\u{61c}",
                "\\u{202e}\\u{2066}\\u{2069}\\u{200e}\\u{200f}\\u{61c}",
            ),
            // Zero width: space, joiners, word joiner, byte order mark, soft hyphen, tags, variation selector, accent.
            (
                "\u{200b}\u{200c}\u{200d}\u{2060}\u{feff}\u{ad}",
                "\\u{200b}\\u{200c}\\u{200d}\\u{2060}\\u{feff}\\u{ad}",
            ),
            ("\u{e0041}\u{fe0f}e\u{301}", "\\u{e0041}\\u{fe0f}e\\u{301}"),
            ("\u{2028}\u{2029}\u{a0}\u{3000}", "\\u{2028}\\u{2029}\\u{a0}\\u{3000}"),
            (r#"C:\x "it's""#, r#"C:\x "it's""#),
            ("größe 仮想 🦀", "größe 仮想 🦀"),
        ] {
            assert_eq!(escaped(text), expected, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn result_is_one_line_without_control_characters(text: String) {
            let safe = escaped(&text);
            prop_assert!(!safe.chars().any(char::is_control), "{safe:?}");
            prop_assert_eq!(escaped(&safe), &*safe, "escaping again changes nothing");
        }
    }
}
