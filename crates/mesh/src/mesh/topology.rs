//! The table of peers with what follows from it: routes, announcements of ours, and who is forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rand::RngExt;
use rand::rngs::StdRng;
use tracing::info;
use wire::PeerName;

use super::outputs::Outputs;
use crate::MeshOutput;
use crate::peers::{MergedLately, PeerTable};
use crate::routes::{Edges, Routes, gossip_unicast, has_established_route};

/// How long after a change of ours it is announced, so that several go together.
const ANNOUNCE_DELAY: Duration = Duration::from_secs(1);
/// How long after a topology update unreachable peers are looked for.
const COLLECT_DELAY: Duration = Duration::from_secs(1);
/// How long after a change the data plane's routes are recalculated.
const ROUTES_DELAY: Duration = Duration::from_millis(100);

/// What we know of the mesh, and what is to be done about it when.
pub(super) struct Topology {
    pub(super) peers: PeerTable,
    pub(super) merged_lately: MergedLately,
    /// Routes of the data plane, as of when they were last calculated.
    established: Routes,
    /// Next hops of gossip, over all connections of the present topology; dropped when it changes,
    /// calculated for use.
    gossip_unicast: Option<BTreeMap<PeerName, PeerName>>,
    /// Broadcast trees of gossip, likewise.
    gossip_broadcast: Option<Routes>,
    /// Peers whose entries go with the next announcement of ours.
    announced: BTreeSet<PeerName>,
    due: Due,
}

/// What is to happen when; `None` means nothing is pending.
#[derive(Default)]
pub(super) struct Due {
    pub(super) announcement: Option<Instant>,
    pub(super) collection: Option<Instant>,
    pub(super) routes: Option<Instant>,
}

impl Topology {
    /// A topology of what the table says.
    pub(super) fn new(peers: PeerTable, rng: &mut StdRng) -> Self {
        Self {
            established: Routes::calculate(&peers, Edges::EstablishedSymmetric),
            peers,
            merged_lately: MergedLately::new(rng.random()),
            gossip_unicast: None,
            gossip_broadcast: None,
            announced: BTreeSet::new(),
            due: Due::default(),
        }
    }

    /// When something is to be done.
    pub(super) fn due(&self) -> &Due {
        &self.due
    }

    /// Something that routes are made of changed.
    pub(super) fn request_routes(&mut self, now: Instant) {
        self.gossip_unicast = None;
        self.gossip_broadcast = None;
        self.due.routes.get_or_insert(now + ROUTES_DELAY);
    }

    pub(super) fn calculate_routes(&mut self, outputs: &mut Outputs) {
        self.due.routes = None;
        self.established.recalculate(&self.peers);
        outputs.push(MeshOutput::RoutesChanged);
    }

    /// Routes of the data plane, as of when they were last calculated.
    pub(super) fn established(&self) -> &Routes {
        &self.established
    }

    /// Whether data can reach a peer, whatever the data plane was told last.
    pub(super) fn has_established_route(&self, name: PeerName) -> bool {
        if self.due.routes.is_none() {
            return self.established.unicast().contains_key(&name);
        }
        has_established_route(&self.peers, name)
    }

    /// The next hops gossip takes, over the topology as it is. The original waits for its pending
    /// calculation instead.
    pub(super) fn gossip_unicast(&mut self) -> &BTreeMap<PeerName, PeerName> {
        let peers = &self.peers;
        self.gossip_unicast
            .get_or_insert_with(|| gossip_unicast(peers))
    }

    /// The broadcast trees gossip takes, likewise.
    pub(super) fn gossip_broadcast(&mut self) -> &Routes {
        let peers = &self.peers;
        let routes = &mut self.gossip_broadcast;
        routes.get_or_insert_with(|| Routes::calculate(peers, Edges::All))
    }

    /// Our own entry changed: tell others soon.
    pub(super) fn announce_soon(&mut self, now: Instant) {
        self.due.announcement.get_or_insert(now + ANNOUNCE_DELAY);
    }

    /// A peer's entry goes with the next announcement.
    pub(super) fn announce_with_us(&mut self, name: PeerName) {
        self.announced.insert(name);
    }

    /// Who is to be announced, ourselves included.
    pub(super) fn take_announced(&mut self) -> BTreeSet<PeerName> {
        self.due.announcement = None;
        let mut names = std::mem::take(&mut self.announced);
        names.insert(self.peers.us());
        names
    }

    /// Peers may have become unreachable: look soon.
    pub(super) fn collect_soon(&mut self, now: Instant) {
        self.due.collection.get_or_insert(now + COLLECT_DELAY);
    }

    /// Forgets peers that cannot be reached, at the time asked for.
    pub(super) fn collect_as_due(&mut self, now: Instant, rng: &mut StdRng, outputs: &mut Outputs) {
        self.due.collection = None;
        self.collect(now, rng, outputs);
    }

    /// Forgets peers that cannot be reached.
    pub(super) fn collect(&mut self, now: Instant, rng: &mut StdRng, outputs: &mut Outputs) {
        let removed = self.peers.collect_garbage();
        if removed.is_empty() {
            return;
        }
        self.merged_lately.clear();
        for (_, label) in &removed {
            info!("Removed unreachable peer {label}");
        }
        let names = removed.into_iter().map(|(name, _)| name).collect();
        outputs.push(MeshOutput::PeersRemoved(names));
        self.contest_short_id(now, rng);
        self.request_routes(now);
    }

    /// Takes another short id if a lower-named peer claims ours.
    pub(super) fn contest_short_id(&mut self, now: Instant, rng: &mut StdRng) {
        if self.peers.contest_short_id(rng) {
            self.announce_soon(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;
    use crate::testing::base;

    const US: PeerName = PeerName::from_u64(1);

    fn topology() -> Topology {
        let mut rng = StdRng::from_seed([1; 32]);
        Topology::new(PeerTable::new(US, "us", 1, 1), &mut rng)
    }

    #[test]
    fn what_is_asked_for_again_while_it_waits_comes_no_later() {
        let (start, mut topology) = (base(), topology());
        for millis in [0, 10, 20] {
            let now = start + Duration::from_millis(millis);
            topology.request_routes(now);
            topology.announce_soon(now);
            topology.collect_soon(now);
        }
        assert_eq!(topology.due().routes, Some(start + ROUTES_DELAY));
        assert_eq!(topology.due().announcement, Some(start + ANNOUNCE_DELAY));
        assert_eq!(topology.due().collection, Some(start + COLLECT_DELAY));
        let mut outputs = Outputs::default();
        topology.calculate_routes(&mut outputs);
        assert_eq!((topology.due().routes, outputs.len()), (None, 1));
    }

    #[test]
    fn an_announcement_names_us_and_whoever_was_connected_since_the_last_one() {
        let (start, mut topology) = (base(), topology());
        let peer = PeerName::from_u64(2);
        topology.announce_with_us(peer);
        topology.announce_soon(start);
        assert_eq!(topology.take_announced(), BTreeSet::from([US, peer]));
        assert_eq!(topology.due().announcement, None);
        assert_eq!(topology.take_announced(), BTreeSet::from([US]));
    }
}
