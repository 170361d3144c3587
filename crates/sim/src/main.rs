//! Runs simulated histories from the command line: `sim --seed N [--peers K] [--events E]
//! [--histories H] [--hostile] [--trace] [--log]`. One line of result; a failing seed comes with the command that
//! repeats it.
//!
//! Or address allocators alone, which is much cheaper: `sim --addresses [--seed N] [--peers K] [--events E]
//! [--without P,Q,...] [--histories H] [--shrink] [--trace] [--log]`.
//!
//! Or tries everything that can happen to three allocators: `sim --explore [--depth N] [--scene NAME]
//! [--heal-every M]`.
//!
//! Or measures large meshes whose peers come and go: `sim --churn [--peers K,L,...] [--minutes M] [--seed N]
//! [--delay-ms D] [--original] [--write]`. Or large clusters that allocate
//! addresses: `sim --ring [--peers K,L,...] [--new M] [--seed N] [--delay-ms D] [--write]`.

#![expect(
    clippy::print_stdout,
    reason = "the result is what this program is for"
)]

use std::process::ExitCode;
use std::time::Duration;

use sim::addresses;
use sim::churn::Churn;
use sim::explore;
use sim::plan::Setting;
use sim::report::{self, Row};
use sim::ring;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

const USAGE: &str =
    "usage: sim --seed N [--peers K] [--events E] [--histories H] [--hostile] [--trace] [--log]
       sim --addresses [--seed N] [--peers K] [--events E] [--without P,Q,...] [--histories H] [--shrink] [--trace] [--log]
       sim --explore [--depth N] [--scene NAME] [--heal-every M]
       sim --churn [--peers K,L,...] [--minutes M] [--seed N] [--delay-ms D] [--original] [--write]
       sim --ring [--peers K,L,...] [--new M] [--seed N] [--delay-ms D] [--write]";

struct Args {
    setting: Setting,
    histories: u64,
    trace: bool,
    log: bool,
}

/// Prints virtual time in front of log lines.
struct VirtualClock;

