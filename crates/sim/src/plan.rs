//! What a history consists of, drawn from its seed: the sites, the network, and the faults that
//! befall them before everything becomes calm.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipam::address::Subnet;
use ipam::{Init, Patience};
use mesh::TrustedSubnet;
use overlay::kind::Kind;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{RngExt, SeedableRng};
use wire::PeerName;

use crate::addresses::plan::{self as addresses, Ask, Who};

/// Port of every router.
pub const PORT: u16 = 6783;
/// Underlay MTU of every host's interface, bytes.
pub const INTERFACE_MTU_BYTES: usize = 1500;
/// Connection limit unless a history has a small one.
pub const CONN_LIMIT_DEFAULT: usize = 200;
/// From this many peers on, discovery is off and the mesh is sparse: a full one of a hundred peers
/// exchanges gigabytes of topology.
const SPARSE_FROM: usize = 40;

/// What the command line chooses; everything else follows from the seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// Seed of everything.
    pub seed: u64,
    /// Number of peers; drawn from 3 to 12 if absent.
    pub peers: Option<usize>,
    /// Number of faults; drawn from 0 to 12 if absent.
    pub events: Option<usize>,
    /// Whether some of what happens is ill will: bytes changed on the way, strangers, forged news,
    /// two peers of one name. Then only the rules for each step are judged, not the end; but where liars
    /// are all there is, the end is judged too.
    pub hostile: bool,
}

/// One host and how its router is configured.
#[derive(Debug, Clone)]
pub struct Site {
    /// Peer name.
    pub name: PeerName,
    /// Underlay address.
    pub ip: IpAddr,
    /// Passphrase.
    pub password: Option<&'static str>,
    /// Lowest and highest protocol version.
    pub versions: (u8, u8),
    /// Whether discovery is on.
    pub discovery: bool,
    /// Trusted subnets.
    pub trusted: Vec<TrustedSubnet>,
    /// Whether nobody can open connections to it (firewall or NAT).
    pub hidden: bool,
    /// Whether it announces itself as a Weft.
    pub weft: bool,
    /// Connection limit; 0 means none.
    pub conn_limit: usize,
    /// Kinds of tunnel in order of preference.
    pub tunnels: Vec<Kind>,
    /// Sites given to it at launch.
    pub launch_peers: BTreeSet<usize>,
    /// When it is first started; `Duration::MAX`: when a fault does it.
    pub start_at: Duration,
    /// How its address ring comes into being; `None` if it allocates no addresses.
    pub addresses: Option<Init>,
}

impl Site {
    /// Whether two routers agree on a protocol version and a passphrase.
    pub fn is_compatible(&self, other: &Self) -> bool {
        self.negotiated(other).is_some() && self.password == other.password
    }

    /// The protocol version two routers use.
    pub fn negotiated(&self, other: &Self) -> Option<u8> {
        let version = self.versions.1.min(other.versions.1);
        (version >= self.versions.0.max(other.versions.0)).then_some(version)
    }

    /// Whether the data plane between two compatible routers has to be encrypted.
    pub fn encrypts(&self, other: &Self) -> bool {
        let trusts = |a: &Self, b: &Self| a.trusted.iter().any(|subnet| subnet.contains(b.ip));
        let can_say = self.negotiated(other) == Some(2);
        self.password.is_some() && !(can_say && trusts(self, other) && trusts(other, self))
    }
}

/// How the path between two sites treats what is larger than its MTU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathMtu {
    /// Largest IP packet, bytes.
    pub bytes: usize,
    /// Whether the sender is told (ICMP); else the packet just vanishes.
    pub truthful: bool,
}

impl PathMtu {
    /// As large as the interfaces.
    pub const FULL: Self = Self {
        bytes: INTERFACE_MTU_BYTES,
        truthful: true,
    };
}

