//! Links from TCP connection to member of our peer entry, and back (spec/mesh.md 3.5 and 6).

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::RngExt;
use rand::rngs::StdRng;
use tracing::{debug, info};
use wire::LinkId;
use wire::handshake::{Features, VersionRange, WeftFeature};
use wire::message::Message;
use wire::quote::{printable, quote};

use super::clones::Clones;
use super::dials::Dials;
use super::duplicates::{Superseded, Survivor};
use super::outputs::Outputs;
use super::table::LinkTable;
use super::topology::Topology;
use crate::keys::KeySource;
use crate::link::handshake::{Handshake, Introduction, Offer};
use crate::link::{DELTA, Farewell, Introduced, Link, Phase, READ_DEADLINE};
use crate::maker::Ending;
use crate::peers::{Adjacency, PEERS_MAX, canonical, peer_label};
use crate::{Connection, MeshConfig, MeshOutput};

/// Most accepted links whose introduction is under way; the oldest makes room for the newest.
pub(super) const INBOUND_HANDSHAKES_MAX: usize = 256;
/// Most links that are refused and being told why.
pub(super) const FAREWELLS_MAX: usize = 16;
/// How long a link that is refused stays to read what it is told: longer than its other end waits
/// before it announces what became of it.
const FAREWELL: Duration = Duration::from_secs(2);
/// Format version of the `Weft` feature we send.
const WEFT_FEATURE_VERSION: u32 = 1;

/// The life of links: sees everything but gossip, which hears of it by what its methods return.
pub(super) struct Links<'a> {
    pub(super) config: &'a MeshConfig,
    pub(super) topology: &'a mut Topology,
    pub(super) table: &'a mut LinkTable,
    pub(super) dials: &'a mut Dials,
    pub(super) clones: &'a mut Clones,
    pub(super) superseded: &'a mut Superseded,
    pub(super) keys: &'a mut KeySource,
    pub(super) rng: &'a mut StdRng,
    pub(super) outputs: &'a mut Outputs,
}

/// What bytes made of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// Its introduction goes on, or it ended.
    Awaited,
    /// It was introduced before: there may be messages.
    Messages,
    /// It became our connection to a peer.
    Joined {
        /// Whether what we know may be news to that peer.
        is_news: bool,
    },
    /// It is refused, and stays a moment to be told who has its name.
    Parting,
}

/// Why a connection did not become one of ours.
struct Refused {
    ending: Ending,
    error: String,
    /// Whether its name is that of another live machine: it stays a moment to learn so.
    is_clone: bool,
}

impl From<String> for Refused {
    fn from(error: String) -> Self {
        Self {
            ending: Ending::Ordinary,
            error,
            is_clone: false,
        }
    }
}

