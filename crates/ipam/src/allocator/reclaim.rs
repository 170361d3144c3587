//! Ranges of peers that are gone for good, taken back by vote (`--reclaim-after`).
//!
//! An owner the mesh has not reached for the time configured is a *victim*. The first by name of
//! those in reach calls a ballot on who shall be its heir: one decree of Paxos per victim. A peer
//! promises and accepts only if it, too, has missed the victim for that long, and makes that durable
//! before it says so. A ballot counts when **every** peer in reach has answered yes, and they are more
//! than half of those who owned something or had been in reach lately when the victim went. So two parts of a
//! cluster never both decide, and nobody decides while a peer is in reach that does not vote, as no
//! original does. The heir then does what `rmpeer` does.
//!
//! What no vote can know is what containers of a victim that is cut off, not dead, go on using.

mod message;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tracing::{debug, info};
use wire::PeerName;

use super::Ipam;
use super::store::damaged;
use crate::IpamOutput;
use crate::rows::RestoreError;
use message::{Ballot, Body, Message};

/// Most victims at a time.
const VICTIMS_MAX: usize = 1024;
/// For how long a peer that is out of reach still counts among those of whom more than half must
/// agree. Longer than a mesh takes to miss everybody behind a cut, so both sides count both sides.
const MEMBER_MEMORY: Duration = Duration::from_secs(3600);
/// Most peers counted.
const MEMBERS_MAX: usize = 16 * 1024;

/// A peer that owns something and is out of reach.
#[derive(Debug, Clone)]
struct Absence {
    since: Instant,
    /// Who owned something when it went, or had been in reach lately: more than half of them must
    /// agree.
    members: BTreeSet<PeerName>,
}

/// What we promised and accepted about one victim.
#[derive(Debug, Clone, Default)]
struct Vote {
    /// How often it was decided about before.
    epoch: u32,
    promised: Ballot,
    accepted: Option<(Ballot, PeerName)>,
    /// Whether this epoch's heir is chosen.
    is_decided: bool,
}

/// A ballot of ours.
#[derive(Debug, Clone, Default)]
struct Campaign {
    epoch: u32,
    round: u64,
    promises: BTreeMap<PeerName, Option<(Ballot, PeerName)>>,
    heir: Option<PeerName>,
    accepted: BTreeSet<PeerName>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Reclaim {
    absences: BTreeMap<PeerName, Absence>,
    /// When each peer was last in reach.
    seen: BTreeMap<PeerName, Instant>,
    votes: BTreeMap<PeerName, Vote>,
    campaigns: BTreeMap<PeerName, Campaign>,
    is_dirty: bool,
}

#[derive(Serialize, Deserialize)]
struct VoteRow {
    victim: String,
    epoch: u32,
    round: u64,
    proposer: String,
    accepted: Option<AcceptedRow>,
    is_decided: bool,
}

#[derive(Serialize, Deserialize)]
struct AcceptedRow {
    round: u64,
    proposer: String,
    heir: String,
}

impl Reclaim {
    /// Takes up what was stored.
    pub(super) fn restore(&mut self, json: &[u8]) -> Result<(), RestoreError> {
        let row = "ipam/votes";
        let name = |text: &str| text.parse().map_err(|error| damaged(row, error));
        let rows: Vec<VoteRow> =
            serde_json::from_slice(json).map_err(|error| damaged(row, error))?;
        for vote in rows {
            let promised = Ballot {
                round: vote.round,
                proposer: name(&vote.proposer)?,
            };
            let accepted = match vote.accepted {
                None => None,
                Some(row) => {
                    let (round, proposer) = (row.round, name(&row.proposer)?);
                    Some((Ballot { round, proposer }, name(&row.heir)?))
                }
            };
            let vote_of = Vote {
                epoch: vote.epoch,
                promised,
                accepted,
                is_decided: vote.is_decided,
            };
            self.votes.insert(name(&vote.victim)?, vote_of);
        }
        Ok(())
    }

