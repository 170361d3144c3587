//! All connections' tunnels: one switch each, registered by the remote's name, because datagrams
//! name their sender and nothing else.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use nacl::SessionKey;
use tracing::debug;
use wire::message::OverlayControl;
use wire::{LinkId, PeerName};

use crate::capabilities::Capabilities;
use crate::kind::{Kind, Lane, Probe, TunnelEvent};
use crate::protection::Cipher;
use crate::switch::{Reason, Switch, SwitchError, SwitchOutput};
use crate::table::Neighbour;
use crate::tunnel::TunnelConfig;

/// What the overlay needs to know about a connection.
#[derive(Clone)]
pub struct ConnectionParams {
    /// Its identity.
    pub link: LinkId,
    /// The other end.
    pub remote: PeerName,
    /// For log lines and errors: `name(nick)` of the other end.
    pub remote_label: String,
    /// TCP address of the other end.
    pub remote_address: SocketAddr,
    /// Whether we dialled.
    pub outbound: bool,
    /// Connection UID.
    pub uid: u64,
    /// Key of the data plane; `None` leaves it in clear. The mesh decides whether (password, trust).
    pub key: Option<Arc<SessionKey>>,
    /// What the other end announced of what we know.
    pub capabilities: Capabilities,
    /// Overlay names the other end announced; `None` for compatibility mode.
    pub overlays: Option<Vec<String>>,
}

/// What the caller must do or know, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OverlayOutput {
    /// Send on the connection's link.
    SendControl {
        /// The connection.
        link: LinkId,
        /// The message.
        control: OverlayControl,
    },
    /// The connection's data path works in our direction; said once.
    Established {
        /// The connection.
        link: LinkId,
    },
    /// The connection has no tunnel (any more); close its link with this error.
    Failed {
        /// The connection.
        link: LinkId,
        /// Why.
        error: SwitchError,
    },
    /// Have a special frame sent, after publishing earlier changes.
    Probe(Probe),
    /// [`Overlay::neighbours`] changed.
    NeighboursChanged,
}

/// The overlay's view of one connection, for status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelStatus {
    /// The connection.
    pub link: LinkId,
    /// The other end.
    pub remote: PeerName,
    /// Name of the overlay in use, or `none`.
    pub name: &'static str,
    /// What seals the data plane; `None`: in clear.
    pub cipher: Option<Cipher>,
    /// Overlay MTU, bytes; 0 if there is no tunnel.
    pub mtu_bytes: usize,
    /// Why this overlay; shown as a stable word.
    pub reason: Reason,
}

struct Connection {
    /// Its number among all that were ever registered.
    serial: u64,
    remote: PeerName,
    switch: Switch,
    /// What was published last.
    published: Option<Arc<Neighbour>>,
    /// When it wants to be called, as noted in the overlay's timetable.
    due: Option<(Instant, &'static str)>,
}

/// Control half of all tunnels.
///
/// Call a `handle_*` method, then drain [`Self::poll_output`], then call [`Self::handle_timeout`] at
/// [`Self::poll_timeout`]. Time must not go backwards.
///
/// Invariant: at most one connection per remote is registered, the newest; only registered ones
/// have a tunnel published and send special frames.
pub struct Overlay {
    kinds: Vec<Kind>,
    capabilities: Capabilities,
    connections: BTreeMap<LinkId, Connection>,
    registered: BTreeMap<PeerName, LinkId>,
    /// How many connections were ever registered.
    serials: u64,
    /// What each connection is due for.
    timetable: BTreeSet<(Instant, &'static str, LinkId)>,
    outputs: VecDeque<OverlayOutput>,
}

impl Overlay {
    /// No connections yet. `kinds` is our list in order of preference; what it leaves out is never
    /// used, except [`Kind::COMPATIBLE`]: towards peers that announce no list, and towards everybody
    /// if ours is empty. `capabilities` is what we announced.
    pub fn new(kinds: Vec<Kind>, capabilities: Capabilities) -> Self {
        Self {
            kinds,
            capabilities,
            connections: BTreeMap::new(),
            timetable: BTreeSet::new(),
            registered: BTreeMap::new(),
            serials: 0,
            outputs: VecDeque::new(),
        }
    }

