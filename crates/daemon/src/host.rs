//! This host's side of the network: bridge, attachments, exposed addresses, firewall.
//!
//! The kernel is the truth; the store only remembers what it cannot know: how the user called a
//! container, and whether an exposed address is masqueraded. All work is blocking and done one job
//! after another on a thread of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use linux::addr::Cidr;
use linux::attach::{AttachConfig, DEFAULT_INTERFACE};
use linux::netlink::Netlink;
use linux::netns::Netns;
use linux::nft::{DockerBridge, Exposed, HostRules};
use plane::BridgePort;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use crate::store::{Store, StoreError};
use crate::task::Tasks;

/// Name of the record with the labels of attachments.
const ATTACHMENTS: &str = "attachments";
/// Name of the record with the exposed addresses.
const EXPOSED: &str = "exposed";
/// First part of the host end's name; the spec's (docker.md C1).
const PORT_PREFIX: &str = "vethwepl";
/// Characters of the identifier that name a veth pair (docker.md C1).
const ID_CHARS: usize = 7;
/// Who holds the addresses of the bridge (spec/ipam.md 1).
pub const EXPOSE_IDENT: &str = "weave:expose";
/// Beginning of the identifier of a network namespace; its name or path follows.
const NETNS_IDENT: &str = "netns:";
/// Beginning of the identifier of a process; its number follows.
const PID_IDENT: &str = "pid:";
/// Jobs waiting for the thread.
const JOBS_MAX: usize = 64;

/// What a host needs to know.
#[derive(Debug, Clone)]
pub struct HostConfig {
    /// The bridge.
    pub bridge: String,
    /// The ports of it that the data plane needs.
    pub ports: Vec<BridgePort>,
    /// Docker's bridge.
    pub docker_bridge: String,
    /// Port of the control API, if it listens on TCP.
    pub control_port: u16,
    /// Port of the mesh.
    pub router_port: u16,
}

/// Whose namespace to join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// That of a process, with the container it belongs to.
    Process {
        /// The process.
        pid: u32,
        /// Container id and name.
        container: Option<(String, String)>,
    },
    /// A name as in `ip netns`, or a path.
    Netns(String),
}

/// How the user knows an attachment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Label {
    /// Container id, namespace or `pid:N`.
    pub id: String,
    /// Container name.
    pub name: Option<String>,
}

impl Label {
    /// The identifier under which the allocator keeps its addresses.
    pub fn ident(&self) -> String {
        if self.name.is_some() || self.id.starts_with(PID_IDENT) {
            return self.id.clone();
        }
        let directories = ["/run/netns/", "/var/run/netns/"];
        let name = directories.iter().find_map(|dir| self.id.strip_prefix(dir));
        format!("{NETNS_IDENT}{}", name.unwrap_or(&self.id))
    }
}

/// Whether an identifier is that of a namespace or process, whose end this host sees, rather than of
/// a container, whose end its engine tells.
pub fn is_namespace_ident(ident: &str) -> bool {
    ident.starts_with(NETNS_IDENT) || ident.starts_with(PID_IDENT)
}

/// Who is given addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Occupant {
    /// How the allocator knows it.
    pub ident: String,
    /// Whether its end is seen, and its addresses are then given back.
    pub is_container: bool,
    /// Whether it has an interface of ours.
    pub is_attached: bool,
    /// Where it is; `None` for the bridge.
    place: Option<Place>,
}

impl Occupant {
    /// The bridge itself.
    pub fn bridge() -> Self {
        Self {
            ident: EXPOSE_IDENT.to_owned(),
            is_container: false,
            is_attached: true,
            place: None,
        }
    }

    /// Whether it is a container of an engine.
    pub fn is_docker(&self) -> bool {
        self.is_container && !is_namespace_ident(&self.ident)
    }
}

/// An exposed address as remembered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct ExposedRecord {
    address: String,
    masquerade: bool,
}

