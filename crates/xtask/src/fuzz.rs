//! `cargo xtask fuzz`: runs the fuzz targets one after the other, and keeps what they found.
//!
//! Needs a nightly compiler and cargo-fuzz; says so if they are missing. docs/fuzzing.md lists the
//! targets.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use crate::tidy::workspace_root;

/// How long a target runs unless told otherwise, seconds.
const SECONDS: u64 = 600;
/// Memory one run may take, and time one input may take.
const LIMITS: [&str; 2] = ["-rss_limit_mb=2048", "-timeout=10"];
/// Longest input, bytes: that of a few messages.
const INPUT_BYTES_MAX: &str = "-max_len=4096";
/// What is kept of a target's corpus in the repository at most.
const KEPT_FILES_MAX: usize = 600;
const KEPT_BYTES_MAX: u64 = 300 * 1024;

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    seconds: u64,
    /// Whether the corpora in the repository are to be replaced.
    writes: bool,
    /// All if empty.
    targets: Vec<String>,
}

impl Plan {
    fn parse(words: &[&str]) -> Result<Self, String> {
        let mut plan = Self {
            seconds: SECONDS,
            writes: false,
            targets: Vec::new(),
        };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match *word {
                "--write" => plan.writes = true,
                "--seconds" => {
                    let number = words.next().and_then(|number| number.parse().ok());
                    plan.seconds = number.ok_or("--seconds needs a number")?;
                }
                flag if flag.starts_with('-') => return Err(format!("unknown flag {flag}")),
                target => plan.targets.push(target.to_owned()),
            }
        }
        Ok(plan)
    }
}

