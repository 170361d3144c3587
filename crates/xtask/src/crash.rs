//! `cargo xtask crash`: daemons killed again and again, at random moments, under traffic.
//!
//! ```text
//!   host a ──┬── host b        each host: containers 1 and 2, which send each other a datagram every
//!            │                 50 ms all the time (none may be lost), and container 3, which is
//!         host c               attached and detached while daemons die; 1 of a, b, c sends to 1 of
//!                              b, c, a, and is back within 5 s of the start of the new daemon
//! ```
//!
//! In the end `reset` must have removed everything. One seed decides what is killed when.

mod faults;
pub(crate) mod host;
mod leftovers;
pub(crate) mod probe;
mod verdict;

use std::process::{Command, ExitCode};
use std::thread;
use std::time::Duration;

use crate::options::{Ordeal, exit_code};
use crate::stage::{Outcome, Stage, run, wait_for};
use crate::stopwatch::Stopwatch;
use faults::{Faults, reset};
use host::{Host, lay_host, lay_switch};
use leftovers::Inventory;
use probe::{Ended, Probe, start_echo};
use verdict::Verdict;

const STAGE: &str = "weftcrash";
const NAMES: [&str; 3] = ["a", "b", "c"];
/// Containers of a host that talk all the time.
const TALKERS: [usize; 2] = [1, 2];
/// The container of a host that comes and goes.
const GUEST: usize = 3;
/// How often containers of one host talk.
const SAME_HOST_EVERY: Duration = Duration::from_millis(50);
/// How often containers of different hosts talk: how finely their return is measured.
const CROSS_EVERY: Duration = Duration::from_millis(20);
const LIMIT: Duration = Duration::from_secs(60);
/// Longest pause between a recovery and the next fault.
const PAUSE_MAX: Duration = Duration::from_millis(700);

/// What was asked for on the command line.
struct Plan {
    kills: usize,
    ordeal: Ordeal,
}

impl Plan {
    fn read(arguments: &[&str]) -> Outcome<Self> {
        let mut kills = 200;
        let ordeal = Ordeal::read(arguments, |name, options| {
            if name == "--kills" {
                kills = options.number()?.clamp(1, 100_000) as usize;
            }
            Ok(name == "--kills")
        })?;
        Ok(Self { kills, ordeal })
    }
}

/// Kills, watches, resets, and says what came of it.
pub(crate) fn run_crash(arguments: &[&str]) -> ExitCode {
    exit_code(
        "the crash loop broke off",
        Plan::read(arguments).and_then(|plan| crash(&plan)),
    )
}

fn crash(plan: &Plan) -> Outcome<bool> {
    let weft = plan.ordeal.prepare()?;
    let watch = Stopwatch::start();
    let stage = Stage::new(STAGE)?;
    let hosts = lay_out(&stage, &weft)?;
    let containers: Vec<String> = hosts
        .iter()
        .flat_map(|host| (TALKERS[0]..=GUEST).map(|number| host.container(number)))
        .collect();
    // Addresses the kernel gives by itself take a moment to settle.
    thread::sleep(Duration::from_secs(3));
    let before = Inventory::take(&stage, &hosts, &containers)?;

    start_hosts(&hosts)?;
    let talk = Talk::start(&stage, &hosts)?;
    let mut verdict = Verdict::new(plan.ordeal.seed);
    let mut faults = Faults::new(&hosts, &talk, plan.ordeal.seed);
    while faults.kills < plan.kills {
        let recovery = faults.strike()?;
        println!("{:4} of {}: {recovery}", faults.kills, plan.kills);
        verdict.add(&recovery);
        thread::sleep(faults.chance.time(PAUSE_MAX));
    }
    verdict.kills = faults.kills;
    let mut chance = faults.chance;
    talk.finish(&mut verdict);

    for host in &hosts {
        reset(host, &mut chance)?;
    }
    let after = Inventory::take(&stage, &hosts, &containers)?;
    verdict.left_over = after.beyond(&before);
    verdict.took = watch.elapsed();
    println!("\n{verdict}");
    if plan.ordeal.write {
        verdict.write()?;
    }
    Ok(verdict.is_good())
}

fn lay_out<'a>(stage: &'a Stage, weft: &std::path::Path) -> Outcome<Vec<Host<'a>>> {
    lay_switch(stage)?;
    let mut hosts = Vec::new();
    for (index, name) in NAMES.iter().enumerate() {
        let mut host = Host::new(stage, weft, (name, index + 1));
        // The first is told of nobody, so it depends on the others when it comes back.
        host.set_peers(&(1..=index).collect::<Vec<_>>());
        lay_host(stage, name, host.number)?;
        for number in TALKERS[0]..=GUEST {
            stage.add(&host.container(number))?;
        }
        hosts.push(host);
    }
    Ok(hosts)
}

fn start_hosts(hosts: &[Host<'_>]) -> Outcome<()> {
    for host in hosts {
        host.launch()?;
        for number in TALKERS {
            host.attach(number)?;
        }
    }
    for host in hosts {
        wait_for("all hosts to be connected", LIMIT, || {
            let connections = host.connections()?;
            if host::established(&connections) == hosts.len() - 1 {
                Ok(())
            } else {
                Err(host.story())
            }
        })?;
        for other in hosts.iter().filter(|other| other.number != host.number) {
            wait_for("containers to reach each other", LIMIT, || {
                ping(host, TALKERS[0], &other.container_address(TALKERS[0]))
            })?;
        }
        ping(host, TALKERS[0], &host.container_address(TALKERS[1]))?;
    }
    Ok(())
}

/// One ping from a container, answered.
fn ping(host: &Host<'_>, container: usize, address: &str) -> Outcome<()> {
    let mut command: Command = host.stage.command(&host.container(container), "ping");
    run(command.args(["-n", "-c", "1", "-W", "1", address])).map(drop)
}

/// The traffic that goes on all the time.
struct Talk {
    _echoes: Vec<Ended>,
    /// One per host, in their order.
    same_host: Vec<Probe>,
    /// From each host to the next, in their order.
    cross: Vec<Probe>,
}

impl Talk {
    fn start(stage: &Stage, hosts: &[Host<'_>]) -> Outcome<Self> {
        let mut echoes = Vec::new();
        for host in hosts {
            for number in TALKERS {
                echoes.push(start_echo(stage, &host.container(number))?);
            }
        }
        thread::sleep(Duration::from_millis(500));
        let probe = |from: &Host<'_>, to: (&Host<'_>, usize), every| {
            let places = (&*from.container(TALKERS[0]), &*to.0.container(to.1));
            Probe::start(stage, places, &to.0.container_address(to.1), every)
        };
        let mut same_host = Vec::new();
        let mut cross = Vec::new();
        for (index, host) in hosts.iter().enumerate() {
            let next = &hosts[(index + 1) % hosts.len()];
            same_host.push(probe(host, (host, TALKERS[1]), SAME_HOST_EVERY)?);
            cross.push(probe(host, (next, TALKERS[0]), CROSS_EVERY)?);
        }
        Ok(Self {
            _echoes: echoes,
            same_host,
            cross,
        })
    }

    fn finish(self, verdict: &mut Verdict) {
        for probe in self.same_host {
            let name = probe.name.clone();
            verdict.same_host.push((name, probe.finish()));
        }
        for probe in self.cross {
            let name = probe.name.clone();
            verdict.cross.push((name, probe.finish()));
        }
    }
}