/// What can befall a history.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// The process dies; its kernel resets the connections.
    Kill(usize),
    /// The machine dies; nobody is told.
    PowerOff(usize),
    /// A dead router is started again from what it had persisted.
    Restart(usize),
    /// The router stops and stays away.
    Leave(usize),
    /// Nothing passes between two sites any more, in either direction.
    Cut(usize, usize),
    /// Everything passes again.
    Mend(usize, usize),
    /// Datagrams from the first to the second vanish; TCP works.
    Deafen(usize, usize),
    /// They arrive again.
    Undeafen(usize, usize),
    /// The TCP connections between two sites break.
    BreakLinks(usize, usize),
    /// The operator adds a peer, perhaps replacing all.
    Connect {
        /// Where.
        at: usize,
        /// Whom.
        to: usize,
        /// Whether to forget the others.
        replace: bool,
    },
    /// The operator removes a peer.
    Forget {
        /// Where.
        at: usize,
        /// Whom.
        to: usize,
    },
    /// The NAT in front of a hidden site chooses another UDP port.
    RebindNat(usize),
    /// The path between two sites changes its MTU.
    ShrinkPath(usize, usize, PathMtu),
    /// Share of datagrams lost, duplicated and delayed from now on.
    Weather(Weather),
    /// Bytes on links between two sites are changed from now on.
    Garble(usize, usize),
    /// They arrive as they were sent again.
    Ungarble(usize, usize),
    /// Somebody connects to a router and talks nonsense.
    Stranger(usize),
    /// Forged news of the data plane.
    Forgery(usize),
    /// A peer that was let in tells a router lies about others.
    Lie(usize),
    /// Those peers leave for good.
    LiarsLeave,
    /// Somebody asks a router for an address.
    Ask(usize, Ask),
}

/// Treatment of datagrams, everywhere.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Weather {
    /// Share lost.
    pub loss: f64,
    /// Share arriving twice.
    pub duplication: f64,
    /// Extra delay, up to this; different for each datagram, so they overtake each other.
    pub jitter: Duration,
}

impl Weather {
    /// Nothing lost, no reordering.
    pub const CALM: Self = Self {
        loss: 0.0,
        duplication: 0.0,
        jitter: Duration::ZERO,
    };
}

/// A history before it happens.
#[derive(Debug, Clone)]
pub struct Plan {
    /// All sites.
    pub sites: Vec<Site>,
    /// Faults in order of time.
    pub faults: Vec<(Duration, Fault)>,
    /// When the last fault is over and everybody who did not leave runs.
    pub calm_at: Duration,
    /// Largest one-way delay of the network.
    pub delay_max: Duration,
    /// The addresses all sites share, if they allocate any.
    pub universe: Option<Subnet>,
}

impl Plan {
    /// Nothing happens to so many equal peers in the clear, each told of the first.
    pub fn undisturbed(peers: usize) -> Self {
        let site = |n: usize| Site {
            name: PeerName::from_u64(0x0200_0000_0001 + n as u64),
            ip: ip(n, false),
            password: None,
            versions: (1, 2),
            discovery: true,
            trusted: Vec::new(),
            hidden: false,
            weft: true,
            conn_limit: CONN_LIMIT_DEFAULT,
            tunnels: vec![Kind::COMPATIBLE],
            launch_peers: (n > 0).then_some(0).into_iter().collect(),
            start_at: Duration::ZERO,
            addresses: None,
        };
        Self {
            sites: (0..peers).map(site).collect(),
            faults: Vec::new(),
            calm_at: Duration::ZERO,
            delay_max: Duration::from_millis(5),
            universe: None,
        }
    }

    /// Draws a history.
    pub fn draw(setting: Setting) -> Self {
        let mut rng = StdRng::seed_from_u64(setting.seed);
        let drawn_peers = rng.random_range(3..=12);
        let drawn_events = rng.random_range(0..=12);
        let peers = setting.peers.unwrap_or(drawn_peers).clamp(1, 250);
        let events = setting.events.unwrap_or(drawn_events);
        let mut sites = draw_sites(&mut rng, peers);
        // Every other hostile history has liars and nothing worse, and its end is judged.
        let only_lies = setting.hostile && setting.seed.is_multiple_of(2);
        if setting.hostile && !only_lies && rng.random_bool(0.2) {
            sites[peers - 1].name = sites[0].name;
        }
        let mut plan = Self {
            sites,
            faults: Vec::new(),
            calm_at: Duration::ZERO,
            delay_max: Duration::from_millis(*[1, 5, 40, 150].choose(&mut rng).expect("not empty")),
            universe: None,
        };
        if only_lies {
            plan.draw_lies(&mut rng);
        } else if setting.hostile {
            plan.draw_attacks(&mut rng);
        }
        plan.draw_faults(&mut rng, events);
        if only_lies {
            plan.add(plan.calm_at, Fault::LiarsLeave);
        }
        if rng.random_bool(0.1) {
            let limit = rng.random_range(2..6);
            plan.sites
                .iter_mut()
                .for_each(|site| site.conn_limit = limit);
        }
        if !setting.hostile && peers < SPARSE_FROM {
            // A generator of its own: what else happens stays as it was.
            plan.draw_requests(&mut StdRng::seed_from_u64(setting.seed ^ 0xadd2_e55e));
        }
        plan
    }

