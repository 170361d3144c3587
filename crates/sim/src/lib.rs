//! Whole clusters in one process, in virtual time, from one seed.
//!
//! The routers are the real ones (`node::Node`); clock, TCP, UDP, disk and data plane are simulated.
//! A history is drawn from a seed (`plan`), happens (`world`), becomes calm, and then has to come to
//! rest in a state that is right (`check`). Some rules hold after every single step: timers make
//! progress, outputs are bounded, a probe never precedes its tunnel, and no tunnel that should be
//! encrypted is ever published without its key.
//!
//! The same seed always gives the same history; a failure names the command that repeats it.
//!
//! # Size
//!
//! Past twice its plan, because there are three simulators and not one: of whole clusters (`world`), of
//! address allocators alone with every message at their disposal (`addresses`), and of small rings in all
//! their states (`explore`). They share the network, the faults and the checkers, so they are one crate.

pub mod addresses;
pub mod check;
pub mod churn;
pub mod explore;
pub mod forwarder;
pub mod host;
pub mod network;
pub mod plan;
pub mod queue;
pub mod report;
pub mod ring;
pub mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use wire::ethernet::MacAddr;

use crate::check::{Component, Observer};
use crate::plan::{CONN_LIMIT_DEFAULT, Plan, Setting};
use crate::world::{Violation, World, mac};

/// Virtual time a calm cluster may take to come to rest: the longest retry interval after ninety
/// seconds of failures, several times over.
const REST_MAX: Duration = Duration::from_secs(15 * 60);
/// How often it is looked at meanwhile.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Routes follow the topology within 100 ms.
const ROUTES_SETTLE: Duration = Duration::from_millis(200);
/// Virtual time after which each frame has arrived.
const FRAMES_ARRIVE: Duration = Duration::from_secs(4);
/// Virtual time after which connections that suffered before the calm have ended, if they do.
const OLD_FAULTS_SHOW: Duration = Duration::from_secs(65);
/// Virtual time some histories must stay at rest.
const STAY_AT_REST: Duration = Duration::from_secs(75);
/// One in so many histories has to.
const STAY_ONE_IN: u64 = 8;
/// Most times a mesh may turn out not to have been quiet.
const UNQUIET_MAX: usize = 10;
/// Most sites that send test frames.
const SENDERS_MAX: usize = 12;

/// Gets a line per remarkable event with its virtual time.
pub type Trace = fn(Duration, &str);

/// A history that went well.
#[derive(Debug, Clone, Copy)]
pub struct Summary {
    /// Number of sites.
    pub peers: usize,
    /// Number of faults.
    pub faults: usize,
    /// Connections at the end.
    pub connections: usize,
    /// Virtual time from calm to rest.
    pub rest_after: Duration,
    /// Virtual time in all.
    pub virtual_time: Duration,
    /// Inputs and timer calls.
    pub steps: u64,
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
            hostile,
        } = self.setting;
        write!(
            f,
            "{} at {:?}; replay: cargo run -p sim -- --seed {seed}",
            self.violation, self.at
        )?;
        if let Some(peers) = peers {
            write!(f, " --peers {peers}")?;
        }
        if let Some(events) = events {
            write!(f, " --events {events}")?;
        }
        if hostile {
            write!(f, " --hostile")?;
        }
        Ok(())
    }
}

/// Lets one history happen.
///
/// # Errors
///
/// When a rule is broken; a panic of a router is one.
pub fn run(setting: Setting, trace: Option<Trace>) -> Result<Summary, Failure> {
    let plan = Plan::draw(setting);
    let mut world = World::new(&plan, setting, trace);
    let outcome = catch_unwind(AssertUnwindSafe(|| live(&mut world, &plan, setting)));
    let outcome = outcome.unwrap_or_else(|panic| Err(format!("panic: {}", panic_text(&*panic))));
    outcome.map_err(|violation| Failure {
        setting,
        at: world.now(),
        violation,
    })
}

fn live(world: &mut World, plan: &Plan, setting: Setting) -> Result<Summary, Violation> {
    world.run_until(plan.calm_at)?;
    world.calm_down()?;
    let calm_at = world.now();
    if setting.hostile && !plan.has_only_lies() {
        world.run_until(calm_at + OLD_FAULTS_SHOW)?;
        return Ok(summary(world, plan, Duration::ZERO));
    }
    let components = come_to_rest(world, plan)?;
    let rest_after = world.now() - calm_at;
    // Routers refused at a limit try again for ever, and are peers for a moment each time.
    let limited = plan
        .sites
        .iter()
        .any(|site| site.conn_limit != CONN_LIMIT_DEFAULT);
    if setting.seed.is_multiple_of(STAY_ONE_IN) && !limited {
        stay_at_rest(world, plan)?;
    }
    deliver_frames(world, plan, components)?;
    if plan.universe.is_some() {
        let components = come_to_rest(world, plan)?;
        world.serve_addresses(&components)?;
    }
    Ok(summary(world, plan, rest_after))
}

