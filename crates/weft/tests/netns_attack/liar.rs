//! A peer that knows the password and lies: about others, about us, about who exists.

use std::rc::Rc;
use std::time::Duration;

use wire::PeerName;
use wire::message::Message;
use wire::topology::{ConnectionSummary, PeerSummary};

use crate::impostor::{Impostor, features};
use crate::lab::host::{Container, Host};
use crate::lab::traffic::wait_ping;
use crate::lab::{Lab, PASSWORD};
use crate::vitals::Vitals;

/// Name of the liar.
const LIAR: u64 = 0x0200_0000_0666;
/// Words that would take over a terminal, and forge a line.
const POISON: &str = "x\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}31m\r\nforged(line)\u{7f}";

/// Two honest hosts with a container each, and a third with nothing.
struct Scene {
    hosts: [Rc<Host>; 3],
    one: Container,
    _two: Container,
}

impl Scene {
    fn new(lab: &Lab) -> Self {
        let hosts = lab.hosts(["a", "b", "liar"]);
        hosts[0].launch(&[]);
        hosts[1].join(&[&hosts[0]]);
        hosts[..2].iter().for_each(|host| host.wait_established(1));
        let one = lab.attached(&hosts[0], "c", &["10.32.0.1/24"]);
        let _two = lab.attached(&hosts[1], "c", &["10.32.0.2/24"]);
        wait_ping(&one.namespace, "10.32.0.2");
        Self { hosts, one, _two }
    }

    fn name(&self, index: usize) -> PeerName {
        self.hosts[index].peer_name().parse().expect("a name")
    }

    fn liar(&self, nickname: &str) -> Impostor {
        let about = features(LIAR, nickname);
        let liar = Impostor::join(
            &self.hosts[2].namespace,
            "192.168.77.1:6783",
            &about,
            Some(PASSWORD),
        );
        liar.expect("the password is right")
    }

    /// The honest hosts are connected to each other and their containers reach each other.
    fn assert_honest_connected(&self) {
        let honest = [(0, 1), (1, 0)];
        for (at, other) in honest {
            let (address, name) = (self.hosts[other].address(0), self.hosts[other].peer_name());
            self.hosts[at].wait_status("connections", |status| {
                status.lines().any(|line| {
                    line.contains(&address) && line.contains("established") && line.contains(&name)
                })
            });
        }
        // A lie may mislead routes until its victim has contradicted it.
        wait_ping(&self.one.namespace, "10.32.0.2");
    }

    /// Nobody remembers the liar or what it made up.
    fn wait_truth(&self) {
        self.hosts[..2].iter().for_each(|host| {
            host.wait_peers(2);
            host.wait_status("peers", |peers| peers.matches("established").count() == 2);
        });
    }
}

fn entry(name: PeerName, nickname: &str, uid: u64, version: u64) -> PeerSummary {
    PeerSummary {
        name,
        nickname: nickname.to_owned(),
        uid,
        version,
        short_id: None,
        connections: Vec::new(),
    }
}

fn edge(remote: PeerName, address: &str) -> ConnectionSummary {
    ConnectionSummary {
        remote,
        remote_address: address.to_owned(),
        outbound: true,
        established: true,
    }
}

/// Lies about others: that a neighbour is connected to nobody, restarted, or called otherwise. While the liar
/// is there honest peers stay connected; when it is gone their tables say the truth again, and
/// news still spreads.
#[test]
fn lies_about_others_break_no_connection_and_are_forgotten() {
    let Some(lab) = Lab::encrypted() else { return };
    let scene = Scene::new(&lab);
    let mut liar = scene.liar("liar");
    let (a, b) = (scene.name(0), scene.name(1));
    for (version, uid) in [(100, 1), (1 << 40, 7), (u64::MAX - 1, u64::MAX - 1)] {
        liar.gossip(&[
            entry(b, "nobody", uid, version),
            entry(a, "nothing", uid, version),
        ])
        .expect("the daemon listens");
        assert!(
            liar.is_kept(Duration::from_millis(300)),
            "lies are no reason to hang up"
        );
        scene.assert_honest_connected();
    }
    drop(liar);
    scene.assert_honest_connected();
    scene.wait_truth();
    for host in &scene.hosts[..2] {
        let log = crate::log_of(host);
        assert_eq!(
            log.matches("connection fully established").count(),
            1,
            "{log}"
        );
    }
    // News still spreads.
    scene.hosts[2].join(&[&scene.hosts[1]]);
    scene.hosts[..3].iter().for_each(|host| host.wait_peers(3));
    scene.hosts[..3]
        .iter()
        .for_each(|host| host.wait_established(2));
}

