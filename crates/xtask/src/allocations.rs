//! `cargo xtask allocations`: how many addresses per second a daemon gives out, beside the original.
//!
//! Both daemons stand in a namespace of their own, alone in their ring, with their state on the same file
//! system, and are asked in turn through the same HTTP requests, round after round.

use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use crate::demo::build_release;
use crate::options::{Options, exit_code};
use crate::race::document;
use crate::setup;
use crate::stage::{Outcome, Stage, run, wait_for};

const STAGE: &str = "weftalloc";
/// Environment variable with the path of the original router's daemon (`weaver`), if it is to take part.
const ORIGINAL: &str = "WEFT_PEER_WEAVER";
const SERVER: &str = "127.0.0.1:6784";
const LIMIT: Duration = Duration::from_secs(30);
const RANGE: &str = "10.32.0.0/12";
/// How many ask at once in the crowded measurement.
const CROWD: u64 = 32;

/// The goals: rate with a crowd, and median of one client, beside the original.
const RATE_GOAL: f64 = 10.0;
const LATENCY_GOAL: f64 = 0.5;

/// What was asked for on the command line.
struct Plan {
    rounds: u64,
    count: u64,
    write: bool,
    check: bool,
    weft: Option<PathBuf>,
}

/// One daemon and what was measured of it.
struct Contestant {
    name: &'static str,
    space: &'static str,
    rounds: Vec<Sample>,
}

/// One round.
#[derive(Debug, Clone, Copy)]
struct Sample {
    /// Addresses per second with a crowd.
    crowd_rate: f64,
    /// Median and 99th percentile of one of the crowd, microseconds.
    crowd_wait: (f64, f64),
    /// The same of a client alone.
    alone_wait: (f64, f64),
}

/// Runs the measurement and prints the table.
pub(crate) fn run_allocations(arguments: &[&str]) -> ExitCode {
    exit_code(
        "the measurement failed",
        read(arguments).and_then(|plan| measure(&plan)),
    )
}

fn read(arguments: &[&str]) -> Outcome<Plan> {
    let mut plan = Plan {
        rounds: 5,
        count: 2000,
        write: false,
        check: false,
        weft: None,
    };
    let mut options = Options::of(arguments);
    while let Some(name) = options.next_name() {
        match name {
            "--rounds" => plan.rounds = options.number()?.clamp(1, 100),
            "--count" => plan.count = options.number()?.clamp(CROWD, 100_000),
            "--write" => plan.write = true,
            "--check" => plan.check = true,
            "--weft" => plan.weft = Some(PathBuf::from(options.value()?)),
            _ => return options.unknown(),
        }
    }
    Ok(plan)
}

/// Whether everything that was to be checked is well.
fn measure(plan: &Plan) -> Outcome<bool> {
    let missing = setup::ensure(setup::FOR_RACE);
    if !missing.is_empty() {
        return Err(format!("please install: {}", missing.join(" ")));
    }
    let weft = plan.weft.clone().map_or_else(build_release, Ok)?;
    let stage = Stage::new(STAGE)?;
    let mut contestants = vec![start_weft(&stage, &weft)?];
    match std::env::var_os(ORIGINAL).map(PathBuf::from) {
        Some(weaver) => contestants.push(start_original(&stage, &weaver)?),
        None => println!("NOT TAKING PART: the original router; set {ORIGINAL} to its weaver"),
    }
    for round in 1..=plan.rounds {
        for contestant in &mut contestants {
            println!("round {round} of {}: {}", plan.rounds, contestant.name);
            let sample = sample(&stage, contestant.space, plan.count)?;
            println!("    {sample:.0?}");
            contestant.rounds.push(sample);
        }
    }
    let (text, reached) = report(plan, &contestants);
    println!("\n{text}");
    if plan.write {
        document::write("allocations", &text)?;
    }
    Ok(!plan.check || reached == Some(true))
}

fn start_weft(stage: &Stage, weft: &Path) -> Outcome<Contestant> {
    let space = "weft";
    stage.add(space)?;
    let arguments = ["launch", "--ipalloc-range", RANGE];
    let mut launch = stage.weft(space, weft, &arguments);
    launch.args(["--ipalloc-init", "consensus=1"]);
    run(launch.args(["--name", "00:00:00:00:00:01"]))?;
    Ok(Contestant {
        name: "weft",
        space,
        rounds: Vec::new(),
    })
}

/// Starts the daemon in a PID namespace of its own, because it takes `/proc/1` for the host.
fn start_original(stage: &Stage, weaver: &Path) -> Outcome<Contestant> {
    let space = "original";
    stage.add(space)?;
    let directory = stage.directory().join(space);
    let error = |error: std::io::Error| format!("{}: {error}", directory.display());
    std::fs::create_dir_all(directory.join("db")).map_err(error)?;
    let log = std::fs::File::create(directory.join("log")).map_err(error)?;
    let mut command = stage.command(space, "unshare");
    command
        .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
        .arg(weaver);
    command.args(["--no-fastdp", "--docker-api", "", "--no-dns"]);
    command.args(["--port", "6783", "--http-addr", SERVER]);
    command
        .arg("--db-prefix")
        .arg(directory.join("db/w"))
        .args(["--name", "00:00:00:00:00:01", "--nickname", space])
        .args(["--ipalloc-range", RANGE, "--ipalloc-init", "consensus=1"]);
    command
        .env("CHECKPOINT_DISABLE", "1")
        .env_remove("DOCKER_HOST")
        .current_dir(&directory)
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(error)?)
        .stderr(log);
    // Ended with its namespace, when the stage is taken down.
    command
        .spawn()
        .map_err(|error| format!("{}: {error}", weaver.display()))?;
    wait_for("the daemon of the original", LIMIT, || {
        let arguments = ["allocations", SERVER, "1", "1"];
        run(&mut stage.traffic(space, &arguments)?)
    })?;
    Ok(Contestant {
        name: "original",
        space,
        rounds: Vec::new(),
    })
}

