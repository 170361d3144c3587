//! Tunnels in a node: connections of the mesh get tunnels of the overlay, and what becomes of these is
//! told to the mesh.

use std::time::Instant;

use mesh::{Connection, Mesh, MeshConfig, TrustedSubnet};
use overlay::capabilities::Capabilities;
use overlay::kind::{Kind, TunnelEvent};
use overlay::{ConnectionParams, Overlay, OverlayOutput, TunnelStatus};
use wire::LinkId;
use wire::message::OverlayControl;

use crate::forwarding::Forwarding;

/// The overlay, and whom we trust to be reached in clear.
pub(crate) struct Tunnels {
    overlay: Overlay,
    /// When the overlay wants to be called. Asking it means looking at every tunnel, and most inputs
    /// are none of its business.
    due: Option<(Instant, &'static str)>,
    /// Whether that may be outdated.
    is_touched: bool,
    encrypts: bool,
    trusted_subnets: Vec<TrustedSubnet>,
}

impl Tunnels {
    /// No tunnels, of these kinds in order of preference. What we are capable of counts if the mesh
    /// announces it.
    pub(crate) fn new(kinds: Vec<Kind>, capabilities: Capabilities, mesh: &MeshConfig) -> Self {
        let announced = if mesh.announce_weft {
            capabilities
        } else {
            Capabilities::default()
        };
        Self {
            overlay: Overlay::new(kinds, announced),
            due: None,
            is_touched: true,
            encrypts: mesh.password.is_some(),
            trusted_subnets: mesh.trusted_subnets.clone(),
        }
    }

    /// The overlay, for what is published of it.
    pub(crate) fn overlay(&mut self) -> &mut Overlay {
        &mut self.overlay
    }

    /// What there is to see of each tunnel.
    pub(crate) fn status(&self) -> Vec<TunnelStatus> {
        self.overlay.status()
    }

    /// How many connections have one.
    pub(crate) fn len(&self) -> usize {
        self.overlay.len()
    }

    /// Does what is due.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.due.is_some_and(|(at, _)| at <= now) {
            self.touch().handle_timeout(now);
        }
    }

    /// When that wants to be called, and what for: as of the last [`Self::settle`].
    pub(crate) fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.due
    }

    /// Nothing more happens to tunnels for now.
    pub(crate) fn settle(&mut self) {
        if std::mem::take(&mut self.is_touched) {
            self.due = self.overlay.poll_timeout();
        }
    }

    /// News from the data plane.
    pub(crate) fn handle_event(&mut self, event: TunnelEvent, now: Instant) {
        self.touch().handle_tunnel_event(event, now);
    }

    /// The other end says something about a tunnel.
    pub(crate) fn handle_control(&mut self, link: LinkId, control: &OverlayControl, now: Instant) {
        self.touch().handle_control(link, control, now);
    }

    /// There is a connection: it gets a tunnel.
    pub(crate) fn add(&mut self, connection: Connection, now: Instant) {
        let is_trusted = connection.features.trusted && self.trusts(&connection);
        assert!(
            connection.data_key.is_some() || !self.encrypts || is_trusted,
            "a data plane that should be encrypted has a key"
        );
        let weft = connection.features.weft;
        let words = weft.map_or_else(Vec::new, |weft| weft.capabilities);
        let params = ConnectionParams {
            link: connection.link,
            remote: connection.remote,
            remote_label: format!("{}({})", connection.remote, connection.remote_nickname),
            remote_address: connection.remote_address,
            outbound: connection.link.is_outbound(),
            uid: connection.uid,
            key: connection.data_key,
            capabilities: Capabilities::of_words(&words),
            overlays: connection.features.overlays,
        };
        self.touch().handle_connection_added(params, now);
    }

    /// A connection is gone, and its tunnel with it.
    pub(crate) fn remove(&mut self, link: LinkId) {
        self.touch().handle_connection_removed(link);
    }

    /// Passes one thing on that the overlay says, to the mesh or to be published; whether there was
    /// any.
    pub(crate) fn follow(
        &mut self,
        mesh: &mut Mesh,
        forwarding: &mut Forwarding,
        now: Instant,
    ) -> bool {
        let Some(output) = self.overlay.poll_output() else {
            return false;
        };
        match output {
            OverlayOutput::SendControl { link, control } => {
                mesh.send_overlay_control(link, control);
            }
            OverlayOutput::Established { link } => mesh.connection_established(link, now),
            OverlayOutput::Failed { link, error } => {
                mesh.connection_failed(link, &error.to_string(), now);
            }
            OverlayOutput::Probe(probe) => forwarding.probe(probe),
            OverlayOutput::NeighboursChanged => forwarding.neighbours_changed(),
        }
        true
    }

    fn touch(&mut self) -> &mut Overlay {
        self.is_touched = true;
        &mut self.overlay
    }

    fn trusts(&self, connection: &Connection) -> bool {
        let ip = connection.remote_address.ip();
        let mut subnets = self.trusted_subnets.iter();
        subnets.any(|subnet| subnet.contains(ip))
    }
}