    /// What must survive a restart, if it changed since the last call.
    pub(super) fn take_changed(&mut self) -> Option<Option<Vec<u8>>> {
        if !std::mem::take(&mut self.is_dirty) {
            return None;
        }
        let rows = self.votes.iter().map(|(victim, vote)| VoteRow {
            victim: victim.to_string(),
            epoch: vote.epoch,
            round: vote.promised.round,
            proposer: vote.promised.proposer.to_string(),
            accepted: vote.accepted.map(|(ballot, heir)| AcceptedRow {
                round: ballot.round,
                proposer: ballot.proposer.to_string(),
                heir: heir.to_string(),
            }),
            is_decided: vote.is_decided,
        });
        let rows: Vec<VoteRow> = rows.collect();
        let json = || serde_json::to_vec(&rows).expect("rows have no floats and no maps");
        Some((!rows.is_empty()).then(json))
    }
}

impl Ipam {
    /// Notes who is out of reach, and since when.
    pub(super) fn note_absences(&mut self, now: Instant) {
        if self.config.reclaim_after.is_none() {
            return;
        }
        let (known, reclaim) = (&self.mesh.known, &mut self.reclaim);
        let owners = self.ring.owners();
        reclaim
            .absences
            .retain(|peer, _| owners.contains(peer) && !known.contains(peer));
        reclaim.campaigns.retain(|peer, _| !known.contains(peer));
        for (_, vote) in reclaim.votes.iter_mut().filter(|(p, _)| known.contains(p)) {
            // It is back: should it go again, that is another matter.
            if vote.is_decided {
                let epoch = vote.epoch.saturating_add(1);
                *vote = Vote {
                    epoch,
                    ..Vote::default()
                };
                reclaim.is_dirty = true;
            }
        }
        reclaim
            .seen
            .retain(|_, at| now.saturating_duration_since(*at) < MEMBER_MEMORY);
        for peer in known.iter() {
            if reclaim.seen.len() < MEMBERS_MAX || reclaim.seen.contains_key(peer) {
                reclaim.seen.insert(*peer, now);
            }
        }
        let seen = reclaim.seen.keys().copied();
        let members: BTreeSet<PeerName> = seen.chain(owners.iter().copied()).collect();
        for owner in owners.difference(known) {
            if reclaim.absences.len() < VICTIMS_MAX {
                reclaim.absences.entry(*owner).or_insert_with(|| Absence {
                    since: now,
                    members: members.clone(),
                });
            }
        }
    }

    /// Calls ballots on everybody gone for long enough, if that is for us to do.
    pub(super) fn reclaim_long_gone(&mut self, now: Instant) {
        let victims: Vec<PeerName> = self.reclaim.absences.keys().copied().collect();
        for victim in victims {
            if self.may_reclaim(victim, now) && self.is_first(victim) {
                self.campaign(victim, now);
            }
        }
    }

    /// Whether a peer owns something and has been gone for long enough, as far as we know.
    fn is_long_gone(&self, victim: PeerName, now: Instant) -> bool {
        let is_barred = self.event.is_leaving || self.event.clone.is_some();
        let (Some(after), false) = (self.config.reclaim_after, is_barred) else {
            return false;
        };
        let absence = self.reclaim.absences.get(&victim);
        absence.is_some_and(|absence| now >= absence.since + after)
    }

    /// Whether its ranges may be given to another: not by us who are cut off ourselves. Everybody who
    /// votes looks at that, so one in reach who remembers the others suffices.
    fn may_reclaim(&self, victim: PeerName, now: Instant) -> bool {
        let is_majority = |absence: &Absence| {
            let here = absence.members.intersection(&self.mesh.known).count();
            here > absence.members.len() / 2
        };
        let absence = self.reclaim.absences.get(&victim);
        absence.is_some_and(is_majority) && self.is_long_gone(victim, now)
    }

    /// Whether we are the first of those in reach who have a say.
    fn is_first(&self, victim: PeerName) -> bool {
        let members = &self.reclaim.absences[&victim].members;
        let mut voters = self.mesh.known.intersection(members);
        voters.next() == Some(&self.config.name)
    }

