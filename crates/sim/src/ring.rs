//! A large cluster that allocates addresses: how soon its ring is there, how long a new peer waits
//! for its first address, and what becomes of allocation while the network is cut in halves.
//!
//! The mesh is sparse, as large ones are: each peer is told of two others of its half and of one of
//! the other half, and discovery is off. Five peers elect the ring, the others observe. All have to
//! ask for space before they can give anything out.

use std::time::Duration;

use ipam::address::Subnet;
use ipam::{Allocate, Answer, Init, Patience, Request};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::churn::quantile;
use crate::plan::{Fault, Plan, Setting};
use crate::world::{Violation, World};

/// How long after one peer the next one starts.
const START_EVERY: Duration = Duration::from_millis(100);
/// How long the mesh is left alone before the first request.
const LINK_UP: Duration = Duration::from_secs(20);
/// Between the first requests of peers that have no space.
const ASK_EVERY: Duration = Duration::from_millis(200);
/// Between peers that are new.
const JOIN_EVERY: Duration = Duration::from_secs(1);
/// How long the network is cut in halves.
pub const CUT: Duration = Duration::from_secs(600);
/// How often one peer of each half is asked for an address meanwhile.
pub const CUT_ASK_EVERY: Duration = Duration::from_secs(5);
/// Most virtual time until all rings agree.
const AGREE_MAX: Duration = Duration::from_secs(900);
/// How often it is looked at whether they do.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Peers that elect the ring.
const VOTERS: usize = 5;

/// What is to be measured.
#[derive(Debug, Clone, Copy)]
pub struct Study {
    /// Seed of everything.
    pub seed: u64,
    /// Peers of the cluster.
    pub peers: usize,
    /// Peers that join it, one after the other.
    pub new: usize,
    /// Largest one-way delay between two peers; the smallest is a sixteenth.
    pub delay_max: Duration,
}

/// What came of it. Times are virtual.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// From the first request until everybody has the ring, seconds.
    pub formed_after_secs: f64,
    /// Bytes each peer sent meanwhile, mean.
    pub formation_bytes: f64,
    /// Seconds until the first address of each peer that ran but had no space; ascending.
    pub first_secs: Vec<f64>,
    /// Bytes each peer sent per such address, mean.
    pub first_bytes: f64,
    /// Seconds from its start until a new peer had its first address; ascending.
    pub new_secs: Vec<f64>,
    /// Addresses given out in each half while they were apart.
    pub halves: [usize; 2],
    /// Requests not served then.
    pub unserved: usize,
    /// Seconds those that were served took; ascending.
    pub cut_secs: Vec<f64>,
    /// From the healing until all rings agree, seconds.
    pub healed_after_secs: f64,
    /// Entries of the ring at the end.
    pub entries: usize,
    /// Addresses in use at the end; each by one peer.
    pub used: usize,
}

/// Measures one cluster.
///
/// # Errors
///
/// When a rule is broken, as by an address that is in use twice, or rings do not come to agree.
pub fn run(study: Study) -> Result<Outcome, Violation> {
    let mut cluster = Cluster::new(study);
    let mut outcome = Outcome::default();
    let start = START_EVERY * u32::try_from(study.peers).expect("at most 250 peers");
    cluster.world.run_until(start + LINK_UP)?;

    let (asked_at, before) = (cluster.world.now(), cluster.world.link_bytes);
    cluster.ask(0)?;
    cluster.wait(|cluster| cluster.all_have_ring())?;
    outcome.formed_after_secs = (cluster.world.now() - asked_at).as_secs_f64();
    outcome.formation_bytes = cluster.bytes_since(before);

    let (from, before) = (cluster.world.answers.len(), cluster.world.link_bytes);
    for site in 1..study.peers {
        cluster.ask(site)?;
        cluster.world.run_until(cluster.world.now() + ASK_EVERY)?;
    }
    outcome.first_secs = cluster.times_since(from)?;
    outcome.first_bytes = cluster.bytes_since(before) / outcome.first_secs.len() as f64;

    let from = cluster.world.answers.len();
    for site in study.peers..study.peers + study.new {
        cluster.world.befall(&Fault::Restart(site))?;
        cluster.ask(site)?;
        cluster.world.run_until(cluster.world.now() + JOIN_EVERY)?;
    }
    cluster
        .world
        .run_until(cluster.world.now() + ipam::PATIENCE)?;
    outcome.new_secs = cluster.times_since(from)?;

    cluster.live_apart(&mut outcome)?;
    let healed_at = cluster.world.now();
    cluster.wait(|cluster| cluster.world.check_addresses(&cluster.everybody()).is_ok())?;
    outcome.healed_after_secs = (cluster.world.now() - healed_at).as_secs_f64();
    outcome.entries = cluster.world.ring(0).map_or(0, |ring| ring.len());
    outcome.used = cluster.world.addresses_used();
    Ok(outcome)
}

struct Cluster {
    world: World,
    rng: StdRng,
    size: usize,
    asked: usize,
}

impl Cluster {
    fn new(study: Study) -> Self {
        let mut rng = StdRng::seed_from_u64(study.seed);
        let size = study.peers + study.new;
        let mut plan = Plan::undisturbed(size);
        plan.delay_max = study.delay_max;
        plan.universe = Some(universe());
        for (n, site) in plan.sites.iter_mut().enumerate() {
            site.discovery = false;
            site.addresses = Some(if n < VOTERS {
                Init::Consensus(Some(VOTERS))
            } else {
                Init::Observer
            });
            site.launch_peers = (0..3)
                .filter_map(|kind| {
                    // Two of the same half, one of the other.
                    let wanted = (n + usize::from(kind == 2)) % 2;
                    let others = (n.min(study.peers) + 1 - wanted) / 2;
                    (others > 0).then(|| 2 * rng.random_range(0..others) + wanted)
                })
                .filter(|other| *other < n)
                .collect();
            if n >= study.peers {
                // Started when their time has come.
                site.start_at = Duration::MAX;
            } else {
                site.start_at = START_EVERY * u32::try_from(n).expect("at most 250 peers");
            }
        }
        let setting = Setting {
            seed: study.seed,
            peers: None,
            events: None,
            hostile: false,
        };
        Self {
            world: World::new(&plan, setting, None),
            rng,
            size,
            asked: 0,
        }
    }

