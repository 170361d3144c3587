//! Address allocation: its formats, and an allocator that hears anything in any order.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use arbitrary::{Result, Unstructured};
use ipam::address::Subnet;
use ipam::{
    Allocate, Claim, ContainerEvent, Delete, Free, Init, Ipam, IpamConfig, IpamOutput, Lookup,
    Patience, Request, TakeOver, Ticket,
};
use wire::PeerName;
use wire::ipam::{
    AcceptedValue, Entry, GossipState, NodeClaims, NodeId, ProposalId, Range, Ring, Unicast,
    decode_state, encode_state, stored,
};
use wire::message::Delivery;

use crate::shell::base;

/// Everything that is managed: few addresses, so that histories contradict themselves.
const BASE: u32 = 0x0a20_0000;
const PREFIX_LEN: u8 = 27;
/// Peers gossip is about; the first is us.
const PEERS: u64 = 4;
/// Things that happen in one input.
const STEPS_MAX: usize = 60;
/// Outputs of one event.
const OUTPUTS_MAX: usize = 1000;

/// What decodes survives being encoded again. An allocator that hears anything keeps its books,
/// answers each request once, says only what can be read, and takes up its own rows.
pub fn run(bytes: &[u8]) {
    formats(bytes);
    formats(bytes.get(1..).unwrap_or(&[]));
    let mut input = Unstructured::new(bytes);
    let Ok(flags) = input.arbitrary() else { return };
    let mut scene = Scene::new(flags);
    for _ in 0..STEPS_MAX {
        if input.is_empty() || scene.step(&mut input).is_err() {
            break;
        }
        scene.drain();
    }
    scene.restart();
}

fn formats(bytes: &[u8]) {
    if let Ok(state) = decode_state(bytes) {
        assert_eq!(decode_state(&encode_state(&state)), Ok(state));
    }
    if let Ok(unicast) = Unicast::decode(bytes) {
        assert_eq!(Unicast::decode(&unicast.encode()), Ok(unicast));
    }
    let _ = stored::decode_peer_name(bytes);
    let _ = stored::decode_ring(bytes);
    let _ = stored::decode_owned(bytes);
    let _ = stored::decode_direct_peers(bytes);
}

const fn name(n: u64) -> PeerName {
    PeerName::from_u64(0x0200_0000_0a01 + n)
}

fn any_name(input: &mut Unstructured<'_>) -> Result<PeerName> {
    input.int_in_range(0..=PEERS).map(name)
}

fn any_ident(input: &mut Unstructured<'_>) -> Result<String> {
    Ok(["_", "a", "b", "c", "weave:expose"][input.choose_index(5)?].to_owned())
}

/// An address in the universe or next to it.
fn any_address(input: &mut Unstructured<'_>) -> Result<u32> {
    Ok(BASE - 2 + input.int_in_range(0..=36_u32)?)
}

fn universe() -> Subnet {
    Subnet::new(BASE, PREFIX_LEN).expect("a subnet")
}

struct Scene {
    ipam: Ipam,
    config: IpamConfig,
    rows: std::collections::BTreeMap<String, Vec<u8>>,
    now: Instant,
    tickets: u64,
    waiting: BTreeSet<Ticket>,
}

impl Scene {
    fn new(flags: u8) -> Self {
        let init = match flags % 4 {
            0 => Init::Seed((0..3).map(name).collect()),
            1 => Init::Consensus(Some(1)),
            2 => Init::Consensus(None),
            _ => Init::Observer,
        };
        let config = IpamConfig {
            name: name(0),
            nickname: "us".to_owned(),
            uid: 7,
            universe: universe(),
            default_subnet: universe(),
            init,
            reclaim_after: (flags & 4 != 0).then_some(Duration::from_secs(60)),
        };
        let now = base();
        let ipam = Ipam::new(config.clone(), Vec::new(), [flags; 32], now);
        let mut scene = Self {
            ipam: ipam.expect("nothing was stored"),
            config,
            rows: std::collections::BTreeMap::new(),
            now,
            tickets: 0,
            waiting: BTreeSet::new(),
        };
        scene.ipam.handle_targets(2);
        scene.drain();
        scene
    }

