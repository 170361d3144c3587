//! Links from TCP connection to member of our peer entry, and back (spec/mesh.md 3.5 and 6).

use std::net::SocketAddr;
use std::time::Instant;

use rand::RngExt;
use tracing::{debug, info};
use wire::handshake::{Features, VersionRange, WeftFeature};
use wire::message::Message;
use wire::quote::{printable, quote};
use wire::{LinkId, PeerName};

use super::duplicates::Survivor;
use super::news::CAPABILITY;
use super::{COLLECT_DELAY, Dial, Mesh, canonical_pair};
use crate::gossip::TOPOLOGY;
use crate::link::handshake::{Handshake, Introduction, Offer};
use crate::link::outbox::{Item, Topic};
use crate::link::{Farewell, Introduced, Link, Phase, READ_DEADLINE};
use crate::maker::Ending;
use crate::peers::{Adjacency, PEERS_MAX, peer_label};
use crate::routes::has_established_route;
use crate::{Connection, MeshOutput};

/// Most accepted links whose introduction is under way; the oldest makes room for the newest.
pub(super) const INBOUND_HANDSHAKES_MAX: usize = 256;
/// Format version of the `Weft` feature we send.
const WEFT_FEATURE_VERSION: u32 = 1;

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

impl Mesh {
    /// The shell accepted a TCP connection and numbered it.
    pub fn handle_link_accepted(
        &mut self,
        link: LinkId,
        local: SocketAddr,
        remote: SocketAddr,
        now: Instant,
    ) {
        assert!(
            !link.is_outbound(),
            "the shell numbers accepted links as inbound"
        );
        assert!(
            !self.links.contains_key(&link),
            "link numbers are used once"
        );
        let is_new =
            |(id, link): &(&LinkId, &Link)| !id.is_outbound() && link.introduced().is_none();
        let strangers = || self.links.iter().filter(is_new);
        if strangers().count() >= INBOUND_HANDSHAKES_MAX {
            let oldest = strangers()
                .next()
                .map(|(id, _)| *id)
                .expect("there are that many");
            self.end_link(
                oldest,
                "too many connections in handshake",
                Ending::Ordinary,
                now,
            );
        }
        self.start_link(link, canonical_pair(local, remote), true, now);
        let conn = self.log_label(link);
        info!(%conn, "connection accepted");
        self.settle(now);
    }

    /// A dial succeeded.
    pub fn handle_link_connected(
        &mut self,
        link: LinkId,
        local: SocketAddr,
        remote: SocketAddr,
        now: Instant,
    ) {
        let Some(Dial { attempt, .. }) = self.dials.remove(&link) else {
            debug!(link = link.number(), "nobody asked for this dial");
            self.outputs.push_back(MeshOutput::Close { link });
            return;
        };
        // Everybody is told the address that was dialled, and its target is found by it.
        let (local, _) = canonical_pair(local, remote);
        self.start_link(link, (local, attempt.address), attempt.direct, now);
        self.settle(now);
    }

    /// A dial failed; `error` is what the operator should read.
    pub fn handle_dial_failed(&mut self, link: LinkId, error: &str, now: Instant) {
        self.fail_dial(link, error, now);
        self.settle(now);
    }

    pub(super) fn fail_dial(&mut self, link: LinkId, error: &str, now: Instant) {
        let Some(Dial { attempt, .. }) = self.dials.remove(&link) else {
            return;
        };
        let conn = format!("->[{}]", attempt.address);
        info!(%conn, error, "error during connection attempt");
        self.maker
            .attempt_failed(attempt.address, error, now, &mut self.rng);
    }

    /// Bytes arrived on a link, cut anywhere.
    pub fn handle_link_bytes(&mut self, link: LinkId, bytes: &[u8], now: Instant) {
        self.read_link(link, bytes, now);
        self.settle(now);
    }

    /// Everything queued on a link has been written.
    pub fn handle_link_flushed(&mut self, link: LinkId, now: Instant) {
        let Some(state) = self.links.get_mut(&link) else {
            return;
        };
        state.unflushed_bytes = 0;
        self.queued.insert(link);
        self.settle(now);
    }

