//! A forwarding snapshot made ready for the threads, and what they count.

use std::collections::HashMap;
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
    /// The neighbours of the newest table, each with its session once it needs one.
    sessions: HashMap<LinkId, Option<Arc<Session>>>,
    /// The highest serial number of a neighbour so far. One that is not above it and not live was
    /// removed before: a session made anew would repeat numbers under the same key.
    newest: u64,
}

impl Compiler {
    /// A compiler that has seen no table.
    pub fn new() -> Self {
        Self::default()
    }

    /// The next program. Sessions of tunnels that are gone end with the last thread to let go.
    pub fn compile(&mut self, table: Arc<ForwardingTable>) -> Program {
        let before = self.newest;
        let mut last = std::mem::take(&mut self.sessions);
        let mut sessions = HashMap::new();
        for (&remote, neighbour) in &table.neighbours {
            let mut session = match last.remove(&neighbour.link) {
                Some(session) => session,
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
                let session = session
                    .get_or_insert_with(|| Arc::new(Session::new(neighbour.link, remote, lane)));
                sessions.insert(remote, Arc::clone(session));
            }
            self.sessions.insert(neighbour.link, session);
        }
        Program { table, sessions }
    }

    /// The session of a live tunnel.
    pub fn session(&self, link: LinkId) -> Option<&Arc<Session>> {
        self.sessions.get(&link)?.as_ref()
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
        self.count_all(reason, 1);
    }

    /// Counts so many drops for one reason, and logs them whenever their count passes a power of two.
    pub fn count_all(&self, reason: DropReason, drops: u64) {
        let before = self.drops[reason as usize].fetch_add(drops, Relaxed);
        let total = before + drops;
        if total.checked_ilog2() != before.checked_ilog2() {
            tracing::debug!(reason = reason.as_str(), total, "dropped");
        }
    }

    /// Counts datagrams that the kernel took.
    pub fn sent(&self, datagrams: u64, bytes: usize) {
        self.datagrams_out.fetch_add(datagrams, Relaxed);
        self.bytes_out.fetch_add(bytes as u64, Relaxed);
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
        Arc::new(ForwardingTable {
            neighbours: [neighbour(2, id, id)].into(),
            ..ForwardingTable::default()
        })
    }

    fn neighbour(remote: u64, id: u64, serial: u64) -> (PeerName, Arc<Neighbour>) {
        let remote = PeerName::from_u64(remote);
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
            serial,
            remote,
            lanes: Lanes::from_iter([Lane::Sleeve(lane)]),
            chosen: Some(Kind::Sleeve),
        };
        (remote, Arc::new(neighbour))
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
    fn links_may_be_published_out_of_the_order_of_their_numbers() {
        let mut compiler = Compiler::new();
        let mut publish = |neighbours: &[(PeerName, Arc<Neighbour>)]| {
            let program = compiler.compile(Arc::new(ForwardingTable {
                neighbours: neighbours.iter().cloned().collect(),
                ..ForwardingTable::default()
            }));
            let has = |remote| program.session(PeerName::from_u64(remote)).is_some();
            [has(2), has(3), has(4)]
        };
        // The numbers of the links fall while those of their publication rise.
        let [nine, five, one] = [(2, 9, 1), (3, 5, 2), (4, 1, 3)]
            .map(|(remote, link, serial)| neighbour(remote, link, serial));
        assert_eq!(publish(std::slice::from_ref(&nine)), [true, false, false]);
        let both = [nine.clone(), five.clone()];
        assert_eq!(publish(&both), [true, true, false]);
        // One goes, one comes in the same step.
        assert_eq!(publish(&[nine.clone(), one.clone()]), [true, false, true]);
        assert_eq!(publish(&[nine, five, one]), [true, false, true]);
    }

    #[test]
    fn tunnel_that_needs_no_session_at_first_gets_one_later() {
        let mut compiler = Compiler::new();
        let (remote, with) = neighbour(2, 1, 1);
        let without = Arc::new(Neighbour {
            lanes: Lanes::default(),
            ..(*with).clone()
        });
        for (neighbour, has_session) in [(without, false), (with, true)] {
            let program = compiler.compile(Arc::new(ForwardingTable {
                neighbours: [(remote, neighbour)].into(),
                ..ForwardingTable::default()
            }));
            assert_eq!(program.session(remote).is_some(), has_session);
        }
    }

    #[test]
    fn reasons_are_numbered_in_order() {
        for (index, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
        }
    }
}