    fn step(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let now = self.now;
        match input.int_in_range(0..=9_u8)? {
            0..=2 => {
                let request = any_request(input)?;
                let ticket = Ticket(self.tickets);
                self.tickets += 1;
                self.waiting.insert(ticket);
                self.ipam.handle_request(ticket, request, now);
            }
            3 | 4 => {
                let from = any_name(input)?;
                let state = any_state(input)?;
                let (delivery, payload) = match input.int_in_range(0..=2_u8)? {
                    0 => (Delivery::Neighbour(from), encode_state(&state)),
                    1 => (Delivery::Broadcast(from), encode_state(&state)),
                    _ => (Delivery::Unicast(from), Unicast::RingUpdate(state).encode()),
                };
                self.ipam.handle_gossip(delivery, &payload, now);
            }
            5 => {
                let from = any_name(input)?;
                let range = Range {
                    start: any_address(input)?,
                    end: any_address(input)?,
                };
                let unicast = if input.arbitrary()? {
                    Unicast::SpaceRequest(range)
                } else {
                    Unicast::Denied(range)
                };
                let payload = unicast.encode();
                self.ipam
                    .handle_gossip(Delivery::Unicast(from), &payload, now);
            }
            6 => {
                let from = any_name(input)?;
                let length = input.int_in_range(0..=64_usize)?.min(input.len());
                let payload = input.bytes(length)?;
                self.ipam
                    .handle_gossip(Delivery::Unicast(from), payload, now);
                self.ipam
                    .handle_gossip(Delivery::Broadcast(from), payload, now);
                self.ipam.handle_weft(from, payload, now);
            }
            7 => self.mesh(input)?,
            8 => {
                let event = [
                    ContainerEvent::Started,
                    ContainerEvent::Died,
                    ContainerEvent::Destroyed,
                ][input.choose_index(3)?];
                self.ipam.handle_container(&any_ident(input)?, event, now);
            }
            _ => {
                self.now += Duration::from_millis(input.int_in_range(0..=20_000_u64)?);
                self.ipam.handle_timeout(self.now);
            }
        }
        Ok(())
    }

    fn mesh(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let now = self.now;
        match input.int_in_range(0..=3_u8)? {
            0 => self
                .ipam
                .handle_unicast_failed(any_name(input)?, "no route", now),
            1 => {
                let text = input.arbitrary::<bool>()?.then(|| "two of us".to_owned());
                self.ipam.handle_clone(text, now);
            }
            2 => {
                let ticket = Ticket(input.int_in_range(0..=self.tickets)?);
                self.ipam.handle_cancel(ticket, now);
            }
            _ => {
                let mask: u8 = input.arbitrary()?;
                let known = (0..PEERS).filter(|n| *n == 0 || mask & (1 << n) != 0);
                let known = known.map(|n| (name(n), format!("host{n}"))).collect();
                self.ipam.handle_peers(known, now);
            }
        }
        Ok(())
    }

    /// Carries out what the allocator wants, and holds it to its contract.
    fn drain(&mut self) {
        let mut outputs = 0;
        while let Some(output) = self.ipam.poll_output() {
            outputs += 1;
            assert!(outputs < OUTPUTS_MAX, "an event has no end");
            match output {
                IpamOutput::Persist(changes) => {
                    for change in changes {
                        match change.value {
                            Some(value) => self.rows.insert(change.name, value),
                            None => self.rows.remove(&change.name),
                        };
                    }
                }
                IpamOutput::Unicast { to, payload } => {
                    assert_ne!(to, self.config.name, "we send nothing to ourselves");
                    let unicast = Unicast::decode(&payload).expect("our own message");
                    assert!(!matches!(unicast, Unicast::Unknown(_)));
                }
                IpamOutput::Broadcast => {
                    if let Some(payload) = self.ipam.gossip_state() {
                        decode_state(&payload).expect("our own state");
                    }
                }
                IpamOutput::Answer { ticket, .. } => {
                    assert!(self.waiting.remove(&ticket), "{ticket:?} is answered twice");
                }
                IpamOutput::WeftUnicast { .. }
                | IpamOutput::WeftBroadcast(_)
                | IpamOutput::RangesChanged(_) => {}
            }
        }
        self.ipam.assert_invariants();
        drop(self.ipam.status());
    }