    /// Value of the `Overlays` handshake feature, in order.
    pub fn announced(kinds: &[Kind]) -> Vec<String> {
        kinds.iter().map(|kind| kind.name().to_owned()).collect()
    }

    /// A connection was added: prepares and confirms its tunnels and registers it for its remote,
    /// replacing an older connection's registration.
    pub fn handle_connection_added(&mut self, params: ConnectionParams, now: Instant) {
        let link = params.link;
        let common = self.capabilities.common(&params.capabilities);
        let config = TunnelConfig {
            remote_label: params.remote_label,
            remote_address: params.remote_address,
            outbound: params.outbound,
            uid: params.uid,
            protection: common.protection(params.key),
        };
        let theirs = params.overlays.as_deref();
        let theirs = theirs.filter(|_| !self.kinds.is_empty());
        let mut switch = match Switch::new(&self.kinds, theirs, &config) {
            Ok(switch) => switch,
            Err(error) => {
                self.outputs
                    .push_back(OverlayOutput::Failed { link, error });
                return;
            }
        };
        switch.confirm(now);
        self.serials += 1;
        let connection = Connection {
            serial: self.serials,
            remote: params.remote,
            switch,
            published: None,
            due: None,
        };
        self.registered.insert(params.remote, link);
        let earlier = self.connections.insert(link, connection);
        assert!(earlier.is_none(), "a connection is added once");
        self.outputs.push_back(OverlayOutput::NeighboursChanged);
        self.drain(link);
    }

    /// A connection was removed. Unknown ones are ignored (its overlay may have failed at once).
    pub fn handle_connection_removed(&mut self, link: LinkId) {
        let Some(connection) = self.connections.remove(&link) else {
            return;
        };
        if let Some((at, why)) = connection.due {
            self.timetable.remove(&(at, why, link));
        }
        if self.registered.get(&connection.remote) == Some(&link) {
            self.registered.remove(&connection.remote);
            self.outputs.push_back(OverlayOutput::NeighboursChanged);
        }
    }

    /// A control message arrived on a connection's link.
    pub fn handle_control(&mut self, link: LinkId, control: &OverlayControl, now: Instant) {
        if let Some(connection) = self.connections.get_mut(&link) {
            connection.switch.handle_control(control, now);
            self.drain(link);
        }
    }

    /// News from the data plane. Late news about tunnels that are gone is ignored.
    pub fn handle_tunnel_event(&mut self, event: TunnelEvent, now: Instant) {
        let TunnelEvent { link, event } = event;
        if !self.is_registered(link) {
            debug!(
                link = link.number(),
                "ignoring event of a tunnel that is gone"
            );
            return;
        }
        let connection = self.connections.get_mut(&link);
        let connection = connection.expect("registered connections are live");
        connection.switch.handle_event(event, now);
        self.drain(link);
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let due = self.timetable.iter().take_while(|(at, ..)| *at <= now);
        let due: BTreeSet<LinkId> = due.map(|(_, _, link)| *link).collect();
        for link in due {
            let connection = self.connections.get_mut(&link).expect("collected just now");
            connection.switch.handle_timeout(now);
            self.drain(link);
        }
    }

    /// When [`Self::handle_timeout`] wants to be called, and what for.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.timetable.first().map(|(at, why, _)| (*at, *why))
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<OverlayOutput> {
        self.outputs.pop_front()
    }

    /// Each registered connection, to be published. What did not change since the last call is the
    /// same as then.
    pub fn neighbours(&mut self) -> BTreeMap<PeerName, Arc<Neighbour>> {
        let connections = &mut self.connections;
        let neighbour = |(remote, link): (&PeerName, &LinkId)| {
            let connection = connections.get_mut(link);
            let connection = connection.expect("registered connections are live");
            (*remote, connection.publish(*link))
        };
        self.registered.iter().map(neighbour).collect()
    }

    /// Whether [`Self::neighbours`] has this one.
    pub fn is_registered(&self, link: LinkId) -> bool {
        let connection = self.connections.get(&link);
        connection.is_some_and(|connection| self.registered.get(&connection.remote) == Some(&link))
    }

    /// Number of connections.
    pub fn len(&self) -> usize {
        self.connections.len()
    }

    /// Whether there is no connection.
    pub fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }

    /// All connections, for status.
    pub fn status(&self) -> Vec<TunnelStatus> {
        self.connections
            .iter()
            .map(|(link, connection)| connection.status(*link))
            .collect()
    }

    /// Follows what a connection's switch says, and notes when it wants to be called next.
    fn drain(&mut self, link: LinkId) {
        let registered = self.is_registered(link);
        let Some(connection) = self.connections.get_mut(&link) else {
            return;
        };
        while let Some(output) = connection.switch.poll_output() {
            let output = match output {
                SwitchOutput::Control(control) => OverlayOutput::SendControl { link, control },
                SwitchOutput::Probe(probe) if registered => {
                    OverlayOutput::Probe(Probe { link, probe })
                }
                SwitchOutput::Changed if registered => OverlayOutput::NeighboursChanged,
                SwitchOutput::Probe(_) | SwitchOutput::Changed => continue,
                SwitchOutput::Established => OverlayOutput::Established { link },
                SwitchOutput::Failed(error) => OverlayOutput::Failed { link, error },
            };
            self.outputs.push_back(output);
        }
        let due = connection.switch.poll_timeout();
        let before = std::mem::replace(&mut connection.due, due);
        if before != due {
            if let Some((at, why)) = before {
                self.timetable.remove(&(at, why, link));
            }
            self.timetable.extend(due.map(|(at, why)| (at, why, link)));
        }
    }
}

impl Connection {
    /// What is to be published; the same as last time if nothing changed.
    fn publish(&mut self, link: LinkId) -> Arc<Neighbour> {
        let neighbour = Neighbour {
            link,
            serial: self.serial,
            remote: self.remote,
            lanes: self.switch.lanes(),
            chosen: self.switch.best(),
        };
        let published = self.published.take().filter(|last| **last == neighbour);
        let published = published.unwrap_or_else(|| Arc::new(neighbour));
        Arc::clone(self.published.insert(published))
    }

