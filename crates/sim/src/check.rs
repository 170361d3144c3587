//! What must hold when a cluster is quiet.

use std::collections::{BTreeMap, BTreeSet};

use node::NodeStatus;
use wire::LinkId;
use wire::PeerName;
use wire::topology::PeerSummary;

use crate::host::{Host, Power};
use crate::plan::{CONN_LIMIT_DEFAULT, Fault, PathMtu, Plan};
use crate::world::{Violation, World};

/// Sites that can reach each other over connections.
pub type Component = BTreeSet<usize>;

/// Looks at all routers at once.
pub struct Observer<'w> {
    world: &'w World,
    plan: &'w Plan,
    statuses: BTreeMap<usize, NodeStatus>,
    sites: BTreeMap<PeerName, usize>,
}

impl<'w> Observer<'w> {
    /// Takes the status of every running router.
    pub fn new(world: &'w World, plan: &'w Plan) -> Self {
        let running = world.hosts.iter().enumerate();
        let running = running.filter(|(_, host)| host.power == Power::Running);
        let status = |(n, host): (usize, &Host)| {
            let node = host.node.as_ref().expect("running hosts have a node");
            (n, node.status(world.instant()))
        };
        Self {
            world,
            plan,
            statuses: running.map(status).collect(),
            sites: plan
                .sites
                .iter()
                .enumerate()
                .map(|(n, site)| (site.name, n))
                .collect(),
        }
    }

    /// Whether the cluster has come to rest in a state that is right; returns its components.
    ///
    /// # Errors
    ///
    /// The first thing that is not (yet) as it should be.
    pub fn check(&self) -> Result<Vec<Component>, Violation> {
        self.connections_agree()?;
        let components = self.components();
        self.wanted_connections_exist(&components)?;
        for component in &components {
            self.topologies_agree(component)?;
            self.routes_reach(component)?;
        }
        self.tunnels_work()?;
        Ok(components)
    }

    /// The links of all live connections. (Attempts between incompatible routers go on for ever, so
    /// counters of ended connections say nothing.)
    pub fn links(&self) -> BTreeSet<(usize, LinkId)> {
        let statuses = self.statuses.iter();
        let links = statuses.flat_map(|(site, status)| {
            let connections = status.mesh.connections.iter();
            connections.map(|connection| (*site, connection.link))
        });
        links.collect()
    }

