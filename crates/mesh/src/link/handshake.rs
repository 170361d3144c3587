//! The introduction of two peers, as a state machine over bytes (spec/mesh.md 3.1 to 3.4).
//!
//! ```text
//!           header            flag 00, or            features
//! Header ───────────► Flag ── 01 and key ─► Features ─────────► Introduced
//!           └────────────── version 1 ────────▲
//! ```
//! Version 1 sends the features in clear, so with a password a stage `Proof` follows: the first
//! message must open. We send a heartbeat at once for the other end to open.
//!
//! Both ends write first: nothing we send waits for more than the header, except that version 2
//! features wait for the key they are sealed with.

use std::borrow::Cow;
use std::sync::Arc;

use nacl::{KeyPair, SessionKey};
use wire::handshake::{
    FEATURES_BYTES_MAX, FLAG_ENCRYPTED, FLAG_PLAIN, Features, HEADER_BYTES, HandshakeError,
    PUBLIC_KEY_BYTES, VersionRange, check_flag, encode_header, header_cut_short, negotiate,
    parse_header,
};
use wire::message::Message;
use zeroize::Zeroizing;

use super::session::{Session, SessionError};
use crate::config::Password;
use crate::peers::{NICKNAME_BYTES_MAX, truncated};

/// What one end brings to an introduction.
pub(crate) struct Offer {
    pub(crate) versions: VersionRange,
    /// As sent in version 2; version 1 leaves some out.
    pub(crate) features: Features,
    pub(crate) password: Option<Password>,
    /// Private key of this link; fresh for each.
    pub(crate) key_seed: Zeroizing<[u8; 32]>,
    pub(crate) outbound: bool,
}

/// Why an introduction failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum IntroductionError {
    /// One of the original's reasons.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// The frame around the features.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// Their key would make the session key everybody's.
    #[error(transparent)]
    WeakKey(#[from] nacl::WeakKeyError),
    /// The reserved name.
    #[error("peer has the reserved name {0}")]
    ReservedName(wire::PeerName),
}

/// What both ends know of each other afterwards.
pub(crate) struct Introduction {
    pub(crate) version: u8,
    /// Theirs.
    pub(crate) features: Features,
    /// Ours.
    pub(crate) our_features: Features,
    /// Carries on with what was received behind the features.
    pub(crate) session: Session,
    pub(crate) key: Option<Arc<SessionKey>>,
}

/// An introduction under way.
pub(crate) struct Handshake {
    offer: Offer,
    stage: Stage,
    /// Bytes of the header, flag and key stages.
    received: Vec<u8>,
    /// What is to be sent.
    output: Vec<u8>,
}

enum Stage {
    Header,
    Flag,
    Features {
        version: u8,
        session: Box<Session>,
        key: Option<Arc<SessionKey>>,
    },
    Proof(Box<Introduction>),
    Over,
}

impl Handshake {
    /// An introduction with our header to be sent.
    pub(crate) fn new(offer: Offer) -> Self {
        let output = encode_header(offer.versions.min, offer.versions.max).to_vec();
        Self {
            offer,
            stage: Stage::Header,
            received: Vec::new(),
            output,
        }
    }

    /// What to send now.
    pub(crate) fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// Our connection id on this link.
    pub(crate) fn conn_id(&self) -> u64 {
        self.offer.features.conn_id
    }

    /// Bytes received that wait for more.
    pub(crate) fn buffered_bytes(&self) -> usize {
        match &self.stage {
            Stage::Features { session, .. } => session.buffered_bytes(),
            Stage::Proof(introduction) => introduction.session.buffered_bytes(),
            Stage::Header | Stage::Flag | Stage::Over => self.received.len(),
        }
    }

    /// Whether the other end's header is still missing.
    pub(crate) fn awaits_header(&self) -> bool {
        matches!(self.stage, Stage::Header)
    }

    /// The reason to log when the link ended with `error`.
    pub(crate) fn cut_short(&self, error: &str) -> String {
        if !self.awaits_header() {
            return error.to_owned();
        }
        let inside = !self.received.is_empty() && error == "EOF";
        let error = if inside { "unexpected EOF" } else { error };
        header_cut_short(&self.received, error).to_string()
    }

