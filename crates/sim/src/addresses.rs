//! Histories of addresses: many allocators (`ipam::Ipam`) on a mesh that costs nothing, in virtual
//! time, from one seed.
//!
//! What is drawn (`plan`) happens (`world`): requests, containers that come and go, partitions, lost
//! and late messages, crashes between any two outputs, lost disks, skewed clocks, peers that join,
//! leave, burn down and are taken over, ranges that are exhausted. After every step (`check`) no
//! address is in use at two peers or owned by two, what was acknowledged is still held (`ledger`),
//! books are right, and answers come in time. Then everything becomes calm, and all rings must agree
//! and all who wait be served, if there is anything left to serve them with.
//!
//! Left out of the rules, because no protocol can hold them: a peer whose disk was lost while others
//! did not know all it had given away, `rmpeer` of a peer that still runs, and what a host that was
//! cut off uses after `--reclaim-after`.

pub mod check;
pub mod ledger;
pub mod peer;
pub mod plan;
pub mod world;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::Trace;
use crate::world::Violation;
use plan::{Plan, Setting};
use world::World;

/// Virtual time a calm cluster may take until everybody is served and all rings agree.
const REST_MAX: Duration = Duration::from_secs(300);
/// How often it is looked at meanwhile.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// A history that went well, or many of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Histories.
    pub histories: u64,
    /// Inputs and timer calls.
    pub steps: u64,
    /// Virtual time in all.
    pub virtual_time: Duration,
    /// Longest virtual time from calm to rest.
    pub slowest_rest: Duration,
    /// Histories that had a ring at the end.
    pub with_ring: u64,
    /// Answers by kind.
    pub answers: BTreeMap<&'static str, u64>,
    /// What befell peers, by kind.
    pub faults: BTreeMap<&'static str, u64>,
}

/// A history that broke a rule.
#[derive(Debug, Clone)]
pub struct Failure {
    /// What repeats it.
    pub setting: Setting,
    /// Virtual time.
    pub at: Duration,
    /// Which rule.
    pub violation: Violation,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Setting {
            seed,
            peers,
            events,
            without,
        } = &self.setting;
        write!(
            f,
            "{} at {:?}; replay: cargo run -p sim -- --addresses --seed {seed}",
            self.violation, self.at
        )?;
        if let Some(peers) = peers {
            write!(f, " --peers {peers}")?;
        }
        if let Some(events) = events {
            write!(f, " --events {events}")?;
        }
        if !without.is_empty() {
            let without: Vec<String> = without.iter().map(ToString::to_string).collect();
            write!(f, " --without {}", without.join(","))?;
        }
        Ok(())
    }
}

/// Lets one history happen.
///
/// # Errors
///
/// When a rule is broken; a panic of an allocator is one.
pub fn run(setting: &Setting, trace: Option<Trace>) -> Result<Summary, Failure> {
    let plan = Plan::draw(setting);
    let mut world = World::new(&plan, setting, trace);
    let outcome = catch_unwind(AssertUnwindSafe(|| live(&mut world)));
    let outcome =
        outcome.unwrap_or_else(|panic| Err(format!("panic: {}", crate::panic_text(&*panic))));
    outcome.map_err(|violation| Failure {
        setting: setting.clone(),
        at: world.now(),
        violation,
    })
}

fn live(world: &mut World<'_>) -> Result<Summary, Violation> {
    world.run_until(world.plan.calm_at)?;
    world.calm_down()?;
    let calm_at = world.now();
    for n in 0..world.peers.len() {
        if world.peers[n].is_running() {
            world.ask_in_calm(n, &format!("last-{n}"))?;
        }
    }
    let deadline = calm_at + REST_MAX;
    loop {
        world.run_until(world.now() + LOOK_EVERY)?;
        match world.check_rest() {
            Ok(()) => break,
            Err(violation) if world.now() >= deadline => return Err(violation),
            Err(_) => {}
        }
    }
    Ok(Summary {
        histories: 1,
        steps: world.steps,
        virtual_time: world.now(),
        slowest_rest: world.now() - calm_at,
        with_ring: u64::from(world.has_ring()),
        answers: world.answers.clone(),
        faults: world.faults.clone(),
    })
}

/// Lets many histories happen, on two threads.
///
/// # Errors
///
/// The failure with the lowest seed among those found first.
pub fn run_many(first: u64, count: u64) -> Result<Summary, Failure> {
    let next = AtomicU64::new(0);
    let work = || {
        let mut total = Summary::default();
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= count {
                return Ok(total);
            }
            let setting = Setting {
                seed: first.wrapping_add(n),
                ..Setting::default()
            };
            match run(&setting, None) {
                Ok(summary) => total.add(&summary),
                Err(failure) => {
                    next.store(count, Ordering::Relaxed);
                    return Err(failure);
                }
            }
        }
    };
    let outcomes = std::thread::scope(|scope| {
        let other = scope.spawn(work);
        [work(), other.join().expect("failures are caught")]
    });
    let mut total = Summary::default();
    let mut failures = Vec::new();
    for outcome in outcomes {
        match outcome {
            Ok(summary) => total.add(&summary),
            Err(failure) => failures.push(failure),
        }
    }
    match failures
        .into_iter()
        .min_by_key(|failure| failure.setting.seed)
    {
        Some(failure) => Err(failure),
        None => Ok(total),
    }
}

/// Leaves out of a failing history what it fails without: a shorter one that breaks a rule too.
pub fn shrink(failure: Failure) -> Failure {
    let mut shortest = failure;
    let count = Plan::draw(&shortest.setting).events.len();
    for position in (0..count).rev() {
        let mut setting = shortest.setting.clone();
        setting.without.push(position);
        if let Err(failure) = run(&setting, None) {
            shortest = failure;
        }
    }
    shortest.setting.without.sort_unstable();
    shortest
}

impl Summary {
    /// Adds up.
    pub fn add(&mut self, other: &Self) {
        self.histories += other.histories;
        self.steps += other.steps;
        self.virtual_time += other.virtual_time;
        self.slowest_rest = self.slowest_rest.max(other.slowest_rest);
        self.with_ring += other.with_ring;
        for (kind, count) in &other.answers {
            *self.answers.entry(kind).or_default() += count;
        }
        for (kind, count) in &other.faults {
            *self.faults.entry(kind).or_default() += count;
        }
    }
}
