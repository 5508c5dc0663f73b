//! Where a table goes: to the terminal, to a file of its own and, on request, between its marks in the
//! documents.

use crate::arguments::Arguments;
use crate::places::Places;

/// The documents that may have marks.
const DOCUMENTS: [&str; 3] = ["README.md", "SECURITY.md", "benches/README.md"];

/// Prints a table, writes it to `NAME.md` and, with `--publish`, puts it into each document that has the lines
/// `<!-- NAME begin -->` and `<!-- NAME end -->`.
pub fn publish(places: &Places, arguments: &Arguments, name: &str, text: &str) -> Result<(), String> {
    println!("\n{text}");
    let file = places.out.join(name).with_extension("md");
    std::fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))?;
    println!("written: {}", file.display());
    if !arguments.publish {
        return Ok(());
    }
    for document in DOCUMENTS {
        let path = places.root().join(document);
        let before = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        if let Some(after) = between_marks(&before, name, text) {
            std::fs::write(&path, after).map_err(|error| format!("{}: {error}", path.display()))?;
            println!("put into {document}");
        }
    }
    Ok(())
}

/// The document with `text` between the marks of this name, if it has them.
fn between_marks(document: &str, name: &str, text: &str) -> Option<String> {
    let begin = format!("<!-- {name} begin -->\n");
    let (before, rest) = document.split_once(&begin)?;
    let (_, after) = rest.split_once(&format!("<!-- {name} end -->"))?;
    Some(format!("{before}{begin}{}\n<!-- {name} end -->{after}", text.trim()))
}

#[cfg(test)]
mod tests {
    use super::between_marks;

    #[test]
    fn only_what_is_between_the_marks_of_that_name_is_replaced() {
        let document =
            "a\n<!-- other begin -->\nb\n<!-- other end -->\n<!-- mine begin -->\nold\n<!-- mine end -->\nc\n";
        let expected = document.replace("old", "new");
        assert_eq!(between_marks(document, "mine", "\nnew\n\n"), Some(expected));
        assert_eq!(between_marks(document, "absent", "new"), None);
    }
}