impl Links<'_> {
    /// The shell accepted a TCP connection.
    pub(super) fn accept(
        &mut self,
        id: LinkId,
        local: SocketAddr,
        remote: SocketAddr,
        now: Instant,
    ) {
        assert!(
            !id.is_outbound(),
            "the shell numbers accepted links as inbound"
        );
        assert!(self.table.get(id).is_none(), "link numbers are used once");
        let is_new =
            |(id, link): &(LinkId, &Link)| !id.is_outbound() && link.introduced().is_none();
        let strangers = || self.table.iter().filter(is_new);
        if strangers().count() >= INBOUND_HANDSHAKES_MAX {
            let oldest = strangers().next().map(|(id, _)| id);
            let oldest = oldest.expect("there are that many");
            let error = "too many connections in handshake";
            self.end(oldest, error, Ending::Ordinary, now);
        }
        let addresses = (canonical(local), canonical(remote));
        self.start(id, addresses, true, now);
        let conn = self.table.label(id);
        info!(%conn, "connection accepted");
    }

    /// A dial succeeded.
    pub(super) fn connected(&mut self, id: LinkId, local: SocketAddr, now: Instant) {
        let Some(attempt) = self.dials.take(id) else {
            debug!(link = id.number(), "nobody asked for this dial");
            self.outputs.push(MeshOutput::Close { link: id });
            return;
        };
        // Everybody is told the address that was dialled, and its target is found by it.
        let addresses = (canonical(local), attempt.address);
        self.start(id, addresses, attempt.direct, now);
    }

    /// A link ended: end of file (`EOF`) or an error.
    pub(super) fn closed(&mut self, id: LinkId, error: &str, now: Instant) {
        let Some(link) = self.table.get(id) else {
            return;
        };
        let (error, ending) = match &link.farewell {
            Some(farewell) => (farewell.error.clone(), farewell.ending),
            None if self.clones.text().is_some() => {
                let error = link.end_text(error);
                let error = format!("{error}; another machine has our peer name");
                // Displacing each other every second would keep the whole mesh busy.
                if self.clones.knows_well(now) {
                    (error, Ending::NameCollision)
                } else {
                    (error, Ending::Ordinary)
                }
            }
            None => (link.end_text(error), Ending::Ordinary),
        };
        self.forget(id, &error, ending, now);
    }

    /// The overlay says the path of a connection works.
    pub(super) fn established(&mut self, id: LinkId, now: Instant) {
        let remote = self.table.remote(id);
        let remote = remote.filter(|remote| self.table.connection_to(*remote) == Some(id));
        let Some(remote) = remote else {
            debug!(link = id.number(), "Cannot set unknown connection active");
            return;
        };
        let peers = &mut self.topology.peers;
        let adjacency = peers.own().adjacencies.get(&remote);
        let adjacency = adjacency.expect("our entry lists our connections");
        if adjacency.established {
            return;
        }
        let established = Adjacency {
            established: true,
            ..adjacency.clone()
        };
        peers.change_own().set_adjacency(remote, established);
        let conn = self.table.label(id);
        info!(%conn, "connection fully established");
        self.topology.request_routes(now);
        self.topology.announce_soon(now);
    }

    /// Ends links that were silent too long, sends heartbeats.
    pub(super) fn tend(&mut self, now: Instant) {
        for id in self.table.overdue(now) {
            let link = self.table.get(id);
            let link = link.expect("ending one link leaves the others");
            let (error, ending) = match &link.farewell {
                Some(farewell) => (farewell.error.clone(), farewell.ending),
                None => (link.end_text(&link.timeout_text()), Ending::Ordinary),
            };
            self.end(id, &error, ending, now);
        }
        self.table.beat(now, self.outputs);
    }

    /// Asks the shell for the connections the maker wants.
    pub(super) fn dial(&mut self, now: Instant) {
        for attempt in self.dials.maker.choose(&self.topology.peers, now) {
            let conn = format!("->[{}]", attempt.address);
            info!(%conn, "attempting connection");
            match self.check_limit() {
                Ok(()) => self.dials.start(attempt, now, self.outputs),
                Err(error) => self
                    .dials
                    .note_failure(attempt.address, &error, now, self.rng),
            }
        }
    }

    /// Looks at what the topology said about our name since last time.
    pub(super) fn judge_rivals(&mut self, now: Instant) {
        if let Some(rival) = self.topology.peers.take_rival()
            && self.clones.hear(rival, now)
        {
            self.find_clone(&format!("process {:016x}", rival.uid), now);
        }
    }

    /// Bytes arrived on a link, cut anywhere.
    pub(super) fn push(&mut self, id: LinkId, bytes: &[u8], now: Instant) -> Progress {
        let Some(link) = self.table.get_mut(id) else {
            return Progress::Awaited;
        };
        let handshake = match &mut link.phase {
            Phase::Introduced(introduced) => {
                introduced.session.push(bytes);
                return Progress::Messages;
            }
            Phase::Handshake(handshake) => handshake,
        };
        let awaited_header = handshake.awaits_header();
        let progress = handshake.push(bytes);
        let output = handshake.take_output();
        if awaited_header && !handshake.awaits_header() {
            link.deadline = now + READ_DEADLINE;
        }
        self.table.send(id, output, self.outputs);
        match progress {
            Ok(None) => Progress::Awaited,
            Ok(Some(introduction)) => self.introduce(id, introduction, now),
            Err(error) => {
                self.end(id, &error.to_string(), Ending::Ordinary, now);
                Progress::Awaited
            }
        }
    }

    /// Ends a link from our side.
    pub(super) fn end(&mut self, id: LinkId, error: &str, ending: Ending, now: Instant) {
        if self.table.get(id).is_some() {
            self.forget(id, error, ending, now);
            self.outputs.push(MeshOutput::Close { link: id });
        }
    }

    fn start(
        &mut self,
        id: LinkId,
        addresses: (SocketAddr, SocketAddr),
        may_introduce: bool,
        now: Instant,
    ) {
        let offer = self.offer(id, addresses.1);
        let mut handshake = Handshake::new(offer);
        let header = handshake.take_output();
        let link = Link::new(addresses, may_introduce, handshake, now);
        self.table.insert(id, link);
        self.table.send(id, header, self.outputs);
    }

    /// What we say about ourselves on a new link.
    fn offer(&mut self, id: LinkId, remote: SocketAddr) -> Offer {
        let config = self.config;
        let own = self.topology.peers.own();
        let mut capabilities = config.weft_capabilities.clone();
        capabilities.push(DELTA.to_owned());
        capabilities.sort_unstable();
        let weft = WeftFeature {
            version: WEFT_FEATURE_VERSION,
            capabilities,
        };
        let key_seed = self.keys.next_key();
        Offer {
            versions: VersionRange {
                min: config.min_protocol_version,
                max: config.max_protocol_version,
            },
            features: Features {
                name: config.name,
                nickname: own.nickname.clone(),
                uid: own.uid,
                conn_id: self.rng.random(),
                short_id: own.short_id,
                trusted: config.trusts(remote.ip()),
                overlays: (!config.overlays.is_empty()).then(|| config.overlays.clone()),
                public_key: None,
                weft: config.announce_weft.then_some(weft),
            },
            password: config.password.clone(),
            key_seed,
            outbound: id.is_outbound(),
        }
    }

    /// Everything between the introduction and the first message (spec/mesh.md 3.5).
    fn introduce(&mut self, id: LinkId, introduction: Introduction, now: Instant) -> Progress {
        let link = self.table.get_mut(id);
        let link = link.expect("the caller has just used it");
        let name = introduction.features.name;
        let known = self.topology.peers.get(name);
        if known.is_none() && !link.may_introduce {
            let error = format!("Found unknown remote name: {name} at {}", link.remote);
            self.end(id, &error, Ending::Ordinary, now);
            return Progress::Awaited;
        }
        let is_restarted = known.is_some_and(|known| known.uid != introduction.features.uid);
        let version = introduction.version;
        self.topology.peers.hold(&introduction.features);
        link.deadline = now + READ_DEADLINE;
        link.phase = Phase::Introduced(Box::new(Introduced::new(introduction, now)));
        let conn = link.label();
        if let Err(refused) = self.check_identity(id) {
            if refused.is_clone {
                self.meet_clone(id, now);
                return self.refuse(id, refused, now);
            }
            self.end_with_twin(id, &refused, now);
            return Progress::Awaited;
        }
        info!(%conn, "connection ready; using protocol version {version}");
        if let Err(refused) = self.add_connection(id, now) {
            return self.refuse(id, refused, now);
        }
        let is_new = !self.topology.has_established_route(name);
        match (is_new, is_restarted) {
            (true, _) => info!(%conn, "connection added (new peer)"),
            (false, true) => info!(%conn, "connection added (restarted peer)"),
            (false, false) => info!(%conn, "connection added"),
        }
        Progress::Joined {
            is_news: is_new || is_restarted,
        }
    }

    /// Ends a link; that of a clone in a moment.
    fn refuse(&mut self, id: LinkId, refused: Refused, now: Instant) -> Progress {
        let Refused {
            ending,
            error,
            is_clone,
        } = refused;
        let is_leaving = |(_, link): &(LinkId, &Link)| link.farewell.is_some();
        let has_room = self.table.iter().filter(is_leaving).count() < FAREWELLS_MAX;
        if !is_clone || !has_room {
            self.end(id, &error, ending, now);
            return Progress::Awaited;
        }
        // It ends a little later, so that the other end reads why: our entry of its name, which
        // another incarnation of it told.
        let link = self.table.get_mut(id);
        let link = link.expect("the caller has just used it");
        link.farewell = Some(Farewell { error, ending });
        link.deadline = now + FAREWELL;
        let due = link.due();
        self.table.due_at(due);
        Progress::Parting
    }

    /// Ends a link, and if it leads to ourselves its other end too: else whichever end is told of a
    /// closed connection first would not learn why, and dial again.
    fn end_with_twin(&mut self, id: LinkId, refused: &Refused, now: Instant) {
        let their_conn_id = self.table.introduced(id).features.conn_id;
        self.end(id, &refused.error, refused.ending, now);
        let is_twin = |link: &Link| match &link.phase {
            Phase::Handshake(handshake) => handshake.conn_id() == their_conn_id,
            Phase::Introduced(_) => false,
        };
        let twin = self.table.iter().find(|(_, link)| is_twin(link));
        let twin = twin.map(|(id, _)| id);
        if let Some(twin) = twin.filter(|_| refused.ending == Ending::SelfConnection) {
            self.end(twin, &refused.error, refused.ending, now);
        }
    }

    fn check_identity(&self, id: LinkId) -> Result<(), Refused> {
        let theirs = &self.table.introduced(id).features;
        if theirs.name != self.config.name {
            return Ok(());
        }
        let own = self.topology.peers.own();
        if theirs.uid == own.uid {
            let error = "cannot connect to ourself".to_owned();
            return Err(Refused {
                ending: Ending::SelfConnection,
                error,
                is_clone: false,
            });
        }
        let local = quote(&peer_label(self.config.name, &own.nickname));
        let remote = quote(&peer_label(theirs.name, &theirs.nickname));
        let error = format!("local {local} and remote {remote} peer names collision");
        Err(Refused {
            ending: Ending::NameCollision,
            error,
            is_clone: true,
        })
    }

    /// A link introduced itself with our name, and it is not us.
    fn meet_clone(&mut self, id: LinkId, now: Instant) {
        let Some(link) = self.table.get(id) else {
            return;
        };
        let nickname = &self.table.introduced(id).features.nickname;
        let whom = peer_label(self.config.name, nickname);
        let whom = format!("{whom} at {}", link.remote.ip());
        self.find_clone(&whom, now);
    }

    fn find_clone(&mut self, whom: &str, now: Instant) {
        if self.clones.find(self.config.name, whom, now) {
            // Those who cannot tell us apart shall hear what we are.
            self.topology.announce_soon(now);
        }
    }

    /// Makes an introduced link one of our connections, unless it is one too many.
    fn add_connection(&mut self, id: LinkId, now: Instant) -> Result<(), Refused> {
        self.check_overlays(id)?;
        let name = self.table.introduced(id).remote();
        match self.table.connection_to(name) {
            Some(old) => self.settle_duplicate(old, id, now)?,
            None => self.check_limit()?,
        }
        let link = self.table.get(id).expect("the caller has just used it");
        let adjacency = Adjacency::new(link.remote, id.is_outbound());
        self.dials.maker.connection_created(id, link.remote);
        let own = self.topology.peers.change_own();
        own.set_adjacency(name, adjacency);
        self.table.join(name, id);
        let connection = Box::new(self.describe(id));
        self.outputs.push(MeshOutput::ConnectionAdded(connection));
        self.topology.announce_with_us(name);
        self.dials.look_again();
        self.topology.request_routes(now);
        self.topology.announce_soon(now);
        Ok(())
    }

    /// There is a connection to the peer of a new link: ends one of the two.
    fn settle_duplicate(&mut self, old: LinkId, new: LinkId, now: Instant) -> Result<(), Refused> {
        let table = &mut *self.table;
        let name = table.introduced(new).remote();
        let peers = &self.topology.peers;
        let labels = (peers.label(name), peers.label(self.config.name));
        let error = format!("Multiple connections to {} added to {}", labels.0, labels.1);
        let old_link = table.get(old).expect("our connections have links");
        match self.superseded.judge(old_link, table.introduced(new), now) {
            Survivor::New => {
                self.replace(old, &error, now);
                Ok(())
            }
            Survivor::Old => {
                // If it is dead in truth, this makes the other end's kernel say so.
                table.send_message(old, &Message::Heartbeat, self.outputs);
                let uids = [old, new].map(|id| table.introduced(id).features.uid);
                Err(Refused {
                    is_clone: uids[0] != uids[1],
                    ..error.into()
                })
            }
            Survivor::Neither => {
                self.end(old, &error, Ending::Ordinary, now);
                Err(error.into())
            }
        }
    }

    /// Whether our peer entry has room for one more connection; the error text if not.
    fn check_limit(&self) -> Result<(), String> {
        let limit = self.config.conn_limit;
        if limit != 0 && self.table.connection_count() >= limit {
            return Err(format!("Connection limit reached ({limit})"));
        }
        Ok(())
    }

    fn check_overlays(&self, id: LinkId) -> Result<(), Refused> {
        let ours = &self.config.overlays;
        let in_common = match &self.table.introduced(id).features.overlays {
            Some(theirs) => ours.is_empty() || ours.iter().any(|name| theirs.contains(name)),
            None => ours.is_empty() || ours.iter().any(|name| name == "sleeve"),
        };
        let error = || Refused::from("no overlays in common with peer".to_owned());
        in_common.then_some(()).ok_or_else(error)
    }

    fn describe(&self, id: LinkId) -> Connection {
        let link = self.table.get(id).expect("only called for live links");
        let introduced = self.table.introduced(id);
        Connection {
            link: id,
            remote: introduced.remote(),
            remote_nickname: printable(&introduced.features.nickname),
            local_address: link.local,
            remote_address: link.remote,
            uid: introduced.uid,
            data_key: introduced
                .key
                .clone()
                .filter(|_| introduced.encrypts_data()),
            link_encrypted: introduced.key.is_some(),
            features: Features::clone(&introduced.features),
        }
    }

    /// Ends an old connection to a peer whose new one takes its place in our entry.
    fn replace(&mut self, id: LinkId, error: &str, now: Instant) {
        let link = self.drop_link(id, error, Ending::Ordinary, now);
        let introduced = link.introduced();
        let remote = introduced.expect("only connections are replaced").remote();
        self.topology.peers.release(remote);
        self.outputs.push(MeshOutput::Close { link: id });
    }

    /// A link is gone: so is what we built on it.
    fn forget(&mut self, id: LinkId, error: &str, ending: Ending, now: Instant) {
        let link = self.drop_link(id, error, ending, now);
        self.dials.look_again();
        let Some(introduced) = link.introduced() else {
            return;
        };
        let remote = introduced.remote();
        let topology = &mut *self.topology;
        topology.peers.release(remote);
        if !introduced.added {
            // Its introduction may have left an entry nobody needs.
            if topology.peers.len() > PEERS_MAX {
                topology.collect(now, self.rng, self.outputs);
            }
            topology.collect_soon(now);
            return;
        }
        let listed = self.table.leave(remote);
        assert_eq!(
            listed,
            Some(id),
            "a connection is listed until it is dropped"
        );
        topology.peers.change_own().remove_adjacency(remote);
        let conn = link.label();
        info!(%conn, "connection deleted");
        topology.collect(now, self.rng, self.outputs);
        topology.request_routes(now);
        topology.announce_soon(now);
    }

    fn drop_link(&mut self, id: LinkId, error: &str, ending: Ending, now: Instant) -> Link {
        let link = self.table.remove(id).expect("the caller has just seen it");
        let conn = link.label();
        match link.introduced() {
            None => info!(%conn, error, "connection shutting down due to error during handshake"),
            Some(_) => info!(%conn, error, "connection shutting down due to error"),
        }
        if link.introduced().is_some_and(|introduced| introduced.added) {
            self.outputs
                .push(MeshOutput::ConnectionRemoved { link: id });
        }
        let maker = &mut self.dials.maker;
        maker.connection_ended(id, link.remote, ending, error, now, self.rng);
        link
    }
}
