//! A few allocators on a network without delay, in virtual time: for stories.
//!
//! After every step the books of all peers are checked, and that no address is held by two of them.

#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use ipam::address::Cidr;
use ipam::snapshot::{IpamCounts, Unreachable};
use ipam::status::IpamStatus;
use ipam::{
    Allocate, Answer, Claim, Init, Ipam, IpamConfig, IpamOutput, Outcome, Patience, Request,
    Ticket, rows,
};
use wire::PeerName;
use wire::message::Delivery;

/// Most messages one step may cause; more is a storm.
const MESSAGES_MAX: usize = 10_000;

#[expect(
    clippy::disallowed_methods,
    reason = "only the beginning of virtual time"
)]
fn beginning() -> Instant {
    Instant::now()
}

/// The peer called by a letter or a number.
pub fn name(n: u8) -> PeerName {
    PeerName::from_bytes([2, 0, 0, 0, 0, n])
}

pub fn cidr(text: &str) -> Cidr {
    text.parse().unwrap()
}

pub struct Peer {
    pub ipam: Ipam,
    config: IpamConfig,
    pub rows: BTreeMap<String, Vec<u8>>,
    answers: BTreeMap<Ticket, Outcome>,
    /// Rows written, transaction by transaction.
    pub persisted: Vec<Vec<String>>,
    is_up: bool,
}

enum Packet {
    Unicast(Vec<u8>),
    Broadcast(Vec<u8>),
    Weft(Vec<u8>),
}

pub struct Cluster {
    pub now: Instant,
    pub peers: BTreeMap<u8, Peer>,
    queue: VecDeque<(u8, u8, Packet)>,
    /// Pairs that cannot reach each other, lower first.
    cut: BTreeSet<(u8, u8)>,
    tickets: u64,
    /// Messages of these kinds are lost: unicasts to the peer.
    pub deaf: BTreeSet<u8>,
    /// Peers whose containers may share addresses with others: they were cut off and taken over.
    pub unfenced: BTreeSet<u8>,
}

/// How a peer is set up, unless a story says otherwise.
pub fn config(n: u8, range: &str) -> IpamConfig {
    IpamConfig {
        name: name(n),
        nickname: format!("host{n}"),
        uid: u64::from(n) + 1000,
        universe: range.parse().unwrap(),
        default_subnet: range.parse().unwrap(),
        init: Init::Consensus(None),
        reclaim_after: None,
    }
}

impl Cluster {
    pub fn new() -> Self {
        Self {
            now: beginning(),
            peers: BTreeMap::new(),
            queue: VecDeque::new(),
            cut: BTreeSet::new(),
            tickets: 0,
            deaf: BTreeSet::new(),
            unfenced: BTreeSet::new(),
        }
    }

    /// Peers 1 to `count` over a range, all in reach of each other, each told of all others.
    pub fn of(count: u8, range: &str) -> Self {
        Self::with(count, |n| config(n, range))
    }

    pub fn with(count: u8, config: impl Fn(u8) -> IpamConfig) -> Self {
        let mut cluster = Self::new();
        for n in 1..=count {
            cluster.join(n, config(n), usize::from(count) - 1);
        }
        cluster
    }

    /// As [`Self::of`], with the range divided among all from the start.
    pub fn seeded(count: u8, range: &str) -> Self {
        let seeds: Vec<PeerName> = (1..=count).map(name).collect();
        Self::with(count, |n| IpamConfig {
            init: Init::Seed(seeds.clone()),
            ..config(n, range)
        })
    }

    pub fn join(&mut self, n: u8, config: IpamConfig, targets: usize) {
        self.start(n, config, BTreeMap::new(), targets).unwrap();
    }

    fn start(
        &mut self,
        n: u8,
        config: IpamConfig,
        rows: BTreeMap<String, Vec<u8>>,
        targets: usize,
    ) -> Result<(), rows::RestoreError> {
        let stored = rows.clone().into_iter().collect();
        let mut ipam = Ipam::new(config.clone(), stored, [n; 32], self.now)?;
        ipam.handle_targets(targets);
        let peer = Peer {
            ipam,
            config,
            rows,
            answers: BTreeMap::new(),
            persisted: Vec::new(),
            is_up: true,
        };
        self.peers.insert(n, peer);
        self.tell_peers();
        self.settle();
        Ok(())
    }

    /// Ends a peer; its rows stay.
    pub fn crash(&mut self, n: u8) {
        self.peers.get_mut(&n).unwrap().is_up = false;
        self.tell_peers();
        self.settle();
    }

