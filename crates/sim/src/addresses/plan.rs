//! What a history of addresses consists of, drawn from its seed: the peers, the range they share,
//! and what happens before everything becomes calm.

use std::net::Ipv4Addr;
use std::time::Duration;

use ipam::address::Subnet;
use ipam::{ContainerEvent, Init, Patience};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};
use wire::PeerName;

/// First address of every universe; the default subnet may begin lower.
const UNIVERSE_BASE: Ipv4Addr = Ipv4Addr::new(10, 32, 0, 0);
/// Containers and services per site that ask for addresses.
const IDENTS_PER_SITE: usize = 6;
/// Most requests of one burst.
const BURST_MAX: usize = 24;

/// What the command line chooses; everything else follows from the seed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Setting {
    /// Seed of everything.
    pub seed: u64,
    /// Number of peers; drawn from 3 to 12 if absent.
    pub peers: Option<usize>,
    /// Number of things that happen; drawn if absent.
    pub events: Option<usize>,
    /// Events left out, by their position: how a failing history is made short.
    pub without: Vec<usize>,
}

/// One peer and how it is configured.
#[derive(Debug, Clone)]
pub struct Site {
    /// Its name.
    pub name: PeerName,
    /// How its ring comes into being.
    pub init: Init,
    /// How many others it was told to connect to.
    pub targets: usize,
    /// When it is first started.
    pub start_at: Duration,
    /// Thousandths of a second its clock counts per second.
    pub clock_rate: u32,
    /// Whether its shell makes all rows of a turn durable first, as the daemon does; else each output
    /// is done in its turn.
    pub is_batched: bool,
}

/// How the network treats messages.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Weather {
    /// Share lost.
    pub loss: f64,
    /// Share arriving twice.
    pub duplication: f64,
    /// Share that is on its way for up to twenty seconds.
    pub straggling: f64,
}

impl Weather {
    /// Nothing lost, nothing late.
    pub const CALM: Self = Self {
        loss: 0.0,
        duplication: 0.0,
        straggling: 0.0,
    };
}

/// Who asks for addresses at a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// A container, whose death frees them.
    Container(usize),
    /// Something that frees them itself.
    Service(usize),
    /// Somebody without a name.
    Nobody,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq)]
pub enum Ask {
    /// Any address.
    Allocate {
        /// For whom.
        who: Who,
        /// Where; `None` is the default subnet.
        subnet: Option<Subnet>,
        /// How long to wait.
        patience: Patience,
    },
    /// A certain address.
    Claim {
        /// For whom.
        who: Who,
        /// The address.
        address: Ipv4Addr,
        /// Whether to be content while there is no ring.
        no_error_on_unknown: bool,
        /// How long to wait.
        patience: Patience,
    },
    /// Give one address back, by its position among those held.
    Free(Who, usize),
    /// Give all back.
    Delete(Who),
    /// What is held.
    Lookup(Who),
    /// Tell when there is a ring.
    Prime(Patience),
}

/// What can happen.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Requests that reach a peer at once.
    Ask(usize, Vec<Ask>),
    /// The caller that waits longest hangs up.
    HangUp(usize),
    /// A container starts, dies, is removed.
    Container(usize, usize, ContainerEvent),
    /// From now on only peers of one side reach each other.
    Split(Vec<u8>),
    /// Everybody reaches everybody again.
    Heal,
    /// From now on.
    Weather(Weather),
    /// A peer dies after so many outputs from now.
    Crash(usize, usize),
    /// It starts again from what was durable.
    Restart(usize),
    /// The next start finds an empty disk, if the others have a ring by then.
    Wipe(usize),
    /// The operator resets a peer, which stays away or comes back empty.
    Leave(usize, Option<Duration>),
    /// A host burns down, or seems to and comes back with its disk after this time.
    Perish(usize, Option<Duration>),
    /// The operator removes a peer that burnt down, at another one; at two if told so.
    TakeOver {
        /// Where.
        at: usize,
        /// Perhaps also here.
        also_at: Option<usize>,
        /// Whom.
        victim: usize,
    },
}

