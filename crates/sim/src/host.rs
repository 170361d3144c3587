//! One simulated machine: its router (if running), its data plane, and what survives a crash.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use ipam::address::Subnet;
use ipam::rows::RowWrite;
use ipam::{Ipam, IpamConfig};
use mesh::{DirectPeer, MeshConfig, Password};
use node::{Command, Config, Input, Node, RequestId};
use overlay::capabilities::Capability;

use crate::addresses::ledger::Promises;
use crate::forwarder::Forwarder;
use crate::plan::{PORT, Site};
use crate::world::requests::Asked;

/// Whether a machine and its router run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Power {
    /// The router runs.
    Running,
    /// The machine runs, the router does not.
    Stopped,
    /// The machine is off.
    Off,
}

/// One machine.
pub struct Host {
    /// Its configuration.
    pub site: Site,
    /// What runs.
    pub power: Power,
    /// The router, while it runs.
    pub node: Option<Node>,
    /// How often a router was started here.
    pub run: u32,
    /// Direct peers as last persisted; `None` before the first time.
    pub persisted: Option<Vec<String>>,
    /// The data plane.
    pub forwarder: Forwarder,
    /// Path MTUs the kernel learned, by the other site.
    pub learned_mtus: BTreeMap<usize, usize>,
    /// When the pending timer event is due.
    pub armed: Option<Duration>,
    /// Source port others see on our datagrams.
    pub udp_port: u16,
    /// Connections accepted by this run.
    pub accepted: u64,
    /// Ephemeral ports given out.
    pub ports_used: u32,
    /// Commands sent.
    pub commands: u64,
    /// Commands not answered yet.
    pub unanswered: BTreeSet<RequestId>,
    /// Whether it left for good.
    pub has_left: bool,
    /// Rows of address allocation that are durable.
    pub rows: BTreeMap<String, Vec<u8>>,
    /// Requests for addresses not answered yet.
    pub asked: BTreeMap<RequestId, Asked>,
    /// Addresses acknowledged and not given back.
    pub promises: Promises,
}

impl Host {
    /// A machine whose router was never started.
    pub fn new(site: Site) -> Self {
        Self {
            udp_port: if site.hidden { 20_001 } else { PORT },
            site,
            power: Power::Stopped,
            node: None,
            run: 0,
            persisted: None,
            forwarder: Forwarder::default(),
            learned_mtus: BTreeMap::new(),
            armed: None,
            accepted: 0,
            ports_used: 0,
            commands: 0,
            unanswered: BTreeSet::new(),
            has_left: false,
            rows: BTreeMap::new(),
            asked: BTreeMap::new(),
            promises: Promises::default(),
        }
    }

    /// Starts the router, with the addresses all sites share.
    ///
    /// # Errors
    ///
    /// When it does not accept what it had made durable.
    pub fn start(
        &mut self,
        universe: Option<Subnet>,
        seed: [u8; 32],
        now: Instant,
    ) -> Result<(), String> {
        self.run += 1;
        self.power = Power::Running;
        let mut config = self.config();
        config.ipam = universe
            .and_then(|universe| self.ipam_config(universe, seed))
            .map(|ipam| {
                let rows = self.rows.clone().into_iter().collect();
                Ipam::new(ipam, rows, seed, now).map_err(|error| error.to_string())
            })
            .transpose()?;
        self.node = Some(Node::new(config, seed, now));
        self.asked.clear();
        self.forwarder = Forwarder::default();
        self.armed = None;
        self.accepted = 0;
        self.unanswered.clear();
        Ok(())
    }

    /// Ends the router, with its machine if `power` says so.
    pub fn stop(&mut self, power: Power) {
        self.power = power;
        self.node = None;
        self.armed = None;
        if power == Power::Off {
            self.learned_mtus.clear();
        }
    }

    /// Makes rows of address allocation durable.
    pub fn store(&mut self, changes: Vec<RowWrite>) {
        for change in changes {
            match change.value {
                Some(value) => self.rows.insert(change.name, value),
                None => self.rows.remove(&change.name),
            };
        }
    }

    /// The address a new connection of ours has.
    pub fn ephemeral_address(&mut self) -> SocketAddr {
        let port = 32_768 + self.ports_used % 28_000;
        self.ports_used += 1;
        let port = u16::try_from(port).expect("below 60768");
        SocketAddr::new(self.site.ip, port)
    }

    /// Where the router listens.
    pub fn listen_address(&self) -> SocketAddr {
        SocketAddr::new(self.site.ip, PORT)
    }

    /// A command as an input, remembered until it is answered.
    pub fn command(&mut self, command: Command) -> Input {
        self.commands += 1;
        let id = RequestId(self.commands);
        self.unanswered.insert(id);
        Input::Command { id, command }
    }

    fn ipam_config(&self, universe: Subnet, seed: [u8; 32]) -> Option<IpamConfig> {
        Some(IpamConfig {
            name: self.site.name,
            nickname: format!("host-{}", self.site.ip),
            uid: u64::from_le_bytes(*seed.first_chunk().expect("32 bytes")),
            universe,
            default_subnet: universe,
            init: self.site.addresses.clone()?,
            reclaim_after: None,
        })
    }

    fn config(&self) -> Config {
        let site = &self.site;
        let mut mesh = MeshConfig::new(site.name, format!("host-{}", site.ip));
        mesh.password = site.password.and_then(Password::new);
        mesh.min_protocol_version = site.versions.0;
        mesh.max_protocol_version = site.versions.1;
        mesh.trusted_subnets = site.trusted.clone();
        mesh.conn_limit = site.conn_limit;
        mesh.discovery = site.discovery;
        mesh.announce_weft = site.weft;
        let mut config = Config::new(mesh);
        config.tunnels = site.tunnels.clone();
        config.capabilities = Capability::ALL.into_iter().collect();
        config
    }
}

/// A site as an operator names it: its address. Resolution is trivial.
pub fn direct_peer(site: &Site) -> DirectPeer {
    DirectPeer {
        text: site.ip.to_string(),
        ip: site.ip,
        port: None,
    }
}
