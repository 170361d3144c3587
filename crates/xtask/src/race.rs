//! `cargo xtask race`: throughput, CPU cost and round trips of each path, side by side.
//!
//! Every path is a set of hosts (namespaces joined by veths) with a container each. The paths of a part
//! stand all at once and are measured in turn, round after round, so that whatever else the machine does hits
//! all alike. Mode "one core per host": what arrives at a host is processed by one core (RPS), and so
//! are its daemon and its programs; a path between two hosts cannot be faster than one core.
//!
//! `--underlay nic` lets packets of the MTU's size cross the cables, as through network cards;
//! `--before FILE` measures another binary of Weft beside this one.

mod contestants;
pub(crate) mod document;
mod goals;
mod guard;
mod measure;
pub(crate) mod meter;
mod network;
mod plan;
pub(crate) mod profile;
mod rates;
mod samples;
mod table;

use std::process::ExitCode;

use crate::demo::build_release;
use crate::setup;
use crate::stage::{Outcome, Stage};
use contestants::{Binaries, Ground};
use measure::{Bench, Flood};
use meter::Meter;
use network::{Lane, Underlay};
use plan::{Part, Plan};
use table::Table;

const STAGE: &str = "weftrace";

/// What `flows` offers; the rate is found before the first round.
const FLOWS: Flood = Flood {
    flows: 1000,
    bytes: 200,
    per_second: 0,
    millis: 0,
};

/// What `packets` offers; the rate is found before the first round.
const PACKETS: Flood = Flood {
    flows: 1,
    bytes: 64,
    per_second: 0,
    millis: 0,
};

