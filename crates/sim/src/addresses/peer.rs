//! One simulated peer: its allocator while it runs, its disk, its clock, and who asked it what.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use ipam::address::{Range, merge_ranges};
use ipam::refusal::Dispute;
use ipam::rows::RowWrite;
use ipam::{Allocate, Claim, Init, Ipam, IpamConfig, Patience, Refusal, Request, Ticket};

use super::ledger::Promises;
use super::plan::{Plan, Site};

/// What became of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It runs, or will again.
    Here,
    /// It handed its ranges over; it may come back with an empty disk.
    Left,
    /// Its host burnt down.
    Perished,
}

/// A request that was not answered yet.
#[derive(Debug, Clone)]
pub struct Waiting {
    /// What was asked.
    pub request: Request,
    /// When, by the peer's clock.
    pub since: Instant,
    /// Whether an answer `Cancelled` is right: the caller hung up, or its container died.
    pub may_be_cancelled: bool,
    /// Whether what it gets may be given back already: nothing is promised.
    pub is_void: bool,
    /// What a `Free` or `Delete` must find.
    pub must_succeed: bool,
}

impl Waiting {
    /// Whether somebody asked it.
    pub fn is_by(&self, who: &str) -> bool {
        match &self.request {
            Request::Allocate(Allocate { ident, .. }) | Request::Claim(Claim { ident, .. }) => {
                ident == who
            }
            Request::Prime(_)
            | Request::Lookup(_)
            | Request::List
            | Request::Free(_)
            | Request::Delete(_)
            | Request::Leave
            | Request::TakeOver(_) => false,
        }
    }
}

/// One peer.
pub struct Peer {
    /// How it is configured.
    pub site: Site,
    /// Its number.
    pub number: usize,
    /// Its allocator, while it runs.
    pub ipam: Option<Ipam>,
    /// How often it was started.
    pub run: u32,
    /// What is durable.
    pub rows: BTreeMap<String, Vec<u8>>,
    /// What became of it.
    pub fate: Fate,
    /// The part of the network it is in.
    pub side: u8,
    /// The others its mesh reaches, as far as that knows.
    pub known: BTreeSet<usize>,
    /// When its timer event is due.
    pub armed: Option<Duration>,
    /// It dies after so many outputs.
    pub doomed: Option<usize>,
    /// Its next start finds an empty disk.
    pub is_to_be_wiped: bool,
    /// Its containers: whether they run.
    pub containers: BTreeMap<String, bool>,
    /// Requests not answered yet.
    pub waiting: BTreeMap<Ticket, Waiting>,
    /// What it promised.
    pub promises: Promises,
    /// What it owns by its own ring, ascending.
    pub owned: Vec<Range>,
    /// Its latest run that began with an empty disk.
    pub blank_run: u32,
    /// Whether its holdings may have changed since they were checked.
    pub is_touched: bool,
    /// Whether its ranges were taken over although it may still use them: then no promise binds it or
    /// others about them.
    pub is_outlaw: bool,
    /// Whether somebody ran `rmpeer` for it.
    pub is_taken_over: bool,
    /// Since when it does not run, or is in the smaller part of the network.
    pub absent_since: Option<Duration>,
    base: Instant,
    started_at: Duration,
    tickets: u64,
}

impl Peer {
    /// A peer that was never started.
    pub fn new(number: usize, site: Site, base: Instant) -> Self {
        Self {
            site,
            number,
            ipam: None,
            run: 0,
            rows: BTreeMap::new(),
            fate: Fate::Here,
            side: 0,
            known: BTreeSet::new(),
            armed: None,
            doomed: None,
            is_to_be_wiped: false,
            containers: BTreeMap::new(),
            waiting: BTreeMap::new(),
            promises: Promises::default(),
            owned: Vec::new(),
            blank_run: 0,
            is_touched: false,
            is_outlaw: false,
            is_taken_over: false,
            absent_since: None,
            base,
            started_at: Duration::ZERO,
            tickets: 0,
        }
    }

    /// Whether it runs.
    pub fn is_running(&self) -> bool {
        self.ipam.is_some()
    }