    fn neighbours(&self, site: usize) -> impl Iterator<Item = usize> + '_ {
        let connections = self.statuses[&site].mesh.connections.iter();
        connections.map(|connection| self.sites[&connection.remote])
    }

    /// Each connection is established and known at both ends, over compatible routers.
    fn connections_agree(&self) -> Result<(), Violation> {
        for (&site, status) in &self.statuses {
            if status.mesh.connections.len() > self.plan.sites[site].conn_limit {
                return Err(format!("site {site} has more connections than its limit"));
            }
            for connection in &status.mesh.connections {
                let Some(&other) = self.sites.get(&connection.remote) else {
                    return Err(format!("site {site} is connected to nobody"));
                };
                if !connection.established {
                    return Err(format!("site {site} waits for its tunnel to {other}"));
                }
                if !self.statuses.contains_key(&other) {
                    return Err(format!("site {site} is connected to the stopped {other}"));
                }
                let far_end = self.world.far_end(site, connection.link);
                let back = self.statuses[&other].mesh.connections.iter();
                let mut back = back.filter(|back| back.remote == self.plan.sites[site].name);
                if !back.any(|back| far_end == Some((other, back.link))) {
                    return Err(format!("site {site} alone is connected to {other}"));
                }
                let (us, them) = (&self.plan.sites[site], &self.plan.sites[other]);
                if us.negotiated(them) != Some(connection.protocol_version) {
                    return Err(format!("site {site} speaks a wrong version with {other}"));
                }
                if us.password != them.password {
                    return Err(format!("site {site} has another password than {other}"));
                }
                if connection.data_encrypted != us.encrypts(them) {
                    return Err(format!("site {site} shows wrong encryption to {other}"));
                }
            }
        }
        Ok(())
    }

    fn components(&self) -> Vec<Component> {
        let mut components: Vec<Component> = Vec::new();
        for &site in self.statuses.keys() {
            if components.iter().any(|component| component.contains(&site)) {
                continue;
            }
            let mut component = Component::new();
            let mut waiting = vec![site];
            while let Some(site) = waiting.pop() {
                if component.insert(site) {
                    waiting.extend(self.neighbours(site));
                }
            }
            components.push(component);
        }
        components
    }

    /// The connection maker connects every pair it should: direct peers, and with discovery all
    /// that are in one component.
    fn wanted_connections_exist(&self, components: &[Component]) -> Result<(), Violation> {
        for &from in self.statuses.keys() {
            let component = components
                .iter()
                .find(|component| component.contains(&from));
            let component = component.expect("each site is in a component");
            for &to in self.statuses.keys() {
                let is_wanted = self.has_direct(from, to)
                    || (self.plan.sites[from].discovery && component.contains(&to));
                if is_wanted && self.can_dial(from, to) && !self.neighbours(from).any(|n| n == to) {
                    let ip = self.plan.sites[to].ip;
                    let mut targets = self.statuses[&from].mesh.targets.iter();
                    let target = targets.rfind(|target| target.address.ip() == ip);
                    return Err(format!("site {from} is not connected to {to}: {target:?}"));
                }
            }
        }
        Ok(())
    }

    fn has_direct(&self, from: usize, to: usize) -> bool {
        let text = self.plan.sites[to].ip.to_string();
        self.world.hosts[from]
            .persisted
            .as_ref()
            .is_some_and(|texts| texts.contains(&text))
    }

    fn can_dial(&self, from: usize, to: usize) -> bool {
        let (us, them) = (&self.plan.sites[from], &self.plan.sites[to]);
        if us.conn_limit != CONN_LIMIT_DEFAULT {
            return false;
        }
        from != to && !them.hidden && us.is_compatible(them)
    }

    /// Everybody in a component has the same picture of exactly that component.
    fn topologies_agree(&self, component: &Component) -> Result<(), Violation> {
        let mut reference: Option<(usize, Vec<PeerSummary>)> = None;
        for &site in component {
            let mut peers = self.statuses[&site].mesh.peers.clone();
            peers
                .iter_mut()
                .for_each(|peer| peer.connections.sort_by_key(|c| c.remote));
            peers.sort_by_key(|peer| peer.name);
            if let Some(ghost) = peers.iter().find(|p| !self.sites.contains_key(&p.name)) {
                return Err(format!("site {site} knows {}, which is nobody", ghost.name));
            }
            let known: BTreeSet<_> = peers.iter().map(|peer| self.sites[&peer.name]).collect();
            if known != *component {
                return Err(format!(
                    "site {site} knows {known:?} instead of {component:?}"
                ));
            }
            match &reference {
                None => reference = Some((site, peers)),
                Some((_, expected)) if *expected == peers => {}
                Some((other, expected)) => {
                    let differing = expected.iter().zip(&peers).find(|(a, b)| a != b);
                    return Err(format!("sites {other} and {site} differ: {differing:?}"));
                }
            }
        }
        let (_, peers) = reference.expect("a component has members");
        let short_ids: BTreeSet<_> = peers.iter().filter_map(|peer| peer.short_id).collect();
        if short_ids.len() != peers.iter().filter(|peer| peer.short_id.is_some()).count() {
            return Err("a short id has two holders".to_owned());
        }
        Ok(())
    }

    /// Following next hops leads from everybody to everybody, without loops.
    fn routes_reach(&self, component: &Component) -> Result<(), Violation> {
        for &from in component {
            for &to in component {
                let goal = self.plan.sites[to].name;
                let mut at = from;
                let mut hops = 0;
                while at != to {
                    let table = &self.world.hosts[at].forwarder.table;
                    let hop = table.routes.unicast.get(&goal);
                    let hop = hop.ok_or_else(|| format!("site {at} has no route to {to}"))?;
                    if table
                        .neighbours
                        .get(hop)
                        .is_none_or(|neighbour| neighbour.chosen.is_none())
                    {
                        return Err(format!("site {at} has no tunnel to its next hop to {to}"));
                    }
                    at = self.sites[hop];
                    hops += 1;
                    if hops > component.len() {
                        return Err(format!("the route from {from} to {to} is a loop"));
                    }
                }
            }
        }
        Ok(())
    }

    /// There is a tunnel per connection to where the other end is, and no tunnel takes more than its
    /// path carries; and if nothing can have disturbed the tests, fragmentation was found to work and
    /// the MTU is exactly what the path carries.
    fn tunnels_work(&self) -> Result<(), Violation> {
        let disturbed = self.plan.faults.iter().any(|(at, fault)| match fault {
            Fault::Weather(_) | Fault::Cut(..) | Fault::Deafen(..) | Fault::RebindNat(_) => true,
            Fault::ShrinkPath(..) => !at.is_zero(),
            Fault::Kill(_)
            | Fault::PowerOff(_)
            | Fault::Restart(_)
            | Fault::Leave(_)
            | Fault::Mend(..)
            | Fault::Undeafen(..)
            | Fault::BreakLinks(..)
            | Fault::Connect { .. }
            | Fault::Forget { .. }
            | Fault::Garble(..)
            | Fault::Ungarble(..)
            | Fault::Stranger(_)
            | Fault::Forgery(_)
            | Fault::Lie(_)
            | Fault::LiarsLeave
            | Fault::Ask(..) => false,
        });
        for (&site, status) in &self.statuses {
            for tunnel in &status.tunnels {
                let other = self.sites[&tunnel.remote];
                let table = &self.world.hosts[site].forwarder.table;
                let neighbour = table.neighbours.get(&tunnel.remote);
                let Some(published) = neighbour.and_then(|neighbour| neighbour.carrier()) else {
                    return Err(format!("site {site} has no tunnel to {other}"));
                };
                let port = self.world.hosts[other].udp_port;
                if published
                    .remote_address()
                    .is_none_or(|address| address.port() != port)
                {
                    return Err(format!("site {site} has an old address for {other}"));
                }
                let path: PathMtu = self.world.network.path_mtu(site, other);
                let ip = self.plan.sites[other].ip;
                let expected = path.bytes - published.overhead_bytes(ip);
                let mtu = published.mtu_bytes();
                let is_exact = !disturbed && published.kind().searches_path();
                if mtu > expected || is_exact && mtu != expected {
                    return Err(format!(
                        "site {site} found MTU {mtu} to {other}, not {expected}"
                    ));
                }
                if is_exact && !published.may_be_fragmented() {
                    return Err(format!("site {site} distrusts fragmentation to {other}"));
                }
            }
        }
        Ok(())
    }
}
