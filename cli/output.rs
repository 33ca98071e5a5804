//! The one place that prints: data to standard output, everything else to standard error.

use std::io::{IsTerminal, Write};

use comfy_table::{ContentArrangement, Table, TableStyle};
use console::style;
use serde::Serialize;

/// Prints data. A closed pipe is not an error: the reader has seen enough.
pub(crate) fn data(text: &str) {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| {
        if text.ends_with('\n') {
            Ok(())
        } else {
            out.write_all(b"\n")
        }
    });
    if written.and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

/// Prints a value as JSON.
pub(crate) fn json<T: Serialize + ?Sized>(value: &T) -> anyhow::Result<()> {
    data(&serde_json::to_string_pretty(value)?);
    Ok(())
}

/// Prints a value as JSON on one line.
pub(crate) fn json_line<T: Serialize + ?Sized>(value: &T) -> anyhow::Result<()> {
    data(&serde_json::to_string(value)?);
    Ok(())
}

/// A number of things: `1 step`, `2 steps`, `2 entries`.
pub(crate) fn count(n: impl TryInto<u64>, thing: &str) -> String {
    let n = n.try_into().unwrap_or(u64::MAX);
    match thing.strip_suffix('y') {
        _ if n == 1 => format!("1 {thing}"),
        Some(stem) if !stem.ends_with(['a', 'e', 'o', 'u']) => format!("{n} {stem}ies"),
        _ => format!("{n} {thing}s"),
    }
}

/// Tells the user something beside the data.
pub(crate) fn note(text: &str) {
    to_stderr(text);
}

/// Tells the user what went wrong.
pub(crate) fn problem(text: &str) {
    to_stderr(&format!("{} {text}", style("error:").for_stderr().red().bold()));
}

/// Tells the user what to do about it.
pub(crate) fn hint(text: &str) {
    to_stderr(&format!("{} {text}", style("help:").for_stderr().cyan().bold()));
}

fn to_stderr(text: &str) {
    let mut err = std::io::stderr().lock();
    if writeln!(err, "{text}").is_err() {
        // Nobody can be told.
    }
}

/// Whether a person looks at standard error.
pub(crate) fn is_interactive() -> bool {
    std::io::stderr().is_terminal()
}

/// How many characters fit on a line of standard output.
pub(crate) fn width() -> usize {
    let term = console::Term::stdout();
    term.size_checked()
        .map_or(100, |(_, columns)| usize::from(columns).max(40))
}

/// Prints rows under headings.
pub(crate) fn table(headings: &[&str], rows: Vec<Vec<String>>) {
    let mut table = Table::new();
    table
        .load_style(TableStyle::default())
        .set_content_arrangement(ContentArrangement::Dynamic);
    if !std::io::stdout().is_terminal() {
        table.set_width(u16::MAX);
    }
    table.set_header(headings.iter().map(|heading| heading.to_uppercase()));
    for row in rows {
        table.add_row(row);
    }
    let text: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    data(&text.join("\n"));
}
