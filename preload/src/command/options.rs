//! `testudo options`: the table from which the parser works, for people, for programs, and for the README.

use crate::Refusal;
use crate::arguments::List;
use hardened_heap::options::{Kind, Specification, TABLE};
use hardened_heap::{Options, Profile};
use serde::Serialize;
use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;

/// One row of the table, in words.
#[derive(Debug, Serialize)]
pub struct Row {
    pub name: &'static str,
    /// What may be given, as people read it.
    pub values: String,
    pub meaning: &'static str,
    /// The value in each profile; none for what sets the profile itself.
    pub profiles: Vec<(&'static str, String)>,
}

/// All rows.
pub fn rows() -> Vec<Row> {
    TABLE
        .iter()
        .map(|row| {
            let value =
                |(name, profile): &(&'static str, Profile)| value(row, &profile.options()).map(|value| (*name, value));
            Row {
                name: row.name,
                values: values(row),
                meaning: row.help,
                profiles: Profile::ALL.iter().filter_map(value).collect(),
            }
        })
        .collect()
}

fn values(row: &Specification) -> String {
    match row.kind {
        Kind::Switch { .. } => "0, 1".to_owned(),
        // More digits than anyone reads.
        Kind::Number { min, max: i64::MAX, .. } => format!("{min}..2^63-1"),
        Kind::Number { min, max, .. } => format!("{min}..{max}"),
        Kind::Path { .. } => "absolute file name".to_owned(),
        Kind::Profile => Profile::ALL.map(|(name, _)| name).join(", "),
    }
}

fn value(row: &Specification, options: &Options) -> Option<String> {
    match row.kind {
        Kind::Switch { get, .. } => Some(u8::from(get(options)).to_string()),
        Kind::Number { get, .. } => Some(get(options).to_string()),
        // No profile names a file.
        Kind::Path { .. } | Kind::Profile => None,
    }
}

/// Lists all options.
///
/// # Errors
/// When standard output cannot be written to.
pub fn list(how: &List) -> Result<ExitCode, Refusal> {
    if how.json {
        print_json(&rows())?;
    } else if how.markdown {
        print(&markdown())?;
    } else {
        print(&text())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn text() -> String {
    let rows = rows();
    let mut text =
        String::from("TESTUDO_OPTIONS=\"key=value:key=value\", or testudo run -o key=value -o key=value\n\n");
    let width = rows.iter().map(|row| row.name.len()).max().unwrap_or(0) + 2;
    let column = |name: &str| {
        let values = rows.iter().flat_map(|row| &row.profiles).filter(|(profile, _)| *profile == name);
        values.map(|(_, value)| value.len()).max().unwrap_or(0).max(name.len()) + 2
    };
    let names = Profile::ALL.map(|(name, _)| name);
    let header: String = names.iter().map(|name| format!("{name:<width$}", width = column(name))).collect();
    let _ = writeln!(text, "{:width$}{}", "", header.trim_end());
    for row in &rows {
        let cells: String =
            row.profiles.iter().map(|(name, value)| format!("{value:<width$}", width = column(name))).collect();
        let line = format!("{:<width$}{cells}", row.name);
        let _ = writeln!(text, "{}\n    {}. Values: {}", line.trim_end(), row.meaning, row.values);
    }
    text
}

/// The README's table. A test holds the README against it.
fn markdown() -> String {
    let names = Profile::ALL.map(|(name, _)| format!("`{name}`"));
    let mut text =
        format!("| option | values | {} | meaning |\n|---|---|{}---|\n", names.join(" | "), "---|".repeat(names.len()));
    for row in rows() {
        let mut cells: Vec<&str> = row.profiles.iter().map(|(_, value)| value.as_str()).collect();
        cells.resize(names.len(), "");
        let _ = writeln!(text, "| `{}` | {} | {} | {} |", row.name, row.values, cells.join(" | "), row.meaning);
    }
    text
}

/// Prints to standard output. A closed pipe is the reader's wish.
pub fn print(text: &str) -> Result<(), String> {
    print_bytes(text.as_bytes())
}

/// The same with what is no text.
pub fn print_bytes(bytes: &[u8]) -> Result<(), String> {
    let mut out = std::io::stdout();
    // What follows the last end of a line would be written when the process ends, where nobody hears of a failure.
    written(out.write_all(bytes).and_then(|()| out.flush()))
}

/// What a write to standard output came to.
///
/// # Errors
/// One line when it failed, but for a closed pipe.
pub fn written(result: std::io::Result<()>) -> Result<(), String> {
    match result {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(format!("standard output: {error}")),
        _ => Ok(()),
    }
}

/// Prints one JSON value.
pub fn print_json(value: &impl Serialize) -> Result<(), String> {
    let mut text = serde_json::to_string_pretty(value).map_err(|error| error.to_string())?;
    text.push('\n');
    print(&text)
}