    /// Starts a peer from its rows.
    pub fn restart(&mut self, n: u8) {
        let peer = self.peers.remove(&n).unwrap();
        let mut config = peer.config;
        config.uid += 1;
        self.restart_as(n, config, peer.rows).unwrap();
    }

    /// Starts a peer as it is told, from these rows.
    pub fn restart_as(
        &mut self,
        n: u8,
        config: IpamConfig,
        rows: BTreeMap<String, Vec<u8>>,
    ) -> Result<(), rows::RestoreError> {
        let targets = self.peers.len();
        self.start(n, config, rows, targets)
    }

    pub fn config_of(&self, n: u8) -> IpamConfig {
        self.peers[&n].config.clone()
    }

    /// Cuts a peer off from all others.
    pub fn isolate(&mut self, n: u8) {
        let others: Vec<u8> = self.peers.keys().copied().filter(|m| *m != n).collect();
        self.cut
            .extend(others.into_iter().map(|m| (n.min(m), n.max(m))));
        self.tell_peers();
        self.settle();
    }

    /// Lets everybody reach everybody, and say what they know.
    pub fn heal(&mut self) {
        self.cut.clear();
        self.tell_peers();
        self.settle();
        self.gossip();
        self.gossip();
    }

    fn reach(&self, a: u8, b: u8) -> bool {
        let is_up = |n: &u8| self.peers.get(n).is_some_and(|peer| peer.is_up);
        is_up(&a) && is_up(&b) && !self.cut.contains(&(a.min(b), a.max(b)))
    }

    fn tell_peers(&mut self) {
        let all: Vec<u8> = self.peers.keys().copied().collect();
        for &n in &all {
            let known = all.iter().filter(|&&m| self.reach(n, m));
            let known = known.map(|&m| (name(m), self.peers[&m].config.nickname.clone()));
            let known = known.collect();
            let now = self.now;
            let peer = self.peers.get_mut(&n).unwrap();
            if peer.is_up {
                peer.ipam.handle_peers(known, now);
            }
        }
    }

    /// Everybody says what they know to everybody in reach.
    pub fn gossip(&mut self) {
        let all: Vec<u8> = self.peers.keys().copied().collect();
        for &from in &all {
            self.gossip_from(from);
        }
    }

    /// One peer says what it knows to everybody in reach.
    pub fn gossip_from(&mut self, from: u8) {
        let Some(state) = self.peers[&from].ipam.gossip_state() else {
            return;
        };
        let all: Vec<u8> = self.peers.keys().copied().collect();
        for &to in all.iter().filter(|&&to| to != from) {
            if self.reach(from, to) {
                self.deliver(to, Delivery::Neighbour(name(from)), &state);
            }
        }
        self.settle();
    }

    /// One peer hears something.
    pub fn deliver(&mut self, to: u8, delivery: Delivery, payload: &[u8]) {
        let now = self.now;
        let peer = self.peers.get_mut(&to).unwrap();
        peer.ipam.handle_gossip(delivery, payload, now);
        self.settle();
    }

    /// Does something to one peer.
    pub fn at<T>(&mut self, n: u8, act: impl FnOnce(&mut Ipam, Instant) -> T) -> T {
        let now = self.now;
        let result = act(&mut self.peers.get_mut(&n).unwrap().ipam, now);
        self.settle();
        result
    }

    /// Carries out everything that is to be done, until nobody has anything more to do.
    pub fn settle(&mut self) {
        for _ in 0..MESSAGES_MAX {
            self.drain();
            let Some((from, to, packet)) = self.queue.pop_front() else {
                self.check();
                return;
            };
            if !self.reach(from, to) {
                continue;
            }
            let (now, from) = (self.now, name(from));
            let is_deaf = self.deaf.contains(&to);
            let ipam = &mut self.peers.get_mut(&to).unwrap().ipam;
            match packet {
                Packet::Unicast(_) if is_deaf => {}
                Packet::Unicast(bytes) => ipam.handle_gossip(Delivery::Unicast(from), &bytes, now),
                Packet::Broadcast(bytes) => {
                    ipam.handle_gossip(Delivery::Broadcast(from), &bytes, now);
                }
                Packet::Weft(bytes) => ipam.handle_weft(from, &bytes, now),
            }
        }
        panic!("a storm of messages");
    }

    fn drain(&mut self) {
        let all: Vec<u8> = self.peers.keys().copied().collect();
        for &n in &all {
            while self.peers[&n].is_up {
                let Some(output) = self.peers.get_mut(&n).unwrap().ipam.poll_output() else {
                    break;
                };
                self.carry_out(n, output, &all);
            }
        }
    }

