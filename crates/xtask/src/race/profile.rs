//! `cargo xtask profile`: where the CPU time of an encrypted TCP stream, or of small packets, goes.
//!
//! Traffic between two hosts as in `race`, while `perf` samples both cores by the clock.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread;
use std::time::Duration;

use super::contestants::{Binaries, Ground};
use super::measure::{Bench, Flood};
use super::meter::Meter;
use super::network::{Lane, Shape, Underlay};
use super::plan::{Contestant, WEIGHT_MAX};
use super::samples::{Sample, Tally, Work};
use super::{PACKETS, STAGE, contestants, document, guard};
use crate::demo::build_release;
use crate::options::Options;
use crate::setup;
use crate::stage::{Outcome, Stage, finish_started, run, start};

/// Samples per second and core; not a divisor of anything periodic.
const SAMPLES_PER_SECOND: &str = "997";

/// The stream runs this long before and after sampling.
const MARGIN: Duration = Duration::from_secs(1);

/// How many functions of each kind are named.
const NAMED: usize = 3;

struct Plan {
    seconds: u64,
    write: bool,
    /// Small packets at this rate per second, in place of a TCP stream.
    packets: Option<u64>,
    weight: u64,
    weft: Option<PathBuf>,
}

impl Plan {
    fn read(arguments: &[&str]) -> Outcome<Self> {
        let mut plan = Self {
            seconds: 10,
            write: false,
            packets: None,
            weight: 1,
            weft: None,
        };
        let mut options = Options::of(arguments);
        while let Some(name) = options.next_name() {
            match name {
                "--seconds" => plan.seconds = options.number()?.clamp(1, 600),
                "--packets" => plan.packets = Some(options.number()?.clamp(1, 10_000_000)),
                "--weight" => plan.weight = options.number()?.clamp(1, WEIGHT_MAX),
                "--write" => plan.write = true,
                "--weft" => plan.weft = Some(PathBuf::from(options.value()?)),
                _ => return options.unknown(),
            }
        }
        Ok(plan)
    }
}

/// What the traffic achieved, sampled as it was.
struct Achieved {
    /// Words for the reader: what was sent, and how fast it went.
    what: &'static str,
    speed: String,
    /// CPU seconds for each unit of work, and what the unit is.
    cost: f64,
    unit: &'static str,
}

impl Achieved {
    fn by(bench: &Bench<'_>, lane: &Lane, packets: Option<u64>) -> Outcome<Self> {
        let Some(per_second) = packets else {
            let stream = bench.tcp(lane, 1)?;
            return Ok(Self {
                what: "One encrypted TCP stream",
                speed: format!("{:.2} Gbit/s", stream.gbits_per_second),
                cost: stream.cpu_seconds_per_gbit,
                unit: "CPU-s per Gbit",
            });
        };
        let flood = Flood {
            per_second,
            millis: bench.seconds * 1000,
            ..PACKETS
        };
        let got = bench.datagrams(lane, flood)?;
        Ok(Self {
            what: "Encrypted UDP datagrams of 64 bytes",
            speed: format!(
                "{:.0} thousand per second offered, {:.0} delivered",
                got.offered / 1e3,
                got.delivered / 1e3
            ),
            cost: got.cpu_seconds_per_million,
            unit: "CPU-s per million delivered",
        })
    }
}

