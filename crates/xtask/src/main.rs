//! Repository commands: `cargo xtask tidy|test|demo|race|allocations|crash|soak|fuzz`.
//!
//! Depends on the standard library alone, so that it builds in seconds on a fresh clone.
//!
//! # Size
//!
//! Far past its plan, which was tidy and packaging: the race, the crash and soak ordeals, the fuzz driver
//! and the test suite are commands of the repository too, and share the stage on which hosts are laid out.
//! None of it is part of what is shipped. A crate `lab` of hosts and traffic is to take the shared half.
#![expect(clippy::print_stdout, reason = "a command line tool talks to its user")]

mod allocations;
mod chance;
mod crash;
mod demo;
mod fuzz;
mod options;
mod race;
mod reliability;
mod setup;
mod soak;
mod stage;
mod stopwatch;
mod suite;
mod tidy;
mod traffic;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask <command>

  demo [--keep]        three hosts and four containers on this machine, explained step by step;
                       --keep leaves them running, `demo --remove` removes them
  test [word]...       every test there is, or the test programs whose name contains a word;
                       ends with `N passed, N failed, N skipped`
  race [--rounds N] [--seconds N] [--only PART,...] [--check] [--write] [--weft PATH] [--weight N]
                       throughput, CPU cost and round trips beside the raw network, and beside the
                       original router if WEFT_PEER_WEAVER names its daemon. Parts: tcp, flows,
                       packets, many, relay. --check fails if a goal is missed; --write puts the
                       tables into docs/performance.md; --weft measures that binary; --weight N
                       gives the test N shares of a core beside others, if the machine is not quiet
  allocations [--rounds N] [--count N] [--check] [--write] [--weft PATH]
                       addresses given out per second to 32 clients and the wait of one, beside the original
                       router if WEFT_PEER_WEAVER names its daemon
  crash [--kills N] [--seed N] [--write] [--weft PATH]
                       kills daemons at random moments under traffic, measures how they come back, and
                       looks for what reset leaves; --write records it in docs/reliability.md
  profile [--seconds N] [--packets RATE] [--write] [--weft PATH] [--weight N]
                       where the CPU time of an encrypted TCP stream goes, by perf; --packets sends
                       small ones at a rate per second instead
  soak [--minutes N] [--seed N] [--write] [--weft PATH]
                       six peers, half of them originals if WEFT_PEER_WEAVER names their daemon, under
                       traffic and faults; nothing may be altered, leak or stay broken
  fuzz [--seconds N] [--write] [TARGET...]
                       the fuzz targets one after the other, ten minutes each unless told otherwise;
                       --write keeps what they found in fuzz/corpus
  tidy                 the architecture rules of ARCHITECTURE.md
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["demo"] => demo::run_demo(false),
        ["demo", "--keep"] => demo::run_demo(true),
        ["demo", "--remove"] => demo::remove(),
        ["allocations", plan @ ..] => allocations::run_allocations(plan),
        ["crash", plan @ ..] => crash::run_crash(plan),
        ["soak", plan @ ..] => soak::run_soak(plan),
        ["fuzz", plan @ ..] => fuzz::run_fuzz(plan),
        ["race", plan @ ..] => race::run_race(plan),
        ["profile", plan @ ..] => race::profile::run_profile(plan),
        ["tidy"] => tidy::run(),
        ["traffic", rest @ ..] => inside(traffic::run(rest)),
        ["probe", "agent", rest @ ..] => inside(soak::run_agent(rest)),
        ["probe", rest @ ..] => inside(crash::probe::run(rest)),
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

/// The end of a program that ran inside a namespace.
fn inside(result: Result<String, String>) -> ExitCode {
    match result {
        Ok(said) => {
            println!("{said}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
