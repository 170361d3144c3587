//! Address allocation in a node: gossip to and from the allocator, requests and their answers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use ipam::{ContainerEvent, Ipam, IpamOutput, Refusal, Request, Ticket};
use mesh::{GossipContent, Mesh, MeshOutput};
use tracing::debug;
use wire::PeerName;
use wire::message::Delivery;

use crate::channels::AllocationChannel;
use crate::command::{Reply, RequestId};
use crate::output::{Output, Record};
use crate::turn::Turn;

/// Most requests that wait; what comes beyond is refused.
pub(crate) const WAITING_MAX: usize = 10_000;

/// The allocator, and what it was last told about the mesh.
pub(crate) struct Allocation {
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
    pub(crate) fn new(ipam: Ipam, mesh: &mut Mesh) -> Self {
        for channel in AllocationChannel::ALL {
            mesh.register_channel(channel.name());
        }
        Self {
            ipam,
            waiting: BTreeSet::new(),
            known: BTreeMap::new(),
            peers_stale: true,
            targets_stale: true,
            clone_text: None,
        }
    }

    pub(crate) fn ipam(&self) -> &Ipam {
        &self.ipam
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.ipam.poll_timeout().is_some_and(|at| at <= now) {
            self.ipam.handle_timeout(now);
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.ipam
            .poll_timeout()
            .map(|at| (at, "address allocation"))
    }

    /// Requests beyond their limit.
    pub(crate) fn excess(&self) -> Option<(&'static str, usize, usize)> {
        let count = self.waiting.len();
        (count > WAITING_MAX).then_some(("waiting requests", count, WAITING_MAX))
    }

    pub(crate) fn cancel(&mut self, id: RequestId, now: Instant) {
        let ticket = Ticket(id.0);
        if self.waiting.contains(&ticket) {
            self.ipam.handle_cancel(ticket, now);
        }
    }

    /// Notes what in the mesh the allocator is to be told of.
    pub(crate) fn watch(&mut self, output: &MeshOutput) {
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

    /// Something happened to a container.
    pub(crate) fn handle_container(&mut self, ident: &str, event: ContainerEvent, now: Instant) {
        self.ipam.handle_container(ident, event, now);
    }

    /// At start: the containers that run.
    pub(crate) fn handle_running(&mut self, containers: BTreeSet<String>, now: Instant) {
        self.ipam.handle_running(containers, now);
    }

    /// A request about addresses. Replied to at once when too many wait already.
    pub(crate) fn ask(
        &mut self,
        mesh: &mut Mesh,
        id: RequestId,
        request: Request,
        now: Instant,
    ) -> Option<Reply> {
        self.tell(mesh, now);
        if self.waiting.len() >= WAITING_MAX {
            let limit = WAITING_MAX;
            return Some(Reply::Ipam(Err(Refusal::TooManyWaiting { limit })));
        }
        let ticket = Ticket(id.0);
        let is_new = self.waiting.insert(ticket);
        assert!(is_new, "the shell uses each request id once");
        self.ipam.handle_request(ticket, request, now);
        None
    }

    /// Tells the allocator what changed in the mesh; whether anything did.
    pub(crate) fn tell(&mut self, mesh: &mut Mesh, now: Instant) -> bool {
        let mut is_news = false;
        if std::mem::take(&mut self.targets_stale) {
            self.ipam.handle_targets(mesh.active_targets());
        }
        if std::mem::take(&mut self.peers_stale) {
            let reachable = mesh.reachable();
            let named = reachable.into_iter().map(|peer| {
                let nickname = mesh.nickname(peer).unwrap_or_default();
                (peer, nickname.to_owned())
            });
            let known: BTreeMap<_, _> = named.collect();
            if known != self.known {
                self.known.clone_from(&known);
                self.ipam.handle_peers(known, now);
                is_news = true;
            }
        }
        let clone_text = mesh.clone_text();
        if clone_text != self.clone_text.as_deref() {
            self.clone_text = clone_text.map(str::to_owned);
            self.ipam.handle_clone(self.clone_text.clone(), now);
            is_news = true;
        }
        is_news
    }

    /// Gossip of one of our channels.
    pub(crate) fn receive(
        &mut self,
        mesh: &mut Mesh,
        channel: AllocationChannel,
        delivery: Delivery,
        payload: &[u8],
        now: Instant,
    ) {
        let from = delivery.sender();
        if !self.known.contains_key(&from) {
            // It may have come faster than the routes to it.
            self.peers_stale = true;
            self.tell(mesh, now);
        }
        // Of the ring our own, merged state goes on; of the rest what came.
        let content = match channel {
            AllocationChannel::Ring => {
                self.ipam.handle_gossip(delivery, payload, now);
                GossipContent::State
            }
            AllocationChannel::Weft => {
                self.ipam.handle_weft(from, payload, now);
                GossipContent::Payload(payload.to_vec())
            }
        };
        if let Delivery::Broadcast(origin) = delivery {
            mesh.gossip_broadcast(channel.name(), origin, content, now);
        }
    }

    /// All there is to say on one of our channels.
    pub(crate) fn state(&self, channel: AllocationChannel) -> Option<Vec<u8>> {
        match channel {
            AllocationChannel::Ring => self.ipam.gossip_state(),
            AllocationChannel::Weft => None,
        }
    }

    /// Passes one thing on that the allocator says; whether there was any.
    pub(crate) fn follow(&mut self, mesh: &mut Mesh, turn: &mut Turn, now: Instant) -> bool {
        let Some(output) = self.ipam.poll_output() else {
            return false;
        };
        let us = mesh.name();
        let (ring, weft) = (
            AllocationChannel::Ring.name(),
            AllocationChannel::Weft.name(),
        );
        match output {
            IpamOutput::Persist(writes) => turn.keep(Record::Rows(writes)),
            IpamOutput::Unicast { to, payload } => {
                if let Err(error) = mesh.gossip_unicast(ring, to, payload, now) {
                    debug!(%to, %error, "message about addresses not sent");
                    let error = error.to_string();
                    self.ipam.handle_unicast_failed(to, &error, now);
                }
            }
            IpamOutput::Broadcast => {
                mesh.gossip_broadcast(ring, us, GossipContent::State, now);
            }
            IpamOutput::WeftUnicast { to, payload } => {
                if let Err(error) = mesh.gossip_unicast(weft, to, payload, now) {
                    debug!(%to, %error, "message among wefts not sent");
                }
            }
            IpamOutput::WeftBroadcast(payload) => {
                mesh.gossip_broadcast(weft, us, GossipContent::Payload(payload), now);
            }
            IpamOutput::Answer { ticket, outcome } => {
                let was_waiting = self.waiting.remove(&ticket);
                assert!(was_waiting, "each request is answered once");
                turn.push(Output::Reply {
                    id: RequestId(ticket.0),
                    reply: Reply::Ipam(outcome),
                });
            }
            // Nobody tracks ranges.
            IpamOutput::RangesChanged(_) => {}
        }
        true
    }
}
