//! Conversations of two meshes, in both versions, both roles, in clear and encrypted, repeated to one
//! of them with each byte changed, cut anywhere, and by somebody in the middle.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod net;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::time::Instant;
use wire::LinkId;

use mesh::{GossipContent, Mesh, MeshConfig, MeshOutput};
use net::{base, config, direct, encrypted, name, secs};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};
use wire::handshake::{FLAG_ENCRYPTED, FLAG_PLAIN, Features, encode_header};

/// Header and flag in front of the public key of version 2.
const KEY_AT: usize = 8;
const KEY_END: usize = KEY_AT + 32;

thread_local! {
    static LAST_END: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Keeps the reason with which a link was shut down last.
struct Reasons;

impl Visit for Reasons {
    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "error" {
            LAST_END.set(Some(value.to_owned()));
        }
    }
}

impl Subscriber for Reasons {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        event.record(&mut Self);
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// One end of one link.
struct End {
    mesh: Mesh,
    link: LinkId,
    sent: Vec<u8>,
    outputs: usize,
    added: usize,
    key: Option<[u8; 32]>,
    closed: bool,
}

impl End {
    /// A mesh whose only link stands; always the same for the same arguments.
    fn start(config: MeshConfig, dials: bool, now: Instant) -> Self {
        let seed = [if dials { 3 } else { 4 }; 32];
        let mut mesh = Mesh::new(config, seed, now);
        let (near, far): (SocketAddr, SocketAddr) = if dials {
            (
                "10.0.0.9:40000".parse().unwrap(),
                "10.0.0.1:6783".parse().unwrap(),
            )
        } else {
            (
                "10.0.0.1:6783".parse().unwrap(),
                "10.0.0.9:40000".parse().unwrap(),
            )
        };
        let link = if dials {
            mesh.connect(vec![direct(0)], false, now);
            let link = LinkId::outbound(0);
            mesh.handle_link_connected(link, near, far, now);
            link
        } else {
            let link = LinkId::inbound(0);
            mesh.handle_link_accepted(link, near, far, now);
            link
        };
        let mut end = Self {
            mesh,
            link,
            sent: Vec::new(),
            outputs: 0,
            added: 0,
            key: None,
            closed: false,
        };
        end.drain(now);
        end
    }

    fn drain(&mut self, now: Instant) {
        while let Some(output) = self.mesh.poll_output() {
            self.outputs += 1;
            match output {
                MeshOutput::Send { bytes, .. } => {
                    self.sent.extend(bytes);
                    self.mesh.handle_link_flushed(self.link, now);
                }
                MeshOutput::Close { link } => self.closed |= link == self.link,
                MeshOutput::ConnectionAdded(connection) => {
                    self.added += 1;
                    self.key = connection.data_key.map(|key| *key.expose_bytes());
                    self.mesh.connection_established(self.link, now);
                }
                MeshOutput::Dial { .. }
                | MeshOutput::ConnectionRemoved { .. }
                | MeshOutput::OverlayControl { .. }
                | MeshOutput::Gossip { .. }
                | MeshOutput::ChannelStateWanted { .. }
                | MeshOutput::RoutesChanged
                | MeshOutput::ShortIdsChanged
                | MeshOutput::PeersRemoved(_)
                | MeshOutput::DirectPeersChanged(_) => {}
            }
        }
    }

    fn hear(&mut self, bytes: &[u8], now: Instant) {
        self.mesh.handle_link_bytes(self.link, bytes, now);
        self.drain(now);
    }
}

/// What one end heard in an undisturbed conversation.
struct Recording {
    settings: MeshSettings,
    dials: bool,
    heard: Vec<u8>,
    key: Option<[u8; 32]>,
    now: Instant,
}

#[derive(Clone, Copy)]
struct MeshSettings {
    version: u8,
    is_encrypted: bool,
}

impl MeshSettings {
    fn all() -> impl Iterator<Item = Self> {
        let versions = [1, 2].into_iter();
        versions.flat_map(|version| {
            [false, true].map(|is_encrypted| Self {
                version,
                is_encrypted,
            })
        })
    }

