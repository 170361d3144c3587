//! A peer made of test code: it shakes hands like any other and then says what it is told to say.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use nacl::{KeyPair, SessionKey};
use wire::PeerName;
use wire::handshake::{
    FLAG_ENCRYPTED, FLAG_PLAIN, Features, HEADER_BYTES, PUBLIC_KEY_BYTES, encode_header,
};
use wire::message::{FrameReader, Message, encode_frame};
use wire::sleeve::nonce;

use super::middle::is_timeout;
use crate::lab::namespace::Namespace;

/// How long it waits for a peer's next word.
const PATIENCE: Duration = Duration::from_secs(10);

/// An introduced peer.
pub(crate) struct Impostor {
    stream: TcpStream,
    frames: FrameReader,
    key: Option<SessionKey>,
    sent: u64,
    received: u64,
    /// What the other end said about itself.
    pub(crate) remote: Features,
    /// The same as it came.
    pub(crate) features_payload: Vec<u8>,
    /// What it said before anything was encrypted.
    pub(crate) heard_in_clear: Vec<u8>,
}

/// What an impostor says about itself if it has nothing better to say.
pub(crate) fn features(name: u64, nickname: &str) -> Features {
    Features {
        name: PeerName::from_u64(name),
        nickname: nickname.to_owned(),
        uid: 0x5eed_0000 + name,
        conn_id: 0xc0ff_ee00_0000 + name,
        short_id: None,
        trusted: false,
        overlays: Some(vec!["sleeve".to_owned()]),
        public_key: None,
        weft: None,
    }
}

/// Opens a TCP connection from inside a namespace.
pub(crate) fn dial(from: &Namespace, target: &str) -> Result<TcpStream> {
    let target: SocketAddr = target.parse().expect("an address of the lab");
    from.within(|| TcpStream::connect_timeout(&target, PATIENCE))
}

impl Impostor {
    /// Dials a peer and introduces itself in protocol version 2.
    pub(crate) fn join(
        from: &Namespace,
        target: &str,
        about: &Features,
        password: Option<&str>,
    ) -> Result<Self> {
        let mut stream = dial(from, target)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(&encode_header(1, 2))?;
        let mut heard = vec![0; HEADER_BYTES + 1];
        let seed = about.conn_id.to_be_bytes().repeat(4);
        let pair = KeyPair::from_seed_bytes(seed.try_into().expect("four times eight bytes"));
        match password {
            None => stream.write_all(&[FLAG_PLAIN])?,
            Some(_) => {
                stream.write_all(&[&[FLAG_ENCRYPTED][..], &pair.public()].concat())?;
                heard.resize(HEADER_BYTES + 1 + PUBLIC_KEY_BYTES, 0);
            }
        }
        stream.read_exact(&mut heard)?;
        let key = password.map(|password| {
            let public = heard.last_chunk().expect("a key was read");
            SessionKey::from_dh(&pair, public, password.as_bytes()).expect("an honest key")
        });
        let mut this = Self {
            stream,
            frames: FrameReader::new(),
            key,
            sent: 0,
            received: 0,
            remote: about.clone(),
            features_payload: Vec::new(),
            heard_in_clear: heard,
        };
        this.send_bytes(&about.encode_v2())?;
        let theirs = this.next_frame()?;
        this.remote = Features::decode_v2(&theirs).map_err(|e| Error::other(e.to_string()))?;
        this.features_payload = theirs;
        Ok(this)
    }

    /// Says something.
    pub(crate) fn send(&mut self, message: &Message) -> Result<()> {
        self.send_bytes(&message.encode())
    }

    /// Gossips about the topology.
    pub(crate) fn gossip(&mut self, peers: &[wire::topology::PeerSummary]) -> Result<()> {
        let sender = self.own_name();
        self.send(&Message::GossipNeighbour {
            channel: "topology".to_owned(),
            sender,
            payload: wire::topology::encode(peers),
        })
    }

    /// Seals what may be no message at all, and sends it.
    pub(crate) fn send_bytes(&mut self, message: &[u8]) -> Result<()> {
        let sealed = match &self.key {
            Some(key) => nacl::seal(key, &nonce(true, self.sent, true), message),
            None => message.to_vec(),
        };
        self.sent += 1;
        let frame = encode_frame(&sealed).map_err(|e| Error::other(e.to_string()))?;
        self.stream.write_all(&frame)
    }

    /// The next message.
    pub(crate) fn receive(&mut self) -> Result<Message> {
        let bytes = self.next_frame()?;
        Message::decode(&bytes).map_err(|e| Error::other(e.to_string()))
    }

    /// Listens until the other end has nothing to say for `quiet`; whether it is still there.
    pub(crate) fn is_kept(&mut self, quiet: Duration) -> bool {
        let set = self.stream.set_read_timeout(Some(quiet));
        set.expect("a valid time");
        loop {
            match self.receive() {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Other => {}
                Err(error) => return is_timeout(&error),
            }
        }
    }

    fn own_name(&self) -> PeerName {
        PeerName::from_u64(0x0666)
    }

    fn next_frame(&mut self) -> Result<Vec<u8>> {
        loop {
            let frame = self.frames.next_frame();
            if let Some(frame) = frame.map_err(|e| Error::other(e.to_string()))? {
                let Some(key) = &self.key else {
                    return Ok(frame.to_vec());
                };
                let nonce = nonce(false, self.received, true);
                self.received += 1;
                let opened = nacl::open_in_place(key, &nonce, frame);
                return opened
                    .map(|bytes| bytes.to_vec())
                    .map_err(|e| Error::other(e.to_string()));
            }
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes)? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                length => self.frames.push(&bytes[..length]),
            }
        }
    }
}