/// A history before it happens.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Everything that is managed.
    pub universe: Subnet,
    /// Where addresses are allocated by default.
    pub default_subnet: Subnet,
    /// All peers.
    pub sites: Vec<Site>,
    /// Events in order of time.
    pub events: Vec<(Duration, Event)>,
    /// Largest ordinary delay of a message.
    pub delay_max: Duration,
    /// After which absence ranges are taken over by vote.
    pub reclaim_after: Option<Duration>,
    /// When everything becomes calm.
    pub calm_at: Duration,
}

impl Plan {
    /// Draws a history.
    pub fn draw(setting: &Setting) -> Self {
        let mut rng = StdRng::seed_from_u64(setting.seed);
        // Small clusters are cheap, and most of what can go wrong goes wrong among few.
        let drawn_peers = *[3, 3, 3, 4, 4, 5, 5, 6, 7, 8, 10, 12]
            .choose(&mut rng)
            .expect("not empty");
        let drawn_events = rng.random_range(5..=40);
        let peers = setting.peers.unwrap_or(drawn_peers).clamp(1, 250);
        let events = setting.events.unwrap_or(drawn_events);
        let prefix_len = rng.random_range(20..=29);
        let universe = subnet(u32::from(UNIVERSE_BASE), prefix_len);
        let mut plan = Self {
            universe,
            default_subnet: draw_default(&mut rng, prefix_len),
            sites: draw_sites(&mut rng, peers),
            events: Vec::new(),
            delay_max: Duration::from_millis(*[2, 20, 80, 400].choose(&mut rng).expect("some")),
            reclaim_after: None,
            calm_at: Duration::ZERO,
        };
        let mut draw = Draw {
            plan: &mut plan,
            rng: &mut rng,
            span: Duration::ZERO,
            prefix_len,
        };
        draw.events(events);
        for position in &setting.without {
            if let Some((_, event)) = plan.events.get_mut(*position) {
                *event = Event::Ask(0, Vec::new());
            }
        }
        plan
    }
}

/// A subnet of the universe, or around it.
pub fn subnet(base: u32, prefix_len: u8) -> Subnet {
    let mask = u32::MAX
        .checked_shl(32 - u32::from(prefix_len))
        .unwrap_or(0);
    let text = format!("{}/{prefix_len}", Ipv4Addr::from(base & mask));
    text.parse().expect("a subnet of the right form")
}

fn draw_default(rng: &mut StdRng, prefix_len: u8) -> Subnet {
    let base = u32::from(UNIVERSE_BASE);
    let half = 1 << (31 - prefix_len);
    match rng.random_range(0..10) {
        // Half of it, the other half for requests that name a subnet.
        0 if prefix_len <= 28 => subnet(base + half, prefix_len + 1),
        1 if prefix_len <= 28 => subnet(base, prefix_len + 1),
        // Larger: the rest is given out by hand.
        2 => subnet(base, prefix_len - 1),
        _ => subnet(base, prefix_len),
    }
}

fn draw_sites(rng: &mut StdRng, count: usize) -> Vec<Site> {
    let mut names: Vec<PeerName> = (0..count as u64)
        .map(|n| PeerName::from_u64(0x0200_0000_0001 + n))
        .collect();
    names.shuffle(rng);
    let inits = draw_inits(rng, &names);
    let late = rng.random_bool(0.5);
    let skewed = rng.random_bool(0.5);
    let sites = names.iter().zip(inits).map(|(name, init)| Site {
        name: *name,
        init,
        targets: count - 1,
        start_at: Duration::from_millis(if late && rng.random_bool(0.4) {
            rng.random_range(0..60_000)
        } else {
            rng.random_range(0..500)
        }),
        clock_rate: if skewed {
            rng.random_range(800..1250)
        } else {
            1000
        },
        is_batched: rng.random(),
    });
    sites.collect()
}