/// Runs the measurement and prints the tables.
pub(crate) fn run_race(arguments: &[&str]) -> ExitCode {
    if arguments == ["--guard"] {
        return guard::watch(STAGE);
    }
    match Plan::read(arguments).and_then(|plan| race(&plan)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("the race failed: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether everything that was to be checked is well.
fn race(plan: &Plan) -> Outcome<bool> {
    let missing = setup::ensure(setup::FOR_RACE);
    if !missing.is_empty() {
        return Err(format!("please install: {}", missing.join(" ")));
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if cores < 2 {
        return Err("needs two cores, one per host".to_owned());
    }
    let binaries = Binaries {
        weft: plan.weft.clone().map_or_else(build_release, Ok)?,
        before: plan.before.clone(),
    };
    let _guard = guard::post()?;
    let meter = Meter::new(STAGE, plan.weight);
    let mut done = Vec::new();
    let mut reached: Vec<bool> = Vec::new();
    for &underlay in &plan.underlays {
        for parts in plan.parts.chunk_by(|a, b| a.shares_stage_with(*b)) {
            let stage = Stage::new(STAGE)?;
            let words: Vec<&str> = parts.iter().map(|part| part.word()).collect();
            println!("setting up: {} ({})", words.join(", "), underlay.word());
            let ground = Ground {
                stage: &stage,
                meter: &meter,
                shape: parts[0].shape(),
                underlay,
            };
            let lanes = contestants::lanes(ground, &binaries, parts[0].contestants())?;
            let bench = Bench {
                stage: &stage,
                meter: &meter,
                seconds: plan.seconds,
            };
            for &part in parts {
                let (table, text) = measure_part(&bench, &lanes, part, plan)?;
                let mut text = section(part, underlay, plan, &text);
                if let Some((words, all)) = goals::verdict(part, &table) {
                    text.push_str(&format!("\n{words}"));
                    reached.push(all);
                }
                println!("\n{text}");
                done.push(document::Measured {
                    part,
                    underlay,
                    text,
                });
            }
        }
    }
    if plan.write {
        document::write_race(&done)?;
    }
    if plan.check && reached.is_empty() {
        println!("the goals were not measured; they belong to the part tcp");
    }
    let is_well = !reached.is_empty() && reached.iter().all(|reached| *reached);
    Ok(!plan.check || is_well)
}

/// A part of the document: title, what was done, the table and what follows from it.
fn section(part: Part, underlay: Underlay, plan: &Plan, table: &str) -> String {
    let (rounds, seconds) = (plan.rounds, plan.seconds);
    let plural = if rounds == 1 { "round" } else { "rounds" };
    let mode = match underlay {
        Underlay::Veth => "",
        Underlay::Nic => ", packets as through network cards",
    };
    format!(
        "### {}{mode}\n\n{}\n\nMedians of {rounds} interleaved {plural} of {seconds} s (lowest–highest), {}{}.\n\n{table}",
        part.title(),
        part.about(),
        document::machine(),
        document::weight(plan.weight),
    )
}

/// All rounds of a part; the table, and its text with what else is to be said.
fn measure_part(
    bench: &Bench<'_>,
    lanes: &[Lane],
    part: Part,
    plan: &Plan,
) -> Outcome<(Table, String)> {
    let floods = floods(bench, lanes, part)?;
    let names: Vec<&'static str> = lanes.iter().map(|lane| lane.name).collect();
    let mut table = Table::new(part.columns(), &names);
    let mut missing = vec![0; lanes.len()];
    for round in 1..=plan.rounds {
        for (at, lane) in lanes.iter().enumerate() {
            println!(
                "{} round {round} of {}: {}",
                part.word(),
                plan.rounds,
                lane.name
            );
            match sample(bench, lane, part, floods.get(at)) {
                Ok(values) => {
                    println!("    {values:.2?}");
                    table.add(at, values);
                }
                // A path that hangs now and then is measured by its other rounds.
                Err(error) if (missing[at] + 1) * 2 <= plan.rounds => {
                    println!("    NOT COUNTED: {error}");
                    missing[at] += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }
    let mut text = table.render();
    for (lane, missing) in lanes
        .iter()
        .zip(missing)
        .filter(|(_, missing)| *missing > 0)
    {
        let name = lane.name;
        text.push_str(&format!(
            "\n{name} did not get through in {missing} of the rounds.\n"
        ));
    }
    if let (Part::Flows, Some(flood)) = (part, floods.first()) {
        let offered = flood.per_second as f64 / 1e3;
        text = format!("Offered: {offered:.0} thousand datagrams per second.\n\n{text}");
    }
    Ok((table, text))
}

/// What to offer on each lane, where a part sends datagrams.
fn floods(bench: &Bench<'_>, lanes: &[Lane], part: Part) -> Outcome<Vec<Flood>> {
    let at = |flood: Flood, per_second| Flood {
        per_second,
        millis: bench.seconds * 1000,
        ..flood
    };
    match part {
        Part::Flows => {
            println!("flows: looking for the rate to offer");
            let rate = rates::common(bench, lanes, FLOWS)?;
            Ok(vec![at(FLOWS, rate); lanes.len()])
        }
        Part::Packets => lanes
            .iter()
            .map(|lane| {
                println!("packets: looking for the best rate of {}", lane.name);
                Ok(at(PACKETS, rates::fastest(bench, lane, PACKETS)?))
            })
            .collect(),
        Part::Tcp | Part::Many | Part::Relay | Part::Trips => Ok(Vec::new()),
    }
}

/// One round of one lane, a value for each column of the part.
fn sample(bench: &Bench<'_>, lane: &Lane, part: Part, flood: Option<&Flood>) -> Outcome<Vec<f64>> {
    Ok(match part {
        Part::Tcp => {
            let (one, four) = (bench.tcp(lane, 1)?, bench.tcp(lane, 4)?);
            vec![
                one.gbits_per_second,
                four.gbits_per_second,
                one.cpu_seconds_per_gbit,
                four.cpu_seconds_per_gbit,
                bench.round_trips(lane)?.median_micros,
                one.counted,
            ]
        }
        Part::Flows => {
            let flood = flood.expect("every lane has a rate");
            let got = bench.datagrams(lane, *flood)?;
            vec![
                got.delivered / 1e3,
                got.megabits_per_second,
                got.lost * 100.0,
                got.flows_seen,
                got.cpu_seconds_per_million,
                got.counted,
            ]
        }
        Part::Packets => {
            let flood = flood.expect("every lane has a rate");
            let got = bench.datagrams(lane, *flood)?;
            vec![
                got.delivered / 1e3,
                got.offered / 1e3,
                got.lost * 100.0,
                got.cpu_seconds_per_million,
                got.counted,
            ]
        }
        Part::Many => {
            let all = bench.tcp_from_all(lane)?;
            vec![all.gbits_per_second, all.cpu_seconds_per_gbit, all.counted]
        }
        Part::Relay => {
            let one = bench.tcp(lane, 1)?;
            let trips = bench.round_trips(lane)?;
            vec![
                one.gbits_per_second,
                one.cpu_seconds_per_gbit,
                trips.median_micros,
                one.counted,
            ]
        }
        Part::Trips => {
            let trips = bench.round_trips(lane)?;
            vec![
                trips.median_micros,
                trips.slow_micros,
                trips.cpu_seconds_per_million,
                trips.counted,
            ]
        }
    })
}
