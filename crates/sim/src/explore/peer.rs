//! One peer of a state: its allocator, its rows and its clock.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::fmt::Write;
use std::hash::{Hash, Hasher};
use std::net::Ipv4Addr;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use ipam::rows::RowWrite;
use ipam::{
    Allocate, Claim, Delete, Ipam, IpamConfig, IpamOutput, Outcome, Patience, Request, TakeOver,
    Ticket,
};

use super::scene::{PEERS, Scene, Wish, name, number, universe};
use super::world::{Kind, Message, Printed};

/// Virtual time zero.
static BASE: LazyLock<Instant> = LazyLock::new(crate::explore::an_instant);

/// What leaves a peer.
#[derive(Debug)]
pub enum Sent {
    /// To one peer, or to all it reaches.
    Message {
        /// Whom.
        to: Option<usize>,
        /// How.
        kind: Kind,
        /// What.
        payload: Vec<u8>,
    },
    /// To who asked.
    Answer {
        /// For what.
        wish: usize,
        /// How it ended.
        outcome: Outcome,
    },
}

/// One peer.
#[derive(Debug)]
pub struct Peer {
    /// Its number.
    pub number: usize,
    /// Unless it is gone for good.
    pub ipam: Option<Ipam>,
    /// What is durable.
    pub rows: BTreeMap<String, Vec<u8>>,
    /// How often it was restarted.
    pub runs: u8,
    /// Its clock.
    pub now: Duration,
    /// Timers that may still fire.
    pub timers: u8,
    /// Of everything above, once somebody wanted to know.
    digest: OnceCell<u64>,
}

impl Clone for Peer {
    fn clone(&self) -> Self {
        self.fork(0)
    }
}

type Out<'a> = &'a mut Vec<(usize, Sent)>;

impl Peer {
    /// Starts from rows.
    pub fn start(
        scene: &Scene,
        number: usize,
        rows: BTreeMap<String, Vec<u8>>,
        runs: u8,
        now: Duration,
        sight: &[usize],
        out: Out<'_>,
    ) -> Result<Self, String> {
        let config = IpamConfig {
            name: name(number),
            nickname: format!("host{number}"),
            uid: number as u64 * 100 + u64::from(runs),
            universe: universe(),
            default_subnet: universe(),
            init: scene.inits[number].clone(),
            reclaim_after: None,
        };
        let stored = rows.clone().into_iter().collect();
        let mut ipam =
            Ipam::new(config, stored, [0; 32], *BASE + now).map_err(|e| e.to_string())?;
        ipam.handle_targets(PEERS - 1);
        let mut peer = Self {
            number,
            ipam: Some(ipam),
            rows,
            runs,
            now,
            timers: scene.timers,
            digest: OnceCell::new(),
        };
        peer.drain(out)?;
        peer.sight(sight, out)?;
        Ok(peer)
    }

    /// A copy that makes the random choices of this number.
    pub fn fork(&self, choice: u8) -> Self {
        Self {
            number: self.number,
            ipam: self.ipam.as_ref().map(|ipam| ipam.fork([choice; 32])),
            rows: self.rows.clone(),
            runs: self.runs,
            now: self.now,
            timers: self.timers,
            digest: OnceCell::new(),
        }
    }

    /// Whether it is gone for good.
    pub const fn is_gone(&self) -> bool {
        self.ipam.is_none()
    }

    /// Is gone for good from now on.
    pub fn perish(&mut self) {
        self.ipam = None;
        self.rows.clear();
    }

    /// A message arrives.
    pub fn hear(&mut self, message: &Message, out: Out<'_>) -> Result<(), String> {
        self.tell(out, |ipam, now| match message.delivery() {
            Some(delivery) => ipam.handle_gossip(delivery, &message.payload, now),
            None => ipam.handle_weft(name(message.from), &message.payload, now),
        })
    }

    /// It is asked for a wish.
    pub fn ask(&mut self, scene: &Scene, wish: usize, out: Out<'_>) -> Result<(), String> {
        let patience = Patience::Forever;
        let request = match scene.wishes[wish] {
            Wish::Allocate { .. } => Request::Allocate(Allocate {
                ident: ident(wish),
                subnet: None,
                is_container: true,
                patience,
            }),
            Wish::Claim { host, .. } => Request::Claim(Claim {
                ident: ident(wish),
                cidr: universe().cidr(universe().base() + host),
                is_container: true,
                no_error_on_unknown: false,
                patience,
            }),
            Wish::Free { wish } => Request::Delete(Delete { ident: ident(wish) }),
            Wish::Leave { .. } => Request::Leave,
            Wish::TakeOver { of, .. } => Request::TakeOver(TakeOver {
                peer: name(of).to_string(),
            }),
            Wish::Perish { .. } => return Err("nobody asks a peer to perish".to_owned()),
        };
        self.tell(out, |ipam, now| {
            ipam.handle_request(Ticket(wish as u64), request, now)
        })
    }