    /// A link ended: end of file (`EOF`) or an error.
    pub fn handle_link_closed(&mut self, link: LinkId, error: &str, now: Instant) {
        let Some(state) = self.links.get(&link) else {
            return;
        };
        let (error, ending) = match &state.farewell {
            Some(farewell) => (farewell.error.clone(), farewell.ending),
            None if self.clone_text().is_some() => {
                let error = state.end_text(error);
                let error = format!("{error}; another machine has our peer name");
                // Displacing each other every second would keep the whole mesh busy.
                if self.knows_clone_well(now) {
                    (error, Ending::NameCollision)
                } else {
                    (error, Ending::Ordinary)
                }
            }
            None => (state.end_text(error), Ending::Ordinary),
        };
        self.forget_link(link, &error, ending, now);
        self.settle(now);
    }

    /// The overlay says the path of a connection works.
    pub fn connection_established(&mut self, link: LinkId, now: Instant) {
        let remote = self
            .links
            .get(&link)
            .and_then(|l| l.introduced())
            .map(Introduced::remote);
        let Some(remote) = remote.filter(|remote| self.connections.get(remote) == Some(&link))
        else {
            debug!(link = link.number(), "Cannot set unknown connection active");
            return;
        };
        let adjacency = self.peers.own().adjacencies.get(&remote);
        if adjacency
            .expect("our entry lists our connections")
            .established
        {
            return;
        }
        let established = Adjacency {
            established: true,
            ..adjacency.expect("was just seen").clone()
        };
        self.peers.change_own().set_adjacency(remote, established);
        let conn = self.log_label(link);
        info!(%conn, "connection fully established");
        self.request_routes(now);
        self.schedule_announcement(now);
        self.settle(now);
    }

    /// The overlay, or the owner of a gossip channel, gives a connection up: its link is closed.
    pub fn connection_failed(&mut self, link: LinkId, error: &str, now: Instant) {
        self.end_link(link, error, Ending::Ordinary, now);
        self.settle(now);
    }

    /// How log lines name a link: `->[10.0.0.1:6783|02:00:00:00:0a:01(alpha)]`. Empty for a link
    /// that ended.
    pub fn log_label(&self, link: LinkId) -> String {
        self.links.get(&link).map(Link::label).unwrap_or_default()
    }

    fn start_link(
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
        self.links_due = self.links_due.into_iter().chain([link.due()]).min();
        self.links.insert(id, link);
        self.send(id, header);
    }

