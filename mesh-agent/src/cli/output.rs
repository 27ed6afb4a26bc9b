//! How an answer is written: as a table for people, as JSON or YAML for programs.
//!
//! A command makes its answer a [`View`] and calls [`OutputArgs::show`]. Invariants: JSON and YAML hold raw numbers
//! under stable camelCase names, whatever the table shows; nothing but the answer goes to the standard output.

use std::io::{self, IsTerminal as _, Write as _};

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::{
    failure::Failure,
    table::{Cell, Colour, Column, Detail, Table},
};

/// How the answer is printed.
#[derive(Args, Clone, Copy, Debug, Default)]
pub(super) struct OutputArgs {
    /// How to print the answer
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

/// A form of output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Columns for people
    #[default]
    Table,
    /// More columns for people
    Wide,
    /// JSON with raw numbers
    Json,
    /// YAML with raw numbers
    Yaml,
}

/// An answer that can be shown in every format.
pub(super) trait View: Serialize {
    /// For people.
    fn text(&self, detail: Detail, colour: Colour) -> String;

    /// What to say in place of a table without rows.
    fn nothing(&self) -> Option<&'static str> {
        None
    }
}

impl OutputArgs {
    /// The chosen form.
    pub(super) fn format(self) -> Format {
        self.output
    }

    /// Prints an answer.
    pub(super) fn show(self, view: &impl View) -> Result<(), Failure> {
        if let (Format::Table | Format::Wide, Some(nothing)) = (self.output, view.nothing()) {
            note(nothing);
            return Ok(());
        }
        print(&render(view, self.output, colour())?)
    }
}

/// An answer as text that ends with a newline.
pub(super) fn render(view: &impl View, format: Format, colour: Colour) -> Result<String, Failure> {
    match format {
        Format::Table => Ok(view.text(Detail::Usual, colour)),
        Format::Wide => Ok(view.text(Detail::Wide, colour)),
        Format::Json => json(view),
        Format::Yaml => yaml(view),
    }
}

/// Indented JSON.
pub(super) fn json(value: &impl Serialize) -> Result<String, Failure> {
    let mut text = serde_json::to_string_pretty(value).map_err(Failure::serialize)?;
    text.push('\n');
    Ok(text)
}

/// JSON on one line.
pub(super) fn json_line(value: &impl Serialize) -> Result<String, Failure> {
    let mut text = serde_json::to_string(value).map_err(Failure::serialize)?;
    text.push('\n');
    Ok(text)
}

/// A YAML document.
pub(super) fn yaml(value: &impl Serialize) -> Result<String, Failure> {
    let mut text = serde_saphyr::to_string(value).map_err(Failure::serialize)?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

/// Whether the standard output wants colours: a terminal that has not said no (<https://no-color.org>).
pub(super) fn colour() -> Colour {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|value| value == "dumb");
    if io::stdout().is_terminal() && !set("NO_COLOR") && !dumb {
        Colour::On
    } else {
        Colour::Off
    }
}

/// Writes to the standard output at once.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(Failure::Output)
}

/// Tells the person, not the program that reads the answer.
pub(super) fn note(text: &str) {
    // Without a standard error there is nobody to tell.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// A table for people, with one row for each of `rows`. Of columns and cells alike the second half is for the wide form.
pub(super) fn listing(
    detail: Detail,
    colour: Colour,
    (usual, wide): (Vec<Column>, Vec<Column>),
    rows: impl IntoIterator<Item = (Vec<Cell>, Vec<Cell>)>,
) -> String {
    let mut table = Table::new(by_detail(detail, usual, wide));
    for (usual, wide) in rows {
        table.row(by_detail(detail, usual, wide));
    }
    table.render(colour)
}

/// Columns of a table, the last ones only in the wide form.
pub(super) fn by_detail<T>(detail: Detail, usual: Vec<T>, wide: Vec<T>) -> Vec<T> {
    match detail {
        Detail::Usual => usual,
        Detail::Wide => usual.into_iter().chain(wide).collect(),
    }
}