    /// All sites allocate addresses, and are asked for some. Modes that cannot make two rings, even if
    /// some sites never get to know each other.
    fn draw_requests(&mut self, rng: &mut StdRng) {
        let mut names: Vec<PeerName> = self.sites.iter().map(|site| site.name).collect();
        names.sort_unstable();
        let init = if rng.random_bool(0.5) {
            Init::Seed(names)
        } else {
            Init::Consensus(Some(names.len()))
        };
        for site in &mut self.sites {
            site.addresses = Some(init.clone());
        }
        self.universe = Some(addresses::subnet(0x0a20_0000, rng.random_range(22..=27)));
        let last = u64::try_from(self.calm_at.as_millis()).expect("minutes");
        for _ in 0..rng.random_range(2..8) {
            let at = Duration::from_millis(rng.random_range(0..=last));
            let site = rng.random_range(0..self.sites.len());
            let who = Who::Service(rng.random_range(0..3));
            let ask = if rng.random_bool(0.8) {
                Ask::Allocate {
                    who,
                    subnet: None,
                    patience: Patience::Short,
                }
            } else {
                Ask::Delete(who)
            };
            self.faults
                .push((at.min(self.calm_at), Fault::Ask(site, ask)));
        }
        self.faults.sort_by_key(|(at, _)| *at);
    }

    fn draw_faults(&mut self, rng: &mut StdRng, events: usize) {
        if rng.random_bool(0.5) {
            let weather = Weather {
                loss: rng.random_range(0.0..0.25),
                duplication: rng.random_range(0.0..0.1),
                jitter: Duration::from_millis(rng.random_range(0..60)),
            };
            self.add(Duration::ZERO, Fault::Weather(weather));
        }
        let span = Duration::from_secs(rng.random_range(5..=90));
        for _ in 0..events {
            let at = Duration::from_millis(rng.random_range(0..=span.as_millis() as u64));
            self.draw_fault(rng, at);
        }
        self.faults.sort_by_key(|(at, _)| *at);
        let last_fault = self.faults.last().map_or(Duration::ZERO, |(at, _)| *at);
        let starts = self.sites.iter().map(|site| site.start_at);
        let last_start = starts.max().expect("there are sites");
        self.calm_at = last_fault.max(last_start) + Duration::from_millis(1);
    }

    fn draw_fault(&mut self, rng: &mut StdRng, at: Duration) {
        let count = self.sites.len();
        let one = rng.random_range(0..count);
        let two = (one + rng.random_range(1..count.max(2))) % count;
        let until = at + Duration::from_millis(rng.random_range(50..45_000));
        match rng.random_range(0..14) {
            0 | 1 => {
                self.add(at, Fault::Kill(one));
                self.add(until, Fault::Restart(one));
            }
            2 => {
                self.add(at, Fault::PowerOff(one));
                self.add(until, Fault::Restart(one));
            }
            3 | 4 => {
                self.add(at, Fault::Cut(one, two));
                self.add(until, Fault::Mend(one, two));
            }
            5 => self.draw_partition(rng, at, until),
            6 => {
                let until = at + Duration::from_secs(rng.random_range(1..100));
                self.add(at, Fault::Deafen(one, two));
                self.add(until, Fault::Undeafen(one, two));
            }
            7 | 8 => self.add(at, Fault::BreakLinks(one, two)),
            9 => {
                let replace = rng.random_bool(0.2);
                self.add(
                    at,
                    Fault::Connect {
                        at: one,
                        to: two,
                        replace,
                    },
                );
            }
            10 => self.add(at, Fault::Forget { at: one, to: two }),
            11 => self.add(at, Fault::RebindNat(one)),
            12 => {
                let bytes = *[576, 1006, 1280, 1400, 1492]
                    .choose(rng)
                    .expect("not empty");
                let truthful = rng.random_bool(0.5);
                let at = if rng.random_bool(0.7) {
                    Duration::ZERO
                } else {
                    at
                };
                self.add(at, Fault::ShrinkPath(one, two, PathMtu { bytes, truthful }));
            }
            _ => self.add(at, Fault::Leave(one)),
        }
    }

    fn draw_attacks(&mut self, rng: &mut StdRng) {
        let count = self.sites.len();
        for _ in 0..20 {
            let at = Duration::from_millis(rng.random_range(0..60_000));
            let one = rng.random_range(0..count);
            let two = rng.random_range(0..count);
            match rng.random_range(0..3) {
                0 => {
                    self.add(at, Fault::Garble(one, two));
                    self.add(at + Duration::from_secs(5), Fault::Ungarble(one, two));
                }
                1 => self.add(at, Fault::Stranger(one)),
                _ => self.add(at, Fault::Forgery(one)),
            }
        }
    }

