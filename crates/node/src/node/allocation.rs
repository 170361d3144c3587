//! Address allocation in a node: gossip to and from the allocator, requests and their answers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use ipam::status::IpamStatus;
use ipam::{CHANNEL, Ipam, IpamOutput, Refusal, Request, Ticket, WEFT_CHANNEL};
use mesh::{GossipContent, Mesh, MeshOutput};
use tracing::debug;
use wire::PeerName;
use wire::message::Delivery;

use super::Node;
use crate::{Output, Record, Reply, RequestId};

/// Most requests that wait; what comes beyond is refused.
pub(super) const WAITING_MAX: usize = 10_000;

/// The allocator, and what it was last told about the mesh.
pub(super) struct Allocation {
    ipam: Ipam,
    /// Requests that were not answered yet.
    waiting: BTreeSet<Ticket>,
    /// Everybody the mesh reaches and their nicknames.
    known: BTreeMap<PeerName, String>,
    /// Whether that may be outdated.
    peers_stale: bool,
    /// Whether the number of addresses to dial may be.
    targets_stale: bool,
    /// What it was told about another machine with our name.
    clone_text: Option<String>,
}

impl Allocation {
    /// Registers the gossip channels of address allocation with the mesh.
    pub(super) fn new(ipam: Ipam, mesh: &mut Mesh) -> Self {
        mesh.register_channel(CHANNEL);
        mesh.register_channel(WEFT_CHANNEL);
        Self {
            ipam,
            waiting: BTreeSet::new(),
            known: BTreeMap::new(),
            peers_stale: true,
            targets_stale: true,
            clone_text: None,
        }
    }

    pub(super) fn ipam(&self) -> &Ipam {
        &self.ipam
    }

    pub(super) fn ipam_mut(&mut self) -> &mut Ipam {
        &mut self.ipam
    }

    pub(super) fn status(&self) -> IpamStatus {
        self.ipam.status()
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if self.ipam.poll_timeout().is_some_and(|at| at <= now) {
            self.ipam.handle_timeout(now);
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.ipam
            .poll_timeout()
            .map(|at| (at, "address allocation"))
    }

    /// Requests beyond their limit.
    pub(super) fn excess(&self) -> Option<(&'static str, usize, usize)> {
        let count = self.waiting.len();
        (count > WAITING_MAX).then_some(("waiting requests", count, WAITING_MAX))
    }

    pub(super) fn cancel(&mut self, id: RequestId, now: Instant) {
        let ticket = Ticket(id.0);
        if self.waiting.contains(&ticket) {
            self.ipam.handle_cancel(ticket, now);
        }
    }

    /// Notes what in the mesh the allocator is to be told of.
    pub(super) fn watch(&mut self, output: &MeshOutput) {
        match output {
            MeshOutput::RoutesChanged | MeshOutput::PeersRemoved(_) => self.peers_stale = true,
            MeshOutput::DirectPeersChanged(_)
            | MeshOutput::Dial { .. }
            | MeshOutput::Close { .. }
            | MeshOutput::ConnectionAdded(_)
            | MeshOutput::ConnectionRemoved { .. } => self.targets_stale = true,
            MeshOutput::Send { .. }
            | MeshOutput::OverlayControl { .. }
            | MeshOutput::Gossip { .. }
            | MeshOutput::ChannelStateWanted { .. }
            | MeshOutput::ShortIdsChanged => {}
        }
    }
}

impl Node {
    /// A request about addresses. Answered at once when nobody allocates any here, or when too many
    /// wait already.
    pub(super) fn ask(&mut self, id: RequestId, request: Request, now: Instant) -> Option<Reply> {
        self.tell_allocation();
        let Some(allocation) = &mut self.allocation else {
            return Some(Reply::Ipam(Err(Refusal::Disabled)));
        };
        if allocation.waiting.len() >= WAITING_MAX {
            let limit = WAITING_MAX;
            return Some(Reply::Ipam(Err(Refusal::TooManyWaiting { limit })));
        }
        let ticket = Ticket(id.0);
        let is_new = allocation.waiting.insert(ticket);
        assert!(is_new, "the shell uses each request id once");
        allocation.ipam.handle_request(ticket, request, now);
        None
    }

