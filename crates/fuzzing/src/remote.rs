//! The other end of a link in the hands of a target: knows the password, does the introduction as it
//! should, and then says sealed whatever it is told to.

use nacl::{DirectionKey, KeyPair, SessionKey, TAG_BYTES};
use overlay::kind::Kind;
use wire::PeerName;
use wire::gob::{Stream, StreamReader};
use wire::handshake::{
    FLAG_ENCRYPTED, FLAG_PLAIN, Features, HEADER_BYTES, PUBLIC_KEY_BYTES, WeftFeature,
    encode_header,
};
use wire::message::{FrameReader, Message, encode_frame, encode_frame_v1};
use wire::nonce_prefix;

/// The password of everybody who has one.
pub(crate) const PASSWORD: &[u8] = b"correct horse";

/// How a link is introduced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Manner {
    /// Protocol version, 1 or 2.
    pub(crate) version: u8,
    /// Whether both ends have the password.
    pub(crate) has_password: bool,
    /// Whether this end dialled.
    pub(crate) dialled: bool,
}

/// One end of a link, opposite the node under test.
pub(crate) struct Remote {
    manner: Manner,
    features: Features,
    keys: Option<KeyPair>,
    stage: Stage,
    /// What came and was not understood yet.
    pending: Vec<u8>,
    seal: Option<Sealer>,
    /// Messages received after the introduction.
    messages: Vec<Vec<u8>>,
}

enum Stage {
    Greeting,
    V1(StreamReader, bool),
    V2(FrameReader, bool),
}

struct Sealer {
    ours: DirectionKey,
    sent: u64,
    theirs: DirectionKey,
    received: u64,
}

/// What a peer called `name` announces.
pub(crate) fn features(name: PeerName) -> Features {
    Features {
        name,
        nickname: format!("nick-{}", name.to_u64() & 0xff),
        uid: name.to_u64() ^ 0x55,
        conn_id: name.to_u64().rotate_left(9),
        short_id: Some((name.to_u64() & 0xfff) as u16),
        trusted: false,
        overlays: Some(vec![Kind::COMPATIBLE.name().to_owned()]),
        public_key: None,
        weft: Some(WeftFeature {
            version: 1,
            capabilities: Vec::new(),
        }),
    }
}

impl Remote {
    pub(crate) fn new(manner: Manner, features: Features) -> Self {
        let seed = [(features.conn_id & 0xff) as u8; 32];
        Self {
            manner,
            features,
            keys: manner.has_password.then(|| KeyPair::from_seed_bytes(seed)),
            stage: Stage::Greeting,
            pending: Vec::new(),
            seal: None,
            messages: Vec::new(),
        }
    }

    /// What to send first.
    pub(crate) fn greeting(&self) -> Vec<u8> {
        let version = self.manner.version;
        let mut out = encode_header(version, version).to_vec();
        if version == 2 {
            match &self.keys {
                Some(keys) => {
                    out.push(FLAG_ENCRYPTED);
                    out.extend(keys.public());
                }
                None => out.push(FLAG_PLAIN),
            }
        }
        out
    }

    /// Takes what the node sent, which must be well-formed; returns what to answer.
    pub(crate) fn receive(&mut self, bytes: &[u8]) -> Vec<u8> {
        match &mut self.stage {
            Stage::Greeting => self.pending.extend_from_slice(bytes),
            Stage::V1(reader, _) => reader.push(bytes),
            Stage::V2(reader, _) => reader.push(bytes),
        }
        let mut answer = Vec::new();
        self.read_greeting(&mut answer);
        self.read_messages(&mut answer);
        answer
    }

    /// Whether the node has introduced itself.
    pub(crate) fn is_introduced(&self) -> bool {
        matches!(self.stage, Stage::V1(_, true) | Stage::V2(_, true))
    }

