//! A model of the data plane: special frames and test frames in datagrams that are not really
//! built, forwarded by the decisions of `overlay::forward`.

use std::net::SocketAddr;
use std::sync::Arc;

use nacl::SessionKey;
use overlay::forward::{self, Captured, Received};
use overlay::mac::MacTable;
use overlay::pmtu::overhead_bytes;
use overlay::table::{ForwardingTable, Probe, ProbeKind, SpecialKind, Tunnel, TunnelEvent};
use wire::PeerName;
use wire::ethernet::MacAddr;
use wire::sleeve::{FRAGMENTATION_TEST_BYTES, HEARTBEAT_BYTES};

/// Ethertype of test frames: local experimental.
const ETHERTYPE: [u8; 2] = [0x88, 0xb5];

/// What a datagram carries.
#[derive(Clone)]
pub enum Body {
    /// A special frame from the sender to the receiver.
    Special(SpecialKind),
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
    /// Key it is sealed under.
    pub key: Option<Arc<SessionKey>>,
    /// Where it goes.
    pub to: SocketAddr,
    /// Whether it must not be fragmented.
    pub df: bool,
    /// Length of the IP packet.
    pub packet_bytes: usize,
    /// The tunnel it left by, for refusals.
    pub link: wire::LinkId,
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
    macs: MacTable,
}

impl Forwarder {
    /// Takes a new snapshot.
    pub fn program(&mut self, table: Arc<ForwardingTable>) {
        self.macs.retain_peers(|peer| table.peers.contains(&peer));
        self.table = table;
    }

    /// The datagram of a special frame.
    ///
    /// # Errors
    ///
    /// When the tunnel was not published, or without an address: the node promised both.
    pub fn probe(&self, probe: &Probe) -> Result<Datagram, String> {
        let mut tunnels = self.table.tunnels.values();
        let tunnel = tunnels.find(|tunnel| tunnel.link == probe.link);
        let tunnel = tunnel.ok_or("a probe names a tunnel that was not published")?;
        let (kind, df, frame_bytes) = match probe.kind {
            ProbeKind::Heartbeat { connection_uid } => (
                SpecialKind::Heartbeat { connection_uid },
                true,
                HEARTBEAT_BYTES,
            ),
            ProbeKind::FragmentationTest => {
                let bytes = FRAGMENTATION_TEST_BYTES;
                (SpecialKind::FragmentationTest, false, bytes)
            }
            ProbeKind::MtuTest { frame_bytes } => {
                (SpecialKind::MtuTest { frame_bytes }, true, frame_bytes)
            }
        };
        let datagram = self.datagram(tunnel, df, frame_bytes, Body::Special(kind));
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
        let copies = match forward::decide_captured(&self.table, &self.macs, source, destination) {
            Captured::Drop(_) => Vec::new(),
            Captured::Unicast {
                destination,
                next_hop,
            } => self
                .copy(us, destination, next_hop, &bytes)
                .into_iter()
                .collect(),
            Captured::Broadcast(hops) => {
                let copy = |&hop: &PeerName| self.copy(us, hop, hop, &bytes);
                hops.iter().filter_map(copy).collect()
            }
        };
        self.macs.learn(source, us, 0);
        copies
    }

    /// A datagram arrived.
    pub fn receive(&mut self, datagram: Datagram, from: SocketAddr) -> Arrival {
        let table = Arc::clone(&self.table);
        let Some(tunnel) = table.tunnels.get(&datagram.sender) else {
            return Arrival::Dropped;
        };
        let bytes = |key: &Option<Arc<SessionKey>>| key.as_ref().map(|key| *key.expose_bytes());
        if bytes(&tunnel.key) != bytes(&datagram.key) {
            return Arrival::Dropped;
        }
        match datagram.body {
            Body::Special(_) if !table.peers.contains(&datagram.sender) => Arrival::Dropped,
            Body::Special(kind) => Arrival::Event(TunnelEvent::Special {
                link: tunnel.link,
                from,
                kind,
            }),
            Body::Frame {
                origin,
                destination,
                bytes,
            } => self.receive_frame(&table, tunnel, origin, destination, &bytes),
        }
    }

    fn receive_frame(
        &mut self,
        table: &ForwardingTable,
        via: &Tunnel,
        origin: PeerName,
        destination: PeerName,
        bytes: &Arc<[u8]>,
    ) -> Arrival {
        let received = forward::decide_received(table, &self.macs, via, origin, destination, bytes);
        match received {
            Received::Drop(_) | Received::Special(_) => Arrival::Dropped,
            Received::Relay { next_hop } => Arrival::Frame {
                delivered: None,
                copies: self
                    .copy(origin, destination, next_hop, bytes)
                    .into_iter()
                    .collect(),
            },
            Received::Deliver { pass_on } => {
                let copy = |&hop: &PeerName| self.copy(origin, hop, hop, bytes);
                let copies = pass_on.iter().filter_map(copy).collect();
                let source = bytes[6..12].try_into().expect("six bytes");
                self.macs.learn(MacAddr(source), origin, 0);
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
        let tunnel = forward::tunnel_to(&self.table, next_hop).ok()?;
        let bytes = Arc::clone(bytes);
        let length = bytes.len();
        self.datagram(
            tunnel,
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
        tunnel: &Tunnel,
        df: bool,
        frame_bytes: usize,
        body: Body,
    ) -> Option<Datagram> {
        let to = tunnel.remote_address?;
        let overhead = overhead_bytes(to.ip(), tunnel.key.is_some());
        Some(Datagram {
            sender: self.table.us,
            key: tunnel.key.clone(),
            to,
            df,
            packet_bytes: frame_bytes - forward::ETHERNET_BYTES + overhead,
            link: tunnel.link,
            body,
        })
    }
}
