//! The state machine: inputs and time go in, outputs come out.

mod clones;
mod connections;
mod duplicates;
mod footprint;
mod gossiping;
mod news;
mod operator;
mod snapshot;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tracing::info;
use wire::{LinkId, PeerName};

use crate::gossip::{Channels, GOSSIP_INTERVAL};
use crate::keys::KeySource;
use crate::link::{HEARTBEAT_INTERVAL, Link};
use crate::maker::{Attempt, Ending, Maker};
use crate::peers::{EncodedLately, MergedLately, PeerTable, SHORT_IDS};
use crate::routes::{Edges, Routes, gossip_unicast};
use crate::{MeshConfig, MeshOutput};
use clones::Clones;
use duplicates::Superseded;

use news::Spread;

pub use gossiping::{GossipContent, UnicastError};
pub use snapshot::MeshSnapshot;

/// How long after a change of ours it is announced, so that several go together.
const ANNOUNCE_DELAY: Duration = Duration::from_secs(1);
/// How long after a topology update unreachable peers are looked for.
const COLLECT_DELAY: Duration = Duration::from_secs(1);
/// How long after a change the data plane's routes are recalculated.
const ROUTES_DELAY: Duration = Duration::from_millis(100);
/// How long the shell may take over a dial. Longer than the shell's own patience, whose error says
/// more; this one is for a shell that never answers.
const DIAL_DEADLINE: Duration = Duration::from_secs(40);
/// Sends to one link queued behind each other are joined up to about this many bytes.
const JOINED_BYTES: usize = 64 << 10;

/// One peer's part of the mesh. Performs no I/O.
///
/// Call a method, then drain `poll_output` until it returns `None`, doing each output in order, then
/// sleep until `poll_timeout` or the next input. Time must not go backwards. Inputs that name a link
/// already closed are ignored.
pub struct Mesh {
    config: MeshConfig,
    rng: StdRng,
    keys: KeySource,
    peers: PeerTable,
    merged_lately: MergedLately,
    encoded_lately: EncodedLately,
    maker: Maker,
    /// Number of the next link we dial.
    next_dial: u64,
    /// TCP connections we asked the shell for.
    dials: BTreeMap<LinkId, Dial>,
    /// TCP connections that stand.
    links: BTreeMap<LinkId, Link>,
    /// The connections of our peer entry. Invariant: the same names as its adjacencies.
    connections: BTreeMap<PeerName, LinkId>,
    superseded: Superseded,
    /// Others with our name.
    clones: Clones,
    channels: Channels,
    routes: RouteTables,
    timers: Timers,
    /// News for those who understand deltas.
    spread: Spread,
    /// Peers whose entries go with the next announcement of ours.
    announced: BTreeSet<PeerName>,
    /// Before that no link has missed its deadline or needs a heartbeat: both move only later.
    links_due: Option<Instant>,
    /// Links something was queued for since outboxes were last looked at.
    queued: BTreeSet<LinkId>,
    /// Whether the connection maker must look again.
    targets_stale: bool,
    outputs: VecDeque<MeshOutput>,
}

/// A TCP connection the shell was asked for.
struct Dial {
    attempt: Attempt,
    /// When we no longer wait for an answer.
    deadline: Instant,
}

/// Routes of the data plane and of gossip.
struct RouteTables {
    established: Routes,
    /// Over all connections of the present topology; dropped when it changes, calculated for use.
    gossip_unicast: Option<BTreeMap<PeerName, PeerName>>,
    /// Likewise.
    gossip_broadcast: Option<Routes>,
}

/// What is to happen when; `None` means nothing is pending.
struct Timers {
    gossip: Instant,
    announce: Option<Instant>,
    collect: Option<Instant>,
    routes: Option<Instant>,
}