    /// What we say about ourselves on a new link.
    fn offer(&mut self, id: LinkId, remote: SocketAddr) -> Offer {
        let config = &self.config;
        let own = self.peers.own();
        let mut capabilities = config.weft_capabilities.clone();
        capabilities.push(CAPABILITY.to_owned());
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

    fn read_link(&mut self, id: LinkId, bytes: &[u8], now: Instant) {
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        match &mut link.phase {
            Phase::Introduced(introduced) => introduced.session.push(bytes),
            Phase::Handshake(handshake) => {
                let awaited_header = handshake.awaits_header();
                let progress = handshake.push(bytes);
                let output = handshake.take_output();
                if awaited_header && !handshake.awaits_header() {
                    link.deadline = now + READ_DEADLINE;
                }
                self.send(id, output);
                match progress {
                    Ok(None) => return,
                    Ok(Some(introduction)) => self.introduce(id, introduction, now),
                    Err(error) => {
                        return self.end_link(id, &error.to_string(), Ending::Ordinary, now);
                    }
                }
            }
        }
        self.read_messages(id, now);
    }

    fn read_messages(&mut self, id: LinkId, now: Instant) {
        while let Some(link) = self.links.get_mut(&id) {
            match link.next_message(now) {
                Ok(Some(received)) => self.receive(id, received, now),
                Ok(None) => return,
                Err(error) => return self.end_link(id, &error.to_string(), Ending::Ordinary, now),
            }
        }
    }

    /// Everything between the introduction and the first message (spec/mesh.md 3.5).
    fn introduce(&mut self, id: LinkId, introduction: Introduction, now: Instant) {
        let link = self
            .links
            .get_mut(&id)
            .expect("the caller has just used it");
        let name = introduction.features.name;
        let known = self.peers.get(name);
        if known.is_none() && !link.may_introduce {
            let error = format!("Found unknown remote name: {name} at {}", link.remote);
            return self.end_link(id, &error, Ending::Ordinary, now);
        }
        let is_restarted = known.is_some_and(|known| known.uid != introduction.features.uid);
        let version = introduction.version;
        self.peers.hold(&introduction.features);
        link.deadline = now + READ_DEADLINE;
        link.phase = Phase::Introduced(Box::new(Introduced::new(introduction, now)));
        let conn = link.label();
        if let Err(refused) = self.check_identity(id) {
            if refused.is_clone {
                self.meet_clone(id, now);
                return self.refuse(id, refused, now);
            }
            return self.end_with_twin(id, &refused, now);
        }
        info!(%conn, "connection ready; using protocol version {version}");
        if let Err(refused) = self.add_connection(id, now) {
            return self.refuse(id, refused, now);
        }
        let is_new = !self.has_established_route(name);
        match (is_new, is_restarted) {
            (true, _) => info!(%conn, "connection added (new peer)"),
            (false, true) => info!(%conn, "connection added (restarted peer)"),
            (false, false) => info!(%conn, "connection added"),
        }
        if is_new || is_restarted {
            self.queue_everything(id);
        }
        if self.understands_news(id) {
            self.greet(id, is_new || is_restarted);
        }
        self.contest_short_id(now);
    }

    /// Ends a link; that of a clone in a moment.
    fn refuse(&mut self, id: LinkId, refused: Refused, now: Instant) {
        let Refused {
            ending,
            error,
            is_clone,
        } = refused;
        if is_clone {
            self.part_from(id, Farewell { error, ending }, now);
        } else {
            self.end_link(id, &error, ending, now);
        }
    }

    /// Ends a link, and if it leads to ourselves its other end too: else whichever end is told of a
    /// closed connection first would not learn why, and dial again.
    fn end_with_twin(&mut self, id: LinkId, refused: &Refused, now: Instant) {
        let their_conn_id = self.introduced(id).features.conn_id;
        self.end_link(id, &refused.error, refused.ending, now);
        let is_twin = |link: &Link| match &link.phase {
            Phase::Handshake(handshake) => handshake.conn_id() == their_conn_id,
            Phase::Introduced(_) => false,
        };
        let twin = self
            .links
            .iter()
            .find(|(_, link)| is_twin(link))
            .map(|(id, _)| *id);
        if let Some(twin) = twin.filter(|_| refused.ending == Ending::SelfConnection) {
            self.end_link(twin, &refused.error, refused.ending, now);
        }
    }

    fn check_identity(&self, id: LinkId) -> Result<(), Refused> {
        let introduced = self.introduced(id);
        let theirs = &introduced.features;
        if theirs.name != self.config.name {
            return Ok(());
        }
        let own = self.peers.own();
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

    /// Makes an introduced link one of our connections, unless it is one too many.
    fn add_connection(&mut self, id: LinkId, now: Instant) -> Result<(), Refused> {
        self.check_overlays(id)?;
        let name = self.introduced(id).remote();
        if let Some(old) = self.connections.get(&name).copied() {
            let labels = (self.peers.label(name), self.peers.label(self.config.name));
            let error = format!("Multiple connections to {} added to {}", labels.0, labels.1);
            match self.judge_duplicate(old, id, now) {
                Survivor::New => self.replace_link(old, &error, now),
                Survivor::Old => {
                    // If it is dead in truth, this makes the other end's kernel say so.
                    self.send_message(old, &Message::Heartbeat);
                    let uids = [old, id].map(|id| self.introduced(id).features.uid);
                    return Err(Refused {
                        is_clone: uids[0] != uids[1],
                        ..error.into()
                    });
                }
                Survivor::Neither => {
                    self.end_link(old, &error, Ending::Ordinary, now);
                    return Err(error.into());
                }
            }
        } else {
            self.check_limit()?;
        }
        let link = self
            .links
            .get_mut(&id)
            .expect("the caller has just used it");
        let adjacency = Adjacency::new(link.remote, id.is_outbound());
        self.maker.connection_created(id, link.remote);
        self.peers.change_own().set_adjacency(name, adjacency);
        self.connections.insert(name, id);
        link.introduced_mut().expect("checked above").added = true;
        let connection = Box::new(self.describe(id));
        self.outputs
            .push_back(MeshOutput::ConnectionAdded(connection));
        self.announced.insert(name);
        self.targets_stale = true;
        self.request_routes(now);
        self.schedule_announcement(now);
        Ok(())
    }

    fn check_overlays(&self, id: LinkId) -> Result<(), Refused> {
        let ours = &self.config.overlays;
        let in_common = match &self.introduced(id).features.overlays {
            Some(theirs) => ours.is_empty() || ours.iter().any(|name| theirs.contains(name)),
            None => ours.is_empty() || ours.iter().any(|name| name == "sleeve"),
        };
        let error = || Refused::from("no overlays in common with peer".to_owned());
        in_common.then_some(()).ok_or_else(error)
    }

    pub(super) fn introduced(&self, id: LinkId) -> &Introduced {
        let link = self.links.get(&id).and_then(Link::introduced);
        link.expect("only called for links whose introduction is over")
    }

    fn describe(&self, id: LinkId) -> Connection {
        let link = self.links.get(&id).expect("only called for live links");
        let introduced = self.introduced(id);
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

    /// Whether data can reach a peer, whatever the data plane was told last.
    fn has_established_route(&self, name: PeerName) -> bool {
        if self.timers.routes.is_none() {
            return self.routes.established.unicast().contains_key(&name);
        }
        has_established_route(&self.peers, name)
    }

    /// Every channel's complete state for one link.
    fn queue_everything(&mut self, id: LinkId) {
        for channel in self.all_channels() {
            if &*channel != TOPOLOGY || !self.understands_news(id) {
                self.queue(id, Topic::Neighbour(channel), Item::State);
            }
        }
    }

    /// Ends a link from our side.
    pub(super) fn end_link(&mut self, id: LinkId, error: &str, ending: Ending, now: Instant) {
        if self.links.contains_key(&id) {
            self.forget_link(id, error, ending, now);
            self.outputs.push_back(MeshOutput::Close { link: id });
        }
    }

    /// Ends an old connection to a peer whose new one takes its place in our entry.
    fn replace_link(&mut self, id: LinkId, error: &str, now: Instant) {
        let link = self.drop_link(id, error, Ending::Ordinary, now);
        let remote = link
            .introduced()
            .expect("only connections are replaced")
            .remote();
        self.peers.release(remote);
        self.outputs.push_back(MeshOutput::Close { link: id });
    }

    /// A link is gone: so is what we built on it.
    fn forget_link(&mut self, id: LinkId, error: &str, ending: Ending, now: Instant) {
        let link = self.drop_link(id, error, ending, now);
        self.targets_stale = true;
        let Some(introduced) = link.introduced() else {
            return;
        };
        let remote = introduced.remote();
        self.peers.release(remote);
        if !introduced.added {
            // Its introduction may have left an entry nobody needs.
            if self.peers.len() > PEERS_MAX {
                self.collect_garbage(now);
            }
            self.timers.collect.get_or_insert(now + COLLECT_DELAY);
            return;
        }
        let listed = self.connections.remove(&remote);
        assert_eq!(
            listed,
            Some(id),
            "a connection is listed until it is dropped"
        );
        self.peers.change_own().remove_adjacency(remote);
        let conn = link.label();
        info!(%conn, "connection deleted");
        self.collect_garbage(now);
        self.request_routes(now);
        self.schedule_announcement(now);
    }

    fn drop_link(&mut self, id: LinkId, error: &str, ending: Ending, now: Instant) -> Link {
        let link = self.links.remove(&id).expect("the caller has just seen it");
        let conn = link.label();
        match link.introduced() {
            None => info!(%conn, error, "connection shutting down due to error during handshake"),
            Some(_) => info!(%conn, error, "connection shutting down due to error"),
        }
        if link.introduced().is_some_and(|introduced| introduced.added) {
            self.outputs
                .push_back(MeshOutput::ConnectionRemoved { link: id });
        }
        self.maker
            .connection_ended(id, link.remote, ending, error, now, &mut self.rng);
        link
    }
}