    /// Lies at any time, told to one or two routers.
    fn draw_lies(&mut self, rng: &mut StdRng) {
        let count = self.sites.len();
        let victims = [rng.random_range(0..count), rng.random_range(0..count)];
        for _ in 0..rng.random_range(10..40) {
            let at = Duration::from_millis(rng.random_range(0..60_000));
            self.add(at, Fault::Lie(victims[rng.random_range(0..2)]));
        }
    }

    /// Whether liars are all the ill will there is: once they are gone all comes to rest as ever.
    pub fn has_only_lies(&self) -> bool {
        self.faults
            .iter()
            .any(|(_, fault)| *fault == Fault::LiarsLeave)
    }

    /// Cuts every path between two halves.
    fn draw_partition(&mut self, rng: &mut StdRng, at: Duration, until: Duration) {
        let sides: Vec<bool> = self.sites.iter().map(|_| rng.random()).collect();
        for one in 0..sides.len() {
            for two in one + 1..sides.len() {
                if sides[one] != sides[two] {
                    self.add(at, Fault::Cut(one, two));
                    self.add(until, Fault::Mend(one, two));
                }
            }
        }
    }

    fn add(&mut self, at: Duration, fault: Fault) {
        self.faults.push((at, fault));
    }
}

fn draw_sites(rng: &mut StdRng, count: usize) -> Vec<Site> {
    let ipv6 = rng.random_bool(0.25);
    let passwords = rng.random_range(0..4);
    let old_ones = rng.random_bool(0.3);
    let hiding = rng.random_bool(0.3);
    let discovery = count < SPARSE_FROM && rng.random_bool(0.85);
    let late = rng.random_bool(0.3);
    let trusting = rng.random_bool(0.3);
    let mut names: Vec<u64> = (0..count as u64)
        .map(|n| 0x0200_0000_0000 + n * 7 + 1)
        .collect();
    names.shuffle(rng);
    let sites = (0..count).map(|n| Site {
        name: PeerName::from_u64(names[n]),
        ip: ip(n, ipv6),
        password: match passwords {
            0 | 1 => None,
            2 => Some("correct horse"),
            _ if rng.random_bool(0.15) => None,
            _ if rng.random_bool(0.1) => Some("battery staple"),
            _ => Some("correct horse"),
        },
        versions: match rng.random_range(0..10) {
            0 | 1 if old_ones => (1, 1),
            2 if old_ones => (2, 2),
            _ => (1, 2),
        },
        discovery: discovery && rng.random_bool(0.95),
        trusted: draw_trust(rng, trusting, ipv6),
        hidden: hiding && n > 0 && rng.random_bool(0.4),
        weft: rng.random_bool(0.7),
        conn_limit: CONN_LIMIT_DEFAULT,
        tunnels: vec![Kind::COMPATIBLE],
        launch_peers: BTreeSet::new(),
        start_at: Duration::from_millis(if late { rng.random_range(0..30_000) } else { 0 }),
        addresses: None,
    });
    let mut sites: Vec<_> = sites.collect();
    draw_launch_peers(rng, &mut sites);
    sites
}

fn draw_trust(rng: &mut StdRng, trusting: bool, ipv6: bool) -> Vec<TrustedSubnet> {
    if !trusting || rng.random_bool(0.3) {
        return Vec::new();
    }
    let (network, bits) = if ipv6 {
        (ip(0, true), 120)
    } else {
        (ip(0, false), 28)
    };
    let bits = bits + rng.random_range(0..4);
    vec![TrustedSubnet::new(network, bits).expect("the prefix fits the address")]
}

/// Everybody is told of some earlier site, so that what can be connected is; now and then of one
/// more, of a later one, or of itself.
fn draw_launch_peers(rng: &mut StdRng, sites: &mut [Site]) {
    let count = sites.len();
    let star = rng.random_bool(0.3);
    let extra = if count < SPARSE_FROM { 0.2 } else { 0.9 };
    for n in 1..count {
        let earlier = if star { 0 } else { rng.random_range(0..n) };
        let (from, to) = if sites[earlier].hidden {
            (earlier, n)
        } else {
            (n, earlier)
        };
        sites[from].launch_peers.insert(to);
        if rng.random_bool(extra) {
            let other = rng.random_range(0..count);
            sites[n].launch_peers.insert(other);
        }
    }
}

fn ip(n: usize, ipv6: bool) -> IpAddr {
    let n = u8::try_from(n + 1).expect("at most 250 sites");
    if ipv6 {
        Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n.into()).into()
    } else {
        Ipv4Addr::new(10, 0, 0, n).into()
    }
}
