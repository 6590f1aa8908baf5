//! The width of the terminal that standard output is, and lines that fit into it.

use rustix::termios::tcgetwinsize;
use std::borrow::Cow;
use std::io::IsTerminal;
use unicode_width::UnicodeWidthChar;

/// Returns the columns of the terminal: `COLUMNS` if it is a number (POSIX: the width that the user prefers), else what the kernel has
/// for the terminal now (TIOCGWINSZ). None if standard output is no terminal, or one without a size, such as a serial console.
pub(crate) fn columns() -> Option<usize> {
    let stdout = std::io::stdout();
    if !stdout.is_terminal() {
        return None;
    }
    let preferred = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok());
    let size = || tcgetwinsize(stdout).ok().map(|size| size.ws_col.into());
    preferred.filter(|columns| *columns > 0).or_else(size).filter(|columns| *columns > 0)
}

/// Returns a line that takes at most `width` columns: a longer one ends in an ellipsis. Without a width, the line as it is. The line is
/// escaped text: each of its characters takes one or two columns.
pub(crate) fn shortened(line: &str, width: Option<usize>) -> Cow<'_, str> {
    let Some(width) = width else { return Cow::Borrowed(line) };
    let (mut used, mut end) = (0, 0);
    for (start, c) in line.char_indices() {
        // The ellipsis takes a column.
        if used < width {
            end = start;
        }
        used += c.width().unwrap_or(0);
        if used > width {
            return Cow::Owned(format!("{}…", line.get(..end).unwrap_or_default().trim_end()));
        }
    }
    Cow::Borrowed(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longer_line_ends_in_an_ellipsis() {
        for (line, width, expected) in [
            ("held", 4, "held"),
            ("held", 3, "he…"),
            ("held", 1, "…"),
            ("held by", 6, "held…"),
            ("仮想", 4, "仮想"),
            ("仮想", 3, "仮…"),
            ("仮想x", 4, "仮…"),
            ("a仮想", 4, "a仮…"),
            ("", 1, ""),
        ] {
            assert_eq!(shortened(line, Some(width)), expected, "{line}, {width}");
        }
        assert_eq!(shortened("held", None), "held");
    }
}
