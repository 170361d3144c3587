//! A model of the data plane: probes and test frames in datagrams that are not really built, forwarded
//! by the decisions of `overlay::forward`.

use std::net::SocketAddr;
use std::sync::Arc;

use nacl::SessionKey;
use overlay::forward::{self, Captured, Class, Envelope, NextHop, Received};
use overlay::frame::ways::Ways;
use overlay::kind::{Kind, Lane, LaneProbe, Probe, TunnelEvent};
use overlay::mac::{Learned, MacCorrection, MacTable, Sighting};
use overlay::table::{ForwardingTable, Neighbour};
use wire::ethernet::MacAddr;
use wire::{LinkId, PeerName};

/// Ethertype of test frames: local experimental.
const ETHERTYPE: [u8; 2] = [0x88, 0xb5];

/// What a datagram carries.
#[derive(Clone)]
pub enum Body {
    /// A probe from the sender to the receiver.
    Probe(LaneProbe),
    /// An ordinary frame.
    Frame {
        /// Where it was captured.
        origin: PeerName,
        /// Whom this copy is for.
        destination: PeerName,
        /// The frame.
        bytes: Arc<[u8]>,
    },
}

/// A datagram under way.
#[derive(Clone)]
pub struct Datagram {
    /// The last hop.
    pub sender: PeerName,
    /// By which kind of tunnel it goes.
    pub kind: Kind,
    /// Key it is sealed under.
    pub key: Option<Arc<SessionKey>>,
    /// Where it goes.
    pub to: SocketAddr,
    /// Whether it must not be fragmented.
    pub df: bool,
    /// Length of the IP packet.
    pub packet_bytes: usize,
    /// The tunnel it left by, for refusals.
    pub link: LinkId,
    /// What it carries.
    pub body: Body,
}

/// What came of a datagram that arrived.
pub enum Arrival {
    /// Nothing.
    Dropped,
    /// News for the control half.
    Event(TunnelEvent),
    /// A frame: whether it was injected here, and the datagrams passed on.
    Frame {
        /// Number of the frame if it was injected into the local bridge.
        delivered: Option<u64>,
        /// Copies to send.
        copies: Vec<Datagram>,
    },
}

/// One router's data plane.
#[derive(Default)]
pub struct Forwarder {
    /// The newest snapshot.
    pub table: Arc<ForwardingTable>,
    ways: Arc<Ways>,
    macs: MacTable,
    learned: Vec<Sighting>,
}

impl Forwarder {
    /// Takes a new snapshot.
    pub fn program(&mut self, table: Arc<ForwardingTable>) {
        self.ways = Arc::new(forward::ways_of(&table));
        self.table = table;
    }

    /// Corrects what was learned.
    pub fn correct(&mut self, correction: &MacCorrection) {
        self.macs.correct(correction);
    }

    /// What was learned since this was last asked.
    pub fn take_learned(&mut self) -> Vec<Sighting> {
        std::mem::take(&mut self.learned)
    }

    fn learn(&mut self, mac: MacAddr, peer: PeerName) {
        if self.macs.learn(mac, peer, 0) != Learned::Known {
            self.learned.push(Sighting { mac, peer });
        }
    }

    /// The datagram of a probe.
    ///
    /// # Errors
    ///
    /// When the tunnel was not published, or without an address: the node promised both.
    pub fn probe(&self, probe: &Probe) -> Result<Datagram, String> {
        let neighbour = self.table.neighbour(probe.link);
        let neighbour = neighbour.ok_or("a probe names a tunnel that was not published")?;
        let probe = probe.probe;
        let lane = neighbour.lanes.get(probe.kind());
        let lane = lane.ok_or("a probe names a lane that was not published")?;
        let (df, frame_bytes) = (!probe.may_be_fragmented(), probe.frame_bytes());
        let datagram = self.datagram(neighbour.link, lane, df, frame_bytes, Body::Probe(probe));
        datagram.ok_or_else(|| "a probe goes to a tunnel without address".to_owned())
    }

