//! Tunnels in a node: connections of the mesh get tunnels of the overlay, and what becomes of these is
//! told to the mesh.

use std::time::Instant;

use mesh::{Connection, Mesh, MeshConfig, TrustedSubnet};
use overlay::kind::{Kind, TunnelEvent};
use overlay::protection::{Cipher, Protection};
use overlay::{ConnectionParams, Overlay, OverlayOutput, TunnelStatus};
use wire::LinkId;
use wire::message::OverlayControl;

use crate::forwarding::Forwarding;

/// The overlay, and what protects the tunnels of a connection.
pub(crate) struct Tunnels {
    overlay: Overlay,
    /// When the overlay wants to be called. Asking it means looking at every tunnel, and most inputs
    /// are none of its business.
    due: Option<(Instant, &'static str)>,
    /// Whether that may be outdated.
    is_touched: bool,
    encrypts: bool,
    /// Whether we announce that datagrams to us may be sealed by AES-256-GCM.
    offers_aes_gcm: bool,
    trusted_subnets: Vec<TrustedSubnet>,
}

impl Tunnels {
    /// No tunnels, of these kinds in order of preference.
    pub(crate) fn new(kinds: Vec<Kind>, mesh: &MeshConfig) -> Self {
        let words = &mesh.weft_capabilities;
        let says_aes_gcm = words.iter().any(|word| word == Cipher::AES_GCM_WORD);
        Self {
            overlay: Overlay::new(kinds),
            due: None,
            is_touched: true,
            encrypts: mesh.password.is_some(),
            offers_aes_gcm: mesh.announce_weft && says_aes_gcm,
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
        let protection = self.protection(&connection);
        let params = ConnectionParams {
            link: connection.link,
            remote: connection.remote,
            remote_label: format!("{}({})", connection.remote, connection.remote_nickname),
            remote_address: connection.remote_address,
            outbound: connection.link.is_outbound(),
            uid: connection.uid,
            protection,
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

    fn protection(&self, connection: &Connection) -> Protection {
        let features = &connection.features;
        let is_trusted = features.trusted && self.trusts(connection);
        assert!(
            connection.data_key.is_some() || !self.encrypts || is_trusted,
            "a data plane that should be encrypted has a key"
        );
        let weft = features.weft.as_ref();
        let offers = weft.is_some_and(|weft| weft.has(Cipher::AES_GCM_WORD));
        let cipher = if self.offers_aes_gcm && offers {
            Cipher::AesGcm
        } else {
            Cipher::Secretbox
        };
        let key = connection.data_key.clone();
        key.map_or(Protection::Clear, |key| Protection::Sealed(key, cipher))
    }

    fn trusts(&self, connection: &Connection) -> bool {
        let ip = connection.remote_address.ip();
        let mut subnets = self.trusted_subnets.iter();
        subnets.any(|subnet| subnet.contains(ip))
    }
}