fn summary(world: &World, plan: &Plan, rest_after: Duration) -> Summary {
    Summary {
        peers: plan.sites.len(),
        faults: plan.faults.len(),
        connections: Observer::new(world, plan).links().len() / 2,
        rest_after,
        virtual_time: world.now(),
        steps: world.steps,
    }
}

/// Lets time pass until everything is as it should be; returns the components.
///
/// # Errors
///
/// What is still wrong after a long time, or a rule for each step broken.
pub fn come_to_rest(world: &mut World, plan: &Plan) -> Result<Vec<Component>, Violation> {
    let deadline = world.now() + REST_MAX;
    loop {
        world.run_until(world.now() + LOOK_EVERY)?;
        world.check_promises()?;
        let mut outcome = Observer::new(world, plan).check();
        if outcome.is_ok() {
            world.run_until(world.now() + ROUTES_SETTLE)?;
            outcome = Observer::new(world, plan).check();
        }
        if let Ok(components) = &outcome
            && let Err(violation) = world.check_addresses(components)
        {
            outcome = Err(violation);
        }
        match outcome {
            Ok(components) => return Ok(components),
            Err(violation) if world.now() >= deadline => return Err(violation),
            Err(_) => {}
        }
    }
}

fn stay_at_rest(world: &mut World, plan: &Plan) -> Result<(), Violation> {
    world.run_until(world.now() + OLD_FAULTS_SHOW)?;
    come_to_rest(world, plan)?;
    let before = Observer::new(world, plan).links();
    world.run_until(world.now() + STAY_AT_REST)?;
    let observer = Observer::new(world, plan);
    observer.check()?;
    if observer.links() != before {
        return Err("connections end although nothing happens".to_owned());
    }
    Ok(())
}

/// Sends frames through a quiet mesh. Should a connection end meanwhile that had suffered before the
/// calm, the mesh was not quiet, and it is done again.
fn deliver_frames(
    world: &mut World,
    plan: &Plan,
    mut components: Vec<Component>,
) -> Result<(), Violation> {
    for _ in 0..UNQUIET_MAX {
        let links = Observer::new(world, plan).links();
        world.delivered.clear();
        let outcome = frames_arrive_once(world, &components);
        if Observer::new(world, plan).links() == links {
            return outcome;
        }
        components = come_to_rest(world, plan)?;
    }
    Err("the mesh does not become quiet".to_owned())
}

/// Each site broadcasts a frame: everybody else in its component gets it exactly once. Then each
/// sends one to the next site: only that one gets it.
fn frames_arrive_once(world: &mut World, components: &[Component]) -> Result<(), Violation> {
    let mut expected = Vec::new();
    let senders: Vec<_> = components
        .iter()
        .flatten()
        .copied()
        .take(SENDERS_MAX)
        .collect();
    for &site in &senders {
        let number = 1000 + site as u64;
        world.send_frame(site, MacAddr::BROADCAST, number);
        let component = component_of(components, site);
        expected.extend(
            component
                .iter()
                .filter(|other| **other != site)
                .map(|o| (number, *o)),
        );
    }
    world.run_until(world.now() + FRAMES_ARRIVE)?;
    for &site in &senders {
        let known = component_of(components, site)
            .iter()
            .filter(|other| senders.contains(other));
        for &other in known.filter(|other| **other != site) {
            let number = 1_000_000 + 1000 * site as u64 + other as u64;
            world.send_frame(site, mac(other), number);
            expected.push((number, other));
        }
    }
    world.run_until(world.now() + FRAMES_ARRIVE)?;
    for key in &expected {
        let count = world.delivered.get(key).copied().unwrap_or(0);
        if count != 1 {
            return Err(format!(
                "frame {} reached site {} {count} times",
                key.0, key.1
            ));
        }
    }
    if world.delivered.len() != expected.len() {
        let stray = world.delivered.keys().find(|key| !expected.contains(key));
        return Err(format!("a frame reached a site it was not for: {stray:?}"));
    }
    Ok(())
}

fn component_of(components: &[Component], site: usize) -> &Component {
    let component = components
        .iter()
        .find(|component| component.contains(&site));
    component.expect("each running site is in a component")
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "of unknown kind".to_owned())
}
