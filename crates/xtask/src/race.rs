//! `cargo xtask race`: throughput, CPU cost and round trips of each path, side by side.
//!
//! Every path is a pair of hosts (namespaces joined by a veth) with a container each. All stand
//! at once, and are measured in turn, round after round, so that whatever else the machine does hits all
//! alike. Mode "one core per host": what arrives at host a is processed by CPU 0, at host b by
//! CPU 1 (RPS), and so are their daemons and programs; a path cannot be faster than one core.

mod paths;
mod table;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode};
use std::time::Duration;

use crate::demo::build_release;
use crate::setup;
use crate::stage::{Outcome, Stage, run, start, wait_for};
use paths::{Lane, lanes};
use table::{Row, Sample};

const STAGE: &str = "weftrace";
const LIMIT: Duration = Duration::from_secs(30);

/// What was asked for on the command line.
struct Plan {
    rounds: usize,
    seconds: u64,
    write: bool,
    /// A binary to measure instead of one built from these sources.
    weft: Option<PathBuf>,
}

impl Plan {
    fn read(arguments: &[&str]) -> Outcome<Self> {
        let mut plan = Self {
            rounds: 3,
            seconds: 4,
            write: false,
            weft: None,
        };
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            let mut number = || -> Outcome<u64> {
                let value = words
                    .next()
                    .ok_or_else(|| format!("{word} needs a number"))?;
                value
                    .parse()
                    .map_err(|error| format!("{word} {value}: {error}"))
            };
            match *word {
                "--rounds" => plan.rounds = number()?.clamp(1, 100) as usize,
                "--seconds" => plan.seconds = number()?.clamp(1, 600),
                "--write" => plan.write = true,
                "--weft" => plan.weft = words.next().map(PathBuf::from),
                other => return Err(format!("unknown argument {other}")),
            }
        }
        Ok(plan)
    }
}

