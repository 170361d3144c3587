//! Requests, what may be answered, and what an answer promises.

use std::net::Ipv4Addr;
use std::time::Duration;

use ipam::address::{Cidr, Subnet};
use ipam::{
    ANONYMOUS, Allocate, Answer, Claim, ContainerEvent, Delete, Free, Lookup, Outcome, Patience,
    Refusal, Request, TakeOver, Ticket,
};

use super::super::peer::{Fate, Waiting, is_short, nickname, says_what_is_missing};
use super::super::plan::{Ask, Who};
use super::{Happening, LEAVE_TAKES, World};
use crate::world::Violation;

impl World<'_> {
    /// Requests that arrive in one turn; their outputs are carried out together.
    pub(super) fn ask_all(&mut self, n: usize, asks: Vec<Ask>) -> Result<(), Violation> {
        if !self.peers[n].is_running() || self.peers[n].fate != Fate::Here || asks.is_empty() {
            return Ok(());
        }
        for ask in asks {
            if let Ask::Allocate { who, .. } | Ask::Claim { who, .. } = &ask {
                self.wake(n, *who);
            }
            let (request, must_succeed) = self.request(n, ask);
            self.submit(n, &request, must_succeed);
        }
        self.after_input(n)
    }

    /// Asks one peer for an address, without end of patience.
    ///
    /// # Errors
    ///
    /// When a rule is broken.
    pub fn ask_in_calm(&mut self, n: usize, ident: &str) -> Result<Ticket, Violation> {
        let request = Request::Allocate(Allocate {
            ident: ident.to_owned(),
            subnet: None,
            is_container: false,
            patience: Patience::Forever,
        });
        self.trace(|| format!("{n} is asked by {ident}"));
        let ticket = self.submit(n, &request, false);
        self.after_input(n)?;
        Ok(ticket)
    }

    fn submit(&mut self, n: usize, request: &Request, must_succeed: bool) -> Ticket {
        let peer = &mut self.peers[n];
        let ticket = peer.ticket(request, must_succeed, self.now);
        let local = peer.local(self.now);
        let ipam = peer.ipam.as_mut().expect("it runs");
        ipam.handle_request(ticket, request.clone(), local);
        ticket
    }

    /// A container that asks for an address runs.
    fn wake(&mut self, n: usize, who: Who) {
        let Who::Container(_) = who else { return };
        let ident = ident(n, who);
        let local = self.peers[n].local(self.now);
        let peer = &mut self.peers[n];
        if peer.containers.insert(ident.clone(), true) == Some(false) {
            peer.promises.started(&ident);
            let ipam = peer.ipam.as_mut().expect("it runs");
            ipam.handle_container(&ident, ContainerEvent::Started, local);
        }
    }

    fn request(&mut self, n: usize, ask: Ask) -> (Request, bool) {
        let promises = &mut self.peers[n].promises;
        match ask {
            Ask::Allocate {
                who,
                subnet,
                patience,
            } => {
                let request = Request::Allocate(Allocate {
                    ident: ident(n, who),
                    subnet,
                    is_container: matches!(who, Who::Container(_)),
                    patience,
                });
                (request, false)
            }
            Ask::Claim {
                who,
                address,
                no_error_on_unknown,
                patience,
            } => {
                let request = Request::Claim(Claim {
                    ident: ident(n, who),
                    cidr: self.plan.universe.cidr(u32::from(address)),
                    is_container: matches!(who, Who::Container(_)),
                    no_error_on_unknown,
                    patience,
                });
                (request, false)
            }
            Ask::Free(who, position) => {
                let mut ident = ident(n, who);
                if who == Who::Nobody {
                    let nameless = promises.iter().map(|(ident, _)| ident);
                    let nameless = nameless.filter(|ident| ident.parse::<Ipv4Addr>().is_ok());
                    ident = nameless.last().map_or(ident, str::to_owned);
                }
                let held = promises.of(&ident);
                let address = held.get(position % held.len().max(1)).copied();
                let address = address.unwrap_or_else(|| self.plan.universe.base() + 1);
                let must_succeed = promises.free(&ident, address);
                self.peers[n].void(&ident);
                let address = Ipv4Addr::from(address);
                (Request::Free(Free { ident, address }), must_succeed)
            }
            Ask::Delete(who) => {
                let ident = ident(n, who);
                let must_succeed = promises.delete(&ident);
                self.peers[n].void(&ident);
                (Request::Delete(Delete { ident }), must_succeed)
            }
            Ask::Lookup(who) => {
                let (ident, subnet) = (ident(n, who), Some(self.plan.universe));
                (Request::Lookup(Lookup { ident, subnet }), false)
            }
            Ask::Prime(patience) => (Request::Prime(patience), false),
        }
    }

    pub(super) fn hang_up(&mut self, n: usize) -> Result<(), Violation> {
        let peer = &mut self.peers[n];
        let local = peer.local(self.now);
        let Some(ipam) = &mut peer.ipam else {
            return Ok(());
        };
        let Some((ticket, waiting)) = peer.waiting.iter_mut().next() else {
            return Ok(());
        };
        waiting.may_be_cancelled = true;
        ipam.handle_cancel(*ticket, local);
        self.after_input(n)
    }

    /// The operator resets a peer: it hands its ranges over and stops.
    pub(super) fn leave(&mut self, n: usize, back: Option<Duration>) -> Result<(), Violation> {
        let here = self.peers.iter().filter(|peer| peer.fate == Fate::Here);
        if !self.peers[n].is_running() || self.peers[n].fate != Fate::Here || here.count() <= 2 {
            return Ok(());
        }
        self.befell("leave", || format!("{n} leaves"));
        let peer = &mut self.peers[n];
        peer.fate = Fate::Left;
        peer.promises.clear();
        peer.waiting
            .values_mut()
            .for_each(|w| w.may_be_cancelled = true);
        self.users.replace(n, &[]);
        self.submit(n, &Request::Leave, false);
        self.after_input(n)?;
        let run = self.peers[n].run;
        let gone = Happening::Gone { site: n, run };
        self.queue.push(self.now + LEAVE_TAKES, gone);
        if let Some(back) = back {
            self.queue
                .push(self.now + LEAVE_TAKES + back, Happening::Return(n));
        }
        Ok(())
    }

    /// Whoever was reset comes back with an empty disk, if everybody knows that it owns nothing.
    pub(super) fn return_blank(&mut self, n: usize) -> Result<(), Violation> {
        if self.peers[n].is_running() || !self.is_settled(n) || self.owns_by_others(n) {
            return Ok(());
        }
        self.befell("return", || format!("{n} comes back with an empty disk"));
        let peer = &mut self.peers[n];
        peer.fate = Fate::Here;
        peer.forget();
        self.start(n)
    }

    /// Whether a running peer's ring has entries of another one.
    fn owns_by_others(&self, n: usize) -> bool {
        let name = self.peers[n].site.name;
        let statuses = self.peers.iter().filter_map(|peer| peer.ipam.as_ref());
        let entries = statuses.filter_map(|ipam| ipam.status().entries);
        entries.flatten().any(|entry| entry.peer == name)
    }

    /// The operator removes a peer that seems dead, once the rest of the network is whole: what the
    /// dead had just given away is then known to the one that takes the rest. Or `again`, at another
    /// peer that may not have heard of the first time. Whether it was done.
    pub(super) fn take_over(
        &mut self,
        at: usize,
        victim: usize,
        again: bool,
    ) -> Result<bool, Violation> {
        let is_dead = self.peers[victim].fate == Fate::Perished;
        let misses = !self.peers[at].known.contains(&victim) && at != victim;
        let may_ask = self.peers[at].fate == Fate::Here && self.peers[at].is_running();
        if !is_dead || !misses || !may_ask || !(again || self.is_settled(victim)) {
            return Ok(false);
        }
        let kind = if again { "takeover again" } else { "takeover" };
        self.befell(kind, || format!("{at} takes {victim} over"));
        self.peers[victim].is_taken_over = true;
        self.is_disputed |= again;
        let peer = nickname(victim);
        self.submit(at, &Request::TakeOver(TakeOver { peer }), false);
        self.after_input(at)?;
        Ok(true)
    }

    pub(super) fn answered(
        &mut self,
        n: usize,
        ticket: Ticket,
        outcome: Outcome,
    ) -> Result<(), Violation> {
        let Some(waiting) = self.peers[n].waiting.remove(&ticket) else {
            return Err(format!("{n} answers {ticket:?} twice: {outcome:?}"));
        };
        self.trace(|| format!("{n} answers {:?}: {outcome:?}", waiting.request));
        let local = self.peers[n].local(self.now);
        self.peers[n].promises.expire(local);
        let has_left = self.peers[n].fate != Fate::Here;
        let kind = match &outcome {
            Ok(Answer::Done) => "done",
            Ok(Answer::Address(_)) => "address",
            Ok(Answer::Addresses(_) | Answer::List(_) | Answer::TakenOver(_)) => "facts",
            Err(Refusal::Cancelled) if waiting.may_be_cancelled || has_left => "cancelled",
            Err(Refusal::Cancelled) => return Err(format!("{n} cancels {:?}", waiting.request)),
            Err(refusal) if refusal.is_passing() => {
                if !says_what_is_missing(refusal) || !is_short(&waiting.request) {
                    return Err(format!(
                        "{n} does not serve {:?}: {refusal}",
                        waiting.request
                    ));
                }
                "unavailable"
            }
            Err(refusal) => return self.refused(n, &waiting, refusal),
        };
        *self.answers.entry(kind).or_default() += 1;
        match outcome {
            Ok(answer) => self.served(n, &waiting, &answer),
            Err(_) => Ok(()),
        }
    }

    fn refused(&mut self, n: usize, waiting: &Waiting, refusal: &Refusal) -> Result<(), Violation> {
        *self.answers.entry("refused").or_default() += 1;
        let universe = self.plan.universe.range();
        let is_right = match &waiting.request {
            Request::Allocate(Allocate { subnet, .. }) => {
                subnet.is_some_and(|subnet| !subnet.range().overlaps(universe))
            }
            Request::Claim(_) | Request::TakeOver(_) => true,
            Request::Free(_) | Request::Delete(_) => !waiting.must_succeed,
            Request::Prime(_) | Request::Lookup(_) | Request::List | Request::Leave => false,
        };
        if is_right {
            return Ok(());
        }
        Err(format!("{n} refuses {:?}: {refusal}", waiting.request))
    }

    /// Whether the answer fits, and what it promises.
    fn served(&mut self, n: usize, waiting: &Waiting, answer: &Answer) -> Result<(), Violation> {
        let universe = self.plan.universe.range();
        match (&waiting.request, answer) {
            (
                Request::Allocate(Allocate {
                    ident,
                    subnet,
                    is_container,
                    ..
                }),
                Answer::Address(cidr),
            ) => {
                let subnet = subnet.unwrap_or(self.plan.default_subnet);
                if waiting.is_void {
                    return Ok(());
                }
                self.check_allocated(n, ident, subnet, *cidr)?;
                let text = cidr.address.to_string();
                let ident = if ident == ANONYMOUS { &text } else { ident };
                self.promise(n, ident, cidr.address, *is_container);
            }
            (
                Request::Claim(Claim {
                    ident,
                    cidr,
                    is_container,
                    no_error_on_unknown,
                    ..
                }),
                Answer::Done,
            ) => {
                // Whoever has no name may claim what others hold, and it stays theirs.
                let is_kept = ident != ANONYMOUS && !no_error_on_unknown && !waiting.is_void;
                if is_kept && universe.contains(u32::from(cidr.address)) {
                    self.promise(n, ident, cidr.address, *is_container);
                }
            }
            (Request::Lookup(Lookup { ident, .. }), Answer::Addresses(cidrs)) => {
                let told = |address: &u32| cidrs.iter().any(|c| u32::from(c.address) == *address);
                let range = self.plan.universe.host_range();
                let promised = self.peers[n].promises.of(ident).iter();
                let mut promised = promised.filter(|address| range.contains(**address));
                if let Some(address) = promised.find(|address| !told(address)) {
                    let address = Ipv4Addr::from(*address);
                    return Err(format!("{n} does not tell that {ident} holds {address}"));
                }
            }
            (Request::Free(_) | Request::Delete(_), Answer::Done)
            | (Request::Prime(_) | Request::Leave, Answer::Done)
            | (Request::TakeOver(_), Answer::TakenOver(_)) => {}
            (request, answer) => return Err(format!("{n} answers {request:?} by {answer:?}")),
        }
        Ok(())
    }

    /// An allocated address is one of its subnet, and nobody else's at this peer.
    fn check_allocated(
        &self,
        n: usize,
        ident: &str,
        subnet: Subnet,
        cidr: Cidr,
    ) -> Result<(), Violation> {
        let address = u32::from(cidr.address);
        let promises = &self.peers[n].promises;
        let is_held = promises.of(ident).contains(&address);
        let hosts = subnet.host_range();
        if cidr.prefix_len != subnet.prefix_len() || !(is_held || hosts.contains(address)) {
            // It may be held without having been acknowledged, after a claim or a crash.
            let holds = self.peers[n].ipam.as_ref().expect("it runs").owned(ident);
            if !holds.iter().any(|held| held.address == cidr.address) || !subnet.contains(address) {
                return Err(format!("{n} gives {cidr} out in {subnet}"));
            }
        }
        let mut others = promises.iter().filter(|(other, _)| *other != ident);
        match others.find(|(_, held)| *held == address) {
            Some((other, _)) => Err(format!("{n} gives {cidr} to {ident} and {other}")),
            None => Ok(()),
        }
    }

    fn promise(&mut self, n: usize, ident: &str, address: Ipv4Addr, is_container: bool) {
        let promises = &mut self.peers[n].promises;
        promises.add(ident, u32::from(address), is_container);
        self.peers[n].is_touched = true;
    }
}

/// What somebody at a site is called.
fn ident(n: usize, who: Who) -> String {
    match who {
        Who::Container(number) => format!("c{n}-{number}"),
        Who::Service(number) => format!("s{n}-{number}"),
        Who::Nobody => ANONYMOUS.to_owned(),
    }
}
