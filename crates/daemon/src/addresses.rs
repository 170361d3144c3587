//! Addresses of containers and of this host: asked of the allocator, plugged in, given back.
//!
//! What is plugged in is held under the identifier of whoever has it; what was obtained and could not
//! be plugged in is given back, also when the caller goes away half-way. Plugging and giving back are
//! jobs of the host's one thread, so that two requests for one container cannot cross. Where no
//! addresses are allocated, those the caller names are plugged in and nothing is kept.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};

use ipam::address::{Cidr, ParseCidrError, Subnet, SubnetError};
use ipam::{Allocate, Ask, Claim, Free, Holding, List, Lookup, Patience, Refusal};
use tokio::sync::oneshot;

use crate::advice;
use crate::driver::{Handle, Stopped};
use crate::host::{Host, HostError, HostHandle, Occupant, Place};
use crate::task::Tasks;

/// An address somebody asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Exactly this one.
    Exactly(Cidr),
    /// Any in a subnet; `None` is the default subnet.
    In(Option<Subnet>),
}

/// A text is no address to ask for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WantedError {
    /// Not an address with a prefix length.
    #[error(transparent)]
    Cidr(#[from] ParseCidrError),
    /// Not a subnet.
    #[error(transparent)]
    Subnet(#[from] SubnetError),
}

impl Wanted {
    /// `net:default`, `net:<cidr>`, `ip:<cidr>` or `<cidr>` (spec/cli-api.md 2).
    pub fn parse(text: &str) -> Result<Self, WantedError> {
        Ok(match text.strip_prefix("net:") {
            Some("default") => Self::In(None),
            Some(subnet) => Self::In(Some(subnet.parse()?)),
            None => Self::Exactly(text.strip_prefix("ip:").unwrap_or(text).parse()?),
        })
    }
}

/// Why addresses were not given, plugged in or taken away.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// The allocator does not serve it, for good or for now.
    #[error("{}", advice::refusal(.0))]
    Refused(Refusal),
    /// It was given out and could not be plugged in in time.
    #[error("address {0} was given back by somebody else meanwhile")]
    GivenBack(Cidr),
    /// The caller, the container or the daemon is going away.
    #[error("cancelled")]
    Cancelled,
    /// Nobody allocates addresses here.
    #[error("IP address allocation must be enabled to use 'net:'")]
    NotEnabled,
    /// This host's side.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The daemon is stopping.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

impl From<Refusal> for AddressError {
    fn from(refusal: Refusal) -> Self {
        if refusal == Refusal::Cancelled {
            Self::Cancelled
        } else if refusal == Refusal::Disabled {
            Self::NotEnabled
        } else {
            Self::Refused(refusal)
        }
    }
}

/// What was done, and what the operator should know beside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// The addresses in the order they were asked for.
    pub cidrs: Vec<Cidr>,
    /// Things that are odd but no reason to refuse.
    pub warnings: Vec<String>,
}

/// Gives addresses to containers and to the bridge; cheap to clone.
#[derive(Clone)]
pub struct Addresses {
    driver: Handle,
    host: HostHandle,
    busy: Arc<Busy>,
    tasks: Tasks,
}

impl Addresses {
    /// Between this node and this host.
    pub fn new(driver: Handle, host: HostHandle, tasks: Tasks) -> Self {
        Self {
            driver,
            host,
            busy: Arc::new(Busy::default()),
            tasks,
        }
    }

    /// Asks the allocator. Dropping the future takes the request back.
    pub async fn ask<Q: Ask>(&self, request: Q) -> Result<Q::Answer, AddressError> {
        let answered = self.driver.ask(node::Addresses(request)).await?;
        Ok(answered?)
    }

