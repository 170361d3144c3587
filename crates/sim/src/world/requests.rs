//! Requests for addresses in a simulated cluster: who was promised what, and who uses it.

use std::net::Ipv4Addr;
use std::time::Duration;

use ipam::address::{Range, merge_ranges};
use ipam::{Allocate, Answer, Delete, Outcome, PATIENCE, Patience, Refusal, Request};
use node::{Command, Reply, RequestId};

use super::{Violation, World};
use crate::addresses::peer::says_what_is_missing;
use crate::addresses::plan::{Ask, Who};
use crate::check::Component;
use crate::host::Power;

/// How much later than promised an answer may come.
const LATE_MAX: Duration = Duration::from_millis(1);
/// How often a quiet cluster is asked again by those it did not serve: donors are drawn by lot.
const ROUNDS_MAX: usize = 20;

/// A request that was not answered yet.
#[derive(Debug, Clone)]
pub struct Asked {
    request: Request,
    at: Duration,
}

/// An answer, and how long it took.
#[derive(Debug, Clone)]
pub struct Answered {
    /// By which site.
    pub site: usize,
    /// When it was asked, in virtual time.
    pub asked_at: Duration,
    /// How long it took.
    pub took: Duration,
    /// How it ended.
    pub outcome: Outcome,
}

impl World {
    /// Asks a running site something about addresses.
    ///
    /// # Errors
    ///
    /// When a rule is broken.
    pub fn ask(&mut self, site: usize, request: Request) -> Result<(), Violation> {
        let host = &mut self.hosts[site];
        if host.power != Power::Running || host.site.addresses.is_none() {
            return Ok(());
        }
        self.trace(|| format!("{site} is asked {request:?}"));
        let run = self.hosts[site].run;
        let at = self.now;
        let input = self.hosts[site].request(request, at);
        self.input(site, run, input)
    }

    /// A request of a plan.
    pub(super) fn ask_as_planned(&mut self, site: usize, ask: &Ask) -> Result<(), Violation> {
        let name = |who: &Who| match who {
            Who::Container(number) | Who::Service(number) => format!("s{site}-{number}"),
            Who::Nobody => format!("s{site}-nobody"),
        };
        let request = match ask {
            Ask::Allocate { who, patience, .. } => Request::Allocate(Allocate {
                ident: name(who),
                subnet: None,
                is_container: false,
                patience: *patience,
            }),
            Ask::Delete(who) => {
                let (ident, host) = (name(who), &mut self.hosts[site]);
                if host.power == Power::Running {
                    for address in host.promises.of(&ident) {
                        self.users.remove(address);
                    }
                    host.promises.delete(&ident);
                }
                Request::Delete(Delete { ident })
            }
            Ask::Claim { .. } | Ask::Free(..) | Ask::Lookup(_) | Ask::Prime(_) => {
                Request::Prime(Patience::Short)
            }
        };
        self.ask(site, request)
    }

    /// A site answers.
    pub(super) fn replied(
        &mut self,
        site: usize,
        id: RequestId,
        reply: Reply,
    ) -> Result<(), Violation> {
        let Some(asked) = self.hosts[site].asked.remove(&id) else {
            return if self.hosts[site].unanswered.remove(&id) {
                Ok(())
            } else {
                Err(format!("site {site} answers a command twice"))
            };
        };
        let Reply::Ipam(outcome) = reply else {
            return Err(format!(
                "site {site} answers {:?} by {reply:?}",
                asked.request
            ));
        };
        self.trace(|| format!("{site} answers {:?}: {outcome:?}", asked.request));
        let took = self.now - asked.at;
        if asked.is_short() && took > PATIENCE + LATE_MAX {
            return Err(format!(
                "site {site} answers {:?} after {took:?}",
                asked.request
            ));
        }
        self.answers.push(Answered {
            site,
            asked_at: asked.at,
            took,
            outcome: outcome.clone(),
        });
        match (&asked.request, outcome) {
            (Request::Allocate(Allocate { ident, .. }), Ok(Answer::Address(cidr))) => {
                let address = u32::from(cidr.address);
                let user = self.users.insert(address, site);
                if let Some(other) = user.filter(|other| *other != site) {
                    let address = cidr.address;
                    return Err(format!("{address} is in use at sites {other} and {site}"));
                }
                self.hosts[site].promises.add(ident, address, false);
                Ok(())
            }
            (Request::Allocate(_) | Request::Prime(_), Err(refusal)) if refusal.is_passing() => {
                if asked.is_short() && says_what_is_missing(&refusal) {
                    Ok(())
                } else {
                    Err(format!(
                        "site {site} does not serve {:?}: {refusal}",
                        asked.request
                    ))
                }
            }
            (Request::Delete(_), Ok(Answer::Done) | Err(Refusal::NothingHeld { .. }))
            | (Request::Prime(_), Ok(Answer::Done)) => Ok(()),
            (request, outcome) => Err(format!("site {site} answers {request:?} by {outcome:?}")),
        }
    }

