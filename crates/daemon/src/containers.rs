//! Keeps what the allocator holds true to the containers of this host.
//!
//! At start, before anything is given out: what is plugged into the bridge is claimed, and what is
//! held for containers that ended meanwhile is given back (spec/ipam.md 6). Then the end of each is
//! watched: Docker tells about its containers; a namespace or process has ended when its interface is
//! gone, since a pair of interfaces ends with the namespace of either.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::time::Duration;

use ipam::address::Cidr;
use ipam::{Claim, ContainerEvent, Patience};
use linux::netns::Netns;
use node::{Container, Running};
use tokio::task::JoinSet;

use crate::addresses::{AddressError, Addresses, ours};
use crate::advice;
use crate::docker::{Docker, DockerError};
use crate::driver::{Handle, Stopped};
use crate::host::{EXPOSE_IDENT, Found, HostError, HostHandle, Label, is_namespace_ident};
use crate::task::{Task, Tasks, pass_panic_on, wait_to_be_stopped};

/// How often interfaces are looked at.
const LOOK_PERIOD: Duration = Duration::from_secs(5);
/// How long a start waits for claims; those that take longer wait for other peers.
const CLAIMS_PATIENCE: Duration = Duration::from_secs(1);
/// After how long a claim that was refused is tried again.
const CLAIM_PERIOD: Duration = Duration::from_secs(30);
/// First and longest pause before Docker is asked again (spec/docker.md A5).
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(20);

/// What watching containers needs.
#[derive(Clone)]
pub struct Containers {
    /// The node.
    pub driver: Handle,
    /// The bridge.
    pub host: HostHandle,
    /// The allocator.
    pub addresses: Addresses,
    /// The engine, unless Docker is not used.
    pub docker: Option<Docker>,
    /// Where its tasks run.
    pub tasks: Tasks,
}

/// An address of somebody who has it already.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Holder {
    ident: String,
    is_container: bool,
    cidr: Cidr,
}

impl Containers {
    /// Claims, gives back, and watches for as long as the tasks live. Does nothing where no addresses
    /// are allocated.
    pub async fn start(self) -> Vec<Task> {
        match self.addresses.holdings().await {
            Ok(Some(_)) => {}
            Ok(None) => return Vec::new(),
            Err(error) => {
                tracing::warn!(%error, "containers not watched");
                return Vec::new();
            }
        }
        let mut tasks = Vec::new();
        match self.holders().await {
            Ok(holders) => tasks.extend(self.claim(holders).await),
            Err(error) => tracing::warn!(%error, "addresses of containers not claimed"),
        }
        if let Err(error) = self.prune().await {
            tracing::warn!(%error, "addresses of ended containers not given back");
        }
        let namespaces = self.clone();
        tasks.push(self.tasks.keep("namespace watch", async move {
            namespaces.watch_namespaces().await
        }));
        if let Some(docker) = self.docker.clone() {
            let spawner = self.tasks.clone();
            tasks.push(spawner.keep(
                "docker watch",
                async move { self.watch_docker(&docker).await },
            ));
        }
        tasks
    }

    /// Everybody who has an address of the network on this host.
    async fn holders(&self) -> Result<Vec<Holder>, HostError> {
        let (exposed, found) = self
            .host
            .call(|host| Ok((host.exposed(), host.attachments()?)))
            .await?;
        let found = self.label(found).await?;
        let bridge = exposed.into_iter().filter_map(ours).map(|cidr| Holder {
            ident: EXPOSE_IDENT.to_owned(),
            is_container: false,
            cidr,
        });
        let containers = found.iter().flat_map(|found| {
            let addresses = found.addresses.iter().copied().filter_map(ours);
            addresses.map(|cidr| Holder {
                ident: found.label.ident(),
                is_container: true,
                cidr,
            })
        });
        Ok(bridge.chain(containers).collect())
    }