    fn carry_out(&mut self, n: u8, output: IpamOutput, all: &[u8]) {
        let now = self.now;
        let others = all.iter().copied().filter(|&m| m != n);
        match output {
            IpamOutput::Persist(changes) => {
                let peer = self.peers.get_mut(&n).unwrap();
                let written = changes.iter().map(|change| change.name.clone());
                peer.persisted.push(written.collect());
                for rows::RowWrite { name, value } in changes {
                    match value {
                        Some(value) => peer.rows.insert(name, value),
                        None => peer.rows.remove(&name),
                    };
                }
            }
            IpamOutput::Unicast { to, payload } => {
                let target = to.to_bytes()[5];
                if self.reach(n, target) {
                    self.queue.push_back((n, target, Packet::Unicast(payload)));
                } else {
                    let error = format!("unknown relay destination: {to}");
                    let ipam = &mut self.peers.get_mut(&n).unwrap().ipam;
                    ipam.handle_unicast_failed(to, &error, now);
                }
            }
            IpamOutput::Broadcast => {
                if let Some(state) = self.peers[&n].ipam.gossip_state() {
                    for m in others {
                        let packet = Packet::Broadcast(state.clone());
                        self.queue.push_back((n, m, packet));
                    }
                }
            }
            IpamOutput::WeftUnicast { to, payload } => {
                let target = to.to_bytes()[5];
                self.queue.push_back((n, target, Packet::Weft(payload)));
            }
            IpamOutput::WeftBroadcast(payload) => {
                for m in others {
                    self.queue.push_back((n, m, Packet::Weft(payload.clone())));
                }
            }
            IpamOutput::Answer { ticket, outcome } => {
                let answers = &mut self.peers.get_mut(&n).unwrap().answers;
                let before = answers.insert(ticket, outcome);
                assert!(before.is_none(), "one answer per request");
            }
            IpamOutput::RangesChanged(_) => {}
        }
    }

    /// Panics if books are wrong, or an address has two holders.
    fn check(&self) {
        let mut holders: BTreeMap<Ipv4Addr, u8> = BTreeMap::new();
        for (&n, peer) in self.peers.iter().filter(|(_, peer)| peer.is_up) {
            peer.ipam.assert_invariants();
            let owned = peer.ipam.status();
            assert_counts_agree(&peer.ipam.counts(), &owned);
            let universe = owned.universe.range();
            let held = self.held(n);
            for cidr in held.into_iter().map(|(_, cidr)| cidr) {
                if !universe.contains(cidr.address.to_bits()) || self.unfenced.contains(&n) {
                    continue;
                }
                let other = holders.insert(cidr.address, n);
                assert_eq!(other, None, "{cidr} is held by {n} as well");
            }
        }
    }

    /// Everything held at a peer, by its rows.
    pub fn held(&self, n: u8) -> Vec<(String, Cidr)> {
        let rows = self.peers[&n].rows.iter();
        rows.filter_map(|(name, value)| {
            let cidr = name.strip_prefix("ipam/owned/")?;
            let row: serde_json::Value = serde_json::from_slice(value).unwrap();
            let ident = row["ident"].as_str().unwrap().to_owned();
            Some((ident, cidr.parse().unwrap()))
        })
        .collect()
    }

