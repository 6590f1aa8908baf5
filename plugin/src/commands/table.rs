//! Lays out plain text tables: each column is as wide as its widest cell, up to a limit. On a terminal, a table that is too wide
//! loses the columns that matter least, and then the end of its last column.

use crate::commands::escape::escaped;
use crate::commands::terminal::shortened;
use std::borrow::Cow;
use unicode_width::UnicodeWidthStr;

/// The widest column, in columns of the terminal. A longer cell sticks out of its own row and does not widen the others.
const MAX_WIDTH: usize = 64;

/// The columns of a table.
pub(crate) struct Table<const N: usize> {
    /// The headings.
    pub(crate) heading: [&'static str; N],
    /// The columns that a narrow terminal does not show, in the order in which they are left out. Not the last one.
    pub(crate) optional: &'static [usize],
    /// Columns are left out until the last one has this width, or what its cells need.
    pub(crate) last: usize,
}

impl<const N: usize> Table<N> {
    /// Returns the headings and the rows below them, two spaces between columns and no spaces at the end of a line. Cells are escaped
    /// ([`escaped`]). No line is wider than `width`; without a width nothing is left out.
    pub(crate) fn layout(&self, rows: &[[String; N]], width: Option<usize>) -> String {
        let cells = self.heading.iter().map(|word| Cow::Borrowed(*word));
        let cells = cells.chain(rows.as_flattened().iter().map(|cell| escaped(cell)));
        layout(&cells.collect::<Vec<_>>(), N, width.map(|width| (width, self.optional, self.last)))
    }
}

/// Lays out cells, row by row. Not generic, because the program's size is limited.
fn layout(cells: &[Cow<'_, str>], columns: usize, limit: Option<(usize, &[usize], usize)>) -> String {
    let mut widths = vec![0; columns];
    for row in cells.chunks(columns) {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.width().min(MAX_WIDTH));
        }
    }
    let mut left_out = vec![false; columns];
    if let Some((limit, optional, last)) = limit {
        let mut needed: usize = widths.iter().map(|width| width + 2).sum::<usize>() - 2;
        needed -= widths.last().map_or(0, |natural| natural.saturating_sub(last));
        for &column in optional {
            if let Some((width, flag)) = widths.get(column).zip(left_out.get_mut(column))
                && needed > limit
            {
                needed -= width + 2;
                *flag = true;
            }
        }
    }
    let mut text = String::new();
    let mut line = String::new();
    for row in cells.chunks(columns) {
        line.clear();
        // Pads by hand: a width in a format string above 65535 panics.
        let mut padding = 0;
        for ((cell, width), _) in row.iter().zip(&widths).zip(&left_out).filter(|(_, left_out)| !**left_out) {
            if !cell.is_empty() {
                line.extend(std::iter::repeat_n(' ', padding));
                line.push_str(cell);
                padding = 0;
            }
            padding += width.saturating_sub(cell.width()) + 2;
        }
        text.push_str(&shortened(&line, limit.map(|(width, ..)| width)));
        text.push('\n');
    }
    let names: Vec<&str> =
        cells.iter().zip(&left_out).filter(|(_, left_out)| **left_out).map(|(cell, _)| &**cell).collect();
    if let Some((width, ..)) = limit
        && !names.is_empty()
    {
        let hint = format!("--wide also shows {}.", names.join(", "));
        text.push_str(&shortened(&hint, Some(width)));
        text.push('\n');
    }
    text
}

/// Returns the text of a cell; `-` for a missing value.
pub(crate) fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows<const N: usize>(cells: &[[&str; N]]) -> Vec<[String; N]> {
        cells.iter().map(|row| row.map(str::to_owned)).collect()
    }

    fn plain<const N: usize>(heading: [&'static str; N], cells: &[[&str; N]]) -> String {
        Table { heading, optional: &[], last: 0 }.layout(&rows(cells), None)
    }

    #[test]
    fn columns_are_aligned() {
        let text = plain(["X", "Y", "Z"], &[["a", "bb", "c"], ["ccc", "", "d"], ["d", "e", ""]]);
        assert_eq!(text, "X    Y   Z\na    bb  c\nccc      d\nd    e\n");
    }

    #[test]
    fn wide_and_escaped_characters_count_as_printed() {
        let text = plain(["X", "Y"], &[["仮想", "a"], ["a\u{1b}b", "b"], ["e\u{200b}", "c"]]);
        let expected = ["X          Y", "仮想       a", r"a\u{1b}b   b", r"e\u{200b}  c", ""].join("\n");
        assert_eq!(text, expected);
    }

    #[test]
    fn very_long_cell_widens_only_its_own_row() {
        let long = "x".repeat(100_000);
        let text = plain(["X", "Y"], &[[&long, "1"], ["short", "2"]]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0].len(), 64 + 2 + 1);
        assert_eq!(lines[1].len(), 100_000 + 2 + 1);
        assert_eq!(lines[2].len(), 64 + 2 + 1);
    }

    #[test]
    fn narrow_table_leaves_out_columns_and_shortens_the_last() {
        let table = Table { heading: ["ID", "B", "C", "NOTE"], optional: &[2, 1], last: 6 };
        let rows = rows(&[["0", "bbbb", "cccc", "held by 7"], ["1", "", "", ""]]);
        let text = |width| table.layout(&rows, Some(width));
        // 2 + 2 + 4 + 2 + 4 + 2 + 9
        assert_eq!(text(25), table.layout(&rows, None));
        assert_eq!(text(24), "ID  B     C     NOTE\n0   bbbb  cccc  held by…\n1\n");
        assert_eq!(text(22), "ID  B     C     NOTE\n0   bbbb  cccc  held…\n1\n");
        assert_eq!(text(21), "ID  B     NOTE\n0   bbbb  held by 7\n1\n--wide also shows C.\n");
        assert_eq!(text(15), "ID  NOTE\n0   held by 7\n1\n--wide also sh…\n");
        assert_eq!(text(6), "ID  N…\n0   h…\n1\n--wid…\n");
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        let table = Table { heading: ["仮想", "B", "C"], optional: &[1], last: 4 };
        let rows = rows(&[["仮想仮想", "b\u{1b}", "größe 仮想 🦀 held"], ["", "", &"仮".repeat(70)]]);
        for width in 1..200 {
            for line in table.layout(&rows, Some(width)).lines() {
                assert!(line.width() <= width, "{width}: {line}");
            }
        }
    }
}
