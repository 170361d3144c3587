//! Histories of rings: what peers may do to their copies and tell each other, in any order, with
//! any of it late or lost; and what a liar may say.
//!
//! The rings run by themselves here, with a set of addresses in use in place of the books of a
//! space, so that the laws of the merge show alone.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

use std::collections::BTreeSet;

use ipam::address::Range;
use ipam::ring::{Entry, Merged, Ring};
use proptest::prelude::*;
use proptest::sample::Index;
use wire::PeerName;

const BASE: u32 = 0x0a00_0000;
const UNIVERSE: Range = Range::new(BASE, BASE + 64);
const PEERS: usize = 4;
/// Owns nothing; sees the rings of others.
const OBSERVER: PeerName = PeerName::from_u64(0x99);

fn name(peer: usize) -> PeerName {
    PeerName::from_u64(1 + u64::try_from(peer).unwrap())
}

#[derive(Debug, Clone)]
enum Step {
    Allocate(usize),
    Free(usize, Index),
    Grant(usize, usize, Index, Index),
    Tell(usize, usize),
    /// Hands everything to an heir and is heard no more.
    Leave(usize, usize),
    /// Dies after all have heard its last ring; later one peer takes its ranges.
    Die(usize),
    TakeOver(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    let peer = || 0..PEERS;
    prop_oneof![
        6 => peer().prop_map(Step::Allocate),
        3 => (peer(), any::<Index>()).prop_map(|(p, i)| Step::Free(p, i)),
        6 => (peer(), peer(), any::<Index>(), any::<Index>())
            .prop_map(|(p, q, i, j)| Step::Grant(p, q, i, j)),
        8 => (peer(), peer()).prop_map(|(p, q)| Step::Tell(p, q)),
        1 => (peer(), peer()).prop_map(|(p, q)| Step::Leave(p, q)),
        1 => peer().prop_map(Step::Die),
        2 => (peer(), peer()).prop_map(|(p, q)| Step::TakeOver(p, q)),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Alive,
    Gone,
    TakenOver,
}

struct Peer {
    ring: Ring,
    in_use: BTreeSet<u32>,
    life: Life,
}

impl Peer {
    fn is_alive(&self) -> bool {
        self.life == Life::Alive
    }

    fn free_addresses(&self) -> Vec<u32> {
        let ranges = self.ring.owned_ranges(self.ring.us()).into_iter();
        let owned = ranges.flat_map(|range| range.start..range.end);
        owned.filter(|a| !self.in_use.contains(a)).collect()
    }

    fn report(&mut self) {
        let in_use = &self.in_use;
        self.ring
            .report_free(|range| range.size() - used(in_use, range));
        self.ring.assert_invariants();
    }

    fn hear(&mut self, theirs: &Ring) -> Merged {
        let in_use = &self.in_use;
        let merged = self
            .ring
            .merge(&theirs.to_wire(), |range| used(in_use, range) == 0);
        let merged = merged.expect("a ring of the same cluster");
        for address in in_use {
            assert_eq!(self.ring.owner(*address), Some(self.ring.us()));
        }
        merged
    }
}

fn used(in_use: &BTreeSet<u32>, range: Range) -> u32 {
    u32::try_from(in_use.range(range.start..range.end).count()).unwrap()
}

/// Peers that began with one ring, and every copy there ever was.
struct Cluster {
    peers: Vec<Peer>,
    copies: Vec<Ring>,
}

impl Cluster {
    fn new() -> Self {
        let seeds: Vec<PeerName> = (0..PEERS - 1).map(name).collect();
        let peer = |index| {
            let mut ring = Ring::new(UNIVERSE, name(index));
            ring.claim_for_peers(&seeds);
            Peer {
                ring,
                in_use: BTreeSet::new(),
                life: Life::Alive,
            }
        };
        Self {
            peers: (0..PEERS).map(peer).collect(),
            copies: Vec::new(),
        }
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Allocate(p) => self.allocate(*p),
            Step::Free(p, which) => self.free(*p, which),
            Step::Grant(p, q, first, count) => self.grant(*p, *q, first, count),
            Step::Tell(p, q) => self.tell(*p, *q),
            Step::Leave(p, q) => self.leave(*p, *q),
            Step::Die(p) => self.die(*p),
            Step::TakeOver(victim, by) => self.take_over(*victim, *by),
        }
        self.copies
            .extend(self.peers.iter().map(|peer| peer.ring.clone()));
        self.assert_one_owner();
    }

    fn allocate(&mut self, p: usize) {
        let peer = &mut self.peers[p];
        if let Some(address) = peer.free_addresses().first()
            && peer.is_alive()
        {
            peer.in_use.insert(*address);
            peer.report();
        }
    }

    fn free(&mut self, p: usize, which: &Index) {
        let peer = &mut self.peers[p];
        if peer.in_use.is_empty() || !peer.is_alive() {
            return;
        }
        let address = *which.get(&peer.in_use.iter().copied().collect::<Vec<_>>());
        peer.in_use.remove(&address);
        peer.report();
    }

    /// Gives away a run of free addresses, aligned or not.
    fn grant(&mut self, p: usize, q: usize, first: &Index, count: &Index) {
        let to = name(q);
        let peer = &mut self.peers[p];
        let free = peer.free_addresses();
        if free.is_empty() || !peer.is_alive() || p == q {
            return;
        }
        let first = *first.get(&free);
        let run = (first..)
            .take_while(|address| free.contains(address))
            .count();
        let count = u32::try_from(1 + count.index(run)).unwrap();
        peer.ring.grant(Range::new(first, first + count), to);
        peer.report();
    }

    fn tell(&mut self, p: usize, q: usize) {
        if p == q || !self.peers[p].is_alive() || !self.peers[q].is_alive() {
            return;
        }
        let told = self.peers[p].ring.clone();
        let merged = self.peers[q].hear(&told);
        assert!(merged.contests.is_empty(), "{:?}", merged.contests);
        self.peers[q].report();
    }

    fn leave(&mut self, p: usize, heir: usize) {
        if p == heir || !self.peers[p].is_alive() {
            return;
        }
        let peer = &mut self.peers[p];
        peer.in_use.clear();
        peer.ring.transfer(name(p), name(heir));
        for q in 0..PEERS {
            self.tell(p, q);
        }
        self.peers[p].life = Life::Gone;
    }

    fn die(&mut self, p: usize) {
        for q in 0..PEERS {
            self.tell(p, q);
        }
        let peer = &mut self.peers[p];
        if peer.is_alive() {
            peer.in_use.clear();
            peer.life = Life::Gone;
        }
    }

    fn take_over(&mut self, victim: usize, by: usize) {
        if self.peers[victim].life == Life::Gone && self.peers[by].is_alive() {
            self.peers[victim].life = Life::TakenOver;
            self.peers[by].ring.transfer(name(victim), name(by));
            self.peers[by].report();
        }
    }

    /// By their own rings no two living peers own one address.
    fn assert_one_owner(&self) {
        let mut owned: Vec<Range> = Vec::new();
        for peer in self.peers.iter().filter(|peer| peer.is_alive()) {
            owned.extend(peer.ring.owned_ranges(peer.ring.us()));
        }
        owned.sort();
        assert!(
            owned.windows(2).all(|pair| pair[0].end <= pair[1].start),
            "{owned:?}"
        );
    }
}

fn seen_by_observer(copy: &Ring) -> Ring {
    let (entries, seeds) = (copy.entries().to_vec(), copy.seeds().to_vec());
    Ring::restore(UNIVERSE, OBSERVER, entries, seeds).unwrap()
}

fn joined(a: &Ring, b: &Ring) -> Ring {
    let mut joined = a.clone();
    joined
        .merge(&b.to_wire(), |_| panic!("nothing of ours is at stake"))
        .unwrap();
    joined
}

fn history() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 1..80)
}

