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
        format!("models/tests/{first}.rs"),
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

fn exists(file: &str, name: &str) -> bool {
    let text = sources(file);
    !text.is_empty() && (name.is_empty() || defines(&text, name))
}

#[test]
fn every_guarantee_names_a_test_that_exists() {
    let text = document("SECURITY.md");
    let mut missing = BTreeSet::new();
    for (heading, least) in [("\n## Guarantees\n", 15), ("\n### Profile `fuzz`", 8)] {
        let rows = rows(&text, heading);
        assert!(rows.len() > least, "the table of guarantees is gone: {rows:?}");
        for row in rows {
            let cell = row.last().expect("a cell");
            let tests = named_tests(cell);
            assert!(!tests.is_empty(), "no test is named for {:?}", row.first());
            missing.extend(tests.into_iter().filter(|(file, name)| !exists(file, name)));
        }
    }
    assert!(missing.is_empty(), "SECURITY.md names tests that do not exist: {missing:#?}");
}

/// The root's documents, those of `docs/`, and what the README says of benchmarks.
fn documents() -> Vec<String> {
    let mut names = vec!["benches/README.md".to_owned()];
    for folder in ["", "docs/"] {
        for entry in fs::read_dir(support::root().join(folder)).expect("a folder") {
            let name = entry.expect("an entry").file_name().into_string().expect("text");
            if name.ends_with(".md") {
                names.push(format!("{folder}{name}"));
            }
        }
    }
    assert!(names.len() > 10, "{names:?}");
    names
}

/// Outside the tables too.
#[test]
fn every_test_that_a_document_names_exists() {
    for name in documents() {
        let text = document(&name);
        let code = text.split('`').skip(1).step_by(2).map(|word| word.trim_end_matches("::"));
        let path = |word: &&str| {
            let mut parts = word.split("::");
            word.contains("::")
                && parts.all(|part| part.starts_with(|letter: char| letter.is_ascii_lowercase()))
                && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_:".contains(&byte))
        };
        for word in code.filter(path).filter(|word| !word.starts_with("std::") && !word.starts_with("allocator_api2::"))
        {
            let (file, test) = word.rsplit_once("::").expect("it has two parts");
            assert!(exists(file, test) || exists(word, ""), "{name} names {word}, which is not there");
        }
    }
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
    for name in documents() {
        let text = document(&name);
        let folder = support::root().join(&name);
        let folder = folder.parent().expect("a folder");
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let (file, section) = target.split_once('#').unwrap_or((target, ""));
            if file.contains("://") {
                continue;
            }
            let path = if file.is_empty() { support::root().join(&name) } else { folder.join(file) };
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

/// Files of the library with public items, and their lines without tests.
fn library() -> Vec<(String, Vec<String>)> {
    let mut folders = vec![support::root().join("src")];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("text");
                let text = text.split("\n#[cfg(test)]\nmod tests").next().unwrap_or_default();
                files.push((path.display().to_string(), text.lines().map(str::to_owned).collect()));
            }
        }
    }
    files
}

/// The documentation tests run them. A method may be shown in the example of its type.
#[test]
fn every_public_item_has_an_example_and_says_how_it_fails() {
    let mut found = 0;
    for (file, lines) in library() {
        let all = lines.join("\n");
        let examples: String = all.split("/// ```").skip(1).step_by(2).collect();
        let mut comment = String::new();
        for (number, line) in lines.iter().enumerate() {
            let text = line.trim();
            if let Some(rest) = text.strip_prefix("///") {
                comment.push_str(rest);
                comment.push('\n');
                continue;
            }
            if text.starts_with("#[") {
                continue;
            }
            let comment = std::mem::take(&mut comment);
            let Some(item) = text.strip_prefix("pub ") else { continue };
            let words: Vec<&str> = item.split(|letter: char| !letter.is_alphanumeric() && letter != '_').collect();
            let Some(kind) = words.iter().position(|word| ["fn", "struct", "enum", "trait"].contains(word)) else {
                continue;
            };
            let name = words.get(kind + 1).copied().unwrap_or_default();
            let place = format!("{file}:{}: {name}", number + 1);
            let is_method = line.starts_with(' ');
            let shown = comment.contains("```") || is_method && examples.contains(&format!("{name}("));
            assert!(shown, "{place} has no example");
            let rest = lines.iter().skip(number).take(8).cloned().collect::<Vec<_>>().join(" ");
            let head = rest.split(['{', ';']).next().unwrap_or_default();
            assert!(
                words.get(kind) != Some(&"fn") || !head.contains("-> Result<") || comment.contains("# Errors"),
                "{place} does not say how it fails"
            );
            found += 1;
        }
    }
    assert!(found > 40, "{found} public items");
}
