//! A forwarding snapshot made ready for the threads, and what they count.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use wire::{LinkId, PeerName};

use crate::datagram::Session;
use crate::datagram::UdpPath;
use crate::forward::{Carrier, DropReason, carrier_to};
use crate::kind::Lane;
use crate::sleeve::lane::SleeveLane;
use crate::table::ForwardingTable;

/// A snapshot together with the sessions of its tunnels.
#[derive(Default)]
pub struct Program {
    /// The snapshot.
    pub table: Arc<ForwardingTable>,
    sessions: HashMap<PeerName, Arc<Session>>,
}

/// Makes programs of tables, so that a tunnel keeps its session for life.
#[derive(Default)]
pub struct Compiler {
    sessions: HashMap<LinkId, Arc<Session>>,
    /// Tunnels that left the table. A session made anew would repeat numbers under the same key,
    /// so their ids never get another one. Eight bytes per connection ever made.
    retired: HashSet<LinkId>,
}

impl Compiler {
    /// A compiler that has seen no table.
    pub fn new() -> Self {
        Self::default()
    }

    /// The next program. Sessions of tunnels that are gone end with the last thread to let go.
    pub fn compile(&mut self, table: Arc<ForwardingTable>) -> Program {
        let neighbours = table.neighbours.values();
        let live: HashSet<LinkId> = neighbours.map(|neighbour| neighbour.link).collect();
        let retired = &mut self.retired;
        self.sessions.retain(|link, _| {
            let is_live = live.contains(link);
            if !is_live {
                retired.insert(*link);
            }
            is_live
        });
        let mut sessions = HashMap::new();
        for (&remote, neighbour) in &table.neighbours {
            let Some(lane) = neighbour.lanes.sleeve() else {
                continue;
            };
            if self.retired.contains(&neighbour.link) {
                tracing::error!(
                    ?neighbour,
                    "tunnel came back after it was removed; not used"
                );
                continue;
            }
            let session = self
                .sessions
                .entry(neighbour.link)
                .or_insert_with(|| Arc::new(Session::new(neighbour.link, remote, lane)));
            sessions.insert(remote, Arc::clone(session));
        }
        Program { table, sessions }
    }

    /// The session of a live tunnel.
    pub fn session(&self, link: LinkId) -> Option<&Arc<Session>> {
        self.sessions.get(&link)
    }
}

/// A neighbour that can be sent to.
#[derive(Clone, Copy)]
pub struct Hop<'p> {
    /// Its session.
    pub session: &'p Arc<Session>,
    /// Its lane as the snapshot has it.
    pub lane: &'p SleeveLane,
    /// Where its datagrams go.
    pub to: SocketAddr,
}

impl Hop<'_> {
    /// The path of its datagrams.
    pub fn path(&self) -> UdpPath {
        UdpPath {
            link: self.session.link,
            to: self.to,
            max_payload_bytes: self.lane.max_payload_bytes,
            exceeds_kernel_mtu: self.lane.exceeds_kernel_mtu,
        }
    }
}

impl Program {
    /// The session of datagrams that name this sender.
    pub fn session(&self, sender: PeerName) -> Option<&Arc<Session>> {
        self.sessions.get(&sender)
    }

    /// The way to a next hop, if it may carry a frame now.
    pub fn hop(&self, next_hop: PeerName) -> Result<Hop<'_>, DropReason> {
        let Carrier { lane, to, .. } = carrier_to(&self.table, next_hop)?;
        let Lane::Sleeve(lane) = lane;
        let session = self.sessions.get(&next_hop).ok_or(DropReason::NoTunnel)?;
        Ok(Hop { session, lane, to })
    }
}

/// What one thread counts. Others may read at any time.
#[derive(Default)]
pub struct Counters {
    drops: [AtomicU64; DropReason::ALL.len()],
    /// Frames taken from the TAP or out of datagrams, super-frames counted once.
    pub frames_in: AtomicU64,
    /// Writes to the TAP.
    pub frames_injected: AtomicU64,
    /// Datagrams received.
    pub datagrams_in: AtomicU64,
    /// Receive calls that gave datagrams; the kernel merges several into one where it can.
    pub receive_buffers: AtomicU64,
    /// Datagrams that came one by one although they came in trains.
    pub datagrams_unmerged: AtomicU64,
    /// Datagrams sent.
    pub datagrams_out: AtomicU64,
    /// UDP payload bytes received.
    pub bytes_in: AtomicU64,
    /// UDP payload bytes sent.
    pub bytes_out: AtomicU64,
}

impl Counters {
    /// Counts a drop, and logs it whenever its count is a power of two: floods stay readable.
    pub fn count(&self, reason: DropReason) {
        let total = self.drops[reason as usize].fetch_add(1, Relaxed) + 1;
        if total.is_power_of_two() {
            tracing::debug!(reason = reason.as_str(), total, "dropped");
        }
    }

    /// Drops for one reason so far.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason as usize].load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::{Kind, Lanes};
    use crate::protection::Protection;
    use crate::table::Neighbour;

    fn table(id: u64) -> Arc<ForwardingTable> {
        let remote = PeerName::from_u64(2);
        let lane = SleeveLane {
            protection: Protection::Clear,
            outbound: false,
            remote_address: None,
            mtu_bytes: 1438,
            max_payload_bytes: 1472,
            exceeds_kernel_mtu: false,
            stack_frag: false,
        };
        let neighbour = Neighbour {
            link: LinkId::outbound(id),
            remote,
            lanes: Lanes::from_iter([Lane::Sleeve(lane)]),
            chosen: Some(Kind::Sleeve),
        };
        let neighbours = [(remote, Arc::new(neighbour))].into();
        Arc::new(ForwardingTable {
            neighbours,
            ..ForwardingTable::default()
        })
    }

    #[test]
    fn tunnel_keeps_its_session_over_snapshots() {
        let mut compiler = Compiler::new();
        let remote = PeerName::from_u64(2);
        let first = compiler.compile(table(1));
        let second = compiler.compile(table(1));
        let session = |program: &Program| Arc::clone(program.session(remote).unwrap());
        assert!(Arc::ptr_eq(&session(&first), &session(&second)));
        let third = compiler.compile(table(9));
        assert!(!Arc::ptr_eq(&session(&first), &session(&third)));
    }

    /// F48: counters never start again under the same key.
    #[test]
    fn tunnel_that_was_removed_never_gets_a_second_session() {
        let mut compiler = Compiler::new();
        compiler.compile(table(1));
        compiler.compile(Arc::default());
        let program = compiler.compile(table(1));
        assert!(program.session(PeerName::from_u64(2)).is_none());
    }

    #[test]
    fn reasons_are_numbered_in_order() {
        for (index, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
        }
    }
}