/// Modes that cannot make two rings: everybody counts the same voters, or has the same seeds.
fn draw_inits(rng: &mut StdRng, names: &[PeerName]) -> Vec<Init> {
    let count = names.len();
    match rng.random_range(0..10) {
        0..3 => vec![Init::Consensus(None); count],
        3..5 => vec![Init::Consensus(Some(count)); count],
        5 => {
            // The first decides alone.
            let mut inits = vec![Init::Observer; count];
            inits[0] = Init::Consensus(Some(1));
            inits
        }
        6 | 7 => {
            let voters = rng.random_range(1..=count);
            let mut inits = vec![Init::Observer; count];
            inits[..voters].fill(Init::Consensus(Some(voters)));
            inits.shuffle(rng);
            inits
        }
        _ => {
            let mut seeds = names[..rng.random_range(1..=count)].to_vec();
            seeds.sort_unstable();
            let observers = rng.random_bool(0.3);
            let init = |name: &PeerName| {
                if observers && !seeds.contains(name) {
                    Init::Observer
                } else {
                    Init::Seed(seeds.clone())
                }
            };
            names.iter().map(init).collect()
        }
    }
}

/// Draws events.
struct Draw<'a> {
    plan: &'a mut Plan,
    rng: &'a mut StdRng,
    span: Duration,
    prefix_len: u8,
}