    /// Lets time pass, calling timers when they are due.
    pub fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let timers = self.peers.values().filter(|peer| peer.is_up);
            let next = timers.filter_map(|peer| peer.ipam.poll_timeout()).min();
            let Some(next) = next.filter(|next| *next <= end) else {
                break;
            };
            self.now = self.now.max(next);
            let all: Vec<u8> = self.peers.keys().copied().collect();
            for n in all {
                let now = self.now;
                let peer = self.peers.get_mut(&n).unwrap();
                let is_due = peer.ipam.poll_timeout().is_some_and(|at| at <= now);
                if peer.is_up && is_due {
                    peer.ipam.handle_timeout(now);
                    let next = peer.ipam.poll_timeout();
                    assert!(next.is_none_or(|at| at > now), "a timer makes progress");
                    self.settle();
                }
            }
        }
        self.now = end;
    }

    pub fn pass_secs(&mut self, secs: u64) {
        self.pass(Duration::from_secs(secs));
    }

    /// Asks something; the answer comes when it can.
    pub fn ask(&mut self, n: u8, request: Request) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let now = self.now;
        let ipam = &mut self.peers.get_mut(&n).unwrap().ipam;
        ipam.handle_request(ticket, request, now);
        self.settle();
        ticket
    }

    pub fn answer(&self, n: u8, ticket: Ticket) -> Option<&Outcome> {
        self.peers[&n].answers.get(&ticket)
    }

    /// Asks something that is answered at once.
    pub fn get(&mut self, n: u8, request: Request) -> Outcome {
        let ticket = self.ask(n, request);
        let answer = self.answer(n, ticket).cloned();
        answer.expect("answered at once")
    }

    pub fn allocate(&mut self, n: u8, ident: &str) -> Ipv4Addr {
        let answer = self.get(n, allocate(ident));
        let Ok(Answer::Address(cidr)) = answer else {
            panic!("no address: {answer:?}");
        };
        cidr.address
    }

    pub fn claim(&mut self, n: u8, ident: &str, cidr: &str) -> Outcome {
        self.get(n, claim(ident, cidr))
    }

    pub fn status(&self, n: u8) -> IpamStatus {
        self.peers[&n].ipam.status()
    }

    /// Addresses by owner, as one peer sees it.
    pub fn shares(&self, n: u8) -> BTreeMap<u8, u64> {
        let owners = self.status(n).owners.into_iter();
        owners
            .map(|owner| (owner.peer.to_bytes()[5], owner.addresses))
            .collect()
    }

    /// The ring as one peer has it: token, owner, version, as text.
    pub fn ring(&self, n: u8) -> Vec<String> {
        let entries = self.status(n).entries.unwrap_or_default().into_iter();
        entries
            .map(|e| format!("{} {} v{}", Ipv4Addr::from_bits(e.token), e.peer, e.version))
            .collect()
    }
}

pub fn allocate(ident: &str) -> Request {
    Request::Allocate(Allocate {
        ident: ident.to_owned(),
        subnet: None,
        is_container: false,
        patience: Patience::Forever,
    })
}

/// As [`allocate`], for a container.
pub fn allocate_container(ident: &str) -> Request {
    Request::Allocate(Allocate {
        ident: ident.to_owned(),
        subnet: None,
        is_container: true,
        patience: Patience::Forever,
    })
}

/// As [`allocate`], for somebody who wants to know why it takes so long.
pub fn allocate_soon(ident: &str, subnet: Option<&str>) -> Request {
    Request::Allocate(Allocate {
        ident: ident.to_owned(),
        subnet: subnet.map(|subnet| subnet.parse().unwrap()),
        is_container: false,
        patience: Patience::Short,
    })
}

pub fn claim(ident: &str, text: &str) -> Request {
    Request::Claim(Claim {
        ident: ident.to_owned(),
        cidr: cidr(text),
        is_container: false,
        no_error_on_unknown: false,
        patience: Patience::Forever,
    })
}

pub fn claim_soon(ident: &str, text: &str) -> Request {
    Request::Claim(Claim {
        ident: ident.to_owned(),
        cidr: cidr(text),
        is_container: false,
        no_error_on_unknown: false,
        patience: Patience::Short,
    })
}

/// The text of a request that was refused for good.
pub fn refused(outcome: &Outcome) -> String {
    let refusal = outcome.as_ref().expect_err("refused");
    assert!(!refusal.is_passing(), "{refusal}");
    refusal.to_string()
}

/// The text of a request that could not be served in time.
pub fn unavailable(outcome: Option<&Outcome>) -> String {
    let outcome = outcome.expect("told why within five seconds");
    let refusal = outcome.as_ref().expect_err("not served");
    assert!(refusal.is_passing(), "{refusal}");
    refusal.to_string()
}

/// Metrics say what the status does.
fn assert_counts_agree(counts: &IpamCounts, status: &IpamStatus) {
    let lost = status.owners.iter().filter(|owner| !owner.is_known);
    let unreachable = Unreachable {
        peers: lost.clone().count(),
        addresses: lost.map(|owner| owner.addresses).sum(),
    };
    assert_eq!(counts.shares.unreachable(), unreachable);
    let entries = status.entries.as_ref().map_or(0, Vec::len);
    assert_eq!(counts.shares.entries(), entries);
    assert_eq!(counts.active, status.active);
    assert_eq!(counts.pending_claims, status.pending_claims.len());
    assert_eq!(counts.pending_allocates, status.pending_allocates.len());
    assert_eq!(counts.contested, status.contested.len());
    assert_eq!(counts.unconfirmed, status.unconfirmed.len());
    assert_eq!(counts.displaced, status.displaced.len());
}
