//! The allocator itself: ties ring, space and election together and serves requests.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use wire::PeerName;

use crate::address::Cidr;
use crate::rows::RestoreError;
use crate::status::IpamStatus;
use crate::{ContainerEvent, Delivery, IpamConfig, IpamOutput, Request, Ticket};

/// One peer's address allocator (spec/ipam.md).
///
/// Neither advances time nor touches the network on its own. Call any `handle_*`, then take
/// everything from `poll_output` **in order** and carry it out, then wait until `poll_timeout` at
/// most and call `handle_timeout`. An `IpamOutput::Persist` must be durable before what comes
/// behind it is done.
#[derive(Debug)]
pub struct Ipam {
    config: IpamConfig,
    outputs: VecDeque<IpamOutput>,
}

impl Ipam {
    /// An allocator over what was stored: all rows whose name begins with `ipam/`, or none. The
    /// seed feeds every random choice.
    pub fn new(
        config: IpamConfig,
        rows: Vec<(String, Vec<u8>)>,
        seed: [u8; 32],
        now: Instant,
    ) -> Result<Self, RestoreError> {
        let _ = (rows, seed, now);
        Ok(Self {
            config,
            outputs: VecDeque::new(),
        })
    }

    /// A request. Answered by exactly one `IpamOutput::Answer` with its ticket.
    pub fn handle_request(&mut self, ticket: Ticket, request: Request, now: Instant) {
        let _ = (ticket, request, now);
    }

    /// The caller of a request is gone. Its answer is `Answer::Cancelled`, unless it was answered
    /// already.
    pub fn handle_cancel(&mut self, ticket: Ticket, now: Instant) {
        let _ = (ticket, now);
    }

    /// Gossip of [`crate::CHANNEL`]: for a unicast kind byte and payload, else a gossip state.
    /// Hostile bytes change nothing.
    pub fn handle_gossip(&mut self, delivery: Delivery, payload: &[u8], now: Instant) {
        let _ = (delivery, payload, now);
    }

    /// Gossip of [`crate::WEFT_CHANNEL`], unicast or broadcast.
    pub fn handle_weft(&mut self, from: PeerName, payload: &[u8], now: Instant) {
        let _ = (from, payload, now);
    }

    /// Everybody the mesh can reach, with nicknames; we are among them. To be told at start and at
    /// each change.
    pub fn handle_peers(&mut self, known: BTreeMap<PeerName, String>, now: Instant) {
        let _ = (known, now);
    }

    /// How many addresses we were told to connect to and do not refuse to retry.
    pub fn handle_targets(&mut self, active: usize) {
        let _ = active;
    }

    /// Something happened to a container.
    pub fn handle_container(&mut self, ident: &str, event: ContainerEvent, now: Instant) {
        let _ = (ident, event, now);
    }

    /// At start: the containers that run. What is kept for others is released.
    pub fn handle_running(&mut self, containers: BTreeSet<String>, now: Instant) {
        let _ = (containers, now);
    }

    /// While two machines claim our name, the text that says so: nothing new is given out or
    /// donated, and requests are refused with it. `None` when that is over.
    pub fn handle_clone(&mut self, text: Option<String>, now: Instant) {
        let _ = (text, now);
    }

    /// An `IpamOutput::Unicast` could not be sent, and why.
    pub fn handle_unicast_failed(&mut self, to: PeerName, error: &str, now: Instant) {
        let _ = (to, error, now);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        let _ = now;
    }

    /// When `handle_timeout` must be called next, if nothing else happens.
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<IpamOutput> {
        self.outputs.pop_front()
    }

    /// What we say periodically and in broadcasts on [`crate::CHANNEL`]. Take all outputs first:
    /// it tells only what is durable by then.
    pub fn gossip_state(&self) -> Option<Vec<u8>> {
        None
    }

    /// What an operator sees.
    pub fn status(&self) -> IpamStatus {
        IpamStatus {
            summary: "idle".to_owned(),
            universe: self.config.universe,
            default_subnet: self.config.default_subnet,
            active: 0,
            entries: None,
            owners: Vec::new(),
            election: None,
            pending_claims: Vec::new(),
            pending_allocates: Vec::new(),
            contested: Vec::new(),
            unconfirmed: Vec::new(),
            displaced: Vec::new(),
        }
    }

    /// What an identifier holds.
    pub fn owned(&self, ident: &str) -> Vec<Cidr> {
        let _ = ident;
        Vec::new()
    }

    /// Panics if our books contradict each other.
    pub fn assert_invariants(&self) {}
}
