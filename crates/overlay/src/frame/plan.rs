//! A forwarding snapshot made ready for the threads: each hop in its place, with its tunnel.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use wire::{LinkId, PeerName};

use crate::frame::counters::DropReason;
use crate::frame::framing::Framing;
use crate::frame::path::Limits;
use crate::frame::ways::{NextHop, Ways};

/// Where the datagrams of one tunnel go, and what fits there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UdpPath {
    /// Whose tunnel.
    pub link: LinkId,
    /// The far end.
    pub to: SocketAddr,
    /// Largest UDP payload of a DF datagram, bytes.
    pub max_payload_bytes: usize,
    /// Whether the path was seen to carry more than the kernel believes.
    pub exceeds_kernel_mtu: bool,
}

/// A neighbour with a tunnel.
pub struct Hop<F: Framing> {
    /// Its connection.
    pub link: LinkId,
    /// Its name.
    pub remote: PeerName,
    /// What its datagrams share.
    pub tunnel: Arc<F::Tunnel>,
    /// What fits it.
    pub limits: Limits,
    /// Where its datagrams go, once known.
    pub path: Option<UdpPath>,
    /// Whether it is the one that carries traffic; probes are sent regardless.
    pub is_chosen: bool,
}

/// What the threads forward by until the next one comes.
pub struct Plan<F: Framing> {
    /// What datagrams look like.
    pub framing: F,
    ways: Arc<Ways>,
    /// By place; `None` for hops without a tunnel.
    hops: Box<[Option<Hop<F>>]>,
    links: HashMap<LinkId, NextHop>,
}

impl<F: Framing> Plan<F> {
    /// Puts hops in their places. One that is no hop of these ways is left out.
    pub fn new(framing: F, ways: Arc<Ways>, hops: impl IntoIterator<Item = Hop<F>>) -> Self {
        let mut places: Box<[Option<Hop<F>>]> = (0..ways.hops()).map(|_| None).collect();
        let mut links = HashMap::new();
        for hop in hops {
            if let Some(next) = ways.hop(hop.remote) {
                links.insert(hop.link, next);
                places[next.index()] = Some(hop);
            }
        }
        Self {
            framing,
            ways,
            hops: places,
            links,
        }
    }

    /// Our own name.
    pub fn us(&self) -> PeerName {
        self.ways.us()
    }

    /// Who leads where.
    pub fn ways(&self) -> &Ways {
        &self.ways
    }

    /// The way to a next hop, if it may carry a frame now.
    pub fn way(&self, next: NextHop) -> Result<(&Hop<F>, UdpPath), DropReason> {
        let hop = self.hops[next.index()].as_ref();
        let hop = hop.ok_or(DropReason::NoTunnel)?;
        if !hop.is_chosen {
            return Err(DropReason::NoTunnel);
        }
        Ok((hop, hop.path.ok_or(DropReason::AwaitingContact)?))
    }

    /// The neighbour that datagrams of this sender are from, whether or not it carries traffic.
    pub fn sender(&self, sender: F::Sender) -> Option<&Hop<F>> {
        let next = self.framing.hop(&self.ways, sender)?;
        self.hops[next.index()].as_ref()
    }

    /// The neighbour of a link, whether or not it carries traffic.
    pub fn link(&self, link: LinkId) -> Option<&Hop<F>> {
        let next = self.links.get(&link)?;
        self.hops[next.index()].as_ref()
    }
}