    /// What was stored is taken up as it was.
    fn restart(&mut self) {
        let rows = self.rows.clone().into_iter().collect();
        let ipam = Ipam::new(self.config.clone(), rows, [0; 32], self.now);
        self.ipam = ipam.expect("its own rows");
        self.waiting.clear();
        self.drain();
    }
}

fn any_request(input: &mut Unstructured<'_>) -> Result<Request> {
    let patience = if input.arbitrary()? {
        Patience::Short
    } else {
        Patience::Forever
    };
    let ident = any_ident(input)?;
    let subnet = input.arbitrary::<bool>()?.then(|| {
        let subnet = Subnet::new(BASE + 16, 28);
        subnet.expect("a subnet")
    });
    Ok(match input.int_in_range(0..=9_u8)? {
        0..=3 => Request::Allocate(Allocate {
            ident,
            subnet,
            is_container: input.arbitrary()?,
            patience,
        }),
        4 | 5 => Request::Claim(Claim {
            ident,
            cidr: universe().cidr(any_address(input)?),
            is_container: input.arbitrary()?,
            no_error_on_unknown: input.arbitrary()?,
            patience,
        }),
        6 => Request::Delete(Delete { ident }),
        7 => Request::Free(Free {
            ident,
            address: any_address(input)?.into(),
        }),
        8 => Request::Prime(patience),
        _ => match input.int_in_range(0..=7_u8)? {
            0 => Request::Leave,
            1 | 2 => Request::TakeOver(TakeOver {
                peer: any_name(input)?.to_string(),
            }),
            3 => Request::List,
            _ => Request::Lookup(Lookup { ident, subnet }),
        },
    })
}

fn any_state(input: &mut Unstructured<'_>) -> Result<GossipState> {
    let mut state = GossipState::default();
    if input.ratio(1, 3)? {
        let mut claims = std::collections::BTreeMap::new();
        for _ in 0..input.int_in_range(0..=3_u8)? {
            let accepted = any_proposal(input)?;
            let accepted_value = AcceptedValue {
                value: vec![any_name(input)?, any_name(input)?],
                origin: any_proposal(input)?,
            };
            let of_node = NodeClaims {
                promise: any_proposal(input)?,
                accepted,
                accepted_value,
            };
            claims.insert(any_node(input)?, of_node);
        }
        state.paxos = Some(claims);
    } else {
        state.ring = Some(any_ring(input)?);
    }
    Ok(state)
}

fn any_node(input: &mut Unstructured<'_>) -> Result<NodeId> {
    Ok(NodeId {
        name: any_name(input)?,
        uid: input.int_in_range(6..=8_u64)?,
    })
}

fn any_proposal(input: &mut Unstructured<'_>) -> Result<ProposalId> {
    Ok(ProposalId {
        round: input.int_in_range(0..=3_u64)?,
        proposer: any_node(input)?,
    })
}

/// A ring that mostly makes sense.
fn any_ring(input: &mut Unstructured<'_>) -> Result<Ring> {
    let range = universe().range();
    let mut tokens = BTreeSet::new();
    for _ in 0..input.int_in_range(1..=5_u8)? {
        tokens.insert(BASE + input.int_in_range(0..=31_u32)?);
    }
    if input.ratio(3, 4)? {
        tokens.insert(BASE);
    }
    let tokens: Vec<u32> = tokens.into_iter().collect();
    let mut entries = Vec::new();
    for (at, &token) in tokens.iter().enumerate() {
        let size = tokens
            .get(at + 1)
            .map_or(range.end - token, |next| next - token);
        entries.push(Entry {
            token,
            peer: any_name(input)?,
            version: input.int_in_range(0..=120_u32)?,
            free: input.int_in_range(0..=size)?,
        });
    }
    let seeds = input.int_in_range(0..=3_u64)?;
    Ok(Ring {
        start: range.start,
        end: range.end,
        peer: any_name(input)?,
        entries,
        seeds: (0..seeds).map(name).collect(),
    })
}