    /// Who holds what; `None` where no addresses are allocated.
    pub async fn holdings(&self) -> Result<Option<Vec<Holding>>, AddressError> {
        match self.ask(List).await {
            Ok(holdings) => Ok(Some(holdings)),
            Err(AddressError::NotEnabled) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether addresses are being obtained for somebody who may not be plugged in yet.
    pub fn is_busy(&self, ident: &str) -> bool {
        self.busy.contains(ident)
    }

    /// Obtains addresses and gives them to a namespace. Undone when it cannot be, and when this
    /// future is dropped.
    pub async fn attach(
        &self,
        place: Place,
        wanted: Vec<Wanted>,
        multicast_route: bool,
        patience: Patience,
    ) -> Result<Done, AddressError> {
        let occupant = self.occupant(&place).await?;
        let plug = move |host: &mut Host, cidrs: &[Cidr]| {
            let addresses: Vec<_> = cidrs.iter().map(|cidr| kernel(*cidr)).collect();
            host.attach(&place, &addresses, multicast_route)
        };
        self.give(occupant, wanted, patience, Unknown::Early, plug)
            .await
    }

    /// Obtains addresses and gives them to the bridge, as [`Addresses::attach`] does.
    pub async fn expose(
        &self,
        wanted: Vec<Wanted>,
        masquerade: bool,
        patience: Patience,
    ) -> Result<Done, AddressError> {
        let bridge = Occupant::bridge();
        let plug = move |host: &mut Host, cidrs: &[Cidr]| {
            let expose = |cidr: &Cidr| host.expose(kernel(*cidr), masquerade);
            cidrs.iter().try_for_each(expose).map(|()| Vec::new())
        };
        self.give(bridge, wanted, patience, Unknown::Early, plug)
            .await
    }

    /// Claims addresses for whoever is at a place, plugged in or not.
    pub async fn claim(
        &self,
        place: Place,
        wanted: Vec<Wanted>,
        patience: Patience,
    ) -> Result<Done, AddressError> {
        let mut occupant = self.occupant(&place).await?;
        // Of a namespace without an interface of ours nobody would notice the end.
        occupant.is_container &= occupant.is_attached || occupant.is_docker();
        let plug = |_: &mut Host, _: &[Cidr]| Ok(Vec::new());
        self.give(occupant, wanted, patience, Unknown::Wait, plug)
            .await
    }

    /// Takes addresses away from a namespace and gives them back. Never waits for other peers.
    pub async fn detach(&self, place: Place, wanted: Vec<Wanted>) -> Result<Done, AddressError> {
        let occupant = self.occupant(&place).await?;
        let unplug = move |host: &mut Host, chosen: Chosen<'_>| match chosen {
            Chosen::These(cidrs) => {
                let addresses: Vec<_> = cidrs.iter().map(|cidr| kernel(*cidr)).collect();
                host.detach(&place, &addresses).map(|()| cidrs.to_vec())
            }
            Chosen::All => {
                let all = host.addresses(&place)?;
                host.detach(&place, &all)?;
                Ok(all.into_iter().filter_map(ours).collect())
            }
        };
        self.take(occupant, wanted, unplug).await
    }

    /// Takes addresses away from the bridge and gives them back. Never waits for other peers.
    pub async fn hide(&self, wanted: Vec<Wanted>) -> Result<Done, AddressError> {
        let unplug = |host: &mut Host, chosen: Chosen<'_>| {
            let cidrs = match chosen {
                Chosen::These(cidrs) => cidrs.to_vec(),
                Chosen::All => host.exposed().into_iter().filter_map(ours).collect(),
            };
            cidrs.iter().try_for_each(|cidr| host.hide(kernel(*cidr)))?;
            Ok(cidrs)
        };
        self.take(Occupant::bridge(), wanted, unplug).await
    }

    async fn occupant(&self, place: &Place) -> Result<Occupant, AddressError> {
        let place = place.clone();
        Ok(self.host.call(move |host| host.occupant(&place)).await?)
    }

    /// Runs [`Giving`] in a task of its own, which outlives our caller to clean up behind it.
    async fn give<P>(
        &self,
        occupant: Occupant,
        wanted: Vec<Wanted>,
        patience: Patience,
        unknown: Unknown,
        plug: P,
    ) -> Result<Done, AddressError>
    where
        P: FnOnce(&mut Host, &[Cidr]) -> Result<Vec<String>, HostError> + Send + 'static,
    {
        let (mut sender, answer) = oneshot::channel();
        let giving = Giving {
            addresses: self.clone(),
            unknown,
            _busy: Busy::enter(&self.busy, &occupant.ident),
            occupant,
        };
        self.tasks.detach("addresses of a container", async move {
            let done = giving.run(&wanted, patience, plug, sender.closed()).await;
            // Whoever asked may be gone; then it was undone.
            let _ = sender.send(done);
        });
        answer.await.map_err(|_| HostError::Stopped)?
    }

    /// One address after another.
    async fn obtain(
        &self,
        occupant: &Occupant,
        wanted: &[Wanted],
        patience: Patience,
        unknown: Unknown,
    ) -> Result<Vec<Cidr>, AddressError> {
        let mut cidrs = Vec::with_capacity(wanted.len());
        for wanted in wanted {
            let (ident, is_container) = (occupant.ident.clone(), occupant.is_container);
            cidrs.push(match *wanted {
                Wanted::Exactly(cidr) => {
                    let claim = Claim {
                        ident,
                        cidr,
                        is_container,
                        no_error_on_unknown: unknown == Unknown::Early,
                        patience,
                    };
                    match self.ask(claim).await {
                        Ok(()) | Err(AddressError::NotEnabled) => cidr,
                        Err(error) => return Err(error),
                    }
                }
                Wanted::In(subnet) => {
                    let allocate = Allocate {
                        ident,
                        subnet,
                        is_container,
                        patience,
                    };
                    self.ask(allocate).await?
                }
            });
        }
        Ok(cidrs)
    }

