//! The connection maker: whom to dial, and when again (spec/mesh.md 10).
//!
//! ```text
//!              due                    introduced
//!   waiting ─────────► attempting ─────────────────► connected
//!    ▲  ▲  └──────┐        │ failed                      │ ended
//!    │  │ invalid ▼        │                             │
//!    │  └──── suspended    │                             │
//!    └─────────────────────┴─────────────────────────────┘
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::{Rng, RngExt};
use wire::{LinkId, PeerName};

use crate::peers::{Adjacency, PeerTable, canonical};
use crate::status::{TargetCounts, TargetState};

/// First retry interval.
const INTERVAL_MIN: Duration = Duration::from_secs(2);
/// Longest retry interval.
const INTERVAL_MAX: Duration = Duration::from_secs(360);
/// A connection that ended later than this after its attempt was due counts as good.
const GOOD_AFTER: Duration = Duration::from_secs(60);
/// A connection that ended later than this was worth having: its peer probably died and is being
/// started again.
const WORTH_AFTER: Duration = Duration::from_secs(1);
/// For how long after its end a peer that was worth having is dialled every `INTERVAL_SOON` or so.
/// The original waits longer after every failure, also when its peer is back in a second.
const SOON_FOR: Duration = Duration::from_secs(30);
/// Middle wait between attempts during that time.
const INTERVAL_SOON: Duration = Duration::from_secs(1);
/// How often a namesake of ours is dialled: that it is still there must not be forgotten, nor that
/// it is gone be missed. The original never dials it again.
const COLLISION_INTERVAL: Duration = Duration::from_secs(60);
/// Most targets learned from gossip; those the user gave are always kept.
pub(crate) const DISCOVERED_MAX: usize = 2048;
/// Most attempts under way at once, so that gossip cannot make us open thousands of sockets.
pub(crate) const ATTEMPTS_MAX: usize = 64;

/// Least time between two looks at all targets for the sake of those that are due. Thousands of
/// addresses from gossip that refuse at once would keep us busy with nothing else.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// A peer the user asked for, already resolved by the shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectPeer {
    /// Exactly what the user typed; `forget` matches it.
    pub text: String,
    /// Resolved address.
    pub ip: IpAddr,
    /// Port, if the user gave one.
    pub port: Option<u16>,
}

/// Why a connection ended, as far as retrying cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Worth another try.
    Ordinary,
    /// The other end is ourselves.
    SelfConnection,
    /// The other end has our name and is not us.
    NameCollision,
}

/// An address to dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attempt {
    pub(crate) address: SocketAddr,
    /// The user asked for it: it may introduce a peer we never heard of.
    pub(crate) direct: bool,
}

/// What is known of an address that may be dialled.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    state: State,
    error: Option<Arc<str>>,
    /// When the current or next attempt is due; `None` means never.
    due: Option<Instant>,
    interval: Duration,
    /// Until then attempts are made soon after one another.
    soon_until: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Attempting,
    Connected,
    Suspended,
}

impl Target {
    fn new(now: Instant) -> Self {
        Self {
            state: State::Waiting,
            error: None,
            due: Some(now),
            interval: INTERVAL_MIN,
            soon_until: None,
        }
    }

    /// What status shows of it, unless it is not to be dialled.
    pub(crate) fn shown(&self, now: Instant) -> Option<TargetState> {
        let remaining = self.due.map(|due| due.saturating_duration_since(now));
        let error = self.error.as_deref().map(str::to_owned);
        match (self.state, error) {
            (State::Connected | State::Suspended, _) => None,
            (State::Attempting, None) => Some(TargetState::Connecting),
            (State::Attempting, Some(error)) => Some(TargetState::Retrying(error)),
            (State::Waiting, Some(error)) => Some(TargetState::Failed {
                error,
                retry_in: remaining,
            }),
            (State::Waiting, None) => Some(TargetState::Waiting {
                until: remaining.unwrap_or_default(),
            }),
        }
    }

    fn retry_now(&mut self, now: Instant) {
        self.due = Some(now);
        self.interval = INTERVAL_MIN;
    }

    fn retry_later(&mut self, now: Instant, rng: &mut impl Rng) {
        let is_soon = self.soon_until.is_some_and(|until| now < until);
        let middle = if is_soon {
            INTERVAL_SOON
        } else {
            self.interval
        };
        let wait = middle / 2 + middle.mul_f64(rng.random::<f64>());
        self.due = Some(now + wait);
        if is_soon {
            return;
        }
        self.interval = (self.interval * 3 / 2).min(INTERVAL_MAX);
    }
}

/// Direct peers, targets and current connections.
#[derive(Debug)]
pub(crate) struct Maker {
    port: u16,
    discovery: bool,
    direct: BTreeMap<String, (IpAddr, Option<u16>)>,
    targets: BTreeMap<SocketAddr, Target>,
    connections: BTreeMap<LinkId, SocketAddr>,
    terminations: u64,
    /// When we looked at all targets last.
    looked_at: Option<Instant>,
}

