//! Tables for people.

use super::shown::within;

/// Aligns rows under their heads. The last column is not padded. Whatever a cell's text is, it stays in its row.
pub(crate) fn table(heads: &[&str], rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| within(cell)).collect()).collect();
    let mut widths: Vec<usize> = heads.iter().map(|head| head.chars().count()).collect();
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let heads: Vec<String> = heads.iter().map(|head| (*head).to_owned()).collect();
    for row in std::iter::once(&heads).chain(&rows) {
        let last = row.len().saturating_sub(1);
        for (i, (cell, width)) in row.iter().zip(&widths).enumerate() {
            text.push_str(cell);
            if i < last {
                text.extend(std::iter::repeat_n(' ', width - cell.chars().count() + 2));
            }
        }
        text.push('\n');
    }
    text
}

/// The first characters of a hash: enough to tell contracts apart.
pub(crate) fn short(hash: &str) -> String {
    hash.chars().take(8).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["ä".into(), "1".into()], vec!["long".into(), "2".into()]];
        assert_eq!(table(&["a", "b"], &rows), "a     b\nä     1\nlong  2\n");
    }
    #[test]
    fn no_cell_makes_a_row_of_its_own() {
        let rows = [vec!["a\nenforced".into(), "\u{1b}[1A\u{202e}".into()]];
        let text = table(&["x", "y"], &rows);
        assert_eq!(text, "x                y\na\\u000aenforced  \\u001b[1A\\u202e\n");
    }
}
