//! Man pages and completions, made from the command line's definition and from the table of options.

use crate::Refusal;
use crate::arguments::Arguments;
use crate::install::{HEADER, pkg_config};
use crate::options::{print, rows};
use clap::{Command, CommandFactory};
use clap_complete::Shell;
use roff::{Roff, bold, italic, roman};
use std::fs;
use std::io;
use std::path::Path;
use std::process::ExitCode;

/// The shells that read completions from files, and their name for the file.
pub const SHELLS: [(Shell, &str); 3] =
    [(Shell::Bash, "testudo"), (Shell::Zsh, "_testudo"), (Shell::Fish, "testudo.fish")];

fn command() -> Command {
    let mut command = Arguments::command();
    command.build();
    command
}

/// The completion script for a shell.
pub fn completion(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "testudo", &mut script);
    script
}

/// Prints the completion script for a shell.
///
/// # Errors
/// When standard output cannot be written to.
pub fn completions(shell: Shell) -> Result<ExitCode, Refusal> {
    print(&String::from_utf8_lossy(&completion(shell)))?;
    Ok(ExitCode::SUCCESS)
}

/// All man pages, with their file names.
///
/// # Errors
/// None in memory; what the renderer says.
pub fn man_pages() -> io::Result<Vec<(String, Vec<u8>)>> {
    let command = command();
    let mut pages = vec![page(&command, "testudo")?];
    for part in command.get_subcommands().filter(|part| !part.is_hide_set() && part.get_name() != "help") {
        pages.push(page(part, &format!("testudo-{}", part.get_name()))?);
    }
    pages.push(("libtestudo.7".to_owned(), library_page()?));
    Ok(pages)
}

const VERSION: &str = concat!("testudo ", env!("CARGO_PKG_VERSION"));

fn page(command: &Command, name: &str) -> io::Result<(String, Vec<u8>)> {
    let mut text = Vec::new();
    clap_mangen::Man::new(command.clone()).source(VERSION).render(&mut text)?;
    // The page of the command itself names those of its parts.
    let others = if name == "testudo" { "" } else { "testudo" };
    see_also(&mut Roff::new(), others).to_writer(&mut text)?;
    Ok((format!("{name}.1"), text))
}

/// The end of every page.
fn see_also<'a>(page: &'a mut Roff, command: &'static str) -> &'a mut Roff {
    page.control("SH", ["SEE ALSO"]);
    if !command.is_empty() {
        page.text([bold(command), roman("(1), ")]);
    }
    page.text([bold("libtestudo"), roman("(7), "), bold("ld.so"), roman("(8), "), bold("malloc"), roman("(3)")])
}

/// libtestudo(7): the library and its options.
fn library_page() -> io::Result<Vec<u8>> {
    let mut page = Roff::new();
    page.control("TH", ["libtestudo", "7", "", VERSION]);
    page.control("SH", ["NAME"]).text([roman("libtestudo - a hardened memory allocator for preloading")]);
    page.control("SH", ["SYNOPSIS"]);
    page.text([
        bold("LD_PRELOAD=libtestudo.so "),
        bold("TESTUDO_OPTIONS="),
        italic("key"),
        roman("="),
        italic("value"),
        roman(":… "),
        italic("program"),
    ]);
    page.control("PP", []).text([bold("#include <testudo.h>")]);
    page.control("SH", ["DESCRIPTION"]);
    page.text([roman(
        "Takes the place of malloc, free and their kin, and of C++'s operator new and delete. Ends the process by SIGABRT, \
         with a report on standard error, when the program corrupts its heap: frees a chunk twice, writes past its end, \
         writes to it after it was freed, or gives it back by the wrong function.",
    )]);
    page.control("SH", ["OPTIONS"]);
    page.text([roman(
        "Read once, at start. A wrong one ends the program before main. Ignored in set-user-id programs. The values of the \
         profiles are given in their order.",
    )]);
    for row in rows() {
        page.control("TP", []);
        page.text([bold(row.name), roman("="), italic(row.values)]);
        let defaults: Vec<String> = row.profiles.iter().map(|(profile, value)| format!("{profile} {value}")).collect();
        let defaults = if defaults.is_empty() { String::new() } else { format!(" ({})", defaults.join(", ")) };
        page.text([roman(format!("{}{defaults}", row.meaning))]);
    }
    page.control("SH", ["FUNCTIONS"]);
    for (function, meaning) in functions() {
        page.control("TP", []).text([bold(function)]).text([roman(meaning)]);
    }
    page.control("SH", ["SEE ALSO"]);
    page.text([
        bold("testudo"),
        roman("(1), "),
        bold("testudo-run"),
        roman("(1), "),
        bold("ld.so"),
        roman("(8), "),
        bold("malloc"),
        roman("(3)"),
    ]);
    Ok(page.render().into_bytes())
}

/// The functions of the header, each with the comment above it.
fn functions() -> Vec<(String, String)> {
    let comments = HEADER.split("/*").skip(1).filter_map(|part| part.split_once("*/"));
    let words = |text: &str| text.split_whitespace().filter(|word| *word != "*").collect::<Vec<_>>().join(" ");
    let function = |(comment, code): (&str, &str)| {
        let declaration = code.lines().find(|line| line.ends_with(");"))?;
        (!code.contains('{')).then(|| (declaration.trim_end_matches(';').to_owned(), words(comment)))
    };
    comments.filter_map(function).collect()
}

/// Writes everything that a package needs beside the built files.
///
/// # Errors
/// When a file cannot be written.
pub fn all(folder: &Path) -> Result<ExitCode, Refusal> {
    let write = |place: &str, bytes: &[u8]| {
        let path = folder.join(place);
        let made = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&path, bytes));
        made.map_err(|error| format!("{}: {error}", path.display()))
    };
    for (name, page) in man_pages().map_err(|error| error.to_string())? {
        write(&format!("man/{name}"), &page)?;
    }
    for (shell, name) in SHELLS {
        write(&format!("completions/{name}"), &completion(shell))?;
    }
    let library = format!("${{prefix}}/lib/{}-linux-gnu", std::env::consts::ARCH);
    write("testudo.pc", pkg_config("/usr", &library).as_bytes())?;
    Ok(ExitCode::SUCCESS)
}