impl Maker {
    /// A maker without targets. `port` is ours.
    pub(crate) fn new(port: u16, discovery: bool) -> Self {
        Self {
            port,
            discovery,
            direct: BTreeMap::new(),
            targets: BTreeMap::new(),
            connections: BTreeMap::new(),
            terminations: 0,
            looked_at: None,
        }
    }

    /// The user wants these peers. Whether the direct peers changed.
    pub(crate) fn connect(&mut self, peers: Vec<DirectPeer>, replace: bool, now: Instant) -> bool {
        let before = self.direct.clone();
        if replace {
            self.direct.clear();
        }
        for peer in peers {
            let ip = peer.ip.to_canonical();
            let address = SocketAddr::new(ip, peer.port.unwrap_or(self.port));
            if let Some(target) = self.targets.get_mut(&address) {
                target.retry_now(now);
            }
            self.direct.insert(peer.text, (ip, peer.port));
        }
        self.direct != before
    }

    /// The user no longer wants these. Whether the direct peers changed.
    pub(crate) fn forget(&mut self, texts: &[String]) -> bool {
        let before = self.direct.len();
        self.direct.retain(|text, _| !texts.contains(text));
        self.direct.len() != before
    }

    /// What the user asked for, as typed.
    pub(crate) fn direct_peers(&self) -> Vec<String> {
        self.direct.keys().cloned().collect()
    }

    /// Ended connections, self connections excepted.
    pub(crate) fn termination_count(&self) -> u64 {
        self.terminations
    }

    /// A connection was added to our peer entry.
    pub(crate) fn connection_created(&mut self, link: LinkId, remote: SocketAddr) {
        self.connections.insert(link, remote);
        if link.is_outbound()
            && let Some(target) = self.targets.get_mut(&remote)
        {
            target.state = State::Connected;
        }
    }

    /// A link ended after its TCP connection stood, introduced or not.
    pub(crate) fn connection_ended(
        &mut self,
        link: LinkId,
        remote: SocketAddr,
        ending: Ending,
        error: &str,
        now: Instant,
        rng: &mut impl Rng,
    ) {
        self.connections.remove(&link);
        if ending != Ending::SelfConnection {
            self.terminations += 1;
        }
        if !link.is_outbound() {
            return;
        }
        let Some(target) = self.targets.get_mut(&remote) else {
            return;
        };
        let lasted = |least| target.due.is_some_and(|due| now > due + least);
        let was_good = lasted(GOOD_AFTER);
        if target.state == State::Connected && lasted(WORTH_AFTER) {
            target.soon_until = Some(now + SOON_FOR);
            target.interval = INTERVAL_MIN;
        }
        target.state = State::Waiting;
        target.error = Some(error.into());
        match ending {
            Ending::SelfConnection => target.due = None,
            Ending::NameCollision => target.due = Some(now + COLLISION_INTERVAL),
            Ending::Ordinary if was_good => target.retry_now(now),
            Ending::Ordinary => target.retry_later(now, rng),
        }
    }

    /// An attempt came to nothing.
    pub(crate) fn attempt_failed(
        &mut self,
        address: SocketAddr,
        error: &str,
        now: Instant,
        rng: &mut impl Rng,
    ) {
        let Some(target) = self.targets.get_mut(&address) else {
            return;
        };
        target.state = State::Waiting;
        target.error = Some(error.into());
        target.retry_later(now, rng);
    }

    /// Looks at everything again and says whom to dial now. The caller reports each attempt's end.
    pub(crate) fn choose(&mut self, peers: &PeerTable, now: Instant) -> Vec<Attempt> {
        self.looked_at = Some(now);
        let direct = self.direct_addresses();
        let valid = self.valid_targets(&direct, peers);
        for address in &valid {
            self.targets
                .entry(*address)
                .or_insert_with(|| Target::new(now));
        }
        self.drop_invalid(&direct, &valid);
        let mut room = ATTEMPTS_MAX.saturating_sub(self.attempts());
        let mut attempts = Vec::new();
        for (address, target) in &mut self.targets {
            let is_due = target.due.is_some_and(|due| due <= now);
            if target.state == State::Waiting && is_due && room > 0 {
                target.state = State::Attempting;
                room -= 1;
                attempts.push(Attempt {
                    address: *address,
                    direct: direct.contains(address),
                });
            }
        }
        attempts
    }

