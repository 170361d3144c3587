//! One TCP connection to another peer, from its first byte to its end.

pub(crate) mod handshake;
pub(crate) mod outbox;
pub(crate) mod session;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nacl::SessionKey;
use wire::PeerName;
use wire::handshake::Features;
use wire::message::{Message, MessageError};

use crate::maker::Ending;
use crate::peers::peer_label;
use handshake::{Handshake, Introduction};
use outbox::Outbox;
use session::{Session, SessionError};

/// Within this the other end's header must be here.
pub(crate) const HEADER_DEADLINE: Duration = Duration::from_secs(10);
/// Within this of the one before the next message must be here.
pub(crate) const READ_DEADLINE: Duration = Duration::from_secs(60);
/// How often we send a heartbeat, whatever else we send.
pub(crate) const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(30);
/// Bytes that may wait in the shell before we drop what we relay for others.
pub(crate) const CONGESTED_BYTES: usize = 4 << 20;

/// How the names of channels begin that only those hear who announced themselves as Wefts.
const WEFT_CHANNELS: &str = "weft-";
/// The capability word of those who understand topology news as differences.
pub(crate) const DELTA: &str = "delta";

/// Whether a channel is one that originals never see.
pub(crate) fn is_for_wefts(channel: &str) -> bool {
    channel.starts_with(WEFT_CHANNELS)
}

/// A link whose TCP connection stands.
pub(crate) struct Link {
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    /// Whether it may introduce a peer we never heard of.
    pub(crate) may_introduce: bool,
    pub(crate) phase: Phase,
    /// When we give up reading.
    pub(crate) deadline: Instant,
    pub(crate) outbox: Outbox,
    /// Bytes given to the shell since it last said all was written.
    pub(crate) unflushed_bytes: usize,
    /// Whether an odd message was logged already.
    pub(crate) logged_oddity: bool,
    /// Why it ends at its deadline whatever comes; only what it is told is waited for.
    pub(crate) farewell: Option<Farewell>,
}

/// How a link that was refused will end.
pub(crate) struct Farewell {
    pub(crate) error: String,
    pub(crate) ending: Ending,
}

/// How far a link has come.
pub(crate) enum Phase {
    /// The introduction is under way.
    Handshake(Box<Handshake>),
    /// The remote is known.
    Introduced(Box<Introduced>),
}

/// A link after its introduction.
pub(crate) struct Introduced {
    pub(crate) session: Session,
    pub(crate) version: u8,
    pub(crate) features: Arc<Features>,
    pub(crate) key: Option<Arc<SessionKey>>,
    /// XOR of both connection ids.
    pub(crate) uid: u64,
    /// Whether both ends trust the network between them.
    pub(crate) mutually_trusted: bool,
    /// Whether both ends announced themselves as Wefts.
    pub(crate) between_wefts: bool,
    /// Whether overlay control has an index (tag 7), or is of compatibility mode (tags 1 to 3).
    pub(crate) uses_control_index: bool,
    /// Whether it is one of the connections of our peer entry.
    pub(crate) added: bool,
    pub(crate) heartbeat_at: Instant,
}

impl Introduced {
    /// A link whose introduction is over.
    pub(crate) fn new(introduction: Introduction, now: Instant) -> Self {
        let Introduction {
            version,
            features,
            our_features,
            session,
            key,
        } = introduction;
        Self {
            session,
            version,
            key,
            uid: our_features.conn_id ^ features.conn_id,
            // Version 1 cannot say so, whatever we think of them.
            mutually_trusted: our_features.trusted && features.trusted,
            between_wefts: our_features.weft.is_some() && features.weft.is_some(),
            uses_control_index: our_features.overlays.is_some() && features.overlays.is_some(),
            features: Arc::new(features),
            added: false,
            heartbeat_at: now + HEARTBEAT_INTERVAL,
        }
    }

