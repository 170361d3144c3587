//! From what the control plane publishes to what the threads forward by.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use wire::{LinkId, PeerName};

use crate::frame::counters::DropReason;
use crate::frame::path::Limits;
use crate::frame::plan::{Hop, Plan, UdpPath};
use crate::frame::ways::Ways;
use crate::kind::{Kind, Lane};
use crate::routes::Routes;
use crate::sleeve::framing::{SleeveFraming, SleeveTunnel};
use crate::sleeve::lane::SleeveLane;
use crate::table::{ForwardingTable, Neighbour};

pub use crate::frame::ways::{
    Captured, Class, Envelope, NextHop, Received, decide_captured, decide_received,
};
pub use wire::ethernet::ETHERNET_HEADER_BYTES as ETHERNET_BYTES;

/// A next hop and the lane that carries a frame there now.
#[derive(Debug, Clone, Copy)]
pub struct Carrier<'t> {
    /// The next hop.
    pub neighbour: &'t Arc<Neighbour>,
    /// The chosen lane.
    pub lane: &'t Lane,
    /// Where its datagrams go.
    pub to: SocketAddr,
}

/// The way to a next hop, if it may carry a frame now.
pub fn carrier_to(table: &ForwardingTable, next_hop: PeerName) -> Result<Carrier<'_>, DropReason> {
    let neighbour = table.neighbours.get(&next_hop);
    let neighbour = neighbour.ok_or(DropReason::NoTunnel)?;
    let lane = &**neighbour.carrier().ok_or(DropReason::NoTunnel)?;
    let to = lane.remote_address().ok_or(DropReason::AwaitingContact)?;
    Ok(Carrier {
        neighbour,
        lane,
        to,
    })
}

/// The ways of a table.
pub fn ways_of(table: &ForwardingTable) -> Ways {
    let neighbours = table.neighbours.keys().copied();
    Ways::new(table.us, &table.routes, neighbours)
}

/// What the threads of sleeve forward by.
pub type SleevePlan = Plan<SleeveFraming>;

/// Makes plans of tables, so that a tunnel keeps its keys and numbers for life.
#[derive(Default)]
pub struct Compiler {
    /// The neighbours of the newest table, each with its tunnel once it needs one.
    tunnels: HashMap<LinkId, Option<Arc<SleeveTunnel>>>,
    /// The highest serial number of a neighbour so far. One that is not above it and not live was
    /// removed before: a tunnel made anew would repeat numbers under the same key.
    newest: u64,
    /// The ways of the newest table, kept while nobody comes or goes.
    ways: Option<CompiledWays>,
}

struct CompiledWays {
    us: PeerName,
    routes: Arc<Routes>,
    neighbours: Vec<PeerName>,
    ways: Arc<Ways>,
}

impl Compiler {
    /// A compiler that has seen no table.
    pub fn new() -> Self {
        Self::default()
    }

    /// The next plan. Tunnels that are gone end with the last thread to let go.
    pub fn compile(&mut self, table: &ForwardingTable) -> SleevePlan {
        let before = self.newest;
        let mut last = std::mem::take(&mut self.tunnels);
        let mut hops = Vec::with_capacity(table.neighbours.len());
        for neighbour in table.neighbours.values() {
            let mut tunnel = match last.remove(&neighbour.link) {
                Some(tunnel) => tunnel,
                None if neighbour.serial > before => None,
                None => {
                    tracing::error!(
                        ?neighbour,
                        "tunnel came back after it was removed; not used"
                    );
                    continue;
                }
            };
            self.newest = self.newest.max(neighbour.serial);
            if let Some(lane) = neighbour.lanes.sleeve() {
                let tunnel = tunnel.get_or_insert_with(|| Arc::new(SleeveTunnel::new(lane)));
                hops.push(hop(neighbour, lane, tunnel));
            }
            self.tunnels.insert(neighbour.link, tunnel);
        }
        let framing = SleeveFraming { us: table.us };
        Plan::new(framing, self.ways(table), hops)
    }

    fn ways(&mut self, table: &ForwardingTable) -> Arc<Ways> {
        let last = self.ways.take().filter(|last| {
            last.us == table.us
                && Arc::ptr_eq(&last.routes, &table.routes)
                && last.neighbours.iter().eq(table.neighbours.keys())
        });
        let compiled = last.unwrap_or_else(|| CompiledWays {
            us: table.us,
            routes: Arc::clone(&table.routes),
            neighbours: table.neighbours.keys().copied().collect(),
            ways: Arc::new(ways_of(table)),
        });
        Arc::clone(&self.ways.insert(compiled).ways)
    }
}

fn hop(neighbour: &Neighbour, lane: &SleeveLane, tunnel: &Arc<SleeveTunnel>) -> Hop<SleeveFraming> {
    let path = lane.remote_address.map(|to| UdpPath {
        link: neighbour.link,
        to,
        max_payload_bytes: lane.max_payload_bytes,
        exceeds_kernel_mtu: lane.exceeds_kernel_mtu,
    });
    Hop {
        link: neighbour.link,
        remote: neighbour.remote,
        tunnel: Arc::clone(tunnel),
        limits: Limits {
            mtu_bytes: lane.mtu_bytes,
            may_be_fragmented: lane.stack_frag,
        },
        path,
        is_chosen: neighbour.chosen == Some(Kind::Sleeve),
    }
}

#[cfg(test)]
mod tests;