    fn campaign(&mut self, victim: PeerName, now: Instant) {
        let vote = self.reclaim.votes.get(&victim).cloned().unwrap_or_default();
        if vote.is_decided {
            // The heir has not told of it yet, or never heard of it.
            if let Some((ballot, heir)) = vote.accepted {
                let body = Body::Decided(heir);
                self.tell_all(victim, vote.epoch, ballot.round, body, now);
            }
            return;
        }
        let before = self.reclaim.campaigns.get(&victim);
        let round = before.map_or(0, |campaign| campaign.round);
        let round = round.max(vote.promised.round) + 1;
        let campaign = Campaign {
            epoch: vote.epoch,
            round,
            ..Campaign::default()
        };
        debug!(%victim, round, "calling a ballot on a peer that is gone");
        self.reclaim.campaigns.insert(victim, campaign);
        self.tell_all(victim, vote.epoch, round, Body::Prepare, now);
    }

    /// Says something to everybody, us included.
    fn tell_all(&mut self, victim: PeerName, epoch: u32, round: u64, body: Body, now: Instant) {
        let message = Message {
            victim,
            epoch,
            round,
            body,
        };
        self.effect(IpamOutput::WeftBroadcast(message.encode()));
        self.receive_vote(self.config.name, message, now);
    }

    /// What others say about peers that are gone.
    pub(super) fn receive_weft(&mut self, from: PeerName, payload: &[u8], now: Instant) {
        let Some(message) = Message::decode(payload) else {
            return debug!(%from, "cannot read a vote");
        };
        if from != self.config.name {
            self.receive_vote(from, message, now);
        }
    }

    fn receive_vote(&mut self, from: PeerName, message: Message, now: Instant) {
        let (victim, round) = (message.victim, message.round);
        match message.body {
            Body::Prepare => self.hear_prepare(from, message, now),
            Body::Accept(heir) => self.hear_accept(from, message, heir, now),
            Body::Decided(heir) => self.hear_decided(victim, message.epoch, heir, now),
            Body::Refused => self.hear_refused(from, message),
            Body::Promise(accepted) => {
                let Some(campaign) = self.reclaim.campaigns.get_mut(&victim) else {
                    return;
                };
                if (campaign.epoch, campaign.round) == (message.epoch, round) {
                    campaign.promises.insert(from, accepted);
                    self.count_promises(victim, now);
                }
            }
            Body::Accepted => {
                let Some(campaign) = self.reclaim.campaigns.get_mut(&victim) else {
                    return;
                };
                if (campaign.epoch, campaign.round) == (message.epoch, round) {
                    campaign.accepted.insert(from);
                    self.count_accepted(victim, now);
                }
            }
        }
    }

    /// Our vote in the epoch a message is of; nothing if we may not vote there, and then the sender
    /// is told.
    fn vote_in(&mut self, from: PeerName, message: Message, now: Instant) -> Option<&mut Vote> {
        let victim = message.victim;
        let may_reclaim = self.may_reclaim(victim, now);
        let known = self.reclaim.votes.get(&victim);
        let (epoch, highest) = known.map_or((0, 0), |vote| (vote.epoch, vote.promised.round));
        let is_decided = known.is_some_and(|vote| vote.is_decided);
        let is_current = message.epoch > epoch || (message.epoch == epoch && !is_decided);
        if !may_reclaim || !is_current {
            let refused = Message {
                epoch,
                round: highest,
                body: Body::Refused,
                ..message
            };
            self.reply(from, refused, now);
            return None;
        }
        let vote = self.reclaim.votes.entry(victim).or_default();
        if vote.epoch < message.epoch {
            *vote = Vote {
                epoch: message.epoch,
                ..Vote::default()
            };
        }
        Some(vote)
    }

    fn hear_prepare(&mut self, from: PeerName, message: Message, now: Instant) {
        let Some(vote) = self.vote_in(from, message, now) else {
            return;
        };
        let ballot = Ballot {
            round: message.round,
            proposer: from,
        };
        let (round, body) = if ballot >= vote.promised {
            vote.promised = ballot;
            (message.round, Body::Promise(vote.accepted))
        } else {
            (vote.promised.round, Body::Refused)
        };
        self.reclaim.is_dirty = true;
        let answer = Message {
            round,
            body,
            ..message
        };
        self.reply(from, answer, now);
    }