/// Takes the profile and prints the table.
pub(crate) fn run_profile(arguments: &[&str]) -> ExitCode {
    match Plan::read(arguments).and_then(|plan| profile(&plan)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("the profile failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn profile(plan: &Plan) -> Outcome<()> {
    let missing = setup::ensure(setup::FOR_PROFILE);
    if !missing.is_empty() {
        return Err(format!("please install: {}", missing.join(" ")));
    }
    let weft = plan.weft.clone().map_or_else(build_release, Ok)?;
    let _guard = guard::post()?;
    let meter = Meter::new(STAGE, plan.weight);
    let stage = Stage::new(STAGE)?;
    let file = stage.directory().join("perf.data");
    try_perf(&file)?;
    let contestants = [Contestant::WeftEncrypted];
    let ground = Ground {
        stage: &stage,
        meter: &meter,
        shape: Shape::Pair,
        underlay: Underlay::Veth,
    };
    let binaries = Binaries {
        weft: weft.clone(),
        before: None,
    };
    let lanes = contestants::lanes(ground, &binaries, &contestants)?;
    let lane = lanes.first().ok_or("weft did not take part")?;
    let bench = Bench {
        stage: &stage,
        meter: &meter,
        seconds: plan.seconds + 2 * MARGIN.as_secs(),
    };
    println!("sending for {} s", bench.seconds);
    let mut processes = Vec::new();
    let achieved = thread::scope(|scope| {
        let traffic = scope.spawn(|| Achieved::by(&bench, lane, plan.packets));
        thread::sleep(MARGIN);
        let recording = record(&file, &plan.seconds.to_string(), || {
            processes.extend(meter.processes(lane.name));
        });
        traffic
            .join()
            .expect("a measurement does not panic")
            .and_then(|achieved| recording.map(|()| achieved))
    })?;
    let text = read_samples(&file)?;
    let daemon = weft
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    let tally = sort(&text, &processes, &daemon.unwrap_or_default());
    let text = render(&tally, &achieved, plan)?;
    println!("\n{text}");
    if plan.write {
        let name = match plan.packets {
            None => "profile",
            Some(_) => "profile-packets",
        };
        document::write(name, &text)?;
    }
    Ok(())
}

fn perf(words: &[&str]) -> Command {
    let mut command = Command::new("perf");
    command.env("PATH", setup::search_path()).args(words);
    command
}

/// Says clearly, and before anything is set up, that this machine cannot do it.
fn try_perf(file: &Path) -> Outcome<()> {
    record(file, "0.1", || {})
        .map_err(|error| format!("perf does not run on this machine: {error}"))
}

/// Samples every core for some seconds, and calls `meanwhile` again and again.
fn record(file: &Path, seconds: &str, mut meanwhile: impl FnMut()) -> Outcome<()> {
    let mut command = perf(&["record", "-q", "-a", "-e", "cpu-clock", "-F"]);
    command.arg(SAMPLES_PER_SECOND).arg("-o").arg(file);
    let mut child = start(command.args(["--", "sleep", seconds]))?;
    // An error shows again, in words, when its end is read.
    while let Ok(None) = child.try_wait() {
        meanwhile();
        thread::sleep(Duration::from_millis(100));
    }
    finish_started(child, "perf record").map(drop)
}

fn read_samples(file: &Path) -> Outcome<String> {
    let mut command = perf(&["script", "-F", "comm,pid,ip,sym,dso"]);
    run(command.arg("-i").arg(file))
}

fn sort(text: &str, processes: &[u32], daemon: &str) -> Tally {
    let ours = |process: u32| processes.contains(&process);
    let mut tally = Tally::default();
    for sample in text.lines().filter_map(Sample::read) {
        tally.add(sample.work(&ours, daemon), sample.symbol);
    }
    tally
}

fn render(tally: &Tally, achieved: &Achieved, plan: &Plan) -> Outcome<String> {
    let busy = tally.busy() as f64;
    if busy == 0.0 {
        return Err("perf saw nothing of the test".to_owned());
    }
    let all = busy + tally.of(Work::Idle) as f64 + tally.of(Work::Foreign) as f64;
    let percent = |work: Work| tally.of(work) as f64 / all * 100.0;
    let mut text = format!(
        "## Where the CPU time goes{}\n\n\
         Written by `cargo xtask profile --write`. {} between two hosts, one core per host, sampled on \
         both cores for {} s: {}, {:.3} {} with sampling on; {}{}. The cores were idle for {:.0} % of \
         the time, and {:.0} % went to programs outside the test; shares are of the rest, {} samples. \
         Time with interrupts off shows in the function that lets them in again.\n\n\
         | work | share, % | {} | largest functions (% of all) |\n|---|---|---|---|\n",
        plan.packets.map_or("", |_| ": small packets"),
        achieved.what,
        plan.seconds,
        achieved.speed,
        achieved.cost,
        achieved.unit,
        document::machine(),
        document::weight(plan.weight),
        percent(Work::Idle),
        percent(Work::Foreign),
        tally.busy(),
        achieved.unit,
    );
    for work in Work::SHOWN {
        let share = tally.of(work) as f64 / busy;
        let named: Vec<String> = tally
            .largest(work, NAMED)
            .into_iter()
            .map(|(symbol, samples)| format!("`{symbol}` {:.1}", samples as f64 / busy * 100.0))
            .collect();
        let _ = writeln!(
            text,
            "| {} | {:.1} | {:.3} | {} |",
            work.title(),
            share * 100.0,
            share * achieved.cost,
            named.join(", ")
        );
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEEN: &str = "\
         weft-rx  4242      55d0c1a2b3c4 dryoc::salsa20::xor_chunk (/opt/bin/weft)
         weft-rx  4242      55d0c1a2b3c5 dryoc::salsa20::xor_chunk (/opt/bin/weft)
         weft-tx  4243  ffffffff81000000 __schedule ([kernel.kallsyms])
         swapper     0  ffffffff81000001 pv_native_safe_halt ([kernel.kallsyms])
       opt cgu.3  7777      7fbd93434a29 llvm::Value::uses (/usr/lib/libLLVM.so)
     not a sample
";

    fn achieved() -> Achieved {
        Achieved {
            what: "One encrypted TCP stream",
            speed: "4.00 Gbit/s".to_owned(),
            cost: 0.3,
            unit: "CPU-s per Gbit",
        }
    }

    #[test]
    fn shares_are_of_what_the_test_did() {
        let tally = sort(SEEN, &[4242, 4243], "weft");
        let plan = Plan::read(&["--seconds", "1"]).unwrap();
        let text = render(&tally, &achieved(), &plan).unwrap();
        assert!(text.contains("idle for 20 %"), "{text}");
        assert!(text.contains("20 % went to programs outside"), "{text}");
        let cipher = "| cipher | 66.7 | 0.200 | `dryoc::salsa20::xor_chunk` 66.7 |";
        assert!(text.contains(cipher), "{text}");
        let waking = "| wake-ups and scheduling | 33.3 | 0.100 | `__schedule` 33.3 |";
        assert!(text.contains(waking), "{text}");
    }

    #[test]
    fn a_profile_without_the_test_in_it_is_an_error() {
        let plan = Plan::read(&[]).unwrap();
        assert!(render(&sort(SEEN, &[], "weft"), &achieved(), &plan).is_err());
    }
}
