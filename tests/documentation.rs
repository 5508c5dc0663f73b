//! What the documents name exists: tests, files, sections.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use testudo::Profile;

fn document(name: &str) -> String {
    fs::read_to_string(support::root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Words between backticks that name a test or a module of tests: `file::name`, `…::name`, `file::` and names that
/// follow it in the same cell.
fn named_tests(cell: &str) -> Vec<(String, String)> {
    let mut file = String::new();
    let mut found = Vec::new();
    for word in cell.split('`').skip(1).step_by(2) {
        let identifier = |text: &str| {
            text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_:".contains(&byte))
        };
        let word = word.trim_start_matches('…');
        if !identifier(word) || Profile::ALL.iter().any(|(profile, _)| *profile == word) {
            continue;
        }
        match word.rsplit_once("::") {
            Some(("", name)) => found.push((file.clone(), name.to_owned())),
            Some((start, name)) => {
                file = start.to_owned();
                found.push((file.clone(), name.to_owned()));
            }
            None if file.is_empty() || word.starts_with("guarantees_") => {
                file = word.to_owned();
                found.push((word.to_owned(), String::new()));
            }
            None => found.push((file.clone(), word.to_owned())),
        }
    }
    found
}

/// All Rust text that `path` of a test can be in: a file of `tests/` with its modules, or one below `src/`.
fn sources(path: &str) -> String {
    let first = path.split("::").next().unwrap_or_default();
    let inside = path.trim_end_matches("::tests").replace("::", "/");
    let places = [
        format!("tests/{first}.rs"),
        format!("tests/real/{}.rs", path.split("::").nth(1).unwrap_or("-")),
        format!("src/{inside}.rs"),
        format!("src/{inside}/mod.rs"),
    ];
    places.iter().filter_map(|place| fs::read_to_string(support::root().join(place)).ok()).collect()
}

/// Whether the text defines a test of that name: a function, a module, or a line of one of the test macros.
fn defines(text: &str, name: &str) -> bool {
    text.lines().map(str::trim).any(|line| {
        let function = line.strip_prefix("fn ").or_else(|| line.strip_prefix("mod "));
        function.is_some_and(|rest| rest.strip_prefix(name).is_some_and(|rest| rest.starts_with(['(', ' ', ';'])))
            || line.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(": \""))
    })
}

/// Rows of the table below a heading, without its two header lines.
fn rows<'a>(text: &'a str, heading: &str) -> Vec<Vec<&'a str>> {
    let section = text.split(heading).nth(1).unwrap_or_else(|| panic!("no section {heading:?}"));
    let table = section.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    table.skip(2).map(|line| line.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

#[test]
fn every_guarantee_names_a_test_that_exists() {
    let text = document("SECURITY.md");
    let rows = rows(&text, "\n## Guarantees\n");
    assert!(rows.len() > 15, "the table of guarantees is gone: {rows:?}");
    let mut missing = BTreeSet::new();
    for row in rows {
        let cell = row.last().expect("a cell");
        let tests = named_tests(cell);
        assert!(!tests.is_empty(), "no test is named for {:?}", row.first());
        for (file, name) in tests {
            let text = sources(&file);
            if text.is_empty() || !name.is_empty() && !defines(&text, &name) {
                missing.insert(format!("{file}::{name}"));
            }
        }
    }
    assert!(missing.is_empty(), "SECURITY.md names tests that do not exist: {missing:#?}");
}

#[test]
fn a_test_that_does_not_exist_is_noticed() {
    assert_eq!(
        named_tests("`guarantees_a::` `one`, `two`; `…::three`; all of `guarantees_b` (`four`)"),
        [
            ("guarantees_a", ""),
            ("guarantees_a", "one"),
            ("guarantees_a", "two"),
            ("guarantees_a", "three"),
            ("guarantees_b", ""),
            ("guarantees_b", "four")
        ]
        .map(|(file, name)| (file.to_owned(), name.to_owned()))
    );
    assert!(sources("guarantees_of_nothing").is_empty());
    let text = sources("guarantees_double_free");
    assert!(defines(&text, "twice_in_a_row") && !defines(&text, "twice_in_a") && !defines(&text, "thrice_in_a_row"));
}

/// Files and folders that the documents link to.
#[test]
fn links_between_documents_lead_somewhere() {
    for name in
        ["README.md", "SECURITY.md", "CHANGELOG.md", "docs/migrating.md", "docs/install.md", "benches/README.md"]
    {
        let text = document(name);
        let folder = support::root().join(name);
        let folder = folder.parent().expect("a folder");
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let (file, section) = target.split_once('#').unwrap_or((target, ""));
            if file.contains("://") {
                continue;
            }
            let path = if file.is_empty() { support::root().join(name) } else { folder.join(file) };
            assert!(path.exists(), "{name} links to {target}, which is not there");
            assert!(section.is_empty() || has_section(&path, section), "{name} links to {target}: no such section");
        }
    }
}

fn has_section(path: &Path, section: &str) -> bool {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().filter(|line| line.starts_with('#')).any(|line| {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let anchor: String = title
            .chars()
            .filter_map(|letter| match letter {
                ' ' => Some('-'),
                '-' | '_' => Some(letter),
                letter if letter.is_alphanumeric() => Some(letter),
                _ => None,
            })
            .collect();
        anchor == section
    })
}

/// The README's picture is of a real run: the script that drew it draws the same now.
#[test]
fn the_picture_of_a_report_is_what_a_run_shows() {
    let command = support::libtestudo().with_file_name("testudo");
    let output = std::process::Command::new(support::root().join("docs/record"))
        .arg("--check")
        .arg(command)
        .output()
        .expect("python3 runs the script");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(document("README.md").contains("docs/report.svg"));
}