    /// Finds out which attachments are those of Docker containers where that was not remembered.
    async fn label(&self, mut found: Vec<Found>) -> Result<Vec<Found>, HostError> {
        if found.iter().all(|found| found.is_labelled) {
            return Ok(found);
        }
        let mut of_docker = BTreeMap::new();
        for id in self.running().await.unwrap_or_default() {
            let Some(docker) = &self.docker else { break };
            // It may have ended just now.
            let Ok(container) = docker.inspect(&id).await else {
                continue;
            };
            if let Some(netns) = container.pid.and_then(|pid| Netns::of_process(pid).ok()) {
                let label = Label {
                    id: container.id,
                    name: Some(container.name),
                };
                of_docker.insert(netns.identity(), label);
            }
        }
        let mut adopted = BTreeMap::new();
        for found in found.iter_mut().filter(|found| !found.is_labelled) {
            if let Some(label) = of_docker.get(&found.netns) {
                found.label = label.clone();
            }
            adopted.insert(found.port.clone(), found.label.clone());
        }
        self.host.call(move |host| host.adopt(adopted)).await?;
        Ok(found)
    }

    /// Asks for what they have. Claims that have to wait for other peers do so in the task returned;
    /// they stand before anything that is asked for later.
    async fn claim(&self, holders: Vec<Holder>) -> Option<Task> {
        let mut claims = JoinSet::new();
        for holder in holders {
            let containers = self.clone();
            claims.spawn(async move { containers.claim_one(&holder).await });
        }
        let all = wait_for_all(&mut claims);
        if tokio::time::timeout(CLAIMS_PATIENCE, all).await.is_ok() {
            return None;
        }
        Some(self.tasks.spawn("claims of containers", async move {
            wait_for_all(&mut claims).await;
        }))
    }

    /// Claims an address that is in use, until it is held or no longer in use.
    async fn claim_one(&self, holder: &Holder) {
        let mut told = String::new();
        loop {
            let claim = self.addresses.ask(Claim {
                ident: holder.ident.clone(),
                cidr: holder.cidr,
                is_container: holder.is_container,
                no_error_on_unknown: false,
                patience: Patience::Forever,
            });
            tokio::pin!(claim);
            let (claimed, has_waited) =
                match tokio::time::timeout(CLAIMS_PATIENCE, &mut claim).await {
                    Ok(claimed) => (claimed, false),
                    Err(_) => (claim.await, true),
                };
            match claimed {
                Err(AddressError::Refused(refusal)) => {
                    let text = advice::refusal(&refusal);
                    if text != told {
                        let (ident, address) = (&holder.ident, holder.cidr);
                        tracing::error!(ident, %address, reason = text, "address is in use here but not ours");
                        told = text;
                    }
                }
                Ok(()) => {
                    if has_waited && !self.still_has(holder).await {
                        self.addresses.free(&holder.ident, &[holder.cidr]).await;
                    }
                    return;
                }
                Err(_) => return,
            }
            tokio::time::sleep(CLAIM_PERIOD).await;
            if !self.still_has(holder).await {
                return;
            }
        }
    }

    /// Whether an address is still plugged in; so it is taken to be when nobody can tell.
    async fn still_has(&self, holder: &Holder) -> bool {
        match self.holders().await {
            Ok(holders) => holders.contains(holder),
            Err(error) => {
                tracing::warn!(%error, "containers not looked at");
                true
            }
        }
    }

    /// Gives back what is held for containers that do not run. Of those whose engine cannot be asked
    /// nothing is given back.
    async fn prune(&self) -> Result<(), AddressError> {
        let flagged = self.flagged().await?;
        let living = self.host.call(|host| host.living()).await?;
        let running = self.running().await;
        let alive = flagged.into_iter().filter(|ident| {
            if is_namespace_ident(ident) {
                living.contains(ident)
            } else {
                running.as_ref().is_none_or(|ids| ids.contains(ident))
            }
        });
        Ok(self.driver.ask(Running(alive.collect())).await?)
    }

