//! Replays every input the fuzzers kept: `fuzz/corpus/TARGET`, and `fuzz/regressions/TARGET`, which
//! once broke something.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// Runs a target over the inputs of its directories; returns how many there were.
fn replay(target: &str) -> usize {
    let (_, run) = *fuzzing::TARGETS
        .iter()
        .find(|(name, _)| *name == target)
        .expect("a target of that name");
    let mut count = 0;
    for kind in ["corpus", "regressions"] {
        for path in files(&fuzz_directory().join(kind).join(target)) {
            let bytes = fs::read(&path).expect("a readable input");
            let outcome = catch_unwind(AssertUnwindSafe(|| run(&bytes)));
            assert!(outcome.is_ok(), "{target} fails on {}", path.display());
            count += 1;
        }
    }
    count
}

fn fuzz_directory() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = own.ancestors().nth(2);
    root.expect("two directories below the root").join("fuzz")
}

/// The files of a directory, in order; none if it does not exist.
fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.is_file())
        .collect();
    paths.sort();
    paths
}

#[test]
fn targets_survive_what_the_fuzzers_found() {
    for (target, _) in fuzzing::TARGETS {
        let count = replay(target);
        assert!(count > 0, "{target} has no corpus");
    }
}

#[test]
fn targets_survive_the_shortest_inputs() {
    for (_, run) in fuzzing::TARGETS {
        run(&[]);
        for byte in 0..=255 {
            run(&[byte]);
            run(&[byte, byte]);
            run(&[byte; 64]);
        }
    }
}

#[test]
fn every_target_has_a_program_and_every_corpus_a_target() {
    for (target, _) in fuzzing::TARGETS {
        let program = fuzz_directory().join(format!("fuzz_targets/{target}.rs"));
        assert!(program.is_file(), "{} is missing", program.display());
    }
    for kind in ["corpus", "regressions"] {
        let entries = fs::read_dir(fuzz_directory().join(kind))
            .into_iter()
            .flatten();
        for entry in entries.filter_map(Result::ok) {
            let name = entry.file_name();
            let is_known = fuzzing::TARGETS.iter().any(|(target, _)| *target == name);
            assert!(is_known, "{kind}/{} belongs to no target", name.display());
        }
    }
}