    /// Takes bytes from the link. `Some` when the introduction is complete. After an error the link
    /// must end.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<Option<Introduction>, IntroductionError> {
        match &mut self.stage {
            Stage::Features { session, .. } => session.push(bytes),
            Stage::Proof(introduction) => introduction.session.push(bytes),
            Stage::Header | Stage::Flag | Stage::Over => self.received.extend_from_slice(bytes),
        }
        if let Stage::Header = self.stage
            && let Some((header, rest)) = self.received.split_first_chunk::<HEADER_BYTES>()
        {
            let version = negotiate(self.offer.versions, parse_header(header)?)?;
            self.received = rest.to_vec();
            if version == 1 {
                self.start_v1()
            } else {
                self.start_v2()
            }
        }
        if let Stage::Flag = self.stage {
            self.read_flag()?;
        }
        if let Stage::Features { .. } = self.stage
            && let Some(introduction) = self.read_features()?
        {
            if introduction.version == 2 || introduction.key.is_none() {
                return Ok(Some(introduction));
            }
            self.start_proof(introduction)?;
        }
        self.read_proof()
    }

    fn key_pair(&self) -> KeyPair {
        KeyPair::from_seed_bytes(*self.offer.key_seed)
    }

    fn start_v1(&mut self) {
        let mut features = self.offer.features.clone();
        features.public_key = self
            .offer
            .password
            .is_some()
            .then(|| self.key_pair().public());
        self.output.extend(features.encode_v1());
        let mut session = Box::new(Session::new(1));
        session.push(&std::mem::take(&mut self.received));
        self.stage = Stage::Features {
            version: 1,
            session,
            key: None,
        };
    }

    fn start_v2(&mut self) {
        if self.offer.password.is_some() {
            self.output.push(FLAG_ENCRYPTED);
            self.output.extend(self.key_pair().public());
        } else {
            self.output.push(FLAG_PLAIN);
        }
        self.stage = Stage::Flag;
    }

    fn read_flag(&mut self) -> Result<(), IntroductionError> {
        let Some((flag, rest)) = self.received.split_first() else {
            return Ok(());
        };
        let mut session = Box::new(Session::new(2));
        let mut key = None;
        if check_flag(*flag, self.offer.password.is_some())? {
            let Some((public, rest)) = rest.split_first_chunk::<PUBLIC_KEY_BYTES>() else {
                return Ok(());
            };
            key = Some(self.session_key(public)?);
            session.push(rest);
        } else {
            session.push(rest);
        }
        if let Some(key) = &key {
            session.encrypt(key, self.offer.outbound);
        }
        let features = self.offer.features.encode_v2();
        let frame = session.seal(&features).map_err(SessionError::Frame)?;
        self.output.extend(frame);
        self.received.clear();
        self.stage = Stage::Features {
            version: 2,
            session,
            key,
        };
        Ok(())
    }

    fn session_key(&self, public: &[u8; 32]) -> Result<Arc<SessionKey>, IntroductionError> {
        let password = self
            .offer
            .password
            .as_ref()
            .expect("asked for only with a password");
        Ok(Arc::new(SessionKey::from_dh(
            &self.key_pair(),
            public,
            password.as_bytes(),
        )?))
    }

    fn read_features(&mut self) -> Result<Option<Introduction>, IntroductionError> {
        let Stage::Features {
            version, session, ..
        } = &mut self.stage
        else {
            return Ok(None);
        };
        let version = *version;
        let features = match session.v1_stream() {
            Some(stream) => match stream.next_value().map_err(SessionError::Stream)? {
                Some(map) => Some(Features::decode(&map, 1)?),
                None => None,
            },
            None => match session.next_message()? {
                Some(message) => Some(Features::decode_v2(&message)?),
                None => None,
            },
        };
        let Some(mut features) = features else {
            check_buffered(session)?;
            return Ok(None);
        };
        if features.name.is_unknown() {
            return Err(IntroductionError::ReservedName(features.name));
        }
        features.nickname = truncated(&features.nickname, NICKNAME_BYTES_MAX);
        let Stage::Features {
            mut session,
            mut key,
            ..
        } = std::mem::replace(&mut self.stage, Stage::Over)
        else {
            unreachable!("the stage was matched above");
        };
        if version == 1 {
            key = self.v1_key(&features)?;
            if let Some(key) = &key {
                session.encrypt(key, self.offer.outbound);
            }
        }
        let our_features = self.offer.features.clone();
        Ok(Some(Introduction {
            version,
            features,
            our_features,
            session: *session,
            key,
        }))
    }

    fn start_proof(&mut self, mut introduction: Introduction) -> Result<(), IntroductionError> {
        let heartbeat = introduction.session.seal(&Message::Heartbeat.encode());
        self.output.extend(heartbeat.map_err(SessionError::Frame)?);
        self.stage = Stage::Proof(Box::new(introduction));
        Ok(())
    }

    /// Whether the other end has shown that it knows the password.
    fn read_proof(&mut self) -> Result<Option<Introduction>, IntroductionError> {
        let Stage::Proof(introduction) = &mut self.stage else {
            return Ok(None);
        };
        let session = &mut introduction.session;
        let Some(message) = session.next_message()?.map(Cow::into_owned) else {
            check_buffered(session)?;
            return Ok(None);
        };
        session.put_back(message);
        let Stage::Proof(introduction) = std::mem::replace(&mut self.stage, Stage::Over) else {
            unreachable!("the stage was matched above");
        };
        Ok(Some(*introduction))
    }

    fn v1_key(&self, theirs: &Features) -> Result<Option<Arc<SessionKey>>, IntroductionError> {
        match (&self.offer.password, &theirs.public_key) {
            (None, None) => Ok(None),
            (Some(_), Some(public)) => Ok(Some(self.session_key(public)?)),
            (Some(_), None) => Err(HandshakeError::PlaintextOffered.into()),
            (None, Some(_)) => Err(HandshakeError::EncryptionOffered.into()),
        }
    }
}

/// Nobody may make us buffer a whole message's worth before being introduced.
fn check_buffered(session: &Session) -> Result<(), IntroductionError> {
    let waiting = session.buffered_bytes();
    if waiting > FEATURES_BYTES_MAX {
        return Err(HandshakeError::TooLarge(waiting).into());
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests;
