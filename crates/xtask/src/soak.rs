//! `cargo xtask soak`: a network of both kinds of routers under traffic and faults, for long.
//!
//! ```text
//!   w1  w2  w3  o4  o5  o6     six hosts on one switch, a router and a container each: three Weft and
//!    │   │   │   │   │   │     three originals where WEFT_PEER_WEAVER names one, else six Weft
//!   ─┴───┴───┴───┴───┴───┴─    every container sends datagrams and streams to all others all the time
//! ```
//!
//! Peers are restarted and killed in turn, pairs of hosts are cut from each other so that others have
//! to relay, and cables are pulled. Then everything is healed and has to be well again; memory of each
//! Weft has to be flat, and descriptors, threads and interfaces as many as before.

mod agent;
mod memory;
mod peer;
mod schedule;
mod verdict;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use crate::chance::Chance;
use crate::crash::host::lay_switch;
use crate::options::{Ordeal, exit_code};
use crate::stage::{Outcome, Stage, wait_for};
use crate::stopwatch::Stopwatch;
use agent::{Agent, Counts};
use memory::{Register, Vitals};
use peer::{Peer, cut, heal, pause, reaches, set_cable};
use schedule::{Action, schedule};
use verdict::Verdict;

pub(crate) use agent::run as run_agent;

const STAGE: &str = "weftsoak";
/// Environment variable with the path of the original router's daemon, if it is to take part.
const ORIGINAL: &str = "WEFT_PEER_WEAVER";
const PEERS: usize = 6;
const WEFTS_AMONG_ORIGINALS: usize = 3;
const LIMIT: Duration = Duration::from_secs(120);
/// After the last fault is healed everything has to be well within this: peers that could not reach
/// each other for long try again every minute or two.
const WELL_WITHIN: Duration = Duration::from_secs(180);
/// How often memory is looked at.
const SAMPLE_PERIOD: Duration = Duration::from_secs(10);
/// How often the table is printed.
const TABLE_PERIOD: Duration = Duration::from_secs(60);
/// After it threads that were needed for the start have ended.
const REST: Duration = Duration::from_secs(15);
/// How long routers get to put away what they used for traffic.
const REST_MAX: Duration = Duration::from_secs(90);

/// What was asked for on the command line.
struct Plan {
    length: Duration,
    ordeal: Ordeal,
}

impl Plan {
    fn read(arguments: &[&str]) -> Outcome<Self> {
        let mut minutes = 30;
        let ordeal = Ordeal::read(arguments, |name, options| {
            if name == "--minutes" {
                minutes = options.number()?.clamp(3, 60 * 24 * 7);
            }
            Ok(name == "--minutes")
        })?;
        let length = Duration::from_secs(minutes * 60);
        Ok(Self { length, ordeal })
    }
}

/// Soaks, and says what came of it.
pub(crate) fn run_soak(arguments: &[&str]) -> ExitCode {
    exit_code(
        "the soak broke off",
        Plan::read(arguments).and_then(|plan| soak(&plan)),
    )
}

fn soak(plan: &Plan) -> Outcome<bool> {
    let weft = plan.ordeal.prepare()?;
    let weaver = std::env::var_os(ORIGINAL).map(PathBuf::from);
    match &weaver {
        Some(_) => println!("three Weft (w) and three original (o) peers"),
        None => println!("six Weft peers; set {ORIGINAL} to have originals among them"),
    }
    let stage = Stage::new(STAGE)?;
    let mut chance = Chance::new(plan.ordeal.seed);
    let peers = lay_out(&stage, &weft, weaver.as_deref())?;
    let mut soak = Soak::start(&stage, peers, plan, &mut chance)?;
    for (at, action) in schedule(plan.length, PEERS, &mut chance) {
        soak.go_on_until(at)?;
        soak.act(action)?;
    }
    let verdict = soak.end(plan.length)?;
    println!("\n{verdict}");
    if plan.ordeal.write {
        verdict.write()?;
    }
    Ok(verdict.is_good())
}

fn lay_out<'a>(stage: &'a Stage, weft: &Path, weaver: Option<&Path>) -> Outcome<Vec<Peer<'a>>> {
    lay_switch(stage)?;
    (1..=PEERS)
        .map(|number| {
            let weaver = weaver.filter(|_| number > WEFTS_AMONG_ORIGINALS);
            Peer::lay(stage, (number, PEERS), weft, weaver)
        })
        .collect()
}