/// Runs what the words ask for.
pub(crate) fn run_fuzz(words: &[&str]) -> ExitCode {
    let result = Plan::parse(words).and_then(|plan| run(&plan));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fuzz: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(plan: &Plan) -> Result<(), String> {
    let known = targets()?;
    if let Some(unknown) = plan.targets.iter().find(|target| !known.contains(target)) {
        return Err(format!(
            "no target {unknown}; there are {}",
            known.join(", ")
        ));
    }
    check_tools()?;
    let is_wanted = |target: &&String| plan.targets.is_empty() || plan.targets.contains(target);
    let mut failed = Vec::new();
    for target in known.iter().filter(is_wanted) {
        match fuzz(target, plan.seconds) {
            Ok(summary) => println!("{target}: {summary}"),
            Err(error) => {
                println!("{target}: {error}");
                failed.push(target.as_str());
                continue;
            }
        }
        if plan.writes {
            println!("{target}: {}", keep(target)?);
        }
    }
    if failed.is_empty() {
        Ok(())
    } else {
        Err(format!(
            "{} failed; inputs in fuzz/artifacts",
            failed.join(", ")
        ))
    }
}

/// All targets, by the files of their programs.
fn targets() -> Result<Vec<String>, String> {
    let directory = fuzz_directory().join("fuzz_targets");
    let entries = fs::read_dir(&directory).map_err(|e| format!("{}: {e}", directory.display()))?;
    let mut names: Vec<String> = entries
        .filter_map(|entry| Some(entry.ok()?.path().file_stem()?.to_str()?.to_owned()))
        .collect();
    names.sort();
    Ok(names)
}

fn fuzz_directory() -> PathBuf {
    workspace_root().join("fuzz")
}

/// Where inputs collect that are not in the repository.
fn scratch(target: &str) -> Result<PathBuf, String> {
    let directory = fuzz_directory().join("target/found").join(target);
    fs::create_dir_all(&directory).map_err(|e| format!("{}: {e}", directory.display()))?;
    Ok(directory)
}

/// Says what is missing and how to get it.
fn check_tools() -> Result<(), String> {
    let works = |arguments: &[&str]| {
        let mut command = Command::new("cargo");
        command
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    if !works(&["+nightly", "--version"]) {
        return Err("a nightly compiler is missing: rustup toolchain install nightly".to_owned());
    }
    if !works(&["+nightly", "fuzz", "--version"]) {
        return Err("cargo-fuzz is missing: cargo install cargo-fuzz".to_owned());
    }
    Ok(())
}

/// The engine on a target. Without sanitizers: the targets forbid unsafe code, and the time saved
/// goes to inputs.
fn engine(target: &str, directories: &[&Path], flags: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command.args(["+nightly", "fuzz", "run", "--sanitizer", "none", target]);
    command.args(directories).arg("--").args(flags);
    command.current_dir(workspace_root());
    command
}

fn fuzz(target: &str, seconds: u64) -> Result<String, String> {
    let found = scratch(target)?;
    let corpus = fuzz_directory().join("corpus").join(target);
    let regressions = fuzz_directory().join("regressions").join(target);
    let mut directories = vec![found.as_path()];
    directories.extend(
        [corpus.as_path(), &regressions]
            .into_iter()
            .filter(|d| d.is_dir()),
    );
    let time = format!("-max_total_time={seconds}");
    let mut flags = vec![time.as_str(), "-print_final_stats=1", INPUT_BYTES_MAX];
    flags.extend(LIMITS);
    let output = engine(target, &directories, &flags)
        .stdout(Stdio::inherit())
        .output()
        .map_err(|error| format!("cargo: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        Ok(summary(&said))
    } else {
        Err(tail(&said))
    }
}

/// Executions and coverage, out of what the engine said.
fn summary(said: &str) -> String {
    let executions = said
        .lines()
        .find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    let coverage = said.lines().rev().find_map(|line| {
        let (_, rest) = line.split_once(" cov: ")?;
        let (covered, rest) = rest.split_once(" ft: ")?;
        Some((covered.trim(), rest.split_whitespace().next()?))
    });
    let (edges, features) = coverage.unwrap_or(("?", "?"));
    let executions = executions.unwrap_or("?").trim();
    format!("{executions} executions, {edges} edges, {features} features")
}

/// The end of what a failed run said.
fn tail(said: &str) -> String {
    const LINES: usize = 40;
    let lines: Vec<&str> = said.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

/// Replaces the corpus in the repository by few inputs that reach what all reach.
fn keep(target: &str) -> Result<String, String> {
    let corpus = fuzz_directory().join("corpus").join(target);
    let smaller = fuzz_directory().join("target/kept").join(target);
    let text = |error: std::io::Error| format!("{target}: {error}");
    let _ = fs::remove_dir_all(&smaller);
    fs::create_dir_all(&smaller).map_err(text)?;
    fs::create_dir_all(&corpus).map_err(text)?;
    let found = scratch(target)?;
    let merged = engine(
        target,
        &[&smaller, &corpus, &found],
        &["-set_cover_merge=1", "-use_counters=0", INPUT_BYTES_MAX],
    )
    .stderr(Stdio::null())
    .status();
    if !merged.is_ok_and(|status| status.success()) {
        return Err(format!("{target}: the corpus cannot be made smaller"));
    }
    let mut inputs: Vec<(u64, PathBuf)> = fs::read_dir(&smaller)
        .map_err(text)?
        .filter_map(Result::ok)
        .filter_map(|entry| Some((entry.metadata().ok()?.len(), entry.path())))
        .collect();
    inputs.sort();
    fs::remove_dir_all(&corpus).map_err(text)?;
    fs::create_dir_all(&corpus).map_err(text)?;
    let (mut files, mut bytes) = (0, 0);
    for (length, path) in inputs {
        if files == KEPT_FILES_MAX || bytes + length > KEPT_BYTES_MAX {
            break;
        }
        let name = path.file_name().expect("a directory entry has a name");
        fs::copy(&path, corpus.join(name)).map_err(text)?;
        (files, bytes) = (files + 1, bytes + length);
    }
    Ok(format!("{files} inputs of {bytes} bytes kept"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plan_is_read_from_the_command_line() {
        let plan = Plan::parse(&["--seconds", "7", "gob", "--write", "node"]).unwrap();
        let expected = Plan {
            seconds: 7,
            writes: true,
            targets: vec!["gob".to_owned(), "node".to_owned()],
        };
        assert_eq!(plan, expected);
        assert!(Plan::parse(&["--seconds"]).is_err());
        assert!(Plan::parse(&["--second", "7"]).is_err());
    }

    #[test]
    fn summary_has_the_last_coverage() {
        let said = "#2\tINITED cov: 12 ft: 13 corp: 1/1b\n#9\tDONE   cov: 163 ft: 510 corp: 3/4b\n\
                    stat::number_of_executed_units: 58378899\n";
        assert_eq!(
            summary(said),
            "58378899 executions, 163 edges, 510 features"
        );
        assert_eq!(summary(""), "? executions, ? edges, ? features");
    }

    #[test]
    fn every_target_is_known_by_its_program() {
        let targets = targets().unwrap();
        assert!(targets.contains(&"node".to_owned()), "{targets:?}");
    }
}
