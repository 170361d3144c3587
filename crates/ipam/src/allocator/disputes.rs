//! Ranges nobody here may use for now: contested ones and those behind the fence.
//!
//! A range is *contested* while the ring somebody told us gives it to another although addresses in
//! use here are in it; our ring is kept. A range is *fenced* that a ring gave to us although by our
//! own ring it belonged to a peer who is in reach and said nothing itself: that peer may be using
//! it. Both end by themselves: by the next ring of whoever told us, by the former owner's consent,
//! or when these peers are gone, a former owner for half a minute.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use wire::PeerName;

use crate::address::{Range, merge_ranges};
use crate::ring::{Contest, Ring};
use crate::status::ContestStatus;

/// Most contests of one teller that are shown. All are heeded.
const SHOWN_MAX: usize = 256;
/// In how many rounds, 5 s apart, a witness of a takeover is asked for its ring.
const ASKED_MAX: u32 = 6;

/// After which absence of a former owner nobody is expected to object any more.
const ABANDONED: Duration = Duration::from_secs(30);

/// What one peer disputes.
#[derive(Debug, Clone, Default)]
struct Told {
    shown: Vec<Contest>,
    ranges: Vec<Range>,
    lost: Vec<Range>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Disputes {
    contests: BTreeMap<PeerName, Told>,
    /// Ranges with their former owner.
    pub(super) fence: Vec<(Range, PeerName)>,
    /// Since when former owners are out of reach, of those in the fence.
    absent: BTreeMap<PeerName, Instant>,
    /// What we took over since we started. Of two peers who take over the same, one must yield.
    pub(super) taken: Vec<Range>,
    /// How often the word of peers was asked for that have not answered.
    asked: BTreeMap<PeerName, u32>,
    /// Peers whose ring is none of ours, and why.
    refused: BTreeMap<PeerName, String>,
}

impl Disputes {
    /// Every range that may not be used, merged.
    pub(super) fn blocked(&self) -> Vec<Range> {
        let contested = self.contests.values().flat_map(|told| &told.ranges);
        let fenced = self.fence.iter().map(|(range, _)| range);
        merge_ranges(contested.chain(fenced).copied().collect())
    }

    /// Contested ranges that everybody else takes for another's: our entries there must not look
    /// newer.
    pub(super) fn lost(&self) -> Vec<Range> {
        let told = self.contests.values().flat_map(|told| &told.lost);
        merge_ranges(told.copied().collect())
    }

    /// Replaces what one peer disputes; returns whether that is new.
    pub(super) fn tell(&mut self, teller: PeerName, contests: Vec<Contest>) -> bool {
        self.refused.remove(&teller);
        if contests.is_empty() {
            return self.contests.remove(&teller).is_some();
        }
        let ranges = merge_ranges(contests.iter().map(|contest| contest.range).collect());
        let lost = contests.iter().filter(|contest| contest.is_lost);
        let lost = merge_ranges(lost.map(|contest| contest.range).collect());
        let mut shown = contests;
        shown.truncate(SHOWN_MAX);
        let told = self.contests.entry(teller).or_default();
        let is_new = told.ranges != ranges;
        *told = Told {
            shown,
            ranges,
            lost,
        };
        is_new
    }

    /// Notes that a peer's ring is none of ours; returns whether that is new.
    pub(super) fn refuse(&mut self, teller: PeerName, text: &str) -> bool {
        let before = self.refused.insert(teller, text.to_owned());
        before.as_deref() != Some(text)
    }

    /// Forgets what peers said that are gone; returns whether less is disputed.
    pub(super) fn forget_others(&mut self, known: &BTreeSet<PeerName>) -> bool {
        let before = self.contests.len();
        self.contests.retain(|teller, _| known.contains(teller));
        self.refused.retain(|teller, _| known.contains(teller));
        before != self.contests.len()
    }

