//! Who gets the first shares: an election by gossip (spec/ipam.md 4.1).
//!
//! Each node keeps what every node promised and accepted, and tells all of it to everybody. A node
//! that is elected by nobody, an observer, has no [`Paxos`]. Whoever owns one makes our own claims
//! ([`Paxos::ours`]) durable before they are sent, together with our [`NodeId`]: restored they keep
//! every promise, so a restart changes nothing.
//!
//! The original takes a value for chosen when a quorum accepted it in whatever ballots. That is not
//! enough: a later ballot may see none of those votes but the lower one of two that disagree. Here
//! a value is chosen when a quorum accepted it in the same ballot.

use std::collections::BTreeMap;

use wire::PeerName;
use wire::ipam::{AcceptedValue, NODES_MAX, NodeClaims, NodeId, ProposalId};

/// Highest round that is believed. Nobody gets there by proposing; a claim above it is ignored, so
/// that nobody can make the next round impossible.
pub const ROUND_MAX: u64 = 1 << 48;

/// One node's view of the election.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Paxos {
    us: NodeId,
    quorum: usize,
    /// Claims by node; ours are among them once we made any.
    claims: BTreeMap<NodeId, NodeClaims>,
}

impl Paxos {
    /// A node that has neither promised nor accepted anything. `quorum` is at least 1.
    pub fn new(us: NodeId, quorum: usize) -> Self {
        Self::restore(us, quorum, BTreeMap::new())
    }

    /// A node that goes on where it stopped: `saved` holds its own claims at least.
    pub fn restore(us: NodeId, quorum: usize, saved: BTreeMap<NodeId, NodeClaims>) -> Self {
        assert!(quorum > 0, "an election needs a vote");
        Self {
            us,
            quorum,
            claims: saved,
        }
    }

    /// Who we are in this election.
    pub const fn node(&self) -> NodeId {
        self.us
    }

    /// Votes needed.
    pub const fn quorum(&self) -> usize {
        self.quorum
    }

    /// Sets the votes needed, at least 1; all nodes must be told the same.
    pub fn set_quorum(&mut self, quorum: usize) {
        assert!(quorum > 0, "an election needs a vote");
        self.quorum = quorum;
    }

    /// Nodes heard of, us included once we made a claim.
    pub fn known_nodes(&self) -> usize {
        self.claims.len()
    }

    /// What is told to others.
    pub const fn gossip_state(&self) -> &BTreeMap<NodeId, NodeClaims> {
        &self.claims
    }

    /// Our own claims, which are to be durable before they are sent.
    pub fn ours(&self) -> Option<&NodeClaims> {
        self.claims.get(&self.us)
    }

    /// Learns what others say was promised and accepted; returns whether anything was new.
    pub fn update(&mut self, received: &BTreeMap<NodeId, NodeClaims>) -> bool {
        let mut learnt = false;
        for (node, theirs) in received {
            if [
                theirs.promise,
                theirs.accepted,
                theirs.accepted_value.origin,
            ]
            .iter()
            .any(|proposal| proposal.round > ROUND_MAX)
            {
                continue;
            }
            let is_full = self.claims.len() >= NODES_MAX;
            let Some(known) = self.claims.get_mut(node) else {
                if !is_full {
                    self.claims.insert(*node, theirs.clone());
                    learnt = true;
                }
                continue;
            };
            if known.promise < theirs.promise {
                known.promise = theirs.promise;
                learnt = true;
            }
            if known.accepted < theirs.accepted {
                known.accepted = theirs.accepted;
                known.accepted_value = theirs.accepted_value.clone();
                learnt = true;
            }
        }
        learnt
    }

    /// Calls a ballot above all we know of, and votes if our vote alone decides. Does nothing when
    /// there is no such ballot, which only hostile claims can bring about.
    pub fn propose(&mut self) {
        let highest = self
            .claims
            .values()
            .map(|claims| claims.promise.round.max(claims.accepted.round));
        let round = highest.max().unwrap_or(0) + 1;
        if round > ROUND_MAX {
            return;
        }
        let ballot = ProposalId {
            round,
            proposer: self.us,
        };
        self.claims.entry(self.us).or_default().promise = ballot;
        if self.quorum == 1 {
            self.think();
        }
    }

    /// Promises and accepts what can be; returns whether our own claims changed.
    pub fn think(&mut self) -> bool {
        let before = self.ours().cloned().unwrap_or_default();
        let mut ours = before.clone();
        let highest = self.claims.values().map(|claims| claims.promise).max();
        ours.promise = ours.promise.max(highest.unwrap_or_default());
        if ours.promise.is_some() && ours.accepted != ours.promise {
            let accepted = if ours.promise.proposer == self.us {
                self.value_to_propose(&ours)
            } else {
                let mut nodes = self.claims.values();
                let voted = nodes.find(|claims| claims.accepted == ours.promise);
                voted.map(|claims| claims.accepted_value.clone())
            };
            if let Some(value) = accepted {
                ours.accepted = ours.promise;
                ours.accepted_value = value;
            }
        }
        if ours == before {
            return false;
        }
        self.claims.insert(self.us, ours);
        true
    }

    /// What to vote for in our own ballot, which `ours` promises, once a quorum promised it.
    fn value_to_propose(&self, ours: &NodeClaims) -> Option<AcceptedValue> {
        let ballot = ours.promise;
        let promised = || {
            self.claims
                .values()
                .filter(|claims| claims.promise == ballot)
        };
        if promised().count() < self.quorum {
            return None;
        }
        let highest = promised()
            .filter(|claims| claims.accepted.is_some())
            .max_by_key(|claims| claims.accepted);
        Some(highest.map_or_else(
            || AcceptedValue {
                value: self.claims.keys().map(|node| node.name).collect(),
                origin: ballot,
            },
            |claims| claims.accepted_value.clone(),
        ))
    }

    /// The peers among which the ring is to be divided, sorted and each once; `None` while nothing
    /// is chosen.
    pub fn consensus(&self) -> Option<Vec<PeerName>> {
        let mut votes: BTreeMap<(ProposalId, &AcceptedValue), usize> = BTreeMap::new();
        let voters = self
            .claims
            .values()
            .filter(|claims| claims.accepted.is_some());
        for claims in voters {
            let vote = (claims.accepted, &claims.accepted_value);
            *votes.entry(vote).or_default() += 1;
        }
        let mut votes = votes.into_iter();
        let ((_, chosen), _) = votes.find(|(_, count)| *count >= self.quorum)?;
        let mut peers = chosen.value.clone();
        peers.sort_unstable();
        peers.dedup();
        (!peers.is_empty()).then_some(peers)
    }
}

#[cfg(test)]
mod tests;
