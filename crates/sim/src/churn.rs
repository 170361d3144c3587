//! A large mesh whose peers come and go: what it gossips, and how soon everybody knows.
//!
//! Peers join one after the other, then nothing happens for a while, then every other second a peer
//! dies and comes back, stays away for longer, a link breaks or a path is cut for some seconds. Each
//! of these is followed until every running peer knows.

use std::time::Duration;

use mesh::Mesh;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::host::Power;
use crate::plan::{Fault, Plan, Setting};
use crate::world::{Sent, Violation, World};

/// How long after one peer the next one joins.
const JOIN_EVERY: Duration = Duration::from_millis(100);
/// How often the cluster is looked at: the resolution of what is said about convergence.
const TICK: Duration = Duration::from_millis(100);
/// Most virtual time until a mesh in which nothing happens is whole.
const WHOLE_MAX: Duration = Duration::from_secs(300);
/// How often it is looked at whether it is.
const WHOLE_EVERY: Duration = Duration::from_millis(500);
/// How often something happens to the mesh.
pub const EVENT_EVERY: Duration = Duration::from_secs(2);
/// How long nothing happens before: some rounds of periodic gossip.
pub const STEADY: Duration = Duration::from_secs(90);

/// What is to be measured.
#[derive(Debug, Clone, Copy)]
pub struct Churn {
    /// Seed of everything.
    pub seed: u64,
    /// Number of peers.
    pub peers: usize,
    /// How long things happen to them.
    pub churn: Duration,
    /// Whether the peers announce themselves as Wefts; else they gossip as the original does.
    pub weft: bool,
    /// Largest one-way delay between two peers; the smallest is a sixteenth.
    pub delay_max: Duration,
}

/// What the links of all peers carried during a phase.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Phase {
    /// Its length, seconds.
    pub secs: f64,
    /// Bytes a peer sent per second: the mean over all peers.
    pub mean_bytes: f64,
    /// The same: the peer that sent most.
    pub max_bytes: f64,
    /// Writes a peer did per second, mean.
    pub writes: f64,
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// From the first start until everybody is connected to everybody and knows that.
    pub formation: Phase,
    /// From the last start until then, seconds.
    pub whole_after_secs: f64,
    /// Nothing happens.
    pub steady: Phase,
    /// Things happen.
    pub churn: Phase,
    /// Seconds until everybody knew, for each event that was not overtaken; ascending.
    pub convergence_secs: Vec<f64>,
    /// Events during the churn.
    pub events: usize,
    /// Seconds from the end of the churn until the mesh is whole again.
    pub healed_after_secs: f64,
}

/// An event some peers do not know of yet.
enum News {
    /// Nobody running has a dead peer in its topology.
    Gone(usize),
    /// A peer that came back has routes from and to everybody.
    Back(usize),
    /// Everybody sees two peers connected again.
    Joined(usize, usize),
}

impl News {
    fn concerns(&self, site: usize) -> bool {
        match self {
            Self::Gone(one) | Self::Back(one) => *one == site,
            Self::Joined(one, two) => *one == site || *two == site,
        }
    }
}

/// Measures one mesh.
///
/// # Errors
///
/// When a rule is broken, or the mesh does not become whole.
pub fn run(churn: Churn) -> Result<Outcome, Violation> {
    let mut study = Study::new(churn);
    let mut outcome = Outcome::default();
    let last_start = JOIN_EVERY * u32::try_from(churn.peers - 1).expect("at most 250 peers");
    let before = study.world.sent.clone();
    study.world.run_until(last_start)?;
    study.become_whole()?;
    outcome.formation = study.phase(&before, Duration::ZERO);
    outcome.whole_after_secs = (study.world.now() - last_start).as_secs_f64();

    let (before, start) = (study.world.sent.clone(), study.world.now());
    study.world.run_until(start + STEADY)?;
    outcome.steady = study.phase(&before, start);

    let (before, start) = (study.world.sent.clone(), study.world.now());
    study.churn(start + churn.churn)?;
    outcome.churn = study.phase(&before, start);

    let start = study.world.now();
    study.become_whole()?;
    outcome.healed_after_secs = (study.world.now() - start).as_secs_f64();
    outcome.events = study.events;
    outcome.convergence_secs = study.convergence_secs;
    outcome.convergence_secs.sort_by(f64::total_cmp);
    Ok(outcome)
}