/// A soak under way.
struct Soak<'a> {
    stage: &'a Stage,
    // Agents before peers: traffic ends before what carries it.
    agents: Vec<Agent>,
    peers: Vec<Peer<'a>>,
    watch: Stopwatch,
    at_rest: Vec<Vitals>,
    register: Register,
    verdict: Verdict,
    sampled: Duration,
    shown: Duration,
    last_counts: Counts,
    /// Faults in force, for the table.
    standing: BTreeMap<String, ()>,
}

impl<'a> Soak<'a> {
    /// Starts all routers, waits until all is well, and begins the traffic.
    fn start(
        stage: &'a Stage,
        mut peers: Vec<Peer<'a>>,
        plan: &Plan,
        chance: &mut Chance,
    ) -> Outcome<Self> {
        for peer in &mut peers {
            peer.start()?;
        }
        wait_for("the network to be whole", LIMIT, || is_well(&peers))?;
        thread::sleep(REST);
        let at_rest: Outcome<Vec<Vitals>> = peers.iter().map(Peer::vitals).collect();
        let addresses: Vec<String> = peers.iter().map(Peer::address).collect();
        let mut agents = Vec::new();
        for (index, peer) in peers.iter().enumerate() {
            let mut others = addresses.clone();
            others.remove(index);
            let number = (index + 1, chance.below(u64::MAX));
            agents.push(Agent::start(
                stage,
                &peer.host.container(1),
                number,
                &others,
            )?);
        }
        let wefts = peers.iter().filter(|peer| peer.is_weft()).count();
        Ok(Self {
            stage,
            agents,
            peers,
            watch: Stopwatch::start(),
            at_rest: at_rest?,
            register: Register::default(),
            verdict: Verdict::new(plan.ordeal.seed, plan.length, (wefts, PEERS - wefts)),
            sampled: Duration::ZERO,
            shown: Duration::ZERO,
            last_counts: Counts::default(),
            standing: BTreeMap::new(),
        })
    }

    /// Watches until that time has come.
    fn go_on_until(&mut self, at: Duration) -> Outcome<()> {
        while self.watch.elapsed() < at {
            let now = self.watch.elapsed();
            if now >= self.sampled + SAMPLE_PERIOD {
                self.sampled = now;
                self.sample(now)?;
            }
            if now >= self.shown + TABLE_PERIOD {
                self.shown = now;
                self.show(now)?;
            }
            pause();
        }
        Ok(())
    }

    /// Looks at the memory of every router, and whether all run that should.
    fn sample(&mut self, now: Duration) -> Outcome<()> {
        for peer in &mut self.peers {
            let name = peer.host.name.clone();
            if peer.router() == Some(peer.pid) {
                let vitals = peer.vitals()?;
                if peer.is_weft() {
                    self.register
                        .add(&name, peer.pid, now.as_secs_f64(), &vitals);
                }
                continue;
            }
            let story = peer.story();
            self.verdict
                .problem(format!("{name} died by itself at {now:.0?}\n{story}"));
            peer.pid = wait_for("it to come back", LIMIT, || {
                peer.router().ok_or_else(|| peer.story())
            })?;
        }
        for (peer, agent) in self.peers.iter().zip(&mut self.agents) {
            if !agent.is_running() {
                return Err(format!("the agent on {} ended", peer.host.name));
            }
        }
        Ok(())
    }

    fn act(&mut self, action: Action) -> Outcome<()> {
        println!("{:6.0} s: {action}", self.watch.elapsed().as_secs_f64());
        self.verdict.count(action);
        match action {
            Action::Restart(peer) => self.peers[peer].restart()?,
            Action::Kill(peer) => self.peers[peer].kill()?,
            Action::Cut(a, b) => {
                cut(self.stage, (&self.peers[a], &self.peers[b]))?;
                self.standing.insert(format!("{}-{}", a + 1, b + 1), ());
            }
            Action::Heal(a, b) => {
                heal(self.stage, (&self.peers[a], &self.peers[b]))?;
                self.standing.remove(&format!("{}-{}", a + 1, b + 1));
            }
            Action::Isolate(peer) => {
                set_cable(self.stage, &self.peers[peer], "down")?;
                self.standing.insert(format!("{}", peer + 1), ());
            }
            Action::Rejoin(peer) => {
                set_cable(self.stage, &self.peers[peer], "up")?;
                self.standing.remove(&format!("{}", peer + 1));
            }
        }
        Ok(())
    }