    /// What somebody holds.
    async fn held(&self, ident: &str) -> Result<Vec<Cidr>, AddressError> {
        let holdings = self.holdings().await?.unwrap_or_default();
        let own = holdings.into_iter().find(|holding| holding.ident == ident);
        Ok(own.map(|holding| holding.cidrs).unwrap_or_default())
    }

    /// Takes addresses away and gives them back, to the end even when our caller goes away.
    async fn take<U>(
        &self,
        occupant: Occupant,
        wanted: Vec<Wanted>,
        unplug: U,
    ) -> Result<Done, AddressError>
    where
        U: FnOnce(&mut Host, Chosen<'_>) -> Result<Vec<Cidr>, HostError> + Send + 'static,
    {
        let addresses = self.clone();
        let runtime = tokio::runtime::Handle::current();
        let job = move |host: &mut Host| -> Result<Result<Done, AddressError>, HostError> {
            let (ident, wanted) = (&occupant.ident, &wanted);
            let chosen = match runtime.block_on(addresses.look_up(ident, wanted)) {
                Ok(chosen) => chosen,
                Err(error) => return Ok(Err(error)),
            };
            let unplugged = match &chosen {
                Some(cidrs) => unplug(host, Chosen::These(cidrs)),
                None => unplug(host, Chosen::All),
            };
            let freed = match &unplugged {
                Ok(cidrs) => cidrs.clone(),
                // The interface is gone: nobody uses them.
                Err(error) if error.is_link_gone() => chosen.unwrap_or_default(),
                Err(_) => Vec::new(),
            };
            runtime.block_on(addresses.free(ident, &freed));
            Ok(unplugged.map_err(AddressError::Host).map(|cidrs| Done {
                cidrs,
                warnings: Vec::new(),
            }))
        };
        self.host.call(job).await?
    }

    /// The addresses meant by what the user typed; `None`: all, for want of an allocator to ask.
    async fn look_up(
        &self,
        ident: &str,
        wanted: &[Wanted],
    ) -> Result<Option<Vec<Cidr>>, AddressError> {
        let default = [Wanted::In(None)];
        let is_default = wanted.is_empty();
        let mut cidrs = Vec::new();
        for wanted in if is_default { &default } else { wanted } {
            let subnet = match *wanted {
                Wanted::Exactly(cidr) => {
                    cidrs.push(cidr);
                    continue;
                }
                Wanted::In(subnet) => subnet,
            };
            let ident = ident.to_owned();
            match self.ask(Lookup { ident, subnet }).await {
                Ok(found) => cidrs.extend(found),
                Err(AddressError::NotEnabled) if is_default => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Ok(Some(cidrs))
    }

    /// Gives addresses back, as far as they are held.
    pub async fn free(&self, ident: &str, cidrs: &[Cidr]) {
        for cidr in cidrs {
            let free = Free {
                ident: ident.to_owned(),
                address: cidr.address,
            };
            match self.ask(free).await {
                // It may never have been allocated.
                Ok(()) | Err(AddressError::NotEnabled) => {}
                Err(AddressError::Refused(refusal)) if !refusal.is_passing() => {}
                Err(error) => tracing::warn!(ident, %cidr, %error, "address not given back"),
            }
        }
    }
}

/// Which addresses to unplug.
enum Chosen<'a> {
    These(&'a [Cidr]),
    All,
}

/// What becomes of a claim while there is no ring to say whose the address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unknown {
    /// It counts as granted, and waits in the background.
    Early,
    /// It waits.
    Wait,
}

/// Addresses being given to somebody.
struct Giving {
    addresses: Addresses,
    occupant: Occupant,
    unknown: Unknown,
    _busy: Entered,
}

impl Giving {
    async fn run<P>(
        self,
        wanted: &[Wanted],
        patience: Patience,
        plug: P,
        caller_gone: impl Future<Output = ()>,
    ) -> Result<Done, AddressError>
    where
        P: FnOnce(&mut Host, &[Cidr]) -> Result<Vec<String>, HostError> + Send + 'static,
    {
        let Self {
            addresses,
            occupant,
            unknown,
            _busy,
        } = self;
        let before = addresses.held(&occupant.ident).await?;
        let obtained = tokio::select! {
            obtained = addresses.obtain(&occupant, wanted, patience, unknown) => obtained,
            () = caller_gone => Err(AddressError::Cancelled),
        };
        let host = addresses.host.clone();
        let allocated: Vec<bool> = wanted
            .iter()
            .map(|wanted| matches!(wanted, Wanted::In(_)))
            .collect();
        let runtime = tokio::runtime::Handle::current();
        host.call(move |host| {
            let plugged = match obtained {
                Ok(cidrs) => {
                    let held = runtime.block_on(addresses.held(&occupant.ident));
                    plug_held(host, cidrs, &allocated, held, plug)
                }
                Err(error) => Err(error),
            };
            if plugged.is_err() {
                let undone = runtime.block_on(undo(host, &addresses, &occupant, &before));
                if let Err(error) = undone {
                    let ident = occupant.ident;
                    tracing::warn!(ident, %error, "addresses not given back");
                }
            }
            Ok(plugged)
        })
        .await?
    }
}

/// Plugs addresses in, provided that those we were given were not given back meanwhile.
fn plug_held<P>(
    host: &mut Host,
    cidrs: Vec<Cidr>,
    allocated: &[bool],
    held: Result<Vec<Cidr>, AddressError>,
    plug: P,
) -> Result<Done, AddressError>
where
    P: FnOnce(&mut Host, &[Cidr]) -> Result<Vec<String>, HostError>,
{
    let held = held?;
    let mut given = cidrs.iter().zip(allocated).filter(|(_, given)| **given);
    let lost = given.find(|(cidr, _)| !held.iter().any(|held| held.address == cidr.address));
    if let Some((cidr, _)) = lost {
        return Err(AddressError::GivenBack(*cidr));
    }
    let warnings = plug(host, &cidrs)?;
    Ok(Done { cidrs, warnings })
}

/// Gives back what somebody holds since `before` and does not have on an interface.
async fn undo(
    host: &Host,
    addresses: &Addresses,
    occupant: &Occupant,
    before: &[Cidr],
) -> Result<(), AddressError> {
    let present: Vec<Ipv4Addr> = host
        .addresses_of(occupant)?
        .into_iter()
        .filter_map(|cidr| ours(cidr).map(|cidr| cidr.address))
        .collect();
    let mut leaked = addresses.held(&occupant.ident).await?;
    leaked.retain(|cidr| !before.contains(cidr) && !present.contains(&cidr.address));
    addresses.free(&occupant.ident, &leaked).await;
    Ok(())
}

/// The allocator's form of an address; `None` for IPv6.
pub fn ours(cidr: linux::addr::Cidr) -> Option<Cidr> {
    match cidr.addr() {
        IpAddr::V4(address) => Some(Cidr {
            address,
            prefix_len: cidr.prefix_len(),
        }),
        IpAddr::V6(_) => None,
    }
}

/// The kernel's form of an address.
fn kernel(cidr: Cidr) -> linux::addr::Cidr {
    linux::addr::Cidr::new(cidr.address, cidr.prefix_len).expect("a prefix has at most 32 bits")
}

/// Who is being given addresses, and how many times over.
#[derive(Debug, Default)]
struct Busy(Mutex<BTreeMap<String, usize>>);

impl Busy {
    fn enter(busy: &Arc<Self>, ident: &str) -> Entered {
        *busy.lock().entry(ident.to_owned()).or_default() += 1;
        Entered {
            busy: Arc::clone(busy),
            ident: ident.to_owned(),
        }
    }

    fn contains(&self, ident: &str) -> bool {
        self.lock().contains_key(ident)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, usize>> {
        self.0.lock().expect("nothing panics while counting")
    }
}

/// One of those, until it is dropped.
struct Entered {
    busy: Arc<Busy>,
    ident: String,
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut busy = self.busy.lock();
        let count = busy.get_mut(&self.ident).expect("counted on entry");
        *count -= 1;
        if *count == 0 {
            busy.remove(&self.ident);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_asked_for_in_four_forms() {
        let subnet = |text: &str| text.parse::<Subnet>().expect("a subnet");
        let cidr: Cidr = "10.2.1.1/24".parse().expect("an address");
        for (text, expected) in [
            ("net:default", Wanted::In(None)),
            ("net:10.2.0.0/16", Wanted::In(Some(subnet("10.2.0.0/16")))),
            ("ip:10.2.1.1/24", Wanted::Exactly(cidr)),
            ("10.2.1.1/24", Wanted::Exactly(cidr)),
        ] {
            assert_eq!(Wanted::parse(text), Ok(expected), "{text}");
        }
        for text in [
            "",
            "net:",
            "net:10.2.1.1/24",
            "ip:10.2.1.1",
            "10.2.1.1",
            "fd00::1/64",
        ] {
            assert!(Wanted::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn whoever_entered_twice_is_busy_until_both_are_done() {
        let busy = Arc::new(Busy::default());
        let first = Busy::enter(&busy, "a");
        let second = Busy::enter(&busy, "a");
        drop(first);
        assert!(busy.contains("a") && !busy.contains("b"));
        drop(second);
        assert!(!busy.contains("a"));
    }
}