    /// The other end.
    pub(crate) fn remote(&self) -> PeerName {
        self.features.name
    }

    /// Whether both ends understand topology news as differences.
    pub(crate) fn understands_deltas(&self) -> bool {
        let weft = self.features.weft.as_ref().filter(|_| self.between_wefts);
        weft.is_some_and(|weft| weft.has(DELTA))
    }

    /// Whether the data plane of this connection is encrypted.
    pub(crate) fn encrypts_data(&self) -> bool {
        self.key.is_some() && !self.mutually_trusted
    }
}

/// A message taken from a link.
pub(crate) struct Received {
    pub(crate) message: Result<Message, MessageError>,
    /// Of a unicast, the bytes as they came: it is relayed unchanged.
    pub(crate) raw: Option<Vec<u8>>,
}

impl Link {
    /// A link at the start of its introduction.
    pub(crate) fn new(
        addresses: (SocketAddr, SocketAddr),
        may_introduce: bool,
        handshake: Handshake,
        now: Instant,
    ) -> Self {
        Self {
            local: addresses.0,
            remote: addresses.1,
            may_introduce,
            phase: Phase::Handshake(Box::new(handshake)),
            deadline: now + HEADER_DEADLINE,
            outbox: Outbox::default(),
            unflushed_bytes: 0,
            logged_oddity: false,
            farewell: None,
        }
    }

    /// What is known once the introduction is over.
    pub(crate) fn introduced(&self) -> Option<&Introduced> {
        match &self.phase {
            Phase::Introduced(introduced) => Some(introduced),
            Phase::Handshake(_) => None,
        }
    }

    /// The same, to be changed.
    pub(crate) fn introduced_mut(&mut self) -> Option<&mut Introduced> {
        match &mut self.phase {
            Phase::Introduced(introduced) => Some(introduced),
            Phase::Handshake(_) => None,
        }
    }

    /// The next message; `None` until more bytes come. Each one moves the deadline.
    pub(crate) fn next_message(&mut self, now: Instant) -> Result<Option<Received>, SessionError> {
        let Phase::Introduced(introduced) = &mut self.phase else {
            return Ok(None);
        };
        let Some(bytes) = introduced.session.next_message()? else {
            return Ok(None);
        };
        if self.farewell.is_none() {
            self.deadline = now + READ_DEADLINE;
        }
        let message = Message::decode(&bytes);
        let is_unicast = matches!(message, Ok(Message::GossipUnicast { .. }));
        let raw = is_unicast.then(|| bytes.into_owned());
        Ok(Some(Received { message, raw }))
    }

    /// When it has missed its deadline or needs a heartbeat, whichever comes first.
    pub(crate) fn due(&self) -> Instant {
        let heartbeat = self.introduced().map(|introduced| introduced.heartbeat_at);
        heartbeat.map_or(self.deadline, |at| at.min(self.deadline))
    }

    /// How long ago the last message came, or the introduction was over.
    pub(crate) fn silence(&self, now: Instant) -> Duration {
        (now + READ_DEADLINE).saturating_duration_since(self.deadline)
    }

    /// How log lines name it.
    pub(crate) fn label(&self) -> String {
        match self.introduced() {
            None => format!("->[{}]", self.remote),
            Some(introduced) => {
                let peer = peer_label(introduced.remote(), &introduced.features.nickname);
                format!("->[{}|{peer}]", self.remote)
            }
        }
    }

    /// Why it ended, given what the reader said: during the header the text tells how much came.
    pub(crate) fn end_text(&self, error: &str) -> String {
        match &self.phase {
            Phase::Handshake(handshake) => handshake.cut_short(error),
            Phase::Introduced(_) => error.to_owned(),
        }
    }

    /// The error of a missed deadline, as the original's run time words it.
    pub(crate) fn timeout_text(&self) -> String {
        format!("read tcp {}->{}: i/o timeout", self.local, self.remote)
    }
}