proptest! {
    #[test]
    fn copies_of_one_history_merge_the_same_in_any_order(
        steps in history(),
        which in any::<[Index; 3]>(),
    ) {
        let mut cluster = Cluster::new();
        steps.iter().for_each(|step| cluster.take(step));
        let [a, b, c] = which.map(|which| seen_by_observer(which.get(&cluster.copies)));

        prop_assert_eq!(joined(&a, &a), a.clone(), "idempotent");
        prop_assert_eq!(joined(&a, &b), joined(&b, &a), "commutative");
        prop_assert_eq!(
            joined(&joined(&a, &b), &c),
            joined(&a, &joined(&b, &c)),
            "associative"
        );
        prop_assert_eq!(joined(&joined(&a, &b), &b), joined(&a, &b), "absorbing");
    }

    #[test]
    fn a_peer_comes_to_the_same_ring_in_whatever_order_it_hears_of_others(
        steps in history(),
        which in any::<[Index; 2]>(),
        peer in 0..PEERS,
    ) {
        let mut cluster = Cluster::new();
        steps.iter().for_each(|step| cluster.take(step));
        let [a, b] = which.map(|which| which.get(&cluster.copies).clone());
        let peer = &mut cluster.peers[peer];
        if peer.is_alive() {
            let before = peer.ring.clone();
            peer.hear(&a);
            peer.hear(&b);
            let ab = std::mem::replace(&mut peer.ring, before);
            peer.hear(&b);
            peer.hear(&a);
            prop_assert_eq!(&ab, &peer.ring);
        }
    }

    #[test]
    fn two_peers_that_exchanged_their_rings_agree(
        steps in history(),
        a in 0..PEERS,
        b in 0..PEERS,
    ) {
        let mut cluster = Cluster::new();
        steps.iter().for_each(|step| cluster.take(step));
        if a != b && cluster.peers[a].is_alive() && cluster.peers[b].is_alive() {
            let told = cluster.peers[a].ring.clone();
            cluster.peers[b].hear(&told);
            let told = cluster.peers[b].ring.clone();
            cluster.peers[a].hear(&told);
            prop_assert_eq!(cluster.peers[a].ring.entries(), cluster.peers[b].ring.entries());
        }
    }

    #[test]
    fn when_all_have_told_all_every_address_has_one_owner_everywhere(steps in history()) {
        let mut cluster = Cluster::new();
        steps.iter().for_each(|step| cluster.take(step));
        let told: Vec<Ring> = cluster.peers.iter().map(|peer| peer.ring.clone()).collect();
        for peer in cluster.peers.iter_mut().filter(|peer| peer.is_alive()) {
            told.iter().for_each(|told| drop(peer.hear(told)));
        }
        let mut alive = cluster.peers.iter().filter(|peer| peer.is_alive());
        if let Some(first) = alive.next() {
            for other in alive {
                prop_assert_eq!(first.ring.entries(), other.ring.entries());
            }
        }
    }

    #[test]
    fn two_who_took_over_the_same_ranges_settle_on_one_owner(
        steps in history(),
        victim in 0..PEERS - 1,
    ) {
        let mut cluster = Cluster::new();
        steps.iter().for_each(|step| cluster.take(step));
        cluster.die(victim);
        let mut alive: Vec<&mut Peer> =
            cluster.peers.iter_mut().filter(|peer| peer.is_alive()).collect();
        if let [a, b, ..] = &mut alive[..] {
            for peer in [&mut *a, &mut *b] {
                let us = peer.ring.us();
                peer.ring.transfer(name(victim), us);
                peer.report();
            }
            // Twice: one of them may be given again what it has just taken, and outbids that.
            for _ in 0..2 {
                prop_assert!(b.hear(&a.ring).contests.is_empty());
                prop_assert!(a.hear(&b.ring).contests.is_empty());
            }
            prop_assert_eq!(a.ring.entries(), b.ring.entries());
            let settled = a.ring.clone();
            prop_assert!(!b.hear(&settled).changed);
        }
    }
}