/// Why the host's side refuses.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A container.
    #[error(transparent)]
    Attach(#[from] linux::attach::AttachError),
    /// The bridge.
    #[error(transparent)]
    Bridge(#[from] linux::bridge::BridgeError),
    /// A port of the data plane.
    #[error("plugging {port} into {bridge}: {cause}")]
    Port {
        /// The port.
        port: &'static str,
        /// The bridge.
        bridge: String,
        /// Why not.
        cause: linux::bridge::BridgeError,
    },
    /// A namespace.
    #[error(transparent)]
    Netns(#[from] linux::netns::NetnsError),
    /// A link.
    #[error(transparent)]
    Link(#[from] linux::netlink::LinkError),
    /// The firewall.
    #[error(transparent)]
    Nft(#[from] linux::nft::NftError),
    /// The state.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The daemon is stopping.
    #[error("the daemon is stopping")]
    Stopped,
}

impl HostError {
    /// Whether there is no interface, and so no address on it.
    pub fn is_link_gone(&self) -> bool {
        matches!(self, Self::Attach(linux::attach::AttachError::LinkNotFound))
    }

    /// Whether the request is at fault rather than this host.
    pub fn is_refusal(&self) -> bool {
        use linux::attach::AttachError as A;
        match self {
            Self::Netns(_) => true,
            Self::Attach(error) => matches!(
                error,
                A::Netns(_) | A::Id(_) | A::Foreign(_) | A::Died(_) | A::LinkNotFound
            ),
            Self::Bridge(_)
            | Self::Port { .. }
            | Self::Link(_)
            | Self::Nft(_)
            | Self::Store(_)
            | Self::Stopped => false,
        }
    }
}

/// The blocking part.
#[derive(Debug)]
pub struct Host {
    config: HostConfig,
    store: Arc<Store>,
    exposed: BTreeMap<Cidr, bool>,
    listing: Option<String>,
    firewall_broken: bool,
    ports_broken: bool,
}

/// One attachment of the kernel with the label the user knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The bridge port.
    pub port: String,
    /// How the user knows it.
    pub label: Label,
    /// Whether that was remembered; otherwise it is our best guess.
    pub is_labelled: bool,
    /// Which namespace it is in.
    pub netns: linux::netns::Identity,
    /// Hardware address.
    pub mac: String,
    /// Addresses.
    pub addresses: Vec<Cidr>,
}

impl Host {
    /// Takes over what is there: addresses of the bridge, container interfaces without a bridge.
    pub fn new(config: HostConfig, store: Arc<Store>) -> Result<Self, HostError> {
        let remembered: Vec<ExposedRecord> = store.get(EXPOSED)?.unwrap_or_default();
        let mut exposed: BTreeMap<Cidr, bool> = remembered
            .iter()
            .filter_map(|record| Some((record.address.parse().ok()?, record.masquerade)))
            .collect();
        for cidr in linux::expose::exposed_addresses(&config.bridge)? {
            // An address somebody else gave the bridge is one the original would expose.
            if cidr.addr().is_ipv4() {
                exposed.entry(cidr).or_insert(true);
            }
        }
        let mut host = Self {
            config,
            store,
            exposed,
            listing: None,
            firewall_broken: false,
            ports_broken: false,
        };
        host.plug_ports()?;
        for cidr in host.exposed.keys() {
            tracing::info!(address = %cidr, bridge = ?host.config.bridge, "re-exposing address");
            linux::expose::expose(&host.config.bridge, *cidr)?;
        }
        host.plug_orphans()?;
        host.program_firewall();
        Ok(host)
    }

    /// Plugs in what the data plane needs. Returns the ports that were not.
    fn plug_ports(&self) -> Result<Vec<&'static str>, HostError> {
        let bridge = &self.config.bridge;
        let state = linux::bridge::bridge_state(bridge)?;
        let mut plugged = Vec::new();
        for BridgePort { interface: port } in &self.config.ports {
            let is_port = state.iter().flat_map(|state| &state.ports);
            let is_port = is_port.map(|link| &link.name).any(|name| name == port);
            linux::bridge::plug(bridge, port).map_err(|cause| HostError::Port {
                port,
                bridge: bridge.clone(),
                cause,
            })?;
            if !is_port {
                plugged.push(*port);
            }
        }
        Ok(plugged)
    }

    /// Plugs container interfaces that lost their bridge back in.
    fn plug_orphans(&self) -> Result<(), HostError> {
        let links = Netlink::open()?.links()?;
        for link in links
            .iter()
            .filter(|l| l.name.starts_with(PORT_PREFIX) && l.master.is_none())
        {
            match linux::bridge::plug(&self.config.bridge, &link.name) {
                Ok(()) => tracing::info!(interface = link.name, "container plugged in again"),
                Err(error) => {
                    tracing::warn!(interface = link.name, %error, "container not plugged in");
                }
            }
        }
        Ok(())
    }

    /// Gives a namespace an interface and addresses. Returns warnings.
    pub fn attach(
        &mut self,
        place: &Place,
        addresses: &[Cidr],
        multicast_route: bool,
    ) -> Result<Vec<String>, HostError> {
        let netns = open(place)?;
        let id = port_id(place)?;
        let config = AttachConfig {
            id: id.clone(),
            interface: DEFAULT_INTERFACE.to_owned(),
            bridge: self.config.bridge.clone(),
            mtu_bytes: None,
            addresses: addresses.to_vec(),
            multicast_route,
            hairpin: true,
        };
        let warnings = self.overlaps(addresses)?;
        if linux::attach::port_of(&netns, DEFAULT_INTERFACE)?.is_none() {
            // Before, so that no interface is ever found whose owner is not known.
            self.remember(&id, place)?;
        }
        let attached = linux::attach::attach(&netns, &config)?;
        tracing::debug!(%id, mac = %attached.mac, created = attached.created, "attached");
        Ok(warnings)
    }

    fn overlaps(&self, addresses: &[Cidr]) -> Result<Vec<String>, HostError> {
        let mut warnings = Vec::new();
        for cidr in addresses {
            for route in linux::overlap::routes_overlapping(*cidr, &self.config.bridge)? {
                warnings.push(format!(
                    "address {cidr} overlaps with existing route {route} on host"
                ));
            }
        }
        Ok(warnings)
    }

    /// Labels are kept by port; those of ports that are gone are dropped.
    fn remember(&self, id: &str, place: &Place) -> Result<(), HostError> {
        let ports: Vec<String> = Netlink::open()?
            .links()?
            .into_iter()
            .map(|link| link.name)
            .collect();
        let mut labels = self.labels()?;
        labels.retain(|port, _| ports.contains(port));
        let short: String = id.chars().take(ID_CHARS).collect();
        labels.insert(format!("{PORT_PREFIX}{short}"), label(place));
        Ok(self.store.put(ATTACHMENTS, &labels)?)
    }

    /// Who is at a place. One namespace is one occupant, however it is named later.
    pub fn occupant(&self, place: &Place) -> Result<Occupant, HostError> {
        let netns = open(place)?;
        netns.refuse_host()?;
        let port = linux::attach::port_of(&netns, DEFAULT_INTERFACE)?;
        let fresh = label(place);
        let known = match &port {
            Some(port) if fresh.name.is_none() => self.labels()?.remove(port),
            _ => None,
        };
        Ok(Occupant {
            ident: known.unwrap_or(fresh).ident(),
            is_container: true,
            is_attached: port.is_some(),
            place: Some(place.clone()),
        })
    }

    /// The addresses an occupant has on its interface; none when it is gone.
    pub fn addresses_of(&self, occupant: &Occupant) -> Result<Vec<Cidr>, HostError> {
        let Some(place) = &occupant.place else {
            return Ok(linux::expose::exposed_addresses(&self.config.bridge)?);
        };
        match self.addresses(place) {
            Err(HostError::Netns(_)) => Ok(Vec::new()),
            Err(error) if error.is_link_gone() => Ok(Vec::new()),
            other => other,
        }
    }

    /// The addresses on the interface at a place.
    pub fn addresses(&self, place: &Place) -> Result<Vec<Cidr>, HostError> {
        let state = linux::attach::attachment_state(&open(place)?, DEFAULT_INTERFACE)?;
        let state = state.ok_or(linux::attach::AttachError::LinkNotFound)?;
        Ok(state.addresses)
    }

    /// Takes addresses away, and the interface with the last one.
    pub fn detach(&mut self, place: &Place, addresses: &[Cidr]) -> Result<(), HostError> {
        linux::attach::detach(&open(place)?, DEFAULT_INTERFACE, addresses)?;
        Ok(())
    }

    /// Gives the host an address in a subnet of the network.
    pub fn expose(&mut self, cidr: Cidr, masquerade: bool) -> Result<(), HostError> {
        linux::expose::expose(&self.config.bridge, cidr)?;
        // The address may be there already, with another prefix length.
        let known = self
            .exposed
            .keys()
            .find(|known| known.addr() == cidr.addr());
        self.exposed.insert(*known.unwrap_or(&cidr), masquerade);
        self.save_exposed()?;
        self.program_firewall();
        Ok(())
    }

    /// Takes an address of the host away.
    pub fn hide(&mut self, cidr: Cidr) -> Result<(), HostError> {
        linux::expose::hide(&self.config.bridge, cidr)?;
        self.exposed.retain(|known, _| known.addr() != cidr.addr());
        self.save_exposed()?;
        self.program_firewall();
        Ok(())
    }

    /// The addresses of the host in the network.
    pub fn exposed(&self) -> Vec<Cidr> {
        self.exposed.keys().copied().collect()
    }

    fn save_exposed(&self) -> Result<(), HostError> {
        let records: Vec<ExposedRecord> = self
            .exposed
            .iter()
            .map(|(cidr, &masquerade)| ExposedRecord {
                address: cidr.to_string(),
                masquerade,
            })
            .collect();
        Ok(self.store.put(EXPOSED, &records)?)
    }

    /// Hardware address of the bridge.
    pub fn bridge_mac(&self) -> Result<Option<String>, HostError> {
        let state = linux::bridge::bridge_state(&self.config.bridge)?;
        Ok(state
            .and_then(|state| state.link.mac)
            .map(|mac| mac.to_string()))
    }

    fn labels(&self) -> Result<BTreeMap<String, Label>, HostError> {
        Ok(self.store.get(ATTACHMENTS)?.unwrap_or_default())
    }

    /// Labels attachments that had none.
    pub fn adopt(&mut self, found: BTreeMap<String, Label>) -> Result<(), HostError> {
        let mut labels = self.labels()?;
        for (port, label) in found {
            labels.entry(port).or_insert(label);
        }
        Ok(self.store.put(ATTACHMENTS, &labels)?)
    }

    /// Identifiers of those whose interface is there.
    pub fn living(&self) -> Result<BTreeSet<String>, HostError> {
        let labels = self.labels()?;
        let links = Netlink::open()?.links()?;
        let labels = links.iter().filter_map(|link| labels.get(&link.name));
        Ok(labels.map(Label::ident).collect())
    }

    /// Everything attached to the bridge.
    pub fn attachments(&self) -> Result<Vec<Found>, HostError> {
        let labels = self.labels()?;
        let found = linux::attachments::find_attachments(&self.config.bridge)?;
        Ok(found
            .into_iter()
            .map(|attachment| Found {
                label: labels
                    .get(&attachment.port)
                    .cloned()
                    .unwrap_or_else(|| Label {
                        id: match attachment.pid {
                            Some(pid) => format!("pid:{pid}"),
                            None => attachment.netns.label().to_owned(),
                        },
                        name: None,
                    }),
                is_labelled: labels.contains_key(&attachment.port),
                netns: attachment.netns.identity(),
                mac: attachment.mac.to_string(),
                addresses: attachment.addresses,
                port: attachment.port,
            })
            .collect())
    }

    /// Which namespace a place is, if it still is one.
    pub fn identity(&self, place: &Place) -> Option<linux::netns::Identity> {
        open(place).ok().map(|netns| netns.identity())
    }

    /// Plugs the ports of the data plane in again if somebody took them out.
    pub fn check_ports(&mut self) {
        match self.plug_ports() {
            Ok(plugged) => {
                self.ports_broken = false;
                for port in plugged {
                    tracing::warn!(port, "was taken out of the bridge, plugged in again");
                }
            }
            Err(error) if !self.ports_broken => {
                self.ports_broken = true;
                tracing::error!(%error, "containers do not reach other hosts");
            }
            Err(_) => {}
        }
    }

    /// Puts the firewall back if somebody flushed it.
    pub fn check_firewall(&mut self) {
        let intact = match &self.listing {
            Some(listing) => linux::nft::is_intact(listing).unwrap_or(false),
            None => false,
        };
        if !intact && !self.firewall_broken {
            tracing::warn!("firewall rules are gone or changed, programming them again");
            self.program_firewall();
        }
    }

    /// Without firewall rules containers still talk; that is no reason to stop.
    fn program_firewall(&mut self) {
        let rules = HostRules {
            bridge: self.config.bridge.clone(),
            control_port: self.config.control_port,
            docker: self.docker_bridge(),
            exposed: self
                .exposed
                .iter()
                .map(|(&cidr, &masquerade)| Exposed { cidr, masquerade })
                .collect(),
        };
        match linux::nft::apply(&rules) {
            Ok(listing) => {
                self.listing = Some(listing);
                self.firewall_broken = false;
            }
            Err(error) => {
                self.listing = None;
                self.firewall_broken = true;
                tracing::error!(%error, "firewall rules not programmed");
            }
        }
        let subnets: Vec<Cidr> = self.exposed.keys().map(Cidr::network).collect();
        match linux::iptables::ensure_forwarding(&self.config.bridge, &subnets) {
            Ok(true) => tracing::info!("opened the FORWARD chain for the bridge"),
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "FORWARD chain not opened"),
        }
    }

    fn docker_bridge(&self) -> Option<DockerBridge> {
        let name = &self.config.docker_bridge;
        let mut netlink = Netlink::open().ok()?;
        let link = netlink.link(name).ok()??;
        let address = netlink
            .addresses(&link)
            .ok()?
            .into_iter()
            .find_map(|c| match c.addr() {
                IpAddr::V4(address) => Some(address),
                IpAddr::V6(_) => None,
            })?;
        let router_port = self.config.router_port;
        Some(DockerBridge {
            name: name.clone(),
            address,
            router_port,
        })
    }
}

fn open(place: &Place) -> Result<Netns, HostError> {
    Ok(match place {
        Place::Process { pid, .. } => Netns::of_process(*pid)?,
        Place::Netns(text) => Netns::open(text)?,
    })
}

fn label(place: &Place) -> Label {
    match place {
        Place::Process {
            container: Some((id, name)),
            ..
        } => Label {
            id: id.clone(),
            name: Some(name.clone()),
        },
        Place::Process {
            pid,
            container: None,
        } => Label {
            id: format!("pid:{pid}"),
            name: None,
        },
        Place::Netns(text) => Label {
            id: text.clone(),
            name: None,
        },
    }
}

/// What names the veth pair: the process as in the original; a namespace by its inode number, whose
/// last 24 bits tell all living namespaces apart.
fn port_id(place: &Place) -> Result<String, HostError> {
    match place {
        Place::Process { pid, .. } => Ok(pid.to_string()),
        Place::Netns(text) => {
            let path = if text.starts_with('/') {
                text.clone()
            } else {
                format!("/run/netns/{text}")
            };
            let inode = std::fs::metadata(&path)
                .map_err(|_| linux::netns::NetnsError::NotFound(text.clone()))?
                .ino();
            Ok(format!("n{:06x}", inode & 0x00ff_ffff))
        }
    }
}

type Job = Box<dyn FnOnce(&mut Host) + Send>;

/// Has the host thread do jobs; cheap to clone.
#[derive(Debug, Clone)]
pub struct HostHandle {
    jobs: mpsc::Sender<Job>,
}

impl HostHandle {
    /// Starts the thread; it ends when the last handle is gone.
    pub fn start(mut host: Host, tasks: &Tasks) -> std::io::Result<Self> {
        let (jobs, mut receiver) = mpsc::channel::<Job>(JOBS_MAX);
        tasks.thread("host", move || {
            while let Some(job) = receiver.blocking_recv() {
                job(&mut host);
            }
        })?;
        Ok(Self { jobs })
    }

    /// Does a job after those that were asked for before.
    pub async fn call<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Host) -> Result<T, HostError> + Send + 'static,
    ) -> Result<T, HostError> {
        let (sender, answer) = oneshot::channel();
        let job: Job = Box::new(move |host| {
            // Who asked may have gone away.
            let _ = sender.send(job(host));
        });
        self.jobs.send(job).await.map_err(|_| HostError::Stopped)?;
        answer.await.map_err(|_| HostError::Stopped)?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_do_not_depend_on_how_a_namespace_is_written() {
        let ident = |id: &str, name: Option<&str>| {
            let (id, name) = (id.to_owned(), name.map(str::to_owned));
            Label { id, name }.ident()
        };
        for text in ["c1", "/run/netns/c1", "/var/run/netns/c1"] {
            assert_eq!(ident(text, None), "netns:c1");
        }
        assert_eq!(ident("/proc/7/ns/net", None), "netns:/proc/7/ns/net");
        assert_eq!(ident("pid:7", None), "pid:7");
        assert_eq!(ident("0123abcd", Some("web")), "0123abcd");
        assert!(is_namespace_ident("netns:c1") && is_namespace_ident("pid:7"));
        assert!(!is_namespace_ident("0123abcd") && !is_namespace_ident("weave:expose"));
    }
}