fn sample(stage: &Stage, space: &str, count: u64) -> Outcome<Sample> {
    let ask = |clients: u64, count: u64| -> Outcome<[f64; 3]> {
        let (clients, count) = (clients.to_string(), count.to_string());
        let arguments = ["allocations", SERVER, &clients, &count];
        let said = run(&mut stage.traffic(space, &arguments)?)?;
        let numbers: Vec<f64> = said
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect();
        numbers
            .try_into()
            .map_err(|_| format!("odd answer: {said}"))
    };
    let [crowd_rate, crowd_median, crowd_late] = ask(CROWD, count)?;
    let [_, alone_median, alone_late] = ask(1, count / 4)?;
    Ok(Sample {
        crowd_rate,
        crowd_wait: (crowd_median, crowd_late),
        alone_wait: (alone_median, alone_late),
    })
}

/// Text for the document, and whether the goals were reached if both took part.
fn report(plan: &Plan, contestants: &[Contestant]) -> (String, Option<bool>) {
    let mut text = format!(
        "## Addresses beside the original\n\n\
         Written by `cargo xtask allocations --write`. Each daemon is alone in its ring, with its state on the same \
         file system. {} addresses are asked for by {CROWD} clients at once, then {} by one; then they \
         are given back, which is not measured. Medians of {} interleaved rounds (lowest–highest), {}.\n\n\
         | daemon | addresses per second, {CROWD} clients | median wait, µs | 99th percentile | median wait alone, µs | 99th percentile |\n\
         |---|---|---|---|---|---|\n",
        plan.count,
        plan.count / 4,
        plan.rounds,
        document::machine(),
    );
    let columns: [fn(&Sample) -> f64; 5] = [
        |sample| sample.crowd_rate,
        |sample| sample.crowd_wait.0,
        |sample| sample.crowd_wait.1,
        |sample| sample.alone_wait.0,
        |sample| sample.alone_wait.1,
    ];
    for contestant in contestants {
        let cells = columns.map(|column| {
            let (low, median, high) = contestant.summary(column);
            format!("{median:.0} ({low:.0}–{high:.0})")
        });
        text.push_str(&format!(
            "| {} | {} |\n",
            contestant.name,
            cells.join(" | ")
        ));
    }
    let [weft, original] = contestants else {
        return (text, None);
    };
    let ratio = |column: fn(&Sample) -> f64| weft.summary(column).1 / original.summary(column).1;
    let (rate, wait) = (ratio(columns[0]), ratio(columns[3]));
    let reached = rate >= RATE_GOAL && wait <= LATENCY_GOAL;
    let word = if reached { "reached" } else { "missed" };
    text.push_str(&format!(
        "\nWeft beside the original: {rate:.1} times the rate with {CROWD} clients (goal {RATE_GOAL:.0}), \
         {wait:.2} of the median wait of one (goal {LATENCY_GOAL}): {word}.\n"
    ));
    (text, Some(reached))
}

impl Contestant {
    /// Lowest, median and highest of the rounds.
    fn summary(&self, column: fn(&Sample) -> f64) -> (f64, f64, f64) {
        let mut values: Vec<f64> = self.rounds.iter().map(column).collect();
        values.sort_by(f64::total_cmp);
        let last = values.len() - 1;
        let median = f64::midpoint(values[last / 2], values[last.div_ceil(2)]);
        (values[0], median, values[last])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contestant(name: &'static str, rate: f64, wait: f64) -> Contestant {
        let sample = |factor: f64| Sample {
            crowd_rate: rate * factor,
            crowd_wait: (wait, wait),
            alone_wait: (wait * factor, wait),
        };
        Contestant {
            name,
            space: name,
            rounds: [1.0, 3.0, 2.0].map(sample).to_vec(),
        }
    }

    #[test]
    fn goals_are_judged_by_medians() {
        let plan = read(&["--rounds", "3", "--count", "64"]).expect("read");
        let original = || contestant("original", 10.0, 100.0);
        let both = [contestant("weft", 100.0, 50.0), original()];
        let (text, reached) = report(&plan, &both);
        assert_eq!(reached, Some(true), "{text}");
        assert!(text.contains("| weft | 200 (100–300) |"), "{text}");
        let slow = [contestant("weft", 99.0, 50.0), original()];
        assert_eq!(report(&plan, &slow).1, Some(false));
        assert_eq!(report(&plan, &slow[..1]).1, None);
    }

    #[test]
    fn mistakes_on_the_command_line_are_named() {
        assert!(read(&["--count"]).is_err());
        assert!(read(&["--fast"]).is_err_and(|error| error.contains("--fast")));
    }
}
