//! Tables as people know them from `kubectl`: no lines, columns that line up, the last one ragged.
//!
//! Every inspection command fills a [`Table`] and hands it to `output`. Invariant: what comes from outside
//! (names of processes, reasons out of files) cannot carry control characters to the terminal.

use std::fmt::Write as _;

use unicode_width::UnicodeWidthStr;

/// How much a table shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Detail {
    /// What fits.
    Usual,
    /// Everything.
    Wide,
}

/// Whether a table may be coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Colour {
    /// It goes to a terminal.
    On,
    /// It goes elsewhere, or its reader does not want any.
    Off,
}

/// Rows under headings.
#[derive(Debug)]
pub(super) struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<Cell>>,
}

/// A heading and how its cells are placed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    heading: &'static str,
    min_width: usize,
    align: Align,
    when_empty: WhenEmpty,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Align {
    Left,
    Right,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WhenEmpty {
    Keep,
    Drop,
}

/// A cell's text and what it means.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    text: String,
    tone: Tone,
}

/// What a cell means, shown as a colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    /// Nothing special.
    Plain,
    /// As it should be.
    Good,
    /// Needs a look.
    Doubtful,
    /// Wrong.
    Bad,
}

const GAP: &str = "   ";
const NOTHING: &str = "-";

impl Table {
    /// An empty table.
    pub(super) fn new(columns: impl IntoIterator<Item = Column>) -> Self {
        Self {
            columns: columns.into_iter().collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row with one cell for each column.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        let row: Vec<Cell> = cells.into_iter().collect();
        debug_assert_eq!(row.len(), self.columns.len(), "a cell for each column");
        self.rows.push(row);
    }

    /// The whole table as lines.
    pub(super) fn render(&self, colour: Colour) -> String {
        let shown: Vec<usize> = (0..self.columns.len())
            .filter(|&column| self.is_shown(column))
            .collect();
        let width = |&column: &usize| {
            let cells = self.rows.iter().map(|row| row[column].text.width());
            let own = &self.columns[column];
            cells
                .chain([own.heading.width(), own.min_width])
                .max()
                .unwrap_or_default()
        };
        let widths: Vec<usize> = shown.iter().map(width).collect();
        let mut out = String::new();
        let headings: Vec<Cell> = self
            .columns
            .iter()
            .map(|column| Cell::from(column.heading))
            .collect();
        for row in std::iter::once(&headings).chain(&self.rows) {
            self.line(&mut out, row, &shown, &widths, colour);
        }
        out
    }

    /// The headings alone, for a table that is printed while it grows.
    pub(super) fn head(&self, colour: Colour) -> String {
        Self {
            columns: self.columns.clone(),
            rows: Vec::new(),
        }
        .render(colour)
    }

    /// The rows without the headings, for a table that is printed while it grows.
    pub(super) fn body(&self, colour: Colour) -> String {
        let text = self.render(colour);
        text.split_once('\n')
            .map(|(_, body)| body.to_owned())
            .unwrap_or_default()
    }

    fn is_shown(&self, column: usize) -> bool {
        self.columns[column].when_empty == WhenEmpty::Keep
            || self.rows.iter().any(|row| row[column].text != NOTHING)
    }

    fn line(&self, out: &mut String, row: &[Cell], shown: &[usize], widths: &[usize], colour: Colour) {
        for (place, (&column, &width)) in shown.iter().zip(widths).enumerate() {
            let cell = &row[column];
            let pad = " ".repeat(width.saturating_sub(cell.text.width()));
            let last = place + 1 == shown.len();
            match self.columns[column].align {
                Align::Right => {
                    out.push_str(&pad);
                    cell.paint(out, colour);
                }
                Align::Left => {
                    cell.paint(out, colour);
                    if !last {
                        out.push_str(&pad);
                    }
                }
            }
            if !last {
                out.push_str(GAP);
            }
        }
        out.push('\n');
    }
}

impl Column {
    /// A column of text.
    pub(super) const fn text(heading: &'static str) -> Self {
        Self {
            heading,
            min_width: 0,
            align: Align::Left,
            when_empty: WhenEmpty::Keep,
        }
    }

    /// A column of numbers.
    pub(super) const fn number(heading: &'static str) -> Self {
        Self {
            align: Align::Right,
            ..Self::text(heading)
        }
    }

    /// At least so wide.
    pub(super) const fn at_least(self, min_width: usize) -> Self {
        Self { min_width, ..self }
    }

    /// Left out when no row has anything in it.
    pub(super) const fn optional(self) -> Self {
        Self {
            when_empty: WhenEmpty::Drop,
            ..self
        }
    }
}

impl Cell {
    /// The same cell with a meaning.
    pub(super) fn tone(self, tone: Tone) -> Self {
        Self { tone, ..self }
    }

    fn paint(&self, out: &mut String, colour: Colour) {
        match (colour, self.tone.code()) {
            (Colour::On, Some(code)) => out.push_str(&format!("\x1b[{code}m{}\x1b[0m", self.text)),
            _ => out.push_str(&self.text),
        }
    }
}

impl Tone {
    const fn code(self) -> Option<u8> {
        match self {
            Self::Plain => None,
            Self::Good => Some(32),
            Self::Doubtful => Some(33),
            Self::Bad => Some(31),
        }
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        let text = plain(text.as_ref());
        Self {
            text: if text.is_empty() { NOTHING.to_owned() } else { text },
            tone: Tone::Plain,
        }
    }
}

/// Text without control characters; they are shown as escapes.
pub(super) fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            // Writing to a string cannot fail.
            let _ = write!(out, "{}", character.escape_default());
        } else {
            out.push(character);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Table {
        let mut table = Table::new([
            Column::text("NAME"),
            Column::number("N"),
            Column::text("WHY").optional(),
            Column::text("END"),
        ]);
        table.row(["a", "1", "", "x"].map(Cell::from));
        table.row(["longer", "12345", "", ""].map(Cell::from));
        table
    }

    #[test]
    fn columns_line_up_and_empty_optional_ones_go() {
        assert_eq!(
            sample().render(Colour::Off),
            "NAME         N   END\n\
             a            1   x\n\
             longer   12345   -\n"
        );
    }

    #[test]
    fn colour_does_not_move_columns() {
        let mut table = sample();
        table.rows[0][0].tone = Tone::Bad;
        assert_eq!(
            table
                .render(Colour::On)
                .replace("\x1b[31m", "")
                .replace("\x1b[0m", ""),
            sample().render(Colour::Off)
        );
    }

    #[test]
    fn a_growing_table_is_head_and_body() {
        let table = sample();
        assert_eq!(table.body(Colour::Off).lines().count(), 2);
        assert_eq!(table.head(Colour::Off).lines().count(), 1);
    }

    #[test]
    fn a_terminal_gets_no_control_characters_from_outside() {
        assert_eq!(
            Cell::from("evil\x1b]0;title\x07").text,
            "evil\\u{1b}]0;title\\u{7}"
        );
    }
}