    /// When `choose` has something to do without any other input.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        if self.attempts() >= ATTEMPTS_MAX {
            return None;
        }
        let waiting = self
            .targets
            .values()
            .filter(|target| target.state == State::Waiting);
        let due = waiting.filter_map(|target| target.due).min()?;
        let soonest = self.looked_at.map_or(due, |at| at + LOOK_INTERVAL);
        Some(due.max(soonest))
    }

    /// Targets in all states, those the user gave not counted.
    pub(crate) fn discovered_count(&self) -> usize {
        let direct = self.direct_addresses();
        let targets = self.targets.keys();
        targets.filter(|address| !direct.contains(address)).count()
    }

    /// Addresses the user gave, those left out that are never dialled again.
    pub(crate) fn active_direct_count(&self) -> usize {
        let given_up = |address: &SocketAddr| {
            let target = self.targets.get(address);
            target.is_some_and(|target| target.state == State::Waiting && target.due.is_none())
        };
        let direct = self.direct_addresses();
        direct.iter().filter(|address| !given_up(address)).count()
    }

    /// All targets as they are, ascending by address.
    pub(crate) fn snapshot(&self) -> Vec<(SocketAddr, Target)> {
        let targets = self.targets.iter();
        targets
            .map(|(address, target)| (*address, target.clone()))
            .collect()
    }

    /// How many targets status shows in each state.
    pub(crate) fn counts(&self) -> TargetCounts {
        let mut counts = TargetCounts::default();
        for target in self.targets.values() {
            let count = match (target.state, target.error.is_some()) {
                (State::Connected | State::Suspended, _) => continue,
                (State::Attempting, false) => &mut counts.connecting,
                (State::Attempting, true) => &mut counts.retrying,
                (State::Waiting, true) => &mut counts.failed,
                (State::Waiting, false) => &mut counts.waiting,
            };
            *count += 1;
        }
        counts
    }

    fn attempts(&self) -> usize {
        self.targets
            .values()
            .filter(|target| target.state == State::Attempting)
            .count()
    }

    fn direct_addresses(&self) -> BTreeSet<SocketAddr> {
        let direct = self.direct.values();
        direct
            .map(|(ip, port)| SocketAddr::new(*ip, port.unwrap_or(self.port)))
            .collect()
    }

    /// Every address worth a connection that is not connected.
    fn valid_targets(
        &self,
        direct: &BTreeSet<SocketAddr>,
        peers: &PeerTable,
    ) -> BTreeSet<SocketAddr> {
        let connected: BTreeSet<SocketAddr> = self.connections.values().copied().collect();
        let inbound = self
            .connections
            .iter()
            .filter(|(link, _)| !link.is_outbound());
        let inbound_ips: BTreeSet<IpAddr> = inbound.map(|(_, remote)| remote.ip()).collect();
        let mut valid = BTreeSet::new();
        for (ip, port) in self.direct.values() {
            if port.is_some() || !inbound_ips.contains(ip) {
                valid.insert(SocketAddr::new(*ip, port.unwrap_or(self.port)));
            }
        }
        if self.discovery {
            let mut room = DISCOVERED_MAX;
            for address in self.discovered(peers) {
                if room > 0 && !direct.contains(&address) && valid.insert(address) {
                    room -= 1;
                }
            }
        }
        valid.retain(|address| !connected.contains(address));
        valid
    }

    /// Addresses of peers we have no connection to, as their neighbours see them.
    fn discovered<'a>(&'a self, peers: &'a PeerTable) -> impl Iterator<Item = SocketAddr> + 'a {
        let ours = &peers.own().adjacencies;
        let is_wanted =
            move |remote: &PeerName| *remote != peers.us() && !ours.contains_key(remote);
        // In a large mesh few are wanted, and everybody lists everybody.
        let wanted: Vec<PeerName> = peers.names().filter(is_wanted).collect();
        peers
            .iter()
            .filter(|(name, _)| *name != peers.us())
            .flat_map(move |(_, peer)| {
                let listed = &peer.adjacencies;
                let found: Vec<&Adjacency> = if listed.len() <= wanted.len() {
                    let found = listed.iter().filter(|(remote, _)| is_wanted(remote));
                    found.map(|(_, adjacency)| adjacency).collect()
                } else {
                    wanted
                        .iter()
                        .filter_map(|remote| listed.get(remote))
                        .collect()
                };
                found
            })
            .filter_map(|adjacency| {
                let address = canonical(adjacency.remote_address.parsed()?);
                // The port of an inbound connection is an ephemeral one.
                let port = if adjacency.outbound {
                    address.port()
                } else {
                    self.port
                };
                Some(SocketAddr::new(address.ip(), port))
            })
            .filter(|address| is_dialable(*address))
    }

    fn drop_invalid(&mut self, direct: &BTreeSet<SocketAddr>, valid: &BTreeSet<SocketAddr>) {
        self.targets.retain(|address, target| {
            if matches!(target.state, State::Attempting | State::Connected) {
                return true;
            }
            let is_valid = valid.contains(address);
            target.state = if is_valid {
                State::Waiting
            } else {
                State::Suspended
            };
            is_valid || direct.contains(address)
        });
    }
}

/// Whether an address from gossip can be one peer's listener.
fn is_dialable(address: SocketAddr) -> bool {
    let ip = address.ip();
    let is_broadcast = ip == IpAddr::V4(std::net::Ipv4Addr::BROADCAST);
    address.port() != 0 && !ip.is_unspecified() && !ip.is_multicast() && !is_broadcast
}

#[cfg(test)]
mod tests;
