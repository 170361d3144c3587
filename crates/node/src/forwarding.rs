//! What the data plane is given: routes, the table made of them and of the neighbours, and
//! corrections of what it learned.

use std::collections::BTreeSet;
use std::sync::Arc;

use mesh::Mesh;
use overlay::Overlay;
use overlay::kind::Probe;
use overlay::mac::{MacCorrection, Sighting};
use overlay::table::{ForwardingTable, Routes};
use wire::PeerName;

use crate::output::Output;
use crate::turn::Turn;

/// What was published and what of it may be outdated.
pub(crate) struct Forwarding {
    us: PeerName,
    /// Shared with the tables and snapshots published; replaced when it changes.
    routes: Arc<Routes>,
    routes_stale: bool,
    short_ids_stale: bool,
    table_stale: bool,
    /// To be sent once the table that knows their tunnels is published.
    probes: Vec<Probe>,
    /// Peers at which the data plane may believe addresses to be, and that are gone.
    gone: BTreeSet<PeerName>,
}

impl Forwarding {
    /// Nothing is published yet.
    pub(crate) fn new(us: PeerName) -> Self {
        Self {
            us,
            routes: Arc::default(),
            routes_stale: true,
            short_ids_stale: false,
            table_stale: true,
            probes: Vec::new(),
            gone: BTreeSet::new(),
        }
    }

    /// The routes published last.
    pub(crate) fn routes(&self) -> &Arc<Routes> {
        &self.routes
    }

    /// The mesh has other routes or peers.
    pub(crate) fn routes_changed(&mut self) {
        self.routes_stale = true;
    }

    /// Short ids have other owners. They change much more often than routes while a mesh forms, and cost
    /// no search for routes.
    pub(crate) fn short_ids_changed(&mut self) {
        self.short_ids_stale = true;
    }

    /// Tunnels changed.
    pub(crate) fn neighbours_changed(&mut self) {
        self.table_stale = true;
    }

    /// A tunnel wants a special frame sent.
    pub(crate) fn probe(&mut self, probe: Probe) {
        self.probes.push(probe);
    }

    /// The data plane learned these, perhaps by a table older than the newest.
    pub(crate) fn check_sightings(&mut self, sightings: &[Sighting]) {
        let peers = sightings.iter().map(|sighting| sighting.peer);
        self.gone
            .extend(peers.filter(|peer| !self.routes.knows(*peer)));
    }

    /// Publishes what changed.
    pub(crate) fn publish(&mut self, mesh: &Mesh, overlay: &mut Overlay, turn: &mut Turn) {
        if std::mem::take(&mut self.routes_stale) {
            self.follow_routes(mesh);
        } else if self.short_ids_stale {
            self.follow_short_ids(mesh);
        }
        self.short_ids_stale = false;
        if std::mem::take(&mut self.table_stale) {
            let table = ForwardingTable {
                us: self.us,
                routes: Arc::clone(&self.routes),
                neighbours: overlay.neighbours(),
            };
            turn.push(Output::Program(Arc::new(table)));
        }
        // Behind the table by which nothing more is learned there.
        if !self.gone.is_empty() {
            let gone = std::mem::take(&mut self.gone);
            turn.push(Output::Correct(MacCorrection { gone }));
        }
        // A later part of the same input may have ended a tunnel.
        let probes = self.probes.drain(..);
        for probe in probes.filter(|probe| overlay.is_registered(probe.link)) {
            turn.push(Output::Probe(probe));
        }
    }

    /// Computes the routes anew. Equal ones stay the very same.
    fn follow_routes(&mut self, mesh: &Mesh) {
        let routes = routes(mesh, self.us);
        if routes == *self.routes {
            return;
        }
        let old = std::mem::replace(&mut self.routes, Arc::new(routes));
        let gone = old.peers.iter().filter(|peer| !self.routes.knows(**peer));
        self.gone.extend(gone);
        self.table_stale = true;
    }

    /// Takes over the owners of short ids alone.
    fn follow_short_ids(&mut self, mesh: &Mesh) {
        let short_ids = mesh.short_ids();
        if short_ids != self.routes.short_ids {
            Arc::make_mut(&mut self.routes).short_ids = short_ids;
            self.table_stale = true;
        }
    }
}

fn routes(mesh: &Mesh, us: PeerName) -> Routes {
    let peers: Vec<_> = mesh.peers().collect();
    let mut unicast = mesh.unicast_established().clone();
    unicast.remove(&us);
    let broadcast = peers.iter().filter_map(|&origin| {
        let copies = mesh.broadcast_established(origin);
        (!copies.is_empty()).then_some((origin, copies))
    });
    Routes {
        broadcast: broadcast.collect(),
        unicast,
        peers,
        short_ids: mesh.short_ids(),
    }
}
