//! Lays out plain text tables: each column is as wide as its widest cell, up to a limit.

use crate::commands::escape::escaped;
use std::borrow::Cow;
use unicode_width::UnicodeWidthStr;

/// The widest column, in columns of the terminal. A longer cell sticks out of its own row and does not widen the others.
const MAX_WIDTH: usize = 64;

/// Returns a heading and the rows below it, two spaces between columns and no spaces at the end of a line. Cells are escaped
/// ([`escaped`]).
pub(crate) fn layout<const N: usize>(heading: [&str; N], rows: &[[String; N]]) -> String {
    let rows: Vec<[Cow<'_, str>; N]> =
        rows.iter().map(|row| row.each_ref().map(|cell| escaped(cell))).collect();
    let mut widths = heading.map(str::width);
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.width().min(MAX_WIDTH));
        }
    }
    let mut text = String::new();
    line(&mut text, heading.into_iter(), widths);
    for row in &rows {
        line(&mut text, row.iter().map(|cell| &**cell), widths);
    }
    text
}

/// Appends one line. Pads by hand: a width in a format string above 65535 panics.
fn line<'a, const N: usize>(text: &mut String, cells: impl Iterator<Item = &'a str>, widths: [usize; N]) {
    let mut padding = 0;
    for (cell, width) in cells.zip(widths) {
        if !cell.is_empty() {
            text.extend(std::iter::repeat_n(' ', padding));
            text.push_str(cell);
            padding = 0;
        }
        let used = if cell.is_empty() { 0 } else { cell.width() };
        padding += width.saturating_sub(used) + 2;
    }
    text.push('\n');
}

/// Returns the text of a cell; `-` for a missing value.
pub(crate) fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::layout;

    fn rows<const N: usize>(cells: &[[&str; N]]) -> Vec<[String; N]> {
        cells.iter().map(|row| row.map(str::to_owned)).collect()
    }

    #[test]
    fn columns_are_aligned() {
        let rows = rows(&[["a", "bb", "c"], ["ccc", "", "d"], ["d", "e", ""]]);
        assert_eq!(layout(["X", "Y", "Z"], &rows), "X    Y   Z\na    bb  c\nccc      d\nd    e\n");
    }

    #[test]
    fn wide_and_escaped_characters_count_as_printed() {
        let rows = rows(&[["仮想", "a"], ["a\u{1b}b", "b"], ["e\u{200b}", "c"]]);
        let expected = ["X          Y", "仮想       a", r"a\u{1b}b   b", r"e\u{200b}  c", ""].join("\n");
        assert_eq!(layout(["X", "Y"], &rows), expected);
    }

    #[test]
    fn very_long_cell_widens_only_its_own_row() {
        let long = "x".repeat(100_000);
        let text = layout(["X", "Y"], &rows(&[[&long, "1"], ["short", "2"]]));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0].len(), 64 + 2 + 1);
        assert_eq!(lines[1].len(), 100_000 + 2 + 1);
        assert_eq!(lines[2].len(), 64 + 2 + 1);
    }
}
