//! Topology told as differences: only to those who announced that they understand it, and with the
//! same outcome as if nobody did.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod net;

use std::time::Instant;

use mesh::{Mesh, MeshConfig, MeshOutput};
use net::{Net, Stranger, config, direct, name, secs};
use wire::delta::{EntryContent, EntryNews, KnownEntry, TopologyNews};
use wire::handshake::{FLAG_PLAIN, HEADER_BYTES, WeftFeature};
use wire::message::{Message, encode_frame};
use wire::{LinkId, PeerName};

const SHORT: &str = "weft-topology";
const LONG: &str = "topology";

fn mixed(count: usize, is_weft: impl Fn(usize) -> bool, discovery: bool) -> Net {
    let configs = (0..count).map(|n| MeshConfig {
        discovery,
        announce_weft: is_weft(n),
        ..config(n)
    });
    Net::new(configs.collect())
}

#[test]
fn wefts_and_originals_agree_in_any_order_along_a_line_that_breaks_and_mends() {
    for pattern in [0b1111_1111, 0b0101_0101, 0b0011_0110, 0b1000_0001, 0] {
        let mut net = mixed(8, |n| pattern >> n & 1 == 1, false);
        for n in 1..8 {
            net.connect(n - 1, n);
        }
        net.run(secs(10));
        net.assert_agreement();
        let link = net.meshes[3].status(net.now).connections[0].link;
        net.cut(3, link);
        // Originals that dropped whoever was out of reach hear of them with the periodic gossip.
        net.run(secs(95));
        net.assert_agreement();
    }
}

#[test]
fn wefts_and_originals_agree_in_a_full_mesh_whose_peers_restart() {
    for pattern in [0b11_1111, 0b01_0101, 0b10_0000] {
        let is_weft = |n: usize| pattern >> n & 1 == 1;
        let mut net = mixed(6, is_weft, true);
        for n in 1..6 {
            net.connect(n, 0);
        }
        net.run(secs(10));
        net.assert_agreement();
        for n in [2, 5, 4] {
            let again = MeshConfig {
                announce_weft: is_weft(n),
                ..config(n)
            };
            net.restart(n, again, 100 + u8::try_from(n).unwrap());
            net.meshes[n].connect(vec![direct(0)], false, net.now);
            net.run(secs(20));
            net.assert_agreement();
        }
    }
}

/// One mesh and a stranger at the other end of a link, whose messages are read.
struct Talk {
    mesh: Mesh,
    link: LinkId,
    received: Vec<u8>,
    now: Instant,
}

impl Talk {
    fn new(weft: Option<WeftFeature>) -> Self {
        let now = net::base();
        let mut talk = Self {
            mesh: Mesh::new(config(0), [1; 32], now),
            link: LinkId::inbound(1),
            received: Vec::new(),
            now,
        };
        let (local, remote) = ("10.0.0.1:6783", "10.9.9.9:50000");
        let (local, remote) = (local.parse().unwrap(), remote.parse().unwrap());
        talk.mesh
            .handle_link_accepted(talk.link, local, remote, now);
        let mut features = Stranger::features();
        features.weft = weft;
        talk.feed(&Stranger::introduction(&features));
        assert_eq!(talk.received[HEADER_BYTES], FLAG_PLAIN);
        talk
    }

    fn feed(&mut self, bytes: &[u8]) {
        self.mesh.handle_link_bytes(self.link, bytes, self.now);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.mesh.poll_output() {
            if let MeshOutput::Send { bytes, .. } = output {
                self.received.extend(bytes);
                self.mesh.handle_link_flushed(self.link, self.now);
            }
        }
    }

    fn say(&mut self, channel: &str, payload: Vec<u8>) {
        let channel = channel.to_owned();
        let message = Message::GossipNeighbour {
            channel,
            sender: name(100),
            payload,
        };
        self.feed(&encode_frame(&message.encode()).unwrap());
    }

    fn wait(&mut self, seconds: u64) {
        let end = self.now + secs(seconds);
        while let Some((at, _)) = self.mesh.poll_timeout().filter(|(at, _)| *at <= end) {
            self.now = self.now.max(at);
            self.mesh.handle_timeout(self.now);
            self.drain();
        }
        self.now = end;
    }