impl Mesh {
    /// A mesh without connections. The seed feeds every random choice and every ephemeral key, so it
    /// must be secret and used once.
    pub fn new(config: MeshConfig, seed: [u8; 32], now: Instant) -> Self {
        let versions = config.min_protocol_version..=config.max_protocol_version;
        assert!(
            !versions.is_empty() && (1..=2).contains(versions.end()),
            "versions are 1 and 2"
        );
        let mut first = StdRng::from_seed(seed);
        let uid = first.random_range(1..=u64::MAX);
        let short_id = first.random_range(0..SHORT_IDS);
        let keys = KeySource::seeded_by(&mut first);
        let mut rng = StdRng::from_rng(&mut first);
        let peers = PeerTable::new(config.name, &config.nickname, uid, short_id);
        let routes = RouteTables {
            established: Routes::calculate(&peers, Edges::EstablishedSymmetric),
            gossip_unicast: None,
            gossip_broadcast: None,
        };
        Self {
            maker: Maker::new(config.port, config.discovery),
            config,
            merged_lately: MergedLately::new(rng.random()),
            encoded_lately: EncodedLately::default(),
            rng,
            keys,
            peers,
            next_dial: 0,
            dials: BTreeMap::new(),
            links: BTreeMap::new(),
            connections: BTreeMap::new(),
            superseded: Superseded::default(),
            clones: Clones::default(),
            channels: Channels::default(),
            routes,
            timers: Timers {
                gossip: now + GOSSIP_INTERVAL,
                announce: None,
                collect: None,
                routes: None,
            },
            spread: Spread::default(),
            announced: BTreeSet::new(),
            links_due: None,
            queued: BTreeSet::new(),
            targets_stale: false,
            outputs: VecDeque::new(),
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<MeshOutput> {
        self.outputs.pop_front()
    }

    /// When `handle_timeout` wants to be called next, and what for.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let timers = &self.timers;
        let deferred = [
            (Some(timers.gossip), "gossip"),
            (timers.announce, "topology announcement"),
            (timers.collect, "garbage collection"),
            (timers.routes, "route calculation"),
            (self.spread.due(), "topology news"),
            (self.maker.next_due(), "dial"),
            (
                self.clones.due(self.connections.is_empty()),
                "a clone that is gone",
            ),
        ];
        let deferred = deferred
            .into_iter()
            .filter_map(|(at, what)| Some((at?, what)));
        let links = self
            .links_due
            .map(|at| (at, "heartbeat or deadline of a link"));
        let dials = self.dials.values();
        let dials = dials.map(|dial| (dial.deadline, "dial deadline"));
        deferred.chain(links).chain(dials).min_by_key(|(at, _)| *at)
    }

    /// Time passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.tend_links(now);
        self.tend_dials(now);
        self.tend_clones(now);
        if self.timers.routes.is_some_and(|at| at <= now) {
            self.calculate_routes();
        }
        if self.timers.collect.is_some_and(|at| at <= now) {
            self.timers.collect = None;
            self.collect_garbage(now);
        }
        if self.timers.announce.is_some_and(|at| at <= now) {
            self.announce();
        }
        self.tend_news(now);
        if self.timers.gossip <= now {
            self.timers.gossip = now + GOSSIP_INTERVAL;
            self.gossip_everything();
        }
        self.targets_stale |= self.maker.next_due().is_some_and(|at| at <= now);
        self.settle(now);
    }

    /// Ends links that were silent too long, sends heartbeats.
    fn tend_links(&mut self, now: Instant) {
        if self.links_due.is_none_or(|at| at > now) {
            return;
        }
        let overdue = self.links.iter().filter(|(_, link)| link.deadline <= now);
        let overdue: Vec<LinkId> = overdue.map(|(id, _)| *id).collect();
        for id in overdue {
            let link = self
                .links
                .get(&id)
                .expect("ending one link leaves the others");
            let (error, ending) = match &link.farewell {
                Some(farewell) => (farewell.error.clone(), farewell.ending),
                None => (link.end_text(&link.timeout_text()), Ending::Ordinary),
            };
            self.end_link(id, &error, ending, now);
        }
        let mut due = Vec::new();
        for (id, link) in &mut self.links {
            if let Some(introduced) = link.introduced_mut()
                && introduced.heartbeat_at <= now
            {
                introduced.heartbeat_at = now + HEARTBEAT_INTERVAL;
                due.push(*id);
            }
        }
        for id in due {
            self.send_message(id, &wire::message::Message::Heartbeat);
        }
        self.links_due = self.links.values().map(Link::due).min();
    }

    /// Gives up dials the shell never answered.
    fn tend_dials(&mut self, now: Instant) {
        let overdue = self.dials.iter().filter(|(_, dial)| dial.deadline <= now);
        let overdue: Vec<LinkId> = overdue.map(|(id, _)| *id).collect();
        for id in overdue {
            let dial = self.dials.get(&id).expect("was just listed");
            let error = format!("dial tcp {}: i/o timeout", dial.attempt.address);
            self.fail_dial(id, &error, now);
            self.outputs.push_back(MeshOutput::Close { link: id });
        }
    }