    /// Messages received since last asked, opened.
    pub(crate) fn take_messages(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.messages)
    }

    /// A message as it goes on the link.
    pub(crate) fn seal(&mut self, message: &[u8]) -> Vec<u8> {
        let content = match &mut self.seal {
            None => message.to_vec(),
            Some(sealer) => {
                let mut content = vec![0; TAG_BYTES];
                content.extend_from_slice(message);
                sealer.ours.seal_in_place(sealer.sent, &mut content);
                sealer.sent += 1;
                content
            }
        };
        match self.manner.version {
            1 => encode_frame_v1(&content),
            _ => encode_frame(&content).expect("targets send short messages"),
        }
    }

    fn read_greeting(&mut self, answer: &mut Vec<u8>) {
        let Stage::Greeting = self.stage else { return };
        if self.manner.version == 1 {
            let Some((_, rest)) = self.pending.split_first_chunk::<HEADER_BYTES>() else {
                return;
            };
            let mut reader = StreamReader::new();
            reader.push(rest);
            self.stage = Stage::V1(reader, false);
            return;
        }
        let greeting = 1 + if self.manner.has_password {
            PUBLIC_KEY_BYTES
        } else {
            0
        };
        let Some((greeting, rest)) = self.pending.split_at_checked(HEADER_BYTES + greeting) else {
            return;
        };
        if let Some(public) = greeting[HEADER_BYTES + 1..].first_chunk() {
            self.seal = Some(self.sealer(public));
        }
        let mut reader = FrameReader::new();
        reader.push(rest);
        self.stage = Stage::V2(reader, false);
        let features = self.features.encode_v2();
        answer.extend(self.seal(&features));
    }

    fn read_messages(&mut self, answer: &mut Vec<u8>) {
        while let Some(mut content) = self.next_content(answer) {
            if let Some(sealer) = &mut self.seal {
                let opened = sealer.theirs.open_in_place(sealer.received, &mut content);
                let opened = opened
                    .expect("the node seals with the key agreed upon")
                    .len();
                sealer.received += 1;
                content.drain(..content.len() - opened);
            }
            if let Stage::V2(_, introduced @ false) = &mut self.stage {
                Features::decode_v2(&content).expect("the node sends its features first");
                *introduced = true;
            } else {
                Message::decode(&content).expect("the node sends messages");
                self.messages.push(content);
            }
        }
    }

    fn next_content(&mut self, answer: &mut Vec<u8>) -> Option<Vec<u8>> {
        match &mut self.stage {
            Stage::Greeting => None,
            Stage::V2(reader, _) => {
                let frame = reader.next_frame().expect("the node sends frames");
                frame.map(|frame| frame.to_vec())
            }
            Stage::V1(reader, introduced @ false) => {
                let map = reader.next_value().expect("the node sends a stream")?;
                let theirs = Features::decode(&map, 1).expect("the node sends its features");
                *introduced = true;
                self.answer_v1(&theirs, answer);
                self.next_content(answer)
            }
            Stage::V1(reader, true) => {
                let value = reader.next_value().expect("the node sends a stream")?;
                Some(
                    value
                        .as_bytes("message")
                        .expect("messages are bytes")
                        .to_vec(),
                )
            }
        }
    }

    fn answer_v1(&mut self, theirs: &Features, answer: &mut Vec<u8>) {
        let mut ours = self.features.clone();
        ours.public_key = self.keys.as_ref().map(KeyPair::public);
        let stream = ours.encode_v1();
        assert!(Stream::new(&stream).next_value().is_ok());
        answer.extend(stream);
        assert_eq!(theirs.public_key.is_some(), self.manner.has_password);
        if let Some(public) = &theirs.public_key {
            self.seal = Some(self.sealer(public));
            answer.extend(self.seal(&Message::Heartbeat.encode()));
        }
    }

    fn sealer(&self, public: &[u8; PUBLIC_KEY_BYTES]) -> Sealer {
        let keys = self.keys.as_ref().expect("keys come with the password");
        let key = SessionKey::from_dh(keys, public, PASSWORD).expect("a sound key");
        let dialled = self.manner.dialled;
        Sealer {
            ours: DirectionKey::new(&key, nonce_prefix(dialled, true)),
            sent: 0,
            theirs: DirectionKey::new(&key, nonce_prefix(!dialled, true)),
            received: 0,
        }
    }
}
