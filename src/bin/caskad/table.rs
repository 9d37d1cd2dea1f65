//! [`Table`]: rows in aligned columns.

use crate::output::plain;

/// Where a column's text stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// Rows under a header, each column as wide as its widest cell.
#[derive(Debug)]
pub(crate) struct Table {
    columns: Vec<Align>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A header written with `>` before a name puts that column to the right.
    pub(crate) fn new(header: &[&str]) -> Table {
        let align = |name: &&str| if name.starts_with('>') { Align::Right } else { Align::Left };
        let columns = header.iter().map(align).collect();
        let names = header.iter().map(|name| name.trim_start_matches('>').to_owned()).collect();
        Table { columns, rows: vec![names] }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| plain(&cell).into_owned()).collect());
    }

    /// The table as text, each line after `indent`.
    pub(crate) fn render(&self, indent: &str) -> String {
        let width = |cell: &String| cell.chars().count();
        let cells = |column: usize| self.rows.iter().filter_map(move |row| row.get(column));
        let widths: Vec<usize> = (0..self.columns.len()).map(|c| cells(c).map(width).max().unwrap_or(0)).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = indent.to_owned();
            for ((cell, align), wide) in row.iter().zip(&self.columns).zip(&widths) {
                let padding = " ".repeat(wide - width(cell));
                match align {
                    Align::Left => line.extend([cell, &padding, "  "]),
                    Align::Right => line.extend([&padding, cell, "  "]),
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// `name  value` lines with the values under one another.
pub(crate) fn fields(indent: &str, fields: &[(&str, String)]) -> String {
    let wide = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let line = |(name, value): &(&str, String)| format!("{indent}{name:wide$}  {}\n", plain(value));
    fields.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["KEY", ">SIZE", "NOTE"]);
        table.row(["a".to_owned(), "10".to_owned(), "x".to_owned()]);
        table.row(["modèle".to_owned(), "1".to_owned(), String::new()]);
        assert_eq!(table.render(" "), " KEY     SIZE  NOTE\n a         10  x\n modèle     1\n");
        assert_eq!(fields("", &[("a", "1".to_owned()), ("bb", "2".to_owned())]), "a   1\nbb  2\n");
    }
}
