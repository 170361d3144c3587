//! Results in `docs/reliability.md`, between marks, so that a run replaces those of the last.

use std::fs;

use crate::stage::Outcome;

/// Replaces what is between the marks called `name`.
pub(crate) fn write(name: &str, text: &str) -> Outcome<()> {
    let file = crate::tidy::workspace_root().join("docs/reliability.md");
    let error = |error: std::io::Error| format!("{}: {error}", file.display());
    let document = fs::read_to_string(&file).map_err(error)?;
    let document = replaced(&document, name, text)
        .ok_or_else(|| format!("{} has no marks called {name}", file.display()))?;
    fs::write(&file, document).map_err(error)?;
    println!("written to docs/reliability.md");
    Ok(())
}

fn replaced(document: &str, name: &str, text: &str) -> Option<String> {
    let (begin, end) = (
        format!("<!-- {name}:begin -->"),
        format!("<!-- {name}:end -->"),
    );
    let (before, rest) = document.split_once(&begin)?;
    let (_, after) = rest.split_once(&end)?;
    Some(format!("{before}{begin}\n{text}{end}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_marks_is_replaced() {
        let document = "a\n<!-- x:begin -->\nold\n<!-- x:end -->\nb\n";
        let new = "a\n<!-- x:begin -->\nnew\n<!-- x:end -->\nb\n";
        assert_eq!(replaced(document, "x", "new\n").as_deref(), Some(new));
        assert_eq!(replaced(document, "y", "new\n"), None);
    }
}