    fn hear_accept(&mut self, from: PeerName, message: Message, heir: PeerName, now: Instant) {
        let Some(vote) = self.vote_in(from, message, now) else {
            return;
        };
        let ballot = Ballot {
            round: message.round,
            proposer: from,
        };
        if ballot < vote.promised {
            return;
        }
        vote.promised = ballot;
        vote.accepted = Some((ballot, heir));
        self.reclaim.is_dirty = true;
        let body = Body::Accepted;
        self.reply(from, Message { body, ..message }, now);
    }

    /// The next ballot is called on the next tick, above what we were told of.
    fn hear_refused(&mut self, from: PeerName, message: Message) {
        debug!(%from, victim = %message.victim, "vote refused");
        let Some(vote) = self.reclaim.votes.get_mut(&message.victim) else {
            return;
        };
        if let Some(campaign) = self.reclaim.campaigns.get_mut(&message.victim) {
            campaign.round = campaign.round.max(message.round);
            campaign.promises.clear();
            campaign.heir = None;
            campaign.accepted.clear();
        }
        if vote.epoch < message.epoch && !vote.is_decided && vote.accepted.is_none() {
            *vote = Vote {
                epoch: message.epoch,
                ..Vote::default()
            };
            self.reclaim.is_dirty = true;
        }
    }

    fn reply(&mut self, to: PeerName, message: Message, now: Instant) {
        if to == self.config.name {
            return self.receive_vote(to, message, now);
        }
        let payload = message.encode();
        self.effect(IpamOutput::WeftUnicast { to, payload });
    }

    /// Whether everybody in reach is among these, and they are more than half.
    fn is_enough(&self, victim: PeerName, yes: &BTreeSet<PeerName>) -> bool {
        let Some(absence) = self.reclaim.absences.get(&victim) else {
            return false;
        };
        let members = absence.members.intersection(yes).count();
        self.mesh.known.is_subset(yes) && members > absence.members.len() / 2
    }

    fn count_promises(&mut self, victim: PeerName, now: Instant) {
        let Some(campaign) = self.reclaim.campaigns.get(&victim) else {
            return;
        };
        let yes: BTreeSet<PeerName> = campaign.promises.keys().copied().collect();
        if campaign.heir.is_some() || !self.is_enough(victim, &yes) {
            return;
        }
        let accepted = campaign.promises.values().flatten();
        let newest = accepted.max_by_key(|(ballot, _)| *ballot);
        let heir = newest.map_or(self.config.name, |(_, heir)| *heir);
        let (epoch, round) = (campaign.epoch, campaign.round);
        if let Some(campaign) = self.reclaim.campaigns.get_mut(&victim) {
            campaign.heir = Some(heir);
        }
        self.tell_all(victim, epoch, round, Body::Accept(heir), now);
    }

    fn count_accepted(&mut self, victim: PeerName, now: Instant) {
        let Some(campaign) = self.reclaim.campaigns.get(&victim) else {
            return;
        };
        let Some(heir) = campaign.heir else {
            return;
        };
        if self.is_enough(victim, &campaign.accepted) {
            let (epoch, round) = (campaign.epoch, campaign.round);
            self.reclaim.campaigns.remove(&victim);
            self.tell_all(victim, epoch, round, Body::Decided(heir), now);
        }
    }

    /// An heir was chosen. If we voted for ourselves, that is us.
    fn hear_decided(&mut self, victim: PeerName, epoch: u32, heir: PeerName, now: Instant) {
        let is_long_gone = self.is_long_gone(victim, now);
        let Some(vote) = self.reclaim.votes.get_mut(&victim) else {
            return;
        };
        let is_ours = vote.accepted.is_some_and(|(_, accepted)| accepted == heir);
        if vote.epoch != epoch || !is_ours {
            return;
        }
        if !std::mem::replace(&mut vote.is_decided, true) {
            self.reclaim.is_dirty = true;
        }
        if heir == self.config.name && is_long_gone {
            let count = self.take_ranges(victim);
            info!(%victim, count, "reclaimed the addresses of a peer that is gone");
        }
    }
}
