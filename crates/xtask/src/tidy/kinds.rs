//! Who decides among tunnels, carries them or tests them knows no kind of tunnel by name: a kind plugs
//! in by its own module, the enums `Kind` and `Lane`, and the dispatch of the data plane.
//!
//! So the files of `overlay::switch`, and those of `node`, `sim` and `fuzzing`, say `sleeve`, `fastdp`
//! and `wireguard` in no identifier, path or string, outside of comments and tests. `FORMATS` lists
//! the fuzz bodies whose very subject is one kind's format; a line that is of no more use is a finding.

use std::path::Path;

use super::finding::Finding;
use super::source::CrateFile;

/// The names of the kinds.
const KINDS: [&str; 3] = ["sleeve", "fastdp", "wireguard"];
/// Crates that name none.
const CRATES: [&str; 3] = ["fuzzing", "node", "sim"];
/// The module of `overlay` that names none, in a file or a directory.
const SWITCH: &str = "crates/overlay/src/switch";

/// Fuzz bodies of one kind's bytes on the wire: they take apart and put together what that kind alone
/// sends, and would find less if they did not know it.
const FORMATS: &[&str] = &[
    "crates/fuzzing/src/datapath.rs",
    "crates/fuzzing/src/headers.rs",
];

/// Checks all files that are not tests.
pub(super) fn check(files: &[CrateFile<'_>]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut used = Vec::new();
    for file in files.iter().filter(|file| is_neutral(file)) {
        let named = kinds_named(file);
        if named.is_empty() {
            continue;
        }
        match FORMATS.iter().find(|listed| file.path == Path::new(listed)) {
            Some(listed) => used.push(*listed),
            None => findings.extend(named),
        }
    }
    for listed in FORMATS.iter().filter(|listed| !used.contains(listed)) {
        let rule = format!("{listed} names no kind of tunnel: remove its line");
        findings.push(Finding::new(Path::new(file!()), 1, rule));
    }
    findings
}

fn is_neutral(file: &CrateFile<'_>) -> bool {
    let below =
        |path: &Path| path.starts_with(SWITCH) || path.with_extension("") == Path::new(SWITCH);
    CRATES.contains(&file.krate) || below(file.path)
}

fn kinds_named(file: &CrateFile<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in file.source.uncommented.lines().enumerate() {
        if file.source.is_test(index + 1) {
            continue;
        }
        let line = line.to_lowercase();
        for kind in KINDS.iter().filter(|kind| line.contains(*kind)) {
            let rule = format!("{kind} is named where no kind of tunnel may be");
            findings.push(Finding::new(file.path, index + 1, rule));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::source::Source;

    fn findings(path: &str, text: &str) -> Vec<usize> {
        let path = Path::new(path);
        let source = Source::new(text);
        let file = CrateFile {
            path,
            krate: crate::tidy::finding::crate_of(path),
            source: &source,
        };
        if !is_neutral(&file) {
            return Vec::new();
        }
        kinds_named(&file).iter().map(|found| found.line).collect()
    }

    #[test]
    fn kinds_are_found_in_identifiers_paths_and_strings_alone() {
        let text = "//! sleeve\nuse a::Sleeve; // fastdp\nlet x = \"wireguard\";\nfn on_fastdp() {}\n#[cfg(test)]\nmod tests {\n    use a::sleeve;\n}\n";
        assert_eq!(findings("crates/node/src/a.rs", text), [2, 3, 4]);
    }

    #[test]
    fn only_those_who_must_not_know_kinds_are_looked_at() {
        let text = "use a::Sleeve;\n";
        let places = [
            ("crates/overlay/src/switch.rs", 1),
            ("crates/overlay/src/switch/offers.rs", 1),
            ("crates/overlay/src/switching.rs", 0),
            ("crates/overlay/src/sleeve.rs", 0),
            ("crates/sim/src/a.rs", 1),
            ("crates/plane/src/a.rs", 0),
        ];
        for (path, count) in places {
            assert_eq!(findings(path, text).len(), count, "{path}");
        }
    }
}