    /// One site is asked for one more address.
    fn ask(&mut self, site: usize) -> Result<(), Violation> {
        self.asked += 1;
        let request = Request::Allocate(Allocate {
            ident: format!("container-{}", self.asked),
            subnet: None,
            is_container: false,
            patience: Patience::Short,
        });
        self.world.ask(site, request)
    }

    fn wait(&mut self, is_done: impl Fn(&Self) -> bool) -> Result<(), Violation> {
        let deadline = self.world.now() + AGREE_MAX;
        while !is_done(self) {
            if self.world.now() >= deadline {
                self.world.check_addresses(&self.everybody())?;
                return Err("the ring is not everywhere".to_owned());
            }
            self.world.run_until(self.world.now() + LOOK_EVERY)?;
        }
        Ok(())
    }

    fn running(&self) -> impl Iterator<Item = usize> {
        let hosts = self.world.hosts.iter().enumerate();
        hosts.filter_map(|(site, host)| host.node.is_some().then_some(site))
    }

    fn everybody(&self) -> [crate::check::Component; 1] {
        [self.running().collect()]
    }

    fn all_have_ring(&self) -> bool {
        let ring = |site| self.world.ring(site).unwrap_or_default();
        self.running().all(|site| !ring(site).is_empty())
    }

    fn bytes_since(&self, before: u64) -> f64 {
        (self.world.link_bytes - before) as f64 / self.running().count() as f64
    }

    /// How long each answer took; each must be an address.
    fn times_since(&self, from: usize) -> Result<Vec<f64>, Violation> {
        let mut times = Vec::new();
        for answered in &self.world.answers[from..] {
            let Ok(Answer::Address(_)) = answered.outcome else {
                return Err(format!("not served: {answered:?}"));
            };
            times.push(answered.took.as_secs_f64());
        }
        times.sort_by(f64::total_cmp);
        Ok(times)
    }

    /// Cuts the network in halves, has both allocate, and heals it.
    fn live_apart(&mut self, outcome: &mut Outcome) -> Result<(), Violation> {
        self.each_cut(Fault::Cut)?;
        let (from, until) = (self.world.answers.len(), self.world.now() + CUT);
        while self.world.now() < until {
            for half in 0..2 {
                let site = 2 * self.rng.random_range(0..self.size / 2) + half;
                self.ask(site)?;
            }
            self.world.run_until(self.world.now() + CUT_ASK_EVERY)?;
        }
        self.each_cut(Fault::Mend)?;
        for answered in &self.world.answers[from..] {
            if let Ok(Answer::Address(_)) = answered.outcome {
                outcome.halves[answered.site % 2] += 1;
                outcome.cut_secs.push(answered.took.as_secs_f64());
            } else {
                outcome.unserved += 1;
            }
        }
        outcome.cut_secs.sort_by(f64::total_cmp);
        Ok(())
    }

    fn each_cut(&mut self, fault: impl Fn(usize, usize) -> Fault) -> Result<(), Violation> {
        for one in (0..self.size).step_by(2) {
            for two in (1..self.size).step_by(2) {
                self.world.befall(&fault(one, two))?;
            }
        }
        Ok(())
    }
}

fn universe() -> Subnet {
    "10.32.0.0/12".parse().expect("a subnet")
}

/// The outcome, as a row of a table.
pub fn row(study: Study, outcome: &Outcome, wall: Duration) -> String {
    let three = |times: &[f64]| {
        let of = |share| quantile(times, share);
        format!("{:.2} / {:.2} / {:.2}", of(0.5), of(0.99), of(1.0))
    };
    let [one, two] = outcome.halves;
    format!(
        "| {} + {} | {:.1} | {:.0} | {} | {:.0} | {} | {one} + {two}, {} | {} | {:.0} | {} / {} | {:.0} |\n",
        study.peers,
        study.new,
        outcome.formed_after_secs,
        outcome.formation_bytes / 1e3,
        three(&outcome.first_secs),
        outcome.first_bytes / 1e3,
        three(&outcome.new_secs),
        outcome.unserved,
        three(&outcome.cut_secs),
        outcome.healed_after_secs,
        outcome.entries,
        outcome.used,
        wall.as_secs_f64(),
    )
}

/// The head of that table, with what it was measured with.
pub fn head(study: Study) -> String {
    format!(
        "Seed {}, sparse mesh in clear (three launch peers each, no discovery), one-way delays up to {} ms, `10.32.0.0/12`, \
         {VOTERS} voters; cut in halves for {} s with one request in each half every {} s. Times are virtual.\n\n\
         | peers + new | ring everywhere after, s | kB sent per peer for it | first address of a peer without space: \
         median / p99 / worst, s | kB sent per peer and such address | first address of a new peer, from its start: \
         median / p99 / worst, s | served in the halves, not served | time to serve then: median / p99 / worst, s | \
         rings agree after healing, s | entries / addresses in use | wall time, s |\n\
         |---|---|---|---|---|---|---|---|---|---|---|\n",
        study.seed,
        study.delay_max.as_millis(),
        CUT.as_secs(),
        CUT_ASK_EVERY.as_secs(),
    )
}