struct Study {
    world: World,
    rng: StdRng,
    /// What is not known everywhere yet, and since when it could be.
    news: Vec<(Duration, News)>,
    /// Dead peers and when they come back.
    returning: Vec<(Duration, usize)>,
    /// Paths that are cut, and until when.
    cuts: Vec<(Duration, usize, usize)>,
    convergence_secs: Vec<f64>,
    events: usize,
}

impl Study {
    fn new(churn: Churn) -> Self {
        let mut plan = Plan::undisturbed(churn.peers);
        plan.delay_max = churn.delay_max;
        for (site, at) in plan.sites.iter_mut().zip(0..) {
            site.start_at = JOIN_EVERY * at;
            site.weft = churn.weft;
        }
        let setting = Setting {
            seed: churn.seed,
            peers: None,
            events: None,
            hostile: false,
        };
        Self {
            world: World::new(&plan, setting, None),
            rng: StdRng::seed_from_u64(churn.seed),
            news: Vec::new(),
            returning: Vec::new(),
            cuts: Vec::new(),
            convergence_secs: Vec::new(),
            events: 0,
        }
    }

    /// The running peers.
    fn running(&self) -> impl Iterator<Item = (usize, &Mesh)> {
        let hosts = self.world.hosts.iter().enumerate();
        hosts.filter_map(|(site, host)| Some((site, host.node.as_ref()?.mesh())))
    }

    fn mesh(&self, site: usize) -> Option<&Mesh> {
        self.world.hosts[site].node.as_ref().map(node::Node::mesh)
    }

    fn phase(&self, before: &[Sent], start: Duration) -> Phase {
        let secs = (self.world.now() - start).as_secs_f64();
        let peers = before.len() as f64;
        let pairs = || self.world.sent.iter().zip(before);
        let bytes: u64 = pairs().map(|(now, then)| now.bytes - then.bytes).sum();
        let writes: u64 = pairs().map(|(now, then)| now.writes - then.writes).sum();
        let most = pairs().map(|(now, then)| now.bytes - then.bytes).max();
        Phase {
            secs,
            mean_bytes: bytes as f64 / peers / secs,
            max_bytes: most.unwrap_or_default() as f64 / secs,
            writes: writes as f64 / peers / secs,
        }
    }

    fn become_whole(&mut self) -> Result<(), Violation> {
        let deadline = self.world.now() + WHOLE_MAX;
        loop {
            match self.is_whole() {
                Ok(()) => return Ok(()),
                Err(missing) if self.world.now() >= deadline => return Err(missing),
                Err(_) => self.world.run_until(self.world.now() + WHOLE_EVERY)?,
            }
        }
    }

    /// Whether everybody sees everybody connected to everybody, and has routes; what is missing if
    /// not.
    fn is_whole(&self) -> Result<(), Violation> {
        for (site, mesh) in self.running() {
            if mesh.peers().count() != self.world.hosts.len() {
                return Err(format!(
                    "site {site} does not know {} peers",
                    self.world.hosts.len()
                ));
            }
            for (other, _) in self.running() {
                if other != site && !self.has_route(site, other) {
                    return Err(format!("site {site} has no route to {other}"));
                }
            }
        }
        for (site, mesh) in self.running() {
            for (one, _) in self.running() {
                for (two, _) in self.running() {
                    if one != two && !self.sees_joined(mesh, one, two) {
                        return Err(format!("site {site} does not see {one} connected to {two}"));
                    }
                }
            }
        }
        Ok(())
    }

    fn has_route(&self, from: usize, to: usize) -> bool {
        let table = &self.world.hosts[from].forwarder.table;
        table
            .routes
            .unicast
            .contains_key(&self.world.hosts[to].site.name)
    }

    fn sees_joined(&self, mesh: &Mesh, one: usize, two: usize) -> bool {
        let name = |site: usize| self.world.hosts[site].site.name;
        mesh.lists_established(name(one), name(two)) == Some(true)
    }

    fn churn(&mut self, until: Duration) -> Result<(), Violation> {
        let mut next_event = self.world.now();
        while self.world.now() < until || !self.returning.is_empty() {
            let now = self.world.now();
            if now >= next_event && now < until {
                next_event += EVENT_EVERY;
                self.event()?;
            }
            self.bring_back()?;
            self.world.run_until(now + TICK)?;
            self.hear();
        }
        Ok(())
    }