    fn config(self, n: usize) -> MeshConfig {
        let base = if self.is_encrypted {
            encrypted(n)
        } else {
            config(n)
        };
        MeshConfig {
            max_protocol_version: self.version,
            ..base
        }
    }
}

impl Recording {
    /// Two meshes introduce each other, establish, gossip on two channels and unicast.
    fn make(settings: MeshSettings, dials: bool) -> Self {
        let now = base();
        let mut ours = End::start(settings.config(usize::from(dials)), dials, now);
        let mut theirs = End::start(settings.config(usize::from(!dials)), !dials, now);
        let mut heard = Vec::new();
        for step in 0..12 {
            let (from_us, from_them) = (
                std::mem::take(&mut ours.sent),
                std::mem::take(&mut theirs.sent),
            );
            heard.extend(&from_them);
            ours.hear(&from_them, now);
            theirs.hear(&from_us, now);
            if step == 6 {
                let content = || GossipContent::Payload(vec![7; 9]);
                let us = ours.mesh.name();
                let them = theirs.mesh.name();
                theirs.mesh.gossip_broadcast("x", them, content(), now);
                theirs
                    .mesh
                    .gossip_neighbour_subset("y", None, content(), now);
                theirs
                    .mesh
                    .gossip_unicast("x", us, vec![1, 2, 3], now)
                    .unwrap();
                theirs.mesh.handle_timeout(now + secs(1));
                theirs.drain(now);
            }
        }
        assert_eq!((ours.added, theirs.added), (1, 1));
        assert_eq!(ours.key.is_some(), settings.is_encrypted);
        assert!(heard.len() > 300);
        Self {
            settings,
            dials,
            heard,
            key: ours.key,
            now,
        }
    }

    fn all() -> impl Iterator<Item = Self> {
        let roles = [false, true].into_iter();
        roles.flat_map(|dials| MeshSettings::all().map(move |s| Self::make(s, dials)))
    }

    /// The same end again, hearing something else.
    fn repeat(&self, bytes: &[u8]) -> End {
        LAST_END.set(None);
        let config = self.settings.config(usize::from(self.dials));
        let mut end = End::start(config, self.dials, self.now);
        end.hear(bytes, self.now);
        self.check(&end);
        end
    }

