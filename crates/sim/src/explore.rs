//! Every history of three address allocators up to a depth, in a universe of eight addresses.
//!
//! Where a seeded history draws what happens next, this tries everything that can: each message in
//! flight is delivered, delivered twice, late or never; requests come at any time; allocators die at
//! any time and go on from their rows; links go and come; timers fire. States that were seen before
//! with as many steps left are not followed again. After each step the rules of [`check`] must hold,
//! and from states on the way the cluster must find its rest once nothing is in its way ([`heal`]).
//!
//! What is given up for a search that ends: there is no partial delivery of a broadcast to peers
//! behind peers, a newer gossip replaces an undelivered one between two peers (a scene says how many
//! are kept), and random choices are one of [`CHOICES`] sequences for each step.

pub mod check;
pub mod heal;
pub mod peer;
pub mod scene;
pub mod world;

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};

use scene::Scene;
use world::{Action, World};

/// Sequences of random choices tried for each step. Two bring about either order of two donors.
pub const CHOICES: u8 = 2;

/// What to explore.
#[derive(Debug, Clone)]
pub struct Setting {
    /// What can happen.
    pub scene: Scene,
    /// Most steps of a history.
    pub depth: u8,
    /// From one of so many states the way to rest is tried; 1 is all.
    pub heal_every: u64,
}

/// What was explored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Different states.
    pub states: u64,
    /// Steps taken between them.
    pub steps: u64,
    /// States from which the way to rest was tried.
    pub healed: u64,
}

/// A history that breaks a rule.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The rule.
    pub what: String,
    /// What happened, step by step.
    pub history: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.what)?;
        for (at, step) in self.history.iter().enumerate() {
            writeln!(f, "  {}. {step}", at + 1)?;
        }
        Ok(())
    }
}

/// Explores everything; the first broken rule ends it.
pub fn explore(setting: &Setting) -> Result<Outcome, Failure> {
    let mut search = Search {
        setting,
        seen: HashMap::default(),
        outcome: Outcome::default(),
        history: Vec::new(),
    };
    let start = caught(|| World::new(&setting.scene)).map_err(|what| search.failure(what))?;
    search.visit(&start, setting.depth)?;
    Ok(search.outcome)
}

struct Search<'a> {
    setting: &'a Setting,
    /// Digests of states, and the most steps that were left there.
    seen: HashMap<u64, u8, BuildHasherDefault<AsItIs>>,
    outcome: Outcome,
    history: Vec<String>,
}

impl Search<'_> {
    fn visit(&mut self, world: &World, left: u8) -> Result<(), Failure> {
        let digest = world.digest();
        let before = self.seen.insert(digest, left);
        match before {
            Some(most) if most >= left => {
                self.seen.insert(digest, most);
                return Ok(());
            }
            Some(_) => {}
            None => self.arrive(world)?,
        }
        if left == 0 {
            return Ok(());
        }
        for action in world.actions(&self.setting.scene) {
            self.follow(world, &action, left - 1)?;
        }
        Ok(())
    }

    /// Does one thing with each sequence of choices, if they make a difference.
    fn follow(&mut self, world: &World, action: &Action, left: u8) -> Result<(), Failure> {
        let mut previous = None;
        for choice in 0..CHOICES {
            self.history.push(world.describe(action));
            let next = caught(|| world.step(&self.setting.scene, action, choice));
            let next = next.map_err(|what| self.failure(what))?;
            self.outcome.steps += 1;
            let digest = next.digest();
            if previous != Some(digest) {
                self.visit(&next, left)?;
            }
            previous = Some(digest);
            self.history.pop();
        }
        Ok(())
    }

    /// A state never seen before.
    fn arrive(&mut self, world: &World) -> Result<(), Failure> {
        self.outcome.states += 1;
        caught(|| check::check(world, &self.setting.scene)).map_err(|what| self.failure(what))?;
        if self.outcome.states.is_multiple_of(self.setting.heal_every) {
            self.outcome.healed += 1;
            let scene = &self.setting.scene;
            caught(|| heal::heal(world, scene)).map_err(|what| self.failure(what))?;
        }
        Ok(())
    }

    fn failure(&self, what: String) -> Failure {
        Failure {
            what,
            history: self.history.clone(),
        }
    }
}

/// A panic is a broken rule too.
fn caught<T>(act: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(act)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("panic: {}", text.unwrap_or_default()))
    })
}

#[expect(
    clippy::disallowed_methods,
    reason = "virtual time needs one instant to count from"
)]
fn an_instant() -> std::time::Instant {
    std::time::Instant::now()
}

/// Digests are spread well already.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only digests are hashed");
    }

    fn write_u64(&mut self, digest: u64) {
        self.0 = digest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Depth of each scene that takes a test a few seconds.
    const DEPTH: u8 = 3;

    #[test]
    fn every_short_history_keeps_the_rules() {
        for scene in Scene::all() {
            let name = scene.name;
            let setting = Setting {
                scene,
                depth: DEPTH,
                heal_every: 50,
            };
            match explore(&setting) {
                Ok(outcome) => assert!(outcome.healed > 0, "{name}: {outcome:?}"),
                Err(failure) => panic!("{name}: {failure}"),
            }
        }
    }
}