    /// What each agent has counted so far.
    fn counts(&self) -> Vec<Counts> {
        self.agents.iter().map(Agent::counts).collect()
    }

    /// Prints how things are.
    fn show(&mut self, now: Duration) -> Outcome<()> {
        let counts = verdict::sum(&self.counts());
        let recent = counts.since(&self.last_counts);
        self.last_counts = counts;
        let cuts: Vec<&str> = self.standing.keys().map(String::as_str).collect();
        println!(
            "--- minute {:.0}: cut [{}]; last minute: {}",
            now.as_secs_f64() / 60.0,
            cuts.join(" "),
            verdict::describe(&recent)
        );
        println!("    peer  connections  memory MiB  descriptors  threads  interfaces");
        for peer in &self.peers {
            let vitals = peer.vitals()?;
            let established = peer
                .established()
                .map_or_else(|| "?".to_owned(), |n| n.to_string());
            println!(
                "    {:4}  {established:>11}  {:10.1}  {:11}  {:7}  {:10}",
                peer.host.name,
                vitals.resident_kib as f64 / 1024.0,
                vitals.descriptors,
                vitals.threads,
                vitals.links
            );
        }
        Ok(())
    }

    /// Everything is healed: waits until all is well, goes on for the rest of the time, and judges.
    fn end(mut self, length: Duration) -> Outcome<Verdict> {
        let healed = Stopwatch::start();
        let mut state = is_well(&self.peers);
        while state.is_err() && healed.elapsed() < WELL_WITHIN {
            self.go_on_until(self.watch.elapsed() + Duration::from_secs(1))?;
            state = is_well(&self.peers);
        }
        match state {
            Ok(()) => self.verdict.well_after(healed.elapsed(), WELL_WITHIN),
            Err(error) => self
                .verdict
                .problem(format!("not well after {healed}: {error}")),
        }
        let before = self.counts();
        self.go_on_until(length.max(self.watch.elapsed() + Duration::from_secs(30)))?;
        let pairs = self.counts().into_iter().zip(&before);
        self.verdict.calm = pairs.map(|(now, before)| now.since(before)).collect();
        for agent in &mut self.agents {
            agent.finish();
        }
        self.verdict.all = verdict::sum(&self.counts());
        self.agents.clear();
        self.verdict.judge_traffic();
        self.judge_rest()?;
        let trends = self.register.trends();
        let trends = trends
            .into_iter()
            .map(|(peer, trend)| (peer.to_owned(), trend));
        self.verdict.trends = trends.collect();
        for peer in self.peers.iter().filter(|peer| peer.is_weft()) {
            for line in peer.panics() {
                self.verdict.problem(format!("{}: {line}", peer.host.name));
            }
        }
        Ok(self.verdict)
    }

    /// Compares what every Weft uses at rest with what it used at rest before.
    fn judge_rest(&mut self) -> Outcome<()> {
        for (peer, before) in self.peers.iter().zip(&self.at_rest) {
            if !peer.is_weft() {
                continue;
            }
            let rest = wait_for("rest", REST_MAX, || {
                let now = peer.vitals()?;
                if now.is_no_more_than(before) {
                    Ok(now)
                } else {
                    Err(format!("{now:?}"))
                }
            });
            let now = peer.vitals()?;
            self.verdict
                .rests
                .push((peer.host.name.clone(), *before, now));
            if let Err(error) = rest {
                let problem = format!(
                    "{} uses more than before {before:?}: {error}",
                    peer.host.name
                );
                self.verdict.problem(problem);
            }
        }
        Ok(())
    }
}

/// Whether all routers are connected with all others, and all containers reach all others.
fn is_well(peers: &[Peer<'_>]) -> Outcome<()> {
    for peer in peers {
        let established = peer.established();
        if established != Some(peers.len() - 1) {
            return Err(format!(
                "{} has {established:?} connections",
                peer.host.name
            ));
        }
    }
    for from in peers {
        for to in peers.iter().filter(|to| to.host.number != from.host.number) {
            if !reaches(from, to) {
                return Err(format!(
                    "{} does not reach {}",
                    from.host.name, to.host.name
                ));
            }
        }
    }
    Ok(())
}