    /// Starts the allocator from what is durable.
    ///
    /// # Errors
    ///
    /// When it does not accept what it wrote itself.
    pub fn start(&mut self, plan: &Plan, seed: [u8; 32], now: Duration) -> Result<(), String> {
        self.run += 1;
        self.started_at = now;
        self.armed = None;
        self.doomed = None;
        let config = IpamConfig {
            name: self.site.name,
            nickname: nickname(self.number),
            uid: u64::from_le_bytes(*seed.first_chunk().expect("32 bytes")),
            universe: plan.universe,
            default_subnet: plan.default_subnet,
            init: self.site.init.clone(),
            reclaim_after: plan.reclaim_after,
        };
        let rows = self.rows.clone().into_iter().collect();
        let ipam = Ipam::new(config, rows, seed, self.local(now)).map_err(|e| e.to_string())?;
        self.ipam = Some(ipam);
        Ok(())
    }

    /// Ends the allocator. Whoever waits is not answered any more.
    pub fn stop(&mut self) {
        self.ipam = None;
        self.armed = None;
        self.doomed = None;
        self.known.clear();
        self.waiting.clear();
        self.owned.clear();
    }

    /// Its disk is empty at the next start. Whoever may decide alone would do so once more, so such a
    /// peer is told to wait for the ring of the others.
    pub fn forget(&mut self) {
        self.rows.clear();
        self.blank_run = self.run + 1;
        if matches!(self.site.init, Init::Seed(_) | Init::Consensus(Some(1))) {
            self.site.init = Init::Observer;
        }
    }

    /// What its clock says.
    pub fn local(&self, now: Duration) -> Instant {
        let elapsed = now.saturating_sub(self.started_at);
        self.base + elapsed * self.site.clock_rate / 1000
    }

    /// When its clock will say so; never too early.
    pub fn virtual_time(&self, at: Instant) -> Duration {
        let elapsed = at.saturating_duration_since(self.base);
        self.started_at + elapsed * 1000 / self.site.clock_rate + Duration::from_nanos(2)
    }

    /// Notes a request; its ticket.
    pub fn ticket(&mut self, request: &Request, must_succeed: bool, now: Duration) -> Ticket {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let waiting = Waiting {
            request: request.clone(),
            since: self.local(now),
            may_be_cancelled: false,
            is_void: false,
            must_succeed,
        };
        self.waiting.insert(ticket, waiting);
        ticket
    }

    /// Somebody gives back what it has or gets by what it asked so far.
    pub fn void(&mut self, ident: &str) {
        for waiting in self.waiting.values_mut().filter(|w| w.is_by(ident)) {
            waiting.is_void = true;
        }
    }

    /// Makes rows durable.
    pub fn persist(&mut self, changes: Vec<RowWrite>) {
        for change in changes {
            match change.value {
                Some(value) => self.rows.insert(change.name, value),
                None => self.rows.remove(&change.name),
            };
        }
    }

    /// Whether it takes part in elections.
    pub fn is_voter(&self) -> bool {
        matches!(self.site.init, Init::Consensus(_))
    }

    /// Whether it knows a ring.
    pub fn has_ring(&self) -> bool {
        self.ipam
            .as_ref()
            .is_some_and(|ipam| ipam.status().entries.is_some())
    }

    /// Whether it owns a range, all of it, but does not use it yet.
    pub(super) fn holds(&self, range: Range) -> bool {
        let status = self.ipam.as_ref().map(Ipam::status);
        let held = status.map_or_else(Vec::new, |status| status.unconfirmed);
        merge_ranges(held).iter().any(|held| held.encloses(range))
    }
}

/// How long a request may wait, if it is short of patience.
pub fn is_short(request: &Request) -> bool {
    match request {
        Request::Prime(patience)
        | Request::Allocate(Allocate { patience, .. })
        | Request::Claim(Claim { patience, .. }) => *patience == Patience::Short,
        Request::Lookup(_)
        | Request::List
        | Request::Free(_)
        | Request::Delete(_)
        | Request::Leave
        | Request::TakeOver(_) => false,
    }
}

/// Whether a reason for which a request has to wait says all there is to say: with few peers there are
/// never so many contests that some are not kept.
pub fn says_what_is_missing(refusal: &Refusal) -> bool {
    !matches!(refusal, Refusal::Disputed(Dispute::Unlisted { .. }))
}

/// What people call a peer.
pub fn nickname(number: usize) -> String {
    format!("host{number}")
}
