//! The table of `docs/security.md`: each promise of the FAQ, F19 to F50, has a row that leads to a
//! test which exists and says the number, or to a paragraph which exists.

use std::path::{Path, PathBuf};

use super::finding::Finding;

/// Where the table is.
const DOCUMENT: &str = "docs/security.md";
/// First and last number of the promises about security.
const NUMBERS: std::ops::RangeInclusive<u32> = 19..=50;
/// Lines above a test that may belong to its documentation and attributes.
const DOCUMENTATION_LINES: usize = 12;

/// Checks the document of a workspace.
pub(super) fn check(root: &Path) -> Vec<Finding> {
    let read = |path: &str| std::fs::read_to_string(root.join(path)).ok();
    match read(DOCUMENT) {
        Some(text) => check_document(&text, read),
        None => vec![finding(1, "the document is missing".to_owned())],
    }
}

fn check_document(text: &str, read: impl Fn(&str) -> Option<String>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut seen = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let ["", number, _, evidence, ""] = cells.as_slice() else {
            continue;
        };
        let Some(number) = number.strip_prefix('F').and_then(|n| n.parse::<u32>().ok()) else {
            continue;
        };
        seen.push(number);
        let broken = check_evidence(number, evidence, text, &read);
        findings.extend(broken.into_iter().map(|rule| finding(index + 1, rule)));
    }
    for number in NUMBERS {
        let rows = seen.iter().filter(|seen| **seen == number).count();
        if rows != 1 {
            findings.push(finding(1, format!("F{number} has {rows} rows")));
        }
    }
    findings
}

/// What is wrong with the last cell of a row.
fn check_evidence(
    number: u32,
    evidence: &str,
    document: &str,
    read: impl Fn(&str) -> Option<String>,
) -> Vec<String> {
    let mut broken = Vec::new();
    let tests: Vec<(&str, &str)> = between(evidence, "`", "`")
        .into_iter()
        .filter_map(|quoted| quoted.split_once("::"))
        .collect();
    let links = between(evidence, "](", ")");
    if tests.is_empty() && links.is_empty() {
        broken.push(format!("F{number} has neither a test nor a paragraph"));
    }
    for (file, name) in tests {
        let Some(code) = read(&format!("crates/{file}")) else {
            broken.push(format!("F{number}: there is no crates/{file}"));
            continue;
        };
        match says_number(&code, name, number) {
            None => broken.push(format!("F{number}: crates/{file} has no test {name}")),
            Some(false) => broken.push(format!("{name} in crates/{file} does not say F{number}")),
            Some(true) => {}
        }
    }
    for link in links {
        let found = match link.strip_prefix('#') {
            Some(anchor) => document.lines().any(|line| is_heading(line, anchor)),
            None => match link.strip_prefix("../") {
                Some(path) => read(path).is_some(),
                None => read(&format!("docs/{link}")).is_some(),
            },
        };
        if !found {
            broken.push(format!("F{number}: {link} leads nowhere"));
        }
    }
    broken
}

/// Whether the documentation of a test names the promise; `None` when there is no such test.
fn says_number(code: &str, name: &str, number: u32) -> Option<bool> {
    let lines: Vec<&str> = code.lines().map(str::trim).collect();
    let declares = |line: &str| {
        let rest = line.strip_prefix("async ").unwrap_or(line);
        rest.strip_prefix("fn ")
            .and_then(|rest| rest.strip_prefix(name))
            .is_some_and(|rest| rest.starts_with('('))
    };
    let at = lines.iter().position(|line| declares(line))?;
    let above = lines[..at].iter().rev().take(DOCUMENTATION_LINES);
    let above: Vec<&&str> = above
        .take_while(|line| line.starts_with("///") || line.starts_with('#'))
        .collect();
    if !above.iter().any(|line| line.contains("test]")) {
        return None;
    }
    let wanted = format!("F{number}");
    Some(above.iter().any(|line| {
        line.starts_with("///")
            && line
                .split(|c: char| !c.is_alphanumeric())
                .any(|word| word == wanted)
    }))
}

/// Whether a line is the heading a link means.
fn is_heading(line: &str, anchor: &str) -> bool {
    let Some(title) = line.strip_prefix('#') else {
        return false;
    };
    let slug: String = title
        .trim_start_matches('#')
        .trim()
        .to_lowercase()
        .chars()
        .filter(|c| c.is_alphanumeric() || *c == ' ' || *c == '-')
        .map(|c| if c == ' ' { '-' } else { c })
        .collect();
    slug == anchor
}

/// The parts of `text` that stand between two marks.
fn between<'a>(text: &'a str, open: &str, close: &str) -> Vec<&'a str> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once(open) {
        let Some((inside, after)) = after.split_once(close) else {
            break;
        };
        found.push(inside);
        rest = after;
    }
    found
}

fn finding(line: usize, rule: String) -> Finding {
    Finding {
        path: PathBuf::from(DOCUMENT),
        line,
        rule,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(evidence: &str) -> Vec<String> {
        let code = "/// F33: kept out.\n#[test]\nfn kept_out() {}\nfn no_test() {}\n";
        let document = "# A\n## What is left in clear\n";
        let read = |path: &str| match path {
            "crates/a/tests/b.rs" => Some(code.to_owned()),
            "SECURITY.md" => Some(String::new()),
            _ => None,
        };
        check_evidence(33, evidence, document, read)
    }

    #[test]
    fn a_row_leads_to_a_test_that_says_its_number() {
        assert_eq!(row("`a/tests/b.rs::kept_out`"), [""; 0]);
        assert_eq!(row("`a/tests/b.rs::no_test`").len(), 1);
        assert_eq!(row("`a/tests/b.rs::kept`").len(), 1);
        assert_eq!(row("`a/tests/c.rs::kept_out`").len(), 1);
        let code = "/// F3, F12: x\n#[test]\nfn f() {}\n";
        assert_eq!(says_number(code, "f", 12), Some(true));
        assert_eq!(says_number(code, "f", 1), Some(false));
    }

    #[test]
    fn a_row_leads_to_a_paragraph_that_exists() {
        assert_eq!(row("[x](#what-is-left-in-clear)"), [""; 0]);
        assert_eq!(row("[x](../SECURITY.md)"), [""; 0]);
        assert_eq!(row("[x](#elsewhere)").len(), 1);
        assert_eq!(row("trust us").len(), 1);
    }

    #[test]
    fn every_promise_has_one_row() {
        let rows = |numbers: std::ops::RangeInclusive<u32>| -> String {
            numbers
                .map(|n| format!("| F{n} | x | [y](z) |\n"))
                .collect()
        };
        let read = |_: &str| Some(String::new());
        assert!(check_document(&rows(19..=50), read).is_empty());
        assert_eq!(check_document(&rows(19..=49), read).len(), 1);
    }
}