impl FormatTime for VirtualClock {
    fn format_time(&self, w: &mut Writer<'_>) -> std::fmt::Result {
        write!(w, "{:10.3}", sim::world::virtual_time().as_secs_f64())
    }
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1).peekable();
    if args.next_if(|flag| flag == "--churn").is_some() {
        return measure(args);
    }
    if args.next_if(|flag| flag == "--ring").is_some() {
        return measure_rings(args);
    }
    if args.next_if(|flag| flag == "--explore").is_some() {
        return explore(args);
    }
    if args.next_if(|flag| flag == "--addresses").is_some() {
        return addresses(args);
    }
    let args = match parse(args) {
        Ok(args) => args,
        Err(error) => {
            eprintln!("sim: {error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    if args.log {
        print_log();
    }
    let trace: Option<sim::Trace> = args.trace.then_some(print_line);
    let (mut steps, mut virtual_time, mut slowest) = (0, Duration::ZERO, Duration::ZERO);
    for n in 0..args.histories {
        let setting = Setting {
            seed: args.setting.seed.wrapping_add(n),
            ..args.setting
        };
        match sim::run(setting, trace) {
            Ok(summary) => {
                steps += summary.steps;
                virtual_time += summary.virtual_time;
                slowest = slowest.max(summary.rest_after);
                if args.histories == 1 {
                    println!("ok: {summary:?}");
                }
            }
            Err(failure) => {
                println!("FAILED: {failure}");
                return ExitCode::FAILURE;
            }
        }
    }
    if args.histories != 1 {
        let histories = args.histories;
        println!(
            "ok: {histories} histories, {steps} steps, {virtual_time:?} of virtual time, slowest rest {slowest:?}"
        );
    }
    ExitCode::SUCCESS
}

/// Prints what peers log, to standard error.
fn print_log() {
    let log = tracing_subscriber::fmt()
        .with_timer(VirtualClock)
        .with_target(false);
    log.with_writer(std::io::stderr).init();
}

/// `--addresses`: one history, or many on all cores.
fn addresses(args: impl Iterator<Item = String>) -> ExitCode {
    let args = match parse_addresses(args) {
        Ok(args) => args,
        Err(error) => {
            eprintln!("sim: {error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    if args.log {
        print_log();
    }
    let start = stopwatch();
    let outcome = if args.histories == 1 {
        addresses::run(&args.setting, args.trace.then_some(print_line))
    } else {
        addresses::run_many(args.setting.seed, args.histories)
    };
    match outcome {
        Ok(summary) => {
            println!("ok in {:.1} s: {summary:?}", start().as_secs_f64());
            ExitCode::SUCCESS
        }
        Err(failure) => {
            println!("FAILED: {failure}");
            if args.shrink {
                println!("shorter: {}", addresses::shrink(failure));
            }
            ExitCode::FAILURE
        }
    }
}

/// `--explore`: every history of three allocators up to a depth, scene by scene.
fn explore(mut args: impl Iterator<Item = String>) -> ExitCode {
    let (mut depth, mut heal_every, mut only) = (4_u8, 20_u64, None);
    while let Some(flag) = args.next() {
        let value = args.next().unwrap_or_default();
        let is_right = match flag.as_str() {
            "--depth" => value.parse().map(|it| depth = it).is_ok(),
            "--heal-every" => value.parse().map(|it| heal_every = it).is_ok() && heal_every > 0,
            "--scene" => {
                only = Some(value);
                true
            }
            _ => false,
        };
        if !is_right {
            eprintln!("sim: {flag}: not understood\n{USAGE}");
            return ExitCode::from(2);
        }
    }
    let scenes = explore::scene::Scene::all().into_iter();
    for scene in scenes.filter(|scene| only.as_ref().is_none_or(|only| scene.name == only)) {
        let (name, start) = (scene.name, stopwatch());
        let setting = explore::Setting {
            scene,
            depth,
            heal_every,
        };
        match explore::explore(&setting) {
            Ok(outcome) => {
                let seconds = start().as_secs_f64();
                println!("ok: {name}, depth {depth}, in {seconds:.1} s: {outcome:?}");
            }
            Err(failure) => {
                println!("FAILED: {name}: {failure}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

/// What `--addresses` is to do.
struct AddressArgs {
    setting: addresses::plan::Setting,
    histories: u64,
    shrink: bool,
    trace: bool,
    log: bool,
}

fn parse_addresses(mut args: impl Iterator<Item = String>) -> Result<AddressArgs, String> {
    let mut parsed = AddressArgs {
        setting: addresses::plan::Setting::default(),
        histories: 1,
        shrink: false,
        trace: false,
        log: false,
    };
    while let Some(flag) = args.next() {
        match flag.as_str() {
            "--shrink" => parsed.shrink = true,
            "--trace" => parsed.trace = true,
            "--log" => parsed.log = true,
            "--seed" | "--histories" | "--peers" | "--events" | "--without" => {
                let value = args
                    .next()
                    .ok_or_else(|| format!("{flag} needs a number"))?;
                let numbers: Result<Vec<u64>, _> = value.split(',').map(str::parse).collect();
                let numbers = numbers.map_err(|_| format!("{flag} {value}: not a number"))?;
                let setting = &mut parsed.setting;
                match flag.as_str() {
                    "--seed" => setting.seed = numbers[0],
                    "--histories" => parsed.histories = numbers[0],
                    "--peers" => setting.peers = Some(numbers[0] as usize),
                    "--events" => setting.events = Some(numbers[0] as usize),
                    _ => setting.without = numbers.iter().map(|n| *n as usize).collect(),
                }
            }
            _ => return Err(format!("unknown flag {flag}")),
        }
    }
    Ok(parsed)
}

/// What `--churn` is to measure.
struct Report {
    churn: Churn,
    sizes: Vec<usize>,
    /// Whether to measure the only size here and print it for the process that asked.
    row: bool,
    write: bool,
}

fn measure(args: impl Iterator<Item = String>) -> ExitCode {
    let done = parse_report(args).and_then(|report| {
        if report.row {
            println!("{}", Row::measure(report.churn, stopwatch())?.to_line());
            return Ok(());
        }
        let rows = report::measure_all(&report.sizes, report.churn)?;
        let text = report::table(&rows, report.churn);
        print!("{text}");
        if report.write {
            report::write("churn", &text)?;
        }
        Ok(())
    });
    if let Err(error) = done {
        println!("sim: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// `--ring`: one row per size.
fn measure_rings(args: impl Iterator<Item = String>) -> ExitCode {
    let done = parse_rings(args).and_then(|(mut study, sizes, write)| {
        let mut text = ring::head(study);
        print!("{text}");
        for peers in sizes {
            study.peers = peers;
            let clock = stopwatch();
            let outcome = ring::run(study)?;
            let row = ring::row(study, &outcome, clock());
            print!("{row}");
            text += &row;
        }
        if write {
            report::write("ring", &text)?;
        }
        Ok(())
    });
    if let Err(error) = done {
        println!("sim: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn parse_rings(
    mut args: impl Iterator<Item = String>,
) -> Result<(ring::Study, Vec<usize>, bool), String> {
    let mut study = ring::Study {
        seed: 1,
        peers: 0,
        new: 50,
        delay_max: Duration::from_millis(50),
    };
    let (mut sizes, mut write) = (vec![50, 100, 200], false);
    while let Some(flag) = args.next() {
        if flag == "--write" {
            write = true;
            continue;
        }
        let value = args
            .next()
            .ok_or_else(|| format!("{flag} needs a number"))?;
        let numbers: Result<Vec<u64>, _> = value.split(',').map(str::parse).collect();
        let numbers = numbers.map_err(|_| format!("{flag} {value}: not a number"))?;
        match flag.as_str() {
            "--peers" => sizes = numbers.iter().map(|n| *n as usize).collect(),
            "--new" => study.new = numbers[0] as usize,
            "--seed" => study.seed = numbers[0],
            "--delay-ms" => study.delay_max = Duration::from_millis(numbers[0]),
            _ => return Err(format!("unknown flag {flag}\n{USAGE}")),
        }
    }
    let fits = |size: &usize| *size >= 6 && size + study.new <= 250;
    if !sizes.iter().all(fits) {
        return Err("--peers: at least 6, and at most 250 with the new ones".to_owned());
    }
    Ok((study, sizes, write))
}

#[expect(
    clippy::disallowed_methods,
    reason = "how long a simulation took is wall time"
)]
fn stopwatch() -> impl Fn() -> Duration {
    let start = std::time::Instant::now();
    move || start.elapsed()
}

fn parse_report(mut args: impl Iterator<Item = String>) -> Result<Report, String> {
    let mut report = Report {
        churn: Churn {
            seed: 1,
            peers: 0,
            churn: Duration::from_secs(120),
            weft: true,
            delay_max: Duration::from_millis(50),
        },
        sizes: vec![25, 50, 100, 200],
        row: false,
        write: false,
    };
    while let Some(flag) = args.next() {
        match flag.as_str() {
            "--row" => report.row = true,
            "--write" => report.write = true,
            "--original" => report.churn.weft = false,
            "--peers" | "--seed" | "--minutes" | "--seconds" | "--delay-ms" => {
                let value = args
                    .next()
                    .ok_or_else(|| format!("{flag} needs a number"))?;
                let numbers: Result<Vec<u64>, _> = value.split(',').map(str::parse).collect();
                let numbers = numbers.map_err(|_| format!("{flag} {value}: not a number"))?;
                let number = numbers[0];
                match flag.as_str() {
                    "--peers" => report.sizes = numbers.iter().map(|n| *n as usize).collect(),
                    "--seed" => report.churn.seed = number,
                    "--minutes" => report.churn.churn = Duration::from_secs(60 * number),
                    "--seconds" => report.churn.churn = Duration::from_secs(number),
                    _ => report.churn.delay_max = Duration::from_millis(number),
                }
            }
            _ => return Err(format!("unknown flag {flag}\n{USAGE}")),
        }
    }
    if report.sizes.iter().any(|size| !(3..=200).contains(size)) {
        return Err("--peers: sizes are 3 to 200".to_owned());
    }
    report.churn.peers = report.sizes[0];
    Ok(report)
}

fn print_line(at: Duration, line: &str) {
    println!("{:10.3} {line}", at.as_secs_f64());
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Args, String> {
    let setting = Setting {
        seed: 0,
        peers: None,
        events: None,
        hostile: false,
    };
    let mut parsed = Args {
        setting,
        histories: 1,
        trace: false,
        log: false,
    };
    while let Some(flag) = args.next() {
        if flag == "--trace" {
            parsed.trace = true;
            continue;
        }
        if flag == "--log" {
            parsed.log = true;
            continue;
        }
        if flag == "--hostile" {
            parsed.setting.hostile = true;
            continue;
        }
        let value = args
            .next()
            .ok_or_else(|| format!("{flag} needs a number"))?;
        let number: u64 = value
            .parse()
            .map_err(|_| format!("{flag} {value}: not a number"))?;
        let count = usize::try_from(number).map_err(|_| format!("{flag} {value}: too large"))?;
        match flag.as_str() {
            "--seed" => parsed.setting.seed = number,
            "--histories" => parsed.histories = number,
            "--peers" if (1..=250).contains(&count) => parsed.setting.peers = Some(count),
            "--peers" => return Err(format!("--peers {value}: must be 1 to 250")),
            "--events" => parsed.setting.events = Some(count),
            _ => return Err(format!("unknown flag {flag}")),
        }
    }
    Ok(parsed)
}