    /// Promises are kept, and all who wait for long are told why they do.
    ///
    /// # Errors
    ///
    /// The first promise that is not kept.
    pub fn check_promises(&self) -> Result<(), Violation> {
        for (site, host) in self.hosts.iter().enumerate() {
            let Some(ipam) = host.node.as_ref().and_then(node::Node::ipam) else {
                continue;
            };
            ipam.assert_invariants();
            for (ident, address) in host.promises.iter() {
                let address = Ipv4Addr::from(address);
                if !ipam.owned(ident).iter().any(|cidr| cidr.address == address) {
                    return Err(format!("site {site} lost {address} of {ident}"));
                }
            }
            let is_late =
                |asked: &&Asked| asked.is_short() && self.now > asked.at + PATIENCE + LATE_MAX;
            if let Some(asked) = host.asked.values().find(is_late) {
                return Err(format!("site {site} does not answer {:?}", asked.request));
            }
        }
        Ok(())
    }

    /// In a quiet cluster all promises are kept, and whoever is connected has the same ring.
    ///
    /// # Errors
    ///
    /// What is not (yet) so.
    pub fn check_addresses(&self, components: &[Component]) -> Result<(), Violation> {
        self.check_promises()?;
        for component in components {
            let mut rings = component
                .iter()
                .filter_map(|site| Some((site, self.ring(*site)?)));
            let Some((first, expected)) = rings.next() else {
                continue;
            };
            if let Some((other, _)) = rings.find(|(_, ring)| *ring != expected) {
                return Err(format!("the rings of sites {first} and {other} differ"));
            }
        }
        Ok(())
    }

    /// How many addresses are in use, each by one site.
    pub fn addresses_used(&self) -> usize {
        self.users.len()
    }

    /// Token, owner and version of each entry; `None` where no addresses are allocated.
    pub fn ring(&self, site: usize) -> Option<Vec<(u32, wire::PeerName, u32)>> {
        let ipam = self.hosts[site].node.as_ref().and_then(node::Node::ipam)?;
        let entries = ipam.status().entries.unwrap_or_default();
        let entries = entries.into_iter().map(|e| (e.token, e.peer, e.version));
        Some(entries.collect())
    }

    /// Each site of a quiet cluster asks for an address, and gets one if any is free that somebody in
    /// its component owns.
    ///
    /// # Errors
    ///
    /// When a rule is broken.
    pub fn serve_addresses(&mut self, components: &[Component]) -> Result<(), Violation> {
        for component in components {
            let mut hungry: Vec<usize> = component.iter().copied().collect();
            hungry.retain(|site| self.hosts[*site].site.addresses.is_some());
            for _ in 0..ROUNDS_MAX {
                for &site in &hungry {
                    let request = Request::Allocate(Allocate {
                        ident: format!("last-{site}"),
                        subnet: None,
                        is_container: false,
                        patience: Patience::Short,
                    });
                    self.ask(site, request)?;
                }
                self.run_until(self.now + PATIENCE + 2 * LATE_MAX)?;
                let hosts = &self.hosts;
                hungry.retain(|site| hosts[*site].promises.of(&format!("last-{site}")).is_empty());
                if hungry.is_empty() || !self.can_serve(component) {
                    break;
                }
            }
            if let Some(site) = hungry.first().filter(|_| self.can_serve(component)) {
                return Err(format!("site {site} gets no address although one is free"));
            }
        }
        Ok(())
    }

    /// Whether the sites of a component own an address nobody uses.
    fn can_serve(&self, component: &Component) -> bool {
        let Some(first) = component.first() else {
            return false;
        };
        let Some(universe) = &self.universe else {
            return false;
        };
        let names: Vec<_> = component
            .iter()
            .map(|site| self.hosts[*site].site.name)
            .collect();
        let node = self.hosts[*first].node.as_ref();
        let status = node.and_then(node::Node::ipam).map(ipam::Ipam::status);
        let entries = status.and_then(|status| status.entries).unwrap_or_default();
        let owned = entries.iter().filter(|entry| names.contains(&entry.peer));
        let owned = owned.map(|entry| Range::new(entry.token, entry.token + entry.size));
        let hosts = universe.host_range();
        merge_ranges(owned.collect())
            .into_iter()
            .filter_map(|range| range.intersection(hosts))
            .any(|range| self.users.range(range.start..range.end).count() < range.size() as usize)
    }
}

impl Asked {
    /// A request asked now.
    pub(crate) fn new(request: Request, at: Duration) -> Self {
        Self { request, at }
    }

    fn is_short(&self) -> bool {
        crate::addresses::peer::is_short(&self.request)
    }
}

impl crate::host::Host {
    /// A request for addresses as an input, remembered until it is answered.
    pub fn request(&mut self, request: Request, at: Duration) -> node::Input {
        self.commands += 1;
        let id = RequestId(self.commands);
        self.asked.insert(id, Asked::new(request.clone(), at));
        node::Input::Command {
            id,
            command: Command::Ipam(request),
        }
    }
}