impl Draw<'_> {
    fn events(&mut self, count: usize) {
        self.span = Duration::from_secs(self.rng.random_range(10..=150));
        if self.rng.random_bool(0.5) {
            let weather = Weather {
                loss: self.rng.random_range(0.0..0.3),
                duplication: self.rng.random_range(0.0..0.1),
                straggling: self.rng.random_range(0.0..0.1),
            };
            self.add(Duration::ZERO, Event::Weather(weather));
        }
        if self.rng.random_bool(0.15) {
            let secs = self.rng.random_range(30..90);
            self.plan.reclaim_after = Some(Duration::from_secs(secs));
        }
        for _ in 0..count {
            let at = self.moment();
            self.event(at);
        }
        self.plan.events.sort_by_key(|(at, _)| *at);
        let last = self
            .plan
            .events
            .last()
            .map_or(Duration::ZERO, |(at, _)| *at);
        let starts = self.plan.sites.iter().map(|site| site.start_at);
        let last_start = starts.max().expect("there are sites");
        self.plan.calm_at = last.max(last_start) + Duration::from_millis(1);
    }

    fn moment(&mut self) -> Duration {
        let span = u64::try_from(self.span.as_millis()).expect("minutes");
        Duration::from_millis(self.rng.random_range(0..=span))
    }

    fn event(&mut self, at: Duration) {
        let count = self.plan.sites.len();
        let site = self.rng.random_range(0..count);
        let later = at + Duration::from_millis(self.rng.random_range(200..60_000));
        match self.rng.random_range(0..100) {
            0..50 => {
                let asks = vec![self.ask()];
                self.add(at, Event::Ask(site, asks));
            }
            50..58 => {
                let burst = self.rng.random_range(2..=BURST_MAX);
                let asks = (0..burst).map(|_| self.ask()).collect();
                self.add(at, Event::Ask(site, asks));
            }
            58..68 => self.container(at, site),
            68..71 => self.add(at, Event::HangUp(site)),
            71..78 => {
                let sides = (0..count).map(|_| self.rng.random_range(0..2));
                let sides = sides.collect();
                self.add(at, Event::Split(sides));
                self.add(later, Event::Heal);
            }
            78..90 => {
                let outputs = *[0, 0, 1, 2, 3, 5].choose(self.rng).expect("some");
                self.add(at, Event::Crash(site, outputs));
                if self.rng.random_bool(0.1) {
                    self.add(at, Event::Wipe(site));
                }
                self.add(later, Event::Restart(site));
            }
            90..94 => {
                let back = self.rng.random_bool(0.5).then_some(later - at);
                self.add(at, Event::Leave(site, back));
            }
            _ => self.perish(at, later, site),
        }
    }

    fn container(&mut self, at: Duration, site: usize) {
        let number = self.rng.random_range(0..IDENTS_PER_SITE);
        self.add(at, Event::Container(site, number, ContainerEvent::Died));
        let later = at + Duration::from_millis(self.rng.random_range(1..50_000));
        match self.rng.random_range(0..4) {
            0 => self.add(
                at,
                Event::Container(site, number, ContainerEvent::Destroyed),
            ),
            1 => self.add(
                later,
                Event::Container(site, number, ContainerEvent::Destroyed),
            ),
            2 => self.add(
                later,
                Event::Container(site, number, ContainerEvent::Started),
            ),
            _ => {}
        }
    }

    /// A host burns down; perhaps somebody removes it, and perhaps somebody else does too.
    fn perish(&mut self, at: Duration, later: Duration, victim: usize) {
        let count = self.plan.sites.len();
        if count < 3 {
            return;
        }
        let back = Duration::from_millis(self.rng.random_range(20_000..90_000));
        let back = self.rng.random_bool(0.3).then_some(back);
        self.add(at, Event::Perish(victim, back));
        if self.rng.random_bool(0.7) {
            let at_site = (victim + self.rng.random_range(1..count)) % count;
            let also = (victim + self.rng.random_range(1..count)) % count;
            let also_at = self.rng.random_bool(0.3).then_some(also);
            let take_over = Event::TakeOver {
                at: at_site,
                also_at,
                victim,
            };
            self.add(later, take_over);
        }
    }

    fn who(&mut self) -> Who {
        let number = self.rng.random_range(0..IDENTS_PER_SITE);
        match self.rng.random_range(0..10) {
            0..5 => Who::Container(number),
            5..9 => Who::Service(number),
            _ => Who::Nobody,
        }
    }

    fn patience(&mut self) -> Patience {
        if self.rng.random_bool(0.6) {
            Patience::Short
        } else {
            Patience::Forever
        }
    }

    fn ask(&mut self) -> Ask {
        let (who, patience) = (self.who(), self.patience());
        match self.rng.random_range(0..20) {
            0..11 => Ask::Allocate {
                who,
                subnet: self.subnet(),
                patience,
            },
            11..14 => Ask::Claim {
                who,
                address: self.address(),
                no_error_on_unknown: self.rng.random_bool(0.2),
                patience,
            },
            14..16 => Ask::Free(who, self.rng.random_range(0..4)),
            16 | 17 => Ask::Delete(who),
            18 => Ask::Lookup(who),
            _ => Ask::Prime(patience),
        }
    }

    fn subnet(&mut self) -> Option<Subnet> {
        let base = u32::from(UNIVERSE_BASE);
        let offset = self.rng.random_range(0..1u32 << (32 - self.prefix_len));
        match self.rng.random_range(0..10) {
            0..6 => None,
            6..9 => Some(subnet(
                base + offset,
                self.rng.random_range(self.prefix_len..=30),
            )),
            _ => Some(subnet(0x0a63_0000, 24)),
        }
    }

    fn address(&mut self) -> Ipv4Addr {
        let size = 1u32 << (32 - self.prefix_len);
        let near = self.rng.random_range(0..size);
        // Low addresses are those that are in use.
        let offset = match self.rng.random_range(0..10) {
            0..5 => near % 16,
            5..9 => near,
            _ => size + near,
        };
        Ipv4Addr::from(u32::from(UNIVERSE_BASE) + offset)
    }

    fn add(&mut self, at: Duration, event: Event) {
        self.plan.events.push((at, event));
    }
}