    /// Notes which news everybody knows.
    fn hear(&mut self) {
        let now = self.world.now();
        for (since, news) in std::mem::take(&mut self.news) {
            if self.is_known(&news) {
                self.convergence_secs.push((now - since).as_secs_f64());
            } else {
                self.news.push((since, news));
            }
        }
    }

    fn is_known(&self, news: &News) -> bool {
        match *news {
            News::Gone(site) => {
                let name = self.world.hosts[site].site.name;
                self.running()
                    .all(|(_, mesh)| mesh.incarnation(name).is_none())
            }
            News::Back(site) => {
                let name = self.world.hosts[site].site.name;
                let uid = self.mesh(site).map(Mesh::uid);
                self.running()
                    .filter(|(other, _)| *other != site)
                    .all(|(other, mesh)| {
                        mesh.incarnation(name) == uid
                            && self.has_route(other, site)
                            && self.has_route(site, other)
                    })
            }
            News::Joined(one, two) => self.running().all(|(_, mesh)| {
                self.sees_joined(mesh, one, two) && self.sees_joined(mesh, two, one)
            }),
        }
    }

    /// Something happens to peers nothing else happens to.
    fn event(&mut self) -> Result<(), Violation> {
        let Some(one) = self.idle_site(None) else {
            return Ok(());
        };
        let Some(two) = self.idle_site(Some(one)) else {
            return Ok(());
        };
        self.events += 1;
        let now = self.world.now();
        match self.rng.random_range(0..10) {
            kind @ 0..6 => {
                let millis = if kind < 4 {
                    2_000..6_000
                } else {
                    20_000..40_000
                };
                let back = now + Duration::from_millis(self.rng.random_range(millis));
                self.returning.push((back, one));
                self.news.push((now, News::Gone(one)));
                self.world.befall(&Fault::Kill(one))
            }
            6..9 => {
                self.news.push((now, News::Joined(one, two)));
                self.world.befall(&Fault::BreakLinks(one, two))
            }
            _ => {
                let after = Duration::from_millis(self.rng.random_range(5_000..20_000));
                self.cuts.push((now + after, one, two));
                self.world.schedule(after, Fault::Mend(one, two));
                self.world.befall(&Fault::Cut(one, two))
            }
        }
    }

    /// A running peer, other than one, that is not part of anything under way.
    fn idle_site(&mut self, except: Option<usize>) -> Option<usize> {
        let now = self.world.now();
        self.cuts.retain(|(until, ..)| *until > now);
        let is_idle = |site: &usize| {
            self.world.hosts[*site].power == Power::Running
                && Some(*site) != except
                && !self.news.iter().any(|(_, news)| news.concerns(*site))
                && !self
                    .cuts
                    .iter()
                    .any(|(_, one, two)| one == site || two == site)
        };
        let idle: Vec<usize> = (0..self.world.hosts.len()).filter(is_idle).collect();
        (!idle.is_empty()).then(|| idle[self.rng.random_range(0..idle.len())])
    }

    fn bring_back(&mut self) -> Result<(), Violation> {
        let now = self.world.now();
        let due = |(at, _): &(Duration, usize)| *at <= now;
        let back: Vec<usize> = self
            .returning
            .extract_if(.., |r| due(r))
            .map(|(_, n)| n)
            .collect();
        for site in back {
            // Whoever had not noticed its absence never will.
            self.news.retain(|(_, news)| !news.concerns(site));
            self.news.push((now, News::Back(site)));
            self.world.befall(&Fault::Restart(site))?;
        }
        Ok(())
    }
}

/// The value below which a share of ascending values lies; 0 without values.
pub fn quantile(ascending: &[f64], share: f64) -> f64 {
    let rank = (ascending.len() as f64 * share).ceil().max(1.0);
    ascending
        .get(rank as usize - 1)
        .copied()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_the_value_of_its_rank() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(quantile(&values, 0.5), 50.0);
        assert_eq!(quantile(&values, 0.99), 99.0);
        assert_eq!(quantile(&values[..1], 0.5), 1.0);
        assert_eq!(quantile(&[], 0.5), 0.0);
    }
}