    /// It is asked for any address, with a ticket no wish has.
    pub fn probe(&mut self, out: Out<'_>) -> Result<(), String> {
        let request = Request::Allocate(Allocate {
            ident: format!("probe{}", self.number),
            subnet: None,
            is_container: false,
            patience: Patience::Forever,
        });
        self.tell(out, |ipam, now| {
            ipam.handle_request(Ticket(u64::MAX), request, now)
        })
    }

    /// Its next timer fires, and its periodic gossip is due.
    pub fn timer(&mut self, out: Out<'_>) -> Result<(), String> {
        self.timers = self.timers.saturating_sub(1);
        if let Some(at) = self.ipam.as_ref().and_then(Ipam::poll_timeout) {
            self.now = self.now.max(at.saturating_duration_since(*BASE));
            self.tell(out, Ipam::handle_timeout)?;
        }
        if let Some(payload) = self.state() {
            let gossip = Sent::Message {
                to: None,
                kind: Kind::Neighbour,
                payload,
            };
            out.push((self.number, gossip));
        }
        Ok(())
    }

    /// The mesh reaches these.
    pub fn sight(&mut self, sight: &[usize], out: Out<'_>) -> Result<(), String> {
        let known = sight
            .iter()
            .map(|&peer| (name(peer), format!("host{peer}")))
            .collect();
        self.tell(out, |ipam, now| ipam.handle_peers(known, now))
    }

    /// Something could not be sent.
    pub fn unicast_failed(&mut self, to: usize, out: Out<'_>) -> Result<(), String> {
        self.tell(out, |ipam, now| {
            ipam.handle_unicast_failed(name(to), "out of sight", now)
        })
    }

    /// What it gossips.
    pub fn state(&self) -> Option<Vec<u8>> {
        self.ipam.as_ref().and_then(Ipam::gossip_state)
    }

    /// Addresses held by somebody here, as the rows say, with the rows.
    pub fn held(&self) -> Result<BTreeMap<Ipv4Addr, String>, String> {
        let rows = self.rows.iter().filter_map(|(name, value)| {
            let cidr = name.strip_prefix("ipam/owned/")?;
            let address = cidr.split('/').next()?.parse().ok()?;
            Some((address, String::from_utf8_lossy(value).into_owned()))
        });
        let held: BTreeMap<_, _> = rows.collect();
        let rows = self
            .rows
            .keys()
            .filter(|name| name.starts_with("ipam/owned/"));
        if rows.count() == held.len() {
            Ok(held)
        } else {
            Err(format!("cannot read the rows of peer {}", self.number))
        }
    }

    /// The same for peers that cannot be told apart by what they do next.
    pub fn digest(&self) -> u64 {
        *self.digest.get_or_init(|| {
            let mut printed = Printed(DefaultHasher::new());
            let text = write!(printed, "{:?} {:?} {}", self.ipam, self.now, self.timers);
            text.expect("hashing does not fail");
            self.rows.hash(&mut printed.0);
            printed.0.finish()
        })
    }

    fn tell(&mut self, out: Out<'_>, act: impl FnOnce(&mut Ipam, Instant)) -> Result<(), String> {
        let Some(ipam) = &mut self.ipam else {
            return Ok(());
        };
        act(ipam, *BASE + self.now);
        ipam.assert_invariants();
        self.drain(out)
    }

    /// Takes what the allocator wants done.
    fn drain(&mut self, out: Out<'_>) -> Result<(), String> {
        let Some(ipam) = &mut self.ipam else {
            return Ok(());
        };
        let mut done = 0;
        while let Some(output) = ipam.poll_output() {
            done += 1;
            if done > 1000 {
                return Err("an allocator does not end".to_owned());
            }
            let sent = match output {
                IpamOutput::Persist(changes) => {
                    for RowWrite { name, value } in changes {
                        match value {
                            Some(value) => self.rows.insert(name, value),
                            None => self.rows.remove(&name),
                        };
                    }
                    continue;
                }
                IpamOutput::RangesChanged(_) => continue,
                IpamOutput::Unicast { to, payload } => Sent::Message {
                    to: Some(number(to)),
                    kind: Kind::Unicast,
                    payload,
                },
                IpamOutput::WeftUnicast { to, payload } => Sent::Message {
                    to: Some(number(to)),
                    kind: Kind::Weft,
                    payload,
                },
                IpamOutput::Broadcast => {
                    let Some(payload) = ipam.gossip_state() else {
                        continue;
                    };
                    Sent::Message {
                        to: None,
                        kind: Kind::Broadcast,
                        payload,
                    }
                }
                IpamOutput::WeftBroadcast(payload) => Sent::Message {
                    to: None,
                    kind: Kind::Weft,
                    payload,
                },
                IpamOutput::Answer {
                    ticket: Ticket(wish),
                    outcome,
                } => Sent::Answer {
                    wish: usize::try_from(wish).unwrap_or(usize::MAX),
                    outcome,
                },
            };
            out.push((self.number, sent));
        }
        Ok(())
    }
}

/// Who holds what a wish gets.
pub fn ident(wish: usize) -> String {
    format!("wish{wish}")
}