    /// The payloads received on a channel since the introduction.
    fn heard(&self, wanted: &str) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let mut rest = &self.received[HEADER_BYTES + 1..];
        while let Some((length, more)) = rest.split_first_chunk() {
            let (frame, more) = more.split_at(u32::from_be_bytes(*length) as usize);
            frames.push(frame);
            rest = more;
        }
        let payload = |frame: &&[u8]| match Message::decode(frame).ok()? {
            Message::GossipNeighbour {
                channel, payload, ..
            } if channel == wanted => Some(payload),
            Message::Heartbeat
            | Message::Overlay(_)
            | Message::GossipNeighbour { .. }
            | Message::GossipUnicast { .. }
            | Message::GossipBroadcast { .. }
            | Message::Unknown(_) => None,
        };
        frames[1..].iter().filter_map(payload).collect()
    }

    fn heard_news(&self) -> Vec<TopologyNews> {
        let payloads = self.heard(SHORT);
        payloads
            .iter()
            .map(|payload| TopologyNews::decode(payload).unwrap())
            .collect()
    }
}

fn delta() -> Option<WeftFeature> {
    WeftFeature::parse("1 delta")
}

fn entry(peer: u64, version: u64) -> EntryNews {
    EntryNews {
        name: PeerName::from_u64(peer),
        uid: 5,
        version,
        short_id: None,
        told: false,
        content: EntryContent::Whole {
            nickname: "x".to_owned(),
            connections: Vec::new(),
        },
    }
}

#[test]
fn an_original_hears_the_long_form_only_and_is_not_believed_to_speak_the_short_one() {
    for weft in [None, WeftFeature::parse("1"), WeftFeature::parse("1 other")] {
        let mut talk = Talk::new(weft);
        talk.wait(1);
        talk.say(SHORT, TopologyNews::Entries(vec![entry(77, 3)]).encode());
        talk.say(SHORT, TopologyNews::Digest(1).encode());
        talk.wait(70);
        assert_eq!(talk.heard(SHORT), Vec::<Vec<u8>>::new());
        assert!(talk.heard(LONG).len() >= 3);
        assert_eq!(talk.mesh.nickname(PeerName::from_u64(77)), None);
    }
}

#[test]
fn who_understands_differences_gets_nothing_else() {
    let mut talk = Talk::new(delta());
    talk.wait(50);
    assert_eq!(talk.heard(LONG), Vec::<Vec<u8>>::new());
    let news = talk.heard_news();
    assert!(matches!(&news[0], TopologyNews::Entries(entries) if entries[0].name == name(0)));
    let digests = news.iter().filter(|n| matches!(n, TopologyNews::Digest(_)));
    assert_eq!(digests.count(), 1, "one per gossip interval");
}

#[test]
fn who_has_another_digest_is_told_what_we_have_and_then_what_it_lacks() {
    let mut talk = Talk::new(delta());
    talk.wait(2);
    talk.say(SHORT, TopologyNews::Digest(1).encode());
    let have = talk.heard_news().pop();
    let Some(TopologyNews::Have {
        complete: true,
        entries,
    }) = have
    else {
        panic!("{have:?}")
    };
    assert_eq!(entries.len(), 1, "nobody told of the stranger yet");
    let nothing = TopologyNews::Have {
        complete: true,
        entries: vec![KnownEntry {
            name: PeerName::from_u64(88),
            uid: 6,
            version: 4,
        }],
    };
    talk.say(SHORT, nothing.encode());
    let news = talk.heard_news();
    let [
        ..,
        TopologyNews::Have { complete, entries },
        TopologyNews::Entries(told),
    ] = &news[..]
    else {
        panic!("{news:?}")
    };
    assert_eq!(
        (*complete, entries[0].name),
        (false, PeerName::from_u64(88))
    );
    assert!(matches!(told[0].content, EntryContent::Whole { .. }));
}

#[test]
fn nonsense_in_the_short_form_ends_the_link() {
    let mut talk = Talk::new(delta());
    talk.say(SHORT, vec![9, 9, 9]);
    assert!(talk.mesh.status(talk.now).connections.is_empty());
}