    /// What holds whatever was heard.
    fn check(&self, end: &End) {
        assert!(end.outputs < 64 && end.sent.len() < 64 << 10);
        let footprint = end.mesh.footprint();
        assert_eq!(footprint.excess(&end.mesh.footprint_limits()), None);
        assert!(footprint.peers <= 64);
        if end.closed {
            let reason = LAST_END.with_borrow(Clone::clone).expect("a reason");
            assert!(!reason.is_empty() && reason.len() < 600, "{reason}");
        }
        assert!(end.added <= 1);
        if end.added == 1 && self.settings.is_encrypted {
            assert_eq!(end.key, self.key, "established, so with the true key");
        }
    }
}

/// F26: no byte of an encrypted conversation can be changed unnoticed, in either version.
#[test]
fn every_changed_byte_of_every_conversation_is_survived_and_never_a_wrong_key() {
    let _guard = tracing::subscriber::set_default(Reasons);
    for recording in Recording::all() {
        let mut bytes = recording.heard.clone();
        for at in 0..bytes.len() {
            let original = bytes[at];
            let flips = (0..8).map(|bit| original ^ 1 << bit);
            for value in flips.chain([0, 0xff]).filter(|value| *value != original) {
                bytes[at] = value;
                let end = recording.repeat(&bytes);
                let MeshSettings {
                    version,
                    is_encrypted,
                } = recording.settings;
                // Curve25519 ignores the topmost bit of a public key: the same key.
                let is_same_key = at == KEY_END - 1 && value ^ original == 0x80;
                // Behind the header all that is sent encrypted is authentic, or the link ends.
                if is_encrypted && version == 2 && at >= KEY_AT && !is_same_key {
                    // A length that became larger makes us wait.
                    let footprint = end.mesh.footprint();
                    let waits = footprint.receive_bytes_max + footprint.handshake_bytes_max > 0;
                    assert!(end.closed || waits, "byte {at} of {}", bytes.len());
                }
                if is_encrypted && version == 2 && (KEY_AT..KEY_END).contains(&at) && !is_same_key {
                    assert_eq!(end.added, 0);
                }
            }
            bytes[at] = original;
        }
    }
}

#[test]
fn every_truncation_waits_and_then_ends_with_a_reason() {
    let _guard = tracing::subscriber::set_default(Reasons);
    for recording in Recording::all() {
        for cut in 0..recording.heard.len() {
            let mut end = recording.repeat(&recording.heard[..cut]);
            assert!(!end.closed, "half a message is no reason");
            if cut % 2 == 0 {
                end.mesh.handle_link_closed(end.link, "EOF", recording.now);
            } else {
                end.mesh.handle_timeout(recording.now + secs(61));
            }
            let reason = LAST_END.with_borrow(Clone::clone).expect("a reason");
            assert!(
                reason.contains("EOF") || reason.contains("i/o timeout"),
                "{reason}"
            );
            assert_eq!(end.mesh.footprint().links, 0);
        }
    }
}

/// F26, and the counters of F47 on TCP: what is dropped, doubled or out of order does not open.
#[test]
fn frames_left_out_repeated_or_swapped_end_an_encrypted_link() {
    let _guard = tracing::subscriber::set_default(Reasons);
    for dials in [false, true] {
        let settings = MeshSettings {
            version: 2,
            is_encrypted: true,
        };
        let recording = Recording::make(settings, dials);
        let (intro, mut rest) = recording.heard.split_at(KEY_END);
        let mut frames = Vec::new();
        while !rest.is_empty() {
            let length = u32::from_be_bytes(*rest.first_chunk().unwrap()) as usize;
            let (frame, tail) = rest.split_at(4 + length);
            frames.push(frame);
            rest = tail;
        }
        assert!(frames.len() >= 5);
        let hear = |order: Vec<usize>| {
            let frames = order.into_iter().flat_map(|n| frames[n].iter().copied());
            let bytes: Vec<u8> = intro.iter().copied().chain(frames).collect();
            let end = recording.repeat(&bytes);
            assert!(end.closed);
            let reason = LAST_END.with_borrow(Clone::clone);
            assert_eq!(reason.as_deref(), Some("Unable to decrypt TCP msg"));
        };
        for n in 0..frames.len() - 1 {
            let all = || 0..frames.len();
            hear(all().filter(|m| *m != n).collect());
            hear(
                all()
                    .flat_map(|m| std::iter::repeat_n(m, 1 + usize::from(m == n)))
                    .collect(),
            );
            hear(
                all()
                    .map(|m| {
                        if m == n {
                            n + 1
                        } else if m == n + 1 {
                            n
                        } else {
                            m
                        }
                    })
                    .collect(),
            );
        }
    }
}

/// F39: the key stripped from the introduction, in both versions and both roles.
#[test]
fn a_stripped_public_key_ends_the_introduction_of_whoever_has_a_password() {
    let _guard = tracing::subscriber::set_default(Reasons);
    let expected = "password specified, but peer requested an unencrypted connection";
    for recording in Recording::all().filter(|r| r.settings.is_encrypted) {
        let features = Features {
            name: name(usize::from(!recording.dials)),
            ..net::Stranger::features()
        };
        let stripped: Vec<u8> = match recording.settings.version {
            2 => {
                assert_eq!(recording.heard[KEY_AT - 1], FLAG_ENCRYPTED);
                let mut bytes = recording.heard.clone();
                bytes[KEY_AT - 1] = FLAG_PLAIN;
                bytes.drain(KEY_AT..KEY_END);
                bytes
            }
            _ => [&encode_header(1, 1)[..], &features.encode_v1()].concat(),
        };
        let end = recording.repeat(&stripped);
        assert!(end.closed && end.added == 0);
        assert_eq!(
            LAST_END.with_borrow(Clone::clone).as_deref(),
            Some(expected)
        );
    }
    // The other way round: whoever has none does not talk to whoever has one.
    for dials in [false, true] {
        for version in [1, 2] {
            let with = MeshSettings {
                version,
                is_encrypted: true,
            };
            let without = MeshSettings {
                version,
                is_encrypted: false,
            };
            let with = Recording::make(with, dials);
            let without = Recording::make(without, dials);
            let end = without.repeat(&with.heard);
            assert!(end.closed && end.added == 0);
        }
    }
}

/// F34: somebody in the middle puts its own keys in the place of both.
#[test]
fn swapped_public_keys_connect_nobody() {
    let _guard = tracing::subscriber::set_default(Reasons);
    let now = base();
    let settings = MeshSettings {
        version: 2,
        is_encrypted: true,
    };
    let mallory = nacl::KeyPair::from_seed_bytes([66; 32]);
    let swap = |bytes: &mut Vec<u8>, seen: &mut usize| {
        for byte in bytes {
            if (KEY_AT..KEY_END).contains(seen) {
                *byte = mallory.public()[*seen - KEY_AT];
            }
            *seen += 1;
        }
    };
    for both in [true, false] {
        let mut ends = [
            End::start(settings.config(0), false, now),
            End::start(settings.config(1), true, now),
        ];
        let mut seen = [0, 0];
        for _ in 0..8 {
            let mut sent = [0, 1].map(|n| std::mem::take(&mut ends[n].sent));
            swap(&mut sent[0], &mut seen[0]);
            if both {
                swap(&mut sent[1], &mut seen[1]);
            }
            let [first, second] = sent;
            ends[1].hear(&first, now);
            ends[0].hear(&second, now);
        }
        assert_eq!((ends[0].added, ends[1].added), (0, 0));
        assert!(ends[0].closed && ends[1].closed);
        let reason = LAST_END.with_borrow(Clone::clone);
        assert_eq!(reason.as_deref(), Some("Unable to decrypt TCP msg"));
    }
}

/// F31: both sides send another key on each link.
#[test]
fn keys_are_fresh_on_every_link_and_at_both_ends() {
    let now = base();
    let mut mesh = Mesh::new(encrypted(0), [4; 32], now);
    let mut keys = std::collections::BTreeSet::new();
    for n in 0..100 {
        let link = LinkId::inbound(n);
        let addresses = (
            "10.0.0.1:6783".parse().unwrap(),
            "10.0.0.9:4".parse().unwrap(),
        );
        mesh.handle_link_accepted(link, addresses.0, addresses.1, now);
        mesh.handle_link_bytes(link, &encode_header(1, 2), now);
        let mut sent = Vec::new();
        while let Some(output) = mesh.poll_output() {
            if let MeshOutput::Send { bytes, .. } = output {
                sent.extend(bytes);
            }
        }
        assert!(keys.insert(sent[KEY_AT..KEY_END].to_vec()));
        mesh.handle_link_closed(link, "EOF", now);
    }
    let outbound = Recording::make(
        MeshSettings {
            version: 2,
            is_encrypted: true,
        },
        false,
    );
    let inbound = Recording::make(
        MeshSettings {
            version: 2,
            is_encrypted: true,
        },
        true,
    );
    assert_ne!(
        outbound.heard[KEY_AT..KEY_END],
        inbound.heard[KEY_AT..KEY_END]
    );
}
