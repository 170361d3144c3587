//! `cargo xtask profile`: where the CPU time of an encrypted TCP stream goes.
//!
//! One stream between two hosts as in `race`, while `perf` samples both cores by the clock.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread;
use std::time::Duration;

use super::measure::{Bench, Throughput};
use super::meter::Meter;
use super::network::Shape;
use super::plan::{Contestant, WEIGHT_MAX};
use super::samples::{Sample, Tally, Work};
use super::{STAGE, contestants, document, guard};
use crate::demo::build_release;
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
    weight: u64,
    weft: Option<PathBuf>,
}

impl Plan {
    fn read(arguments: &[&str]) -> Outcome<Self> {
        let mut plan = Self {
            seconds: 10,
            write: false,
            weight: 1,
            weft: None,
        };
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
            let number = |value: &str| -> Outcome<u64> {
                value
                    .parse()
                    .map_err(|error| format!("{word} {value}: {error}"))
            };
            match *word {
                "--seconds" => plan.seconds = number(value()?)?.clamp(1, 600),
                "--weight" => plan.weight = number(value()?)?.clamp(1, WEIGHT_MAX),
                "--write" => plan.write = true,
                "--weft" => plan.weft = Some(PathBuf::from(value()?)),
                other => return Err(format!("unknown argument {other}")),
            }
        }
        Ok(plan)
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
    let lanes = contestants::lanes(&stage, &meter, &weft, Shape::Pair, &contestants)?;
    let lane = lanes.first().ok_or("weft did not take part")?;
    let bench = Bench {
        stage: &stage,
        meter: &meter,
        seconds: plan.seconds + 2 * MARGIN.as_secs(),
    };
    println!("one encrypted TCP stream, {} s", bench.seconds);
    let mut processes = Vec::new();
    let stream = thread::scope(|scope| {
        let stream = scope.spawn(|| bench.tcp(lane, 1));
        thread::sleep(MARGIN);
        let recording = record(&file, &plan.seconds.to_string(), || {
            processes.extend(meter.processes(lane.name));
        });
        stream
            .join()
            .expect("a measurement does not panic")
            .and_then(|stream| recording.map(|()| stream))
    })?;
    let text = read_samples(&file)?;
    let daemon = weft
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    let tally = sort(&text, &processes, &daemon.unwrap_or_default());
    let text = render(&tally, &stream, plan)?;
    println!("\n{text}");
    if plan.write {
        document::write("profile", &text)?;
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

fn render(tally: &Tally, stream: &Throughput, plan: &Plan) -> Outcome<String> {
    let busy = tally.busy() as f64;
    if busy == 0.0 {
        return Err("perf saw nothing of the test".to_owned());
    }
    let all = busy + tally.of(Work::Idle) as f64 + tally.of(Work::Foreign) as f64;
    let percent = |work: Work| tally.of(work) as f64 / all * 100.0;
    let mut text = format!(
        "## Where the CPU time goes\n\n\
         Written by `cargo xtask profile --write`. One encrypted TCP stream between two hosts, one core \
         per host, sampled on both cores for {} s: {:.2} Gbit/s, {:.3} CPU-s per Gbit with \
         sampling on; {}{}. The cores were idle for {:.0} % of the time, and {:.0} % went to programs \
         outside the test; shares are of the rest, {} samples. Time with interrupts off shows in the \
         function that lets them in again.\n\n\
         | work | share, % | CPU-s per Gbit | largest functions (% of all) |\n|---|---|---|---|\n",
        plan.seconds,
        stream.gbits_per_second,
        stream.cpu_seconds_per_gbit,
        document::machine(),
        document::weight(plan.weight),
        percent(Work::Idle),
        percent(Work::Foreign),
        tally.busy(),
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
            share * stream.cpu_seconds_per_gbit,
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

    const STREAM: Throughput = Throughput {
        gbits_per_second: 4.0,
        cpu_seconds_per_gbit: 0.3,
        counted: 1.0,
    };

    #[test]
    fn shares_are_of_what_the_test_did() {
        let tally = sort(SEEN, &[4242, 4243], "weft");
        let plan = Plan::read(&["--seconds", "1"]).unwrap();
        let text = render(&tally, &STREAM, &plan).unwrap();
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
        assert!(render(&sort(SEEN, &[], "weft"), &STREAM, &plan).is_err());
    }
}