    /// Identifiers whose addresses are given back when they end.
    async fn flagged(&self) -> Result<BTreeSet<String>, AddressError> {
        let holdings = self.addresses.holdings().await?.unwrap_or_default();
        let flagged = holdings.into_iter().filter(|holding| holding.is_container);
        Ok(flagged.map(|holding| holding.ident).collect())
    }

    /// The containers Docker runs, if it can be asked.
    async fn running(&self) -> Option<BTreeSet<String>> {
        let docker = self.docker.as_ref()?;
        match docker.running().await {
            Ok(ids) => Some(ids),
            Err(error) => {
                tracing::debug!(%error, "running containers not known");
                None
            }
        }
    }

    async fn tell(&self, ident: &str, event: ContainerEvent) -> Result<(), Stopped> {
        let ident = ident.to_owned();
        tracing::debug!(ident, ?event, "container");
        self.driver.ask(Container { ident, event }).await
    }

    async fn watch_namespaces(self) -> Result<(), Infallible> {
        let mut ended = BTreeSet::new();
        loop {
            tokio::time::sleep(LOOK_PERIOD).await;
            match self.look_at_namespaces(&mut ended).await {
                Ok(()) => {}
                Err(AddressError::Stopped(_) | AddressError::Host(HostError::Stopped)) => {
                    return wait_to_be_stopped().await;
                }
                Err(error) => tracing::warn!(%error, "namespaces not looked at"),
            }
        }
    }

    /// Tells which namespaces ended or came back since the last look; `ended` are those told before.
    async fn look_at_namespaces(&self, ended: &mut BTreeSet<String>) -> Result<(), AddressError> {
        // First who holds addresses, then who lives: whoever attaches between is seen to live.
        let flagged = self.flagged().await?;
        let living = self.host.call(|host| host.living()).await?;
        let lives = |ident: &str| living.contains(ident) || self.addresses.is_busy(ident);
        for ident in flagged.iter().filter(|ident| is_namespace_ident(ident)) {
            if lives(ident) && ended.remove(ident) {
                self.tell(ident, ContainerEvent::Started).await?;
            } else if !lives(ident) && ended.insert(ident.clone()) {
                self.tell(ident, ContainerEvent::Died).await?;
            }
        }
        ended.retain(|ident| flagged.contains(ident));
        Ok(())
    }

    /// Follows Docker's events for ever, also while Docker comes and goes.
    async fn watch_docker(self, docker: &Docker) -> Result<(), Infallible> {
        let mut pause = PAUSE_MIN;
        loop {
            match self.follow_docker(docker).await {
                Ok(Ended::Daemon) => return wait_to_be_stopped().await,
                Ok(Ended::Docker) => pause = PAUSE_MIN,
                Err(error) => {
                    tracing::debug!(%error, "events of Docker not followed");
                    pause = pause.mul_f32(1.5).min(PAUSE_MAX);
                }
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Follows until the connection ends.
    async fn follow_docker(&self, docker: &Docker) -> Result<Ended, DockerError> {
        let mut events = docker.events().await?;
        // Listening now: what we find is not older than what we will hear. Docker itself may have
        // been started again, and about to start its containers: they get the usual time.
        let running = docker.running().await?;
        let Ok(flagged) = self.flagged().await else {
            return Ok(Ended::Daemon);
        };
        for ident in flagged.iter().filter(|ident| !is_namespace_ident(ident)) {
            let event = if running.contains(ident) {
                ContainerEvent::Started
            } else {
                ContainerEvent::Died
            };
            if self.tell(ident, event).await.is_err() {
                return Ok(Ended::Daemon);
            }
        }
        while let Some((ident, event)) = events.next().await? {
            if self.tell(&ident, event).await.is_err() {
                return Ok(Ended::Daemon);
            }
        }
        Ok(Ended::Docker)
    }
}

/// Waits until all tasks of a set have ended.
async fn wait_for_all(set: &mut JoinSet<()>) {
    while let Some(ended) = set.join_next().await {
        pass_panic_on(ended);
    }
}

/// Who ended a stream of events.
enum Ended {
    Docker,
    Daemon,
}