/// Peers that do not exist, in great number, with words in their names that are orders to terminals: bounded
/// memory, nothing raw on the terminal or in the log, and all forgotten with the liar.
#[test]
fn invented_peers_are_bounded_escaped_and_forgotten() {
    let Some(lab) = Lab::encrypted() else { return };
    let scene = Scene::new(&lab);
    let pid = scene.hosts[0].daemon_pid().expect("a daemon runs");
    let before = Vitals::of(pid);
    let mut liar = scene.liar(POISON);
    let name = |n: u64| PeerName::from_u64(0x0200_0077_0000 + n);
    let mut own = entry(PeerName::from_u64(LIAR), POISON, 0x5eed_0000 + LIAR, 50);
    own.connections = (0..20).map(|n| edge(name(n), "10.66.0.1:6783")).collect();
    let mut told = vec![own];
    for n in 0..2000 {
        let mut peer = entry(name(n), POISON, n + 1, 5);
        let others = (1..4).map(|step| edge(name((n + step) % 2000), POISON));
        peer.connections = others.collect();
        peer.connections
            .push(edge(PeerName::from_u64(LIAR), "10.66.0.2:6783"));
        told.push(peer);
    }
    liar.gossip(&told).expect("the daemon listens");
    assert!(liar.is_kept(Duration::from_millis(500)));
    scene.assert_honest_connected();
    for host in &scene.hosts[..2] {
        for what in ["peers", "connections", "targets"] {
            assert_plain(&host.status(what), what);
        }
        assert_plain(&host.weft(&["status"]).ok(), "status");
        assert_plain(&host.weft(&["report"]).ok(), "report");
        let nicknames = [
            "report",
            "-f",
            "{{range .Router.Peers}}{{.NickName}} {{end}}",
        ];
        assert_plain(&host.weft(&nicknames).out, "report -f");
        assert_plain(&crate::log_of(host), "log");
    }
    let during = Vitals::of(pid);
    during.assert_little_more(before, 64 << 10, 80);
    drop(liar);
    scene.wait_truth();
    scene.assert_honest_connected();
}

/// Fails the test if a text has anything a terminal would act on.
fn assert_plain(text: &str, what: &str) {
    let raw = text.chars().find(|c| c.is_control() && *c != '\n');
    assert_eq!(raw, None, "{what}: {text:?}");
    assert!(
        !text.lines().any(|line| line.starts_with("forged")),
        "{what}: {text:?}"
    );
}

/// Messages of known and unknown kinds that make no sense end the link at most.
#[test]
fn nonsense_from_a_peer_ends_its_link_at_most() {
    let Some(lab) = Lab::encrypted() else { return };
    let scene = Scene::new(&lab);
    let pid = scene.hosts[0].daemon_pid().expect("a daemon runs");
    let before = Vitals::of(pid);
    let overlay = |tag: u8, body: &[u8]| [&[7, 0, tag][..], body].concat();
    let large = vec![0x5a; 9 << 20];
    let said: [Vec<u8>; 9] = [
        vec![99; 40],
        vec![7],
        overlay(3, &[0xff; 2]),
        overlay(3, &[]),
        overlay(200, &[0; 5000]),
        vec![4, 0xff, 0xff, 0xff],
        Message::GossipUnicast {
            channel: "topology".to_owned(),
            source: scene.name(1),
            destination: scene.name(0),
            payload: vec![1; 100],
        }
        .encode(),
        Message::GossipBroadcast {
            channel: "nobody-knows".to_owned(),
            source: scene.name(1),
            payload: large.clone(),
        }
        .encode(),
        Message::GossipNeighbour {
            channel: "topology".to_owned(),
            sender: scene.name(1),
            payload: large,
        }
        .encode(),
    ];
    for message in &said {
        let mut liar = scene.liar("liar");
        for _ in 0..3 {
            // It may hang up at any of them.
            let _ = liar.send_bytes(message);
        }
        liar.is_kept(Duration::from_millis(200));
    }
    scene.assert_honest_connected();
    assert_eq!(
        scene.hosts[0].daemon_pid(),
        Some(pid),
        "it is still the same daemon"
    );
    Vitals::of(pid).assert_little_more(before, 96 << 10, 40);
    scene.wait_truth();
}