fn any_entries(owners: std::ops::Range<u64>) -> impl Strategy<Value = Vec<Entry>> {
    let version = prop_oneof![0..4u32, Just(u32::MAX - 1), Just(u32::MAX)];
    let entry = (0..64u32, owners, version, 0..=64u32);
    prop::collection::vec(entry, 1..24).prop_map(|mut entries| {
        entries.sort_by_key(|entry| entry.0);
        entries.dedup_by_key(|entry| entry.0);
        let tokens: Vec<u32> = entries.iter().map(|entry| entry.0).collect();
        let entry = |(index, (token, owner, version, free)): (usize, (u32, u64, u32, u32))| {
            let next = tokens.get(index + 1).copied().unwrap_or(tokens[0] + 64);
            Entry {
                token: BASE + token,
                peer: PeerName::from_u64(owner),
                version,
                free: free.min(next - token),
            }
        };
        entries.into_iter().enumerate().map(entry).collect()
    })
}

proptest! {
    #[test]
    fn no_lie_takes_an_address_that_is_in_use(
        ours in any_entries(1..4),
        theirs in prop::collection::vec(any_entries(0..5), 1..4),
        in_use in prop::collection::btree_set(BASE..BASE + 64, 0..8),
    ) {
        let ring = Ring::restore(UNIVERSE, name(0), ours, Vec::new()).unwrap();
        let in_use = in_use.into_iter().filter(|a| ring.owner(*a) == Some(name(0))).collect();
        let mut peer = Peer { ring, in_use, life: Life::Alive };
        for theirs in theirs {
            let theirs = Ring::restore(UNIVERSE, name(1), theirs, vec![name(1)]).unwrap();
            let before = peer.ring.clone();
            let merged = peer.hear(&theirs);
            peer.ring.assert_invariants();
            prop_assert_eq!(merged.changed, before != peer.ring);
            assert_told(&before, &peer, &theirs, &merged);

            let settled = peer.ring.clone();
            prop_assert!(!peer.hear(&theirs).changed, "{:?}\n{:?}", settled, peer.ring);
            peer.report();
        }
    }

    #[test]
    fn no_ring_of_any_kind_makes_us_panic(
        tokens in prop::collection::vec(any::<(u32, u64, u32, u32)>(), 0..8),
        start in prop_oneof![Just(UNIVERSE.start), any::<u32>()],
        end in prop_oneof![Just(UNIVERSE.end), any::<u32>()],
    ) {
        let entries = tokens.into_iter().map(|(token, peer, version, free)| Entry {
            token,
            peer: PeerName::from_u64(peer),
            version,
            free,
        });
        let entries = entries.collect();
        let (peer, seeds) = (name(1), Vec::new());
        let theirs = wire::ipam::Ring { start, end, peer, entries, seeds };
        let mut ring = Ring::new(UNIVERSE, name(0));
        ring.claim_for_peers(&[name(0), name(1)]);
        let before = ring.clone();
        if let Err(error) = ring.merge(&theirs, |_| false) {
            prop_assert!(error.to_string().len() < 200);
            prop_assert_eq!(ring, before);
        }
    }
}

/// What a merge reports is what it did, address by address.
fn assert_told(before: &Ring, after: &Peer, theirs: &Ring, merged: &Merged) {
    let us = before.us();
    for address in UNIVERSE.start..UNIVERSE.end {
        let (old, new) = (before.owner(address), after.ring.owner(address));
        let gain = merged
            .gained
            .iter()
            .find(|gain| gain.range.contains(address));
        let is_lost = merged.lost.iter().any(|range| range.contains(address));
        assert_eq!(gain.is_some(), new == Some(us) && old != Some(us));
        assert_eq!(
            gain.and_then(|gain| gain.from),
            if gain.is_some() { old } else { None }
        );
        assert_eq!(is_lost, old == Some(us) && new != Some(us));
    }
    for contest in &merged.contests {
        assert!(!contest.range.is_empty() && contest.ours == us);
        for address in contest.range.start..contest.range.end {
            assert_eq!(before.owner(address), Some(us));
            assert_eq!(after.ring.owner(address), Some(us));
            assert_eq!(theirs.owner(address), Some(contest.theirs));
        }
    }
}
