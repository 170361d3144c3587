//! Repository commands: `cargo xtask tidy|test|demo|race`.
//!
//! Depends on the standard library alone, so that it builds in seconds on a fresh clone.
#![expect(clippy::print_stdout, reason = "a command line tool talks to its user")]

mod setup;
mod stopwatch;
mod suite;
mod tidy;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask <command>

  demo [--keep]        three hosts and four containers on this machine, explained step by step
  test [word]...       every test there is, or the test programs whose name contains a word;
                       ends with `N passed, N failed, N skipped`
  tidy                 the architecture rules of ARCHITECTURE.md
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["tidy"] => tidy::run(),
        ["test", only @ ..] => suite::run(only),
        ["help" | "--help" | "-h"] => {
            print!("{USAGE}");
            ExitCode::SUCCESS
        }
        _ => {
            eprint!("{USAGE}");
            ExitCode::from(2)
        }
    }
}