    fn status(&self, link: LinkId) -> TunnelStatus {
        let carrier = self.switch.carrier();
        TunnelStatus {
            link,
            remote: self.remote,
            name: self.switch.best().map_or("none", Kind::name),
            cipher: carrier.as_ref().and_then(|lane| lane.protection().cipher()),
            mtu_bytes: carrier.as_ref().map_or(0, Lane::mtu_bytes),
            reason: self.switch.reason(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sleeve::lane::{SleeveEvent, SleeveProbe, SpecialKind};

    const BRAVO: PeerName = PeerName::from_u64(0x0200_0000_0b02);

    #[expect(clippy::disallowed_methods, reason = "base of virtual time")]
    fn base() -> Instant {
        Instant::now()
    }

    fn params(id: u64, overlays: Option<&str>) -> ConnectionParams {
        ConnectionParams {
            link: LinkId::outbound(id),
            remote: BRAVO,
            remote_label: "bravo".into(),
            remote_address: "192.0.2.2:6783".parse().unwrap(),
            outbound: true,
            uid: id,
            key: None,
            capabilities: Capabilities::default(),
            overlays: overlays.map(|list| list.split(' ').map(str::to_owned).collect()),
        }
    }

    fn overlay() -> Overlay {
        Overlay::new(vec![Kind::Sleeve], Capabilities::default())
    }

    fn drain(overlay: &mut Overlay) -> Vec<OverlayOutput> {
        std::iter::from_fn(|| overlay.poll_output()).collect()
    }

    fn heartbeat(tunnel: u64, uid: u64) -> OverlayOutput {
        let probe = SleeveProbe::Heartbeat {
            connection_uid: uid,
        };
        OverlayOutput::Probe(probe.on(LinkId::outbound(tunnel)))
    }

    fn control(tag: u8, body: &[u8]) -> OverlayControl {
        OverlayControl {
            index: Some(0),
            tag,
            body: body.to_vec(),
        }
    }

    #[test]
    fn a_tunnel_is_published_before_its_first_heartbeat() {
        let mut overlay = overlay();
        overlay.handle_connection_added(params(1, Some("sleeve")), base());
        let outputs = drain(&mut overlay);
        assert_eq!(outputs.first(), Some(&OverlayOutput::NeighboursChanged));
        assert_eq!(outputs.last(), Some(&heartbeat(1, 1)));
        let neighbours = overlay.neighbours();
        let carrier = neighbours[&BRAVO].carrier().unwrap();
        assert_eq!((carrier.kind(), carrier.mtu_bytes()), (Kind::Sleeve, 65535));
    }

    #[test]
    fn nothing_in_common_fails_the_connection() {
        let mut overlay = overlay();
        overlay.handle_connection_added(params(1, Some("awsvpc")), base());
        let error = SwitchError::NothingInCommon;
        let failed = OverlayOutput::Failed {
            link: LinkId::outbound(1),
            error,
        };
        assert_eq!(drain(&mut overlay), [failed]);
        overlay.handle_connection_removed(LinkId::outbound(1));
        assert_eq!(drain(&mut overlay), []);
    }

    #[test]
    fn a_new_connection_replaces_the_older_registration() {
        let now = base();
        let mut overlay = overlay();
        overlay.handle_connection_added(params(1, Some("sleeve")), now);
        overlay.handle_connection_added(params(2, Some("sleeve")), now);
        drain(&mut overlay);
        assert_eq!(overlay.neighbours()[&BRAVO].link, LinkId::outbound(2));
        let kind = SpecialKind::Heartbeat { connection_uid: 1 };
        let from = "192.0.2.2:6783".parse().unwrap();
        let late = SleeveEvent::Special { from, kind };
        overlay.handle_tunnel_event(late.on(LinkId::outbound(1)), now);
        assert_eq!(drain(&mut overlay), [], "the older tunnel is deaf");
        let (at, _) = overlay.poll_timeout().unwrap();
        overlay.handle_timeout(at);
        assert_eq!(drain(&mut overlay), [heartbeat(2, 2)], "and mute");
        overlay.handle_connection_removed(LinkId::outbound(1));
        assert_eq!(drain(&mut overlay), []);
        assert_eq!(overlay.neighbours().len(), 1);
        overlay.handle_connection_removed(LinkId::outbound(2));
        assert_eq!(drain(&mut overlay), [OverlayOutput::NeighboursChanged]);
        assert!(overlay.neighbours().is_empty());
    }

    #[test]
    fn a_whole_life_is_told_in_order() {
        let now = base();
        let mut overlay = overlay();
        overlay.handle_connection_added(params(1, Some("fastdp sleeve")), now);
        drain(&mut overlay);
        let kind = SpecialKind::Heartbeat { connection_uid: 1 };
        let from = "192.0.2.2:6783".parse().unwrap();
        let link = LinkId::outbound(1);
        overlay.handle_tunnel_event(SleeveEvent::Special { from, kind }.on(link), now);
        let control_1 = OverlayOutput::SendControl {
            link,
            control: control(1, &[]),
        };
        assert_eq!(drain(&mut overlay), [control_1]);
        overlay.handle_control(link, &control(1, &[]), now);
        assert!(drain(&mut overlay).contains(&OverlayOutput::Established { link }));
        let too_big = SleeveEvent::TooBig {
            path_mtu_bytes: 1500,
        };
        overlay.handle_tunnel_event(too_big.on(link), now);
        let test = SleeveProbe::MtuTest { frame_bytes: 1452 }.on(link);
        let expected = [OverlayOutput::NeighboursChanged, OverlayOutput::Probe(test)];
        assert_eq!(drain(&mut overlay), expected);
        overlay.handle_control(link, &control(3, &1438u16.to_be_bytes()), now);
        overlay.handle_control(link, &control(2, &[]), now);
        let neighbours = overlay.neighbours();
        let lane = neighbours[&BRAVO].lanes.sleeve().unwrap();
        assert_eq!((lane.mtu_bytes, lane.stack_frag), (1438, true));
        let status = overlay.status();
        assert_eq!(
            (status[0].name, status[0].reason),
            ("sleeve", Reason::OnlyCommon)
        );
        drain(&mut overlay);
        overlay.handle_tunnel_event(SleeveEvent::CounterExhausted.on(link), now);
        let outputs = drain(&mut overlay);
        assert!(
            matches!(outputs.last(), Some(OverlayOutput::Failed { .. })),
            "{outputs:?}"
        );
    }
}
