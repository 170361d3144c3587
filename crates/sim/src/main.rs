//! Runs simulated histories from the command line: `sim --seed N [--peers K] [--events E]
//! [--histories H] [--hostile] [--trace] [--log]`. One line of result; a failing seed comes with the command that
//! repeats it.

#![expect(
    clippy::print_stdout,
    reason = "the result is what this program is for"
)]

use std::process::ExitCode;
use std::time::Duration;

use sim::plan::Setting;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

const USAGE: &str =
    "usage: sim --seed N [--peers K] [--events E] [--histories H] [--hostile] [--trace] [--log]";

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
    let args = match parse(std::env::args().skip(1)) {
        Ok(args) => args,
        Err(error) => {
            eprintln!("sim: {error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    if args.log {
        let log = tracing_subscriber::fmt()
            .with_timer(VirtualClock)
            .with_target(false);
        log.with_writer(std::io::stderr).init();
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