/// Runs the measurement and prints the table.
pub(crate) fn run_race(arguments: &[&str]) -> ExitCode {
    match Plan::read(arguments).and_then(|plan| race(&plan)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("the race failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn race(plan: &Plan) -> Outcome<()> {
    let missing = setup::ensure(setup::FOR_RACE);
    if !missing.is_empty() {
        return Err(format!("please install: {}", missing.join(" ")));
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if cores < 2 {
        return Err("needs two cores, one per host".to_owned());
    }
    let weft = plan.weft.clone().map_or_else(build_release, Ok)?;
    let stage = Stage::new(STAGE)?;
    let meter = Meter::new();
    let lanes = lanes(&stage, &weft, &meter)?;
    let mut rows: Vec<Row> = lanes.iter().map(|lane| Row::new(lane.name)).collect();
    for round in 1..=plan.rounds {
        for (lane, row) in lanes.iter().zip(&mut rows) {
            println!("round {round} of {}: {}", plan.rounds, lane.name);
            row.add(measure(&stage, lane, &meter, plan)?);
        }
    }
    drop(stage);
    let text = table::render(&rows, plan.rounds, plan.seconds);
    println!("\n{text}");
    if plan.write {
        let file = crate::tidy::workspace_root().join("docs/performance.md");
        fs::write(&file, table::document(&text))
            .map_err(|error| format!("{}: {error}", file.display()))?;
        println!("written to docs/performance.md");
    }
    Ok(())
}

fn measure(stage: &Stage, lane: &Lane, meter: &Meter, plan: &Plan) -> Outcome<Sample> {
    let one = iperf(stage, lane, meter, plan.seconds, 1)?;
    let four = iperf(stage, lane, meter, plan.seconds, 4)?;
    let trip_micros = round_trip(stage, lane)?;
    Ok(Sample {
        one_gbits: one.gbits_per_second,
        four_gbits: four.gbits_per_second,
        cpu_seconds_per_gbit: one.cpu_seconds_per_gbit,
        trip_micros,
    })
}

/// Ends a server whose client is done. One that waits for another client would wait for ever.
fn end(mut server: Child) -> Outcome<()> {
    // It may have ended by itself, which is as good.
    let _ = server.kill();
    server
        .wait()
        .map(drop)
        .map_err(|error| format!("a server: {error}"))
}

struct Throughput {
    gbits_per_second: f64,
    cpu_seconds_per_gbit: f64,
}

fn iperf(
    stage: &Stage,
    lane: &Lane,
    meter: &Meter,
    seconds: u64,
    streams: u32,
) -> Outcome<Throughput> {
    let mut server = stage.command(&lane.to.space, "taskset");
    server.args(["-c", "1", "iperf3", "-s", "-1"]);
    let server = start(&mut meter.inside(lane.name, &server))?;
    let before = meter.cpu_seconds(lane.name);
    let said = wait_for("iperf3", LIMIT, || {
        let mut client = stage.command(&lane.from.space, "taskset");
        client.args(["-c", "0", "iperf3", "-J", "-c", &lane.to.address]);
        client.args(["-t", &seconds.to_string(), "-P", &streams.to_string()]);
        // With -J iperf3 ends well even when it could not connect.
        let said = run(&mut meter.inside(lane.name, &client))?;
        if said.contains("\"error\":") {
            Err(said)
        } else {
            Ok(said)
        }
    })?;
    let cpu_seconds = meter.cpu_seconds(lane.name) - before;
    end(server)?;
    let sum = said
        .split("\"sum_received\"")
        .nth(1)
        .ok_or("iperf3 reported no sum")?;
    let number = |key: &str| -> Outcome<f64> {
        let value = sum.split(&format!("\"{key}\":")).nth(1);
        let value = value
            .and_then(|rest| rest.split([',', '}']).next())
            .map(str::trim);
        value
            .and_then(|v| v.parse().ok())
            .ok_or_else(|| format!("iperf3 reported no {key}"))
    };
    let gbits = number("bytes")? * 8.0 / 1e9;
    let gbits_per_second = number("bits_per_second")? / 1e9;
    Ok(Throughput {
        gbits_per_second,
        cpu_seconds_per_gbit: cpu_seconds / gbits,
    })
}

fn round_trip(stage: &Stage, lane: &Lane) -> Outcome<f64> {
    let pinned = |space: &str, core: &str, words: &[&str]| -> Outcome<Command> {
        let own = std::env::current_exe().map_err(|error| format!("this program: {error}"))?;
        let mut command = stage.command(space, "taskset");
        command
            .args(["-c", core])
            .arg(own)
            .arg("traffic")
            .args(words);
        Ok(command)
    };
    let echo = start(&mut pinned(
        &lane.to.space,
        "1",
        &["echo", &lane.to.address],
    )?)?;
    let said = wait_for("a ping-pong", LIMIT, || {
        run(&mut pinned(
            &lane.from.space,
            "0",
            &["pingpong", &lane.to.address, "2"],
        )?)
    })?;
    end(echo)?;
    let median = said
        .split(' ')
        .next()
        .and_then(|number| number.parse().ok());
    median.ok_or_else(|| format!("the ping-pong said {said}"))
}

/// Counts the CPU time of everything that belongs to a path, by a control group of its own.
struct Meter {
    base: PathBuf,
    /// Name of the file with the time, and its units per second.
    unit: (&'static str, f64),
}

impl Meter {
    fn new() -> Self {
        let v1 = Path::new("/sys/fs/cgroup/cpuacct");
        if v1.is_dir() {
            return Self {
                base: v1.join(STAGE),
                unit: ("cpuacct.usage", 1e9),
            };
        }
        Self {
            base: Path::new("/sys/fs/cgroup").join(STAGE),
            unit: ("cpu.stat", 1e6),
        }
    }

    fn group(&self, lane: &str) -> PathBuf {
        self.base.join(lane.replace(' ', "-"))
    }

    /// The command, started so that it and its children are counted for `lane`.
    fn inside(&self, lane: &str, command: &Command) -> Command {
        let group = self.group(lane);
        // Without control groups the column shows "-"; nothing else depends on it.
        let _ = fs::create_dir_all(&group);
        let mut shell = Command::new("sh");
        shell.args(["-c", "echo $$ > \"$0\" 2>/dev/null; exec \"$@\""]);
        shell
            .arg(group.join("cgroup.procs"))
            .arg(command.get_program())
            .args(command.get_args());
        for (name, value) in command.get_envs() {
            if let Some(value) = value {
                shell.env(name, value);
            }
        }
        shell
    }

    /// CPU time used so far, or not a number where that is not known.
    fn cpu_seconds(&self, lane: &str) -> f64 {
        let (file, per_second) = self.unit;
        let text = fs::read_to_string(self.group(lane).join(file)).unwrap_or_default();
        let number = text.lines().next().and_then(|line| line.rsplit(' ').next());
        number
            .and_then(|number| number.parse().ok())
            .map_or(f64::NAN, |n: f64| n / per_second)
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        let groups = fs::read_dir(&self.base).into_iter().flatten().flatten();
        for group in groups
            .map(|entry| entry.path())
            .filter(|path| path.is_dir())
        {
            // A group whose last process is just ending stays; it is empty and harmless.
            let _ = fs::remove_dir(group);
        }
        let _ = fs::remove_dir(&self.base);
    }
}
