//! A crate past twice the size it was planned for says why.
//!
//! The plan counts all lines of `src` but tests. A crate that has more than twice as many needs a note
//! in the documentation of its root file: a heading `# Size` with the reason below it, which says why
//! these lines belong together. That is a design note and not a waiver: if there is no reason, the
//! crate is to be divided. Crates the plan gives no number are not measured. `KNOWN` lists the crates
//! that lack their note; a line that is of no more use is a finding.

use std::path::{Path, PathBuf};

use super::finding::Finding;
use super::source::CrateFile;

/// Crates and the lines they were planned to have.
const PLANNED: [(&str, usize); 15] = [
    ("wire", 1_500),
    ("mesh", 2_500),
    ("ipam", 2_000),
    ("names", 1_000),
    ("policy", 1_500),
    ("overlay", 2_000),
    ("wireguard", 2_500),
    ("node", 1_200),
    ("linux", 3_000),
    ("api", 700),
    ("daemon", 4_000),
    ("k8s", 600),
    ("weft", 1_800),
    ("sim", 1_800),
    ("xtask", 400),
];

/// Crates that are past twice that and do not say why.
const KNOWN: &[&str] = &[];

/// The heading of the note.
const NOTE: &str = "//! # Size";

/// Checks all crates by their files that are not tests.
pub(super) fn check(files: &[CrateFile<'_>]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (krate, planned) in PLANNED {
        let own = || files.iter().filter(move |file| file.krate == krate);
        let lines: usize = own().map(code_lines).sum();
        let root = own().find(|file| file.path.ends_with("src/lib.rs"));
        let root = root.or_else(|| own().find(|file| file.path.ends_with("src/main.rs")));
        let has_note = root.is_some_and(has_note);
        let is_known = KNOWN.contains(&krate);
        let lacks_note = lines > 2 * planned && !has_note;
        if lacks_note && !is_known {
            let path = root.map_or_else(PathBuf::new, |root| root.path.to_owned());
            let rule = format!(
                "{krate} has {lines} lines without tests and was planned with {planned}: say why under `{NOTE}`"
            );
            findings.push(Finding::new(&path, 1, rule));
        }
        if is_known && !lacks_note {
            let rule = format!("{krate} needs no more leave to be large: remove its line");
            findings.push(Finding::new(Path::new(file!()), 1, rule));
        }
    }
    findings
}

fn code_lines(file: &CrateFile<'_>) -> usize {
    let lines = 1..=file.source.raw.lines().count();
    lines.filter(|line| !file.source.is_test(*line)).count()
}

/// Whether the documentation of a file has the heading and something below it.
fn has_note(file: &CrateFile<'_>) -> bool {
    let lines = file.source.raw.lines().map(str::trim);
    let mut below = lines.skip_while(|line| *line != NOTE).skip(1);
    below.any(|line| {
        line.strip_prefix("//!")
            .is_some_and(|text| !text.trim().is_empty())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::source::Source;

    fn findings(root: &str, lines: usize) -> usize {
        let sources = [
            ("crates/api/src/lib.rs", Source::new(root)),
            ("crates/api/src/a.rs", Source::new(&"//! x\n".repeat(lines))),
        ];
        let files: Vec<CrateFile<'_>> = sources
            .iter()
            .map(|(path, source)| CrateFile {
                path: Path::new(path),
                krate: "api",
                source,
            })
            .collect();
        check(&files)
            .iter()
            .filter(|found| found.path.starts_with("crates/api"))
            .count()
    }

    #[test]
    fn a_crate_past_twice_its_plan_needs_a_note() {
        assert_eq!(findings("//! x\n", 1_399), 0);
        assert_eq!(findings("//! x\n", 1_400), 1);
        assert_eq!(
            findings("//! x\n//!\n//! # Size\n//!\n//! Two protocols.\n", 1_400),
            0
        );
        assert_eq!(findings("//! x\n//!\n//! # Size\n//!\nmod a;\n", 1_400), 1);
    }

    #[test]
    fn tests_do_not_count() {
        let tests = format!(
            "//! x\n#[cfg(test)]\nmod tests {{\n{}}}\n",
            "\n".repeat(2_000)
        );
        assert_eq!(findings(&tests, 1_000), 0);
    }
}