    /// Opens the fence where the former owner has been out of reach for long; returns whether there
    /// was any. Not at once: links flap, and after our start nobody is in reach yet.
    pub(super) fn open_abandoned(&mut self, known: &BTreeSet<PeerName>, now: Instant) -> bool {
        let formers = self.fence.iter().map(|(_, former)| *former);
        let gone: BTreeSet<PeerName> = formers.filter(|former| !known.contains(former)).collect();
        self.absent.retain(|former, _| gone.contains(former));
        for former in gone {
            self.absent.entry(former).or_insert(now);
        }
        let (before, absent) = (self.fence.len(), &self.absent);
        let is_kept = |former: &PeerName| absent.get(former).is_none_or(|at| now < *at + ABANDONED);
        self.fence.retain(|(_, former)| is_kept(former));
        before != self.fence.len()
    }

    /// Ranges that are ours no more need no fence; returns whether there were any.
    pub(super) fn lose(&mut self, lost: Range) -> bool {
        self.open_where(|range, _| range.overlaps(lost).then_some(lost))
    }

    /// Opens the fence where its former owner says as well that the range is ours; returns whether
    /// there was any.
    pub(super) fn consent(&mut self, former: PeerName, us: PeerName, theirs: &Ring) -> bool {
        let ours = theirs.owned_ranges(us);
        let mut any = false;
        for range in ours {
            any |= self.open_where(|fenced, owner| {
                (owner == former && fenced.overlaps(range)).then_some(range)
            });
        }
        any
    }

    /// Counts one more round in which those whose word is awaited are asked. Of what we took over
    /// nobody awaits the word of who never answers: it has no part in allocation. Returns whether
    /// less is fenced.
    pub(super) fn ask_again(&mut self) -> bool {
        let before = self.fence.len();
        let formers: BTreeSet<PeerName> = self.fence.iter().map(|(_, former)| *former).collect();
        self.asked.retain(|peer, _| formers.contains(peer));
        for former in formers {
            *self.asked.entry(former).or_default() += 1;
        }
        let (asked, taken) = (&self.asked, &self.taken);
        self.fence.retain(|(range, former)| {
            let is_silent = asked[former] > ASKED_MAX;
            !is_silent || !taken.iter().any(|taken| taken.overlaps(*range))
        });
        self.fence.len() < before
    }

    /// Somebody's ring came.
    pub(super) fn answered(&mut self, peer: PeerName) {
        self.asked.remove(&peer);
    }

    /// Whether the word of a former owner is awaited about part of a range.
    pub(super) fn awaits(&self, former: PeerName, range: Range) -> bool {
        let mut fence = self.fence.iter();
        fence.any(|(fenced, owner)| *owner == former && fenced.overlaps(range))
    }

    /// Cuts what `opened` says out of the fence.
    fn open_where(&mut self, opened: impl Fn(Range, PeerName) -> Option<Range>) -> bool {
        let mut any = false;
        let mut rest = Vec::with_capacity(self.fence.len());
        for &(range, former) in &self.fence {
            let Some(hole) = opened(range, former) else {
                rest.push((range, former));
                continue;
            };
            any = true;
            let below = Range::new(range.start, hole.start.min(range.end));
            let above = Range::new(hole.end.max(range.start), range.end);
            let left = [below, above].into_iter().filter(|part| !part.is_empty());
            rest.extend(left.map(|part| (part, former)));
        }
        self.fence = rest;
        any
    }

    /// What is contested, by teller.
    pub(super) fn contested(&self) -> Vec<ContestStatus> {
        let told = self.contests.iter();
        told.flat_map(|(&teller, told)| {
            told.shown.iter().map(move |contest| ContestStatus {
                range: contest.range,
                ours: contest.ours,
                theirs: contest.theirs,
                teller,
            })
        })
        .collect()
    }

    /// Peers whose ring is none of ours, and why.
    pub(super) fn refused(&self) -> Vec<(PeerName, String)> {
        let refused = self.refused.iter();
        refused.map(|(peer, text)| (*peer, text.clone())).collect()
    }
}