    /// A container behind this router sends a test frame.
    pub fn capture(&mut self, source: MacAddr, destination: MacAddr, number: u64) -> Vec<Datagram> {
        let mut bytes = Vec::with_capacity(22);
        bytes.extend(destination.0);
        bytes.extend(source.0);
        bytes.extend(ETHERTYPE);
        bytes.extend(number.to_be_bytes());
        let bytes: Arc<[u8]> = bytes.into();
        let us = self.table.us;
        let ways = Arc::clone(&self.ways);
        let copies = match forward::decide_captured(&ways, &self.macs, source, destination) {
            Captured::Drop(_) => Vec::new(),
            Captured::Unicast {
                destination,
                next_hop,
            } => self
                .copy(us, destination, next_hop.peer, &bytes)
                .into_iter()
                .collect(),
            Captured::Broadcast(hops) => {
                let copy = |hop: &NextHop| self.copy(us, hop.peer, hop.peer, &bytes);
                hops.iter().filter_map(copy).collect()
            }
        };
        self.learn(source, us);
        copies
    }

    /// A datagram arrived.
    pub fn receive(&mut self, datagram: Datagram, from: SocketAddr) -> Arrival {
        let table = Arc::clone(&self.table);
        let Some(neighbour) = table.neighbours.get(&datagram.sender) else {
            return Arrival::Dropped;
        };
        let Some(lane) = neighbour.lanes.get(datagram.kind) else {
            return Arrival::Dropped;
        };
        let bytes = |key: Option<&Arc<SessionKey>>| key.map(|key| *key.expose_bytes());
        if bytes(lane.protection().key()) != bytes(datagram.key.as_ref()) {
            return Arrival::Dropped;
        }
        match datagram.body {
            Body::Probe(_) if !table.routes.knows(datagram.sender) => Arrival::Dropped,
            Body::Probe(probe) => Arrival::Event(probe.heard(from).on(neighbour.link)),
            Body::Frame {
                origin,
                destination,
                bytes,
            } => {
                let envelope = Envelope {
                    origin,
                    destination,
                };
                self.receive_frame(neighbour, envelope, &bytes)
            }
        }
    }

    fn receive_frame(&mut self, via: &Neighbour, envelope: Envelope, bytes: &Arc<[u8]>) -> Arrival {
        let Envelope {
            origin,
            destination,
        } = envelope;
        let (ways, traffic) = (Arc::clone(&self.ways), Class::<()>::Traffic);
        let (macs, via) = (&self.macs, via.remote);
        let received = forward::decide_received(&ways, macs, via, envelope, bytes, traffic);
        match received {
            Received::Drop(_) | Received::Special(()) => Arrival::Dropped,
            Received::Relay { next_hop } => Arrival::Frame {
                delivered: None,
                copies: self
                    .copy(origin, destination, next_hop.peer, bytes)
                    .into_iter()
                    .collect(),
            },
            Received::Deliver { pass_on } => {
                let copy = |hop: &NextHop| self.copy(origin, hop.peer, hop.peer, bytes);
                let copies = pass_on.iter().filter_map(copy).collect();
                let source = bytes[6..12].try_into().expect("six bytes");
                self.learn(MacAddr(source), origin);
                let number = bytes[14..22].try_into().expect("eight bytes");
                Arrival::Frame {
                    delivered: Some(u64::from_be_bytes(number)),
                    copies,
                }
            }
        }
    }

    fn copy(
        &self,
        origin: PeerName,
        destination: PeerName,
        next_hop: PeerName,
        bytes: &Arc<[u8]>,
    ) -> Option<Datagram> {
        let carrier = forward::carrier_to(&self.table, next_hop).ok()?;
        let bytes = Arc::clone(bytes);
        let length = bytes.len();
        self.datagram(
            carrier.neighbour.link,
            carrier.lane,
            true,
            length,
            Body::Frame {
                origin,
                destination,
                bytes,
            },
        )
    }

    fn datagram(
        &self,
        link: LinkId,
        lane: &Lane,
        df: bool,
        frame_bytes: usize,
        body: Body,
    ) -> Option<Datagram> {
        let to = lane.remote_address()?;
        let key = lane.protection().key();
        let overhead = lane.overhead_bytes(to.ip());
        Some(Datagram {
            sender: self.table.us,
            kind: lane.kind(),
            key: key.cloned(),
            to,
            df,
            packet_bytes: frame_bytes - forward::ETHERNET_BYTES + overhead,
            link,
            body,
        })
    }
}