    /// What follows every input: dial, tell about short ids, send what waits.
    fn settle(&mut self, now: Instant) {
        self.judge_rivals(now);
        if std::mem::take(&mut self.targets_stale) {
            self.dial_targets(now);
        }
        if self.peers.short_ids().take_changed() {
            self.outputs.push_back(MeshOutput::ShortIdsChanged);
        }
        for id in std::mem::take(&mut self.queued) {
            self.drain_outbox(id);
        }
    }

    fn dial_targets(&mut self, now: Instant) {
        for attempt in self.maker.choose(&self.peers, now) {
            let conn = format!("->[{}]", attempt.address);
            info!(%conn, "attempting connection");
            if let Err(error) = self.check_limit() {
                info!(%conn, %error, "error during connection attempt");
                self.maker
                    .attempt_failed(attempt.address, &error, now, &mut self.rng);
                continue;
            }
            let link = LinkId::outbound(self.next_dial);
            self.next_dial += 1;
            let deadline = now + DIAL_DEADLINE;
            self.dials.insert(link, Dial { attempt, deadline });
            self.outputs.push_back(MeshOutput::Dial {
                link,
                remote: attempt.address,
            });
        }
    }

    /// Whether our peer entry has room for one more connection; the error text if not.
    fn check_limit(&self) -> Result<(), String> {
        let limit = self.config.conn_limit;
        if limit != 0 && self.connections.len() >= limit {
            return Err(format!("Connection limit reached ({limit})"));
        }
        Ok(())
    }

    /// Gives bytes for a link to the shell.
    fn send(&mut self, link: LinkId, bytes: Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        let Some(state) = self.links.get_mut(&link) else {
            return;
        };
        state.unflushed_bytes += bytes.len();
        if let Some(MeshOutput::Send {
            link: last,
            bytes: queued,
        }) = self.outputs.back_mut()
            && *last == link
            && queued.len() < JOINED_BYTES
        {
            queued.extend(bytes);
        } else {
            self.outputs.push_back(MeshOutput::Send { link, bytes });
        }
    }

    /// Something that routes are made of changed.
    fn request_routes(&mut self, now: Instant) {
        self.routes.gossip_unicast = None;
        self.routes.gossip_broadcast = None;
        self.timers.routes.get_or_insert(now + ROUTES_DELAY);
    }

    fn calculate_routes(&mut self) {
        self.timers.routes = None;
        self.routes.established.recalculate(&self.peers);
        self.outputs.push_back(MeshOutput::RoutesChanged);
        // Whoever is new in the topology may be worth a connection.
        self.targets_stale = true;
    }

    /// The next hops gossip takes, over the topology as it is. The original waits for its pending
    /// calculation instead.
    fn gossip_unicast_routes(&mut self) -> &BTreeMap<PeerName, PeerName> {
        let peers = &self.peers;
        self.routes
            .gossip_unicast
            .get_or_insert_with(|| gossip_unicast(peers))
    }

    /// The broadcast trees gossip takes, likewise.
    fn gossip_broadcast_routes(&mut self) -> &Routes {
        let peers = &self.peers;
        let routes = &mut self.routes.gossip_broadcast;
        routes.get_or_insert_with(|| Routes::calculate(peers, Edges::All))
    }

    /// Our own entry changed: tell others soon.
    fn schedule_announcement(&mut self, now: Instant) {
        self.timers.announce.get_or_insert(now + ANNOUNCE_DELAY);
    }

    fn contest_short_id(&mut self, now: Instant) {
        if self.peers.contest_short_id(&mut self.rng) {
            self.schedule_announcement(now);
        }
    }

    fn collect_garbage(&mut self, now: Instant) {
        let removed = self.peers.collect_garbage();
        if removed.is_empty() {
            return;
        }
        self.merged_lately.clear();
        for (_, label) in &removed {
            info!("Removed unreachable peer {label}");
        }
        let names = removed.into_iter().map(|(name, _)| name).collect();
        self.outputs.push_back(MeshOutput::PeersRemoved(names));
        self.contest_short_id(now);
        self.request_routes(now);
    }
}

/// An address with IPv4-mapped IPv6 undone, at the edge where addresses come in.
fn canonical_pair(local: SocketAddr, remote: SocketAddr) -> (SocketAddr, SocketAddr) {
    (
        crate::peers::canonical(local),
        crate::peers::canonical(remote),
    )
}