    /// Tells the allocator what changed in the mesh; whether anything did.
    pub(super) fn tell_allocation(&mut self) -> bool {
        let Some(allocation) = &mut self.allocation else {
            return false;
        };
        let mut is_news = false;
        if std::mem::take(&mut allocation.targets_stale) {
            allocation.ipam.handle_targets(self.mesh.active_targets());
        }
        if std::mem::take(&mut allocation.peers_stale) {
            let reachable = self.mesh.reachable();
            let named = reachable.into_iter().map(|peer| {
                let nickname = self.mesh.nickname(peer).unwrap_or_default();
                (peer, nickname.to_owned())
            });
            let known: BTreeMap<_, _> = named.collect();
            if known != allocation.known {
                allocation.known.clone_from(&known);
                allocation.ipam.handle_peers(known, self.now);
                is_news = true;
            }
        }
        let clone_text = self.mesh.clone_text();
        if clone_text != allocation.clone_text.as_deref() {
            allocation.clone_text = clone_text.map(str::to_owned);
            let text = allocation.clone_text.clone();
            allocation.ipam.handle_clone(text, self.now);
            is_news = true;
        }
        is_news
    }

    pub(super) fn poll_allocation(&mut self) -> Option<IpamOutput> {
        self.allocation.as_mut()?.ipam.poll_output()
    }

    /// Gossip of a channel that is ours.
    pub(super) fn receive_gossip(&mut self, channel: &str, delivery: Delivery, payload: &[u8]) {
        let now = self.now;
        let from = delivery.sender();
        let knows = |allocation: &Allocation| allocation.known.contains_key(&from);
        if !self.allocation.as_ref().is_some_and(knows) {
            // It may have come faster than the routes to it.
            if let Some(allocation) = &mut self.allocation {
                allocation.peers_stale = true;
            }
            self.tell_allocation();
        }
        let Some(allocation) = &mut self.allocation else {
            debug!(channel, "gossip channel without an owner");
            return;
        };
        if channel == CHANNEL {
            allocation.ipam.handle_gossip(delivery, payload, now);
        } else {
            allocation.ipam.handle_weft(from, payload, now);
        }
        if let Delivery::Broadcast(origin) = delivery {
            // Of addresses our own, merged state goes on; of the rest what came.
            let content = if channel == CHANNEL {
                GossipContent::State
            } else {
                GossipContent::Payload(payload.to_vec())
            };
            self.mesh.gossip_broadcast(channel, origin, content, now);
        }
    }

    pub(super) fn follow_allocation(&mut self, output: IpamOutput, persist_at: &mut usize) {
        let now = self.now;
        match output {
            IpamOutput::Persist(changes) => self.persist(Record::Rows(changes), persist_at),
            IpamOutput::Unicast { to, payload } => {
                if let Err(error) = self.mesh.gossip_unicast(CHANNEL, to, payload, now) {
                    debug!(%to, %error, "message about addresses not sent");
                    let allocation = self.allocation.as_mut();
                    allocation
                        .expect("only it has such outputs")
                        .ipam
                        .handle_unicast_failed(to, &error.to_string(), now);
                }
            }
            IpamOutput::Broadcast => {
                let us = self.us;
                self.mesh
                    .gossip_broadcast(CHANNEL, us, GossipContent::State, now);
            }
            IpamOutput::WeftUnicast { to, payload } => {
                if let Err(error) = self.mesh.gossip_unicast(WEFT_CHANNEL, to, payload, now) {
                    debug!(%to, %error, "message among wefts not sent");
                }
            }
            IpamOutput::WeftBroadcast(payload) => {
                let (us, content) = (self.us, GossipContent::Payload(payload));
                self.mesh.gossip_broadcast(WEFT_CHANNEL, us, content, now);
            }
            IpamOutput::Answer { ticket, outcome } => {
                let allocation = self.allocation.as_mut();
                let was_waiting = allocation
                    .expect("only it has such outputs")
                    .waiting
                    .remove(&ticket);
                assert!(was_waiting, "each request is answered once");
                self.outputs.push_back(Output::Reply {
                    id: RequestId(ticket.0),
                    reply: Reply::Ipam(outcome),
                });
            }
            // Nobody tracks ranges.
            IpamOutput::RangesChanged(_) => {}
        }
    }
}
