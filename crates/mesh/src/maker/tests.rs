//! Retry timing and target choice in virtual time.

use rand::SeedableRng;
use rand::rngs::StdRng;
use wire::LinkId;
use wire::topology::{ConnectionSummary, PeerSummary};

use super::*;
use crate::testing::base;

const US: PeerName = PeerName::from_u64(1);

struct Bench {
    maker: Maker,
    peers: PeerTable,
    rng: StdRng,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        Self {
            maker: Maker::new(6783, true),
            peers: PeerTable::new(US, "us", 1, 1),
            rng: StdRng::from_seed([5; 32]),
            now: base(),
        }
    }

    fn connect(&mut self, texts: &[&str]) {
        let peers = texts.iter().map(|text| direct(text)).collect();
        self.maker.connect(peers, false, self.now);
    }

    fn choose(&mut self) -> Vec<String> {
        let attempts = self.maker.choose(&self.peers, self.now);
        attempts
            .into_iter()
            .map(|attempt| attempt.address.to_string())
            .collect()
    }

    fn fail(&mut self, address: &str) {
        self.maker
            .attempt_failed(at(address), "refused", self.now, &mut self.rng);
    }

    fn end(&mut self, link: LinkId, address: &str, ending: Ending) {
        let (maker, rng) = (&mut self.maker, &mut self.rng);
        maker.connection_ended(link, at(address), ending, "gone", self.now, rng);
    }

    /// The targets status shows, which are those that are counted.
    fn shown(&self) -> Vec<TargetState> {
        let targets = self.maker.snapshot();
        let shown = targets.iter().filter_map(|(_, t)| t.shown(self.now));
        let shown: Vec<_> = shown.collect();
        let mut counts = TargetCounts::default();
        for state in &shown {
            *match state {
                TargetState::Connecting => &mut counts.connecting,
                TargetState::Retrying(_) => &mut counts.retrying,
                TargetState::Failed { .. } => &mut counts.failed,
                TargetState::Waiting { .. } => &mut counts.waiting,
            } += 1;
        }
        assert_eq!(self.maker.counts(), counts);
        shown
    }

    fn wait(&mut self, secs: u64) {
        self.now += Duration::from_secs(secs);
    }

    /// What a peer says about its connections.
    fn learn(&mut self, name: u64, connections: &[(u64, &str, bool)]) {
        let connections = connections
            .iter()
            .map(|(remote, address, outbound)| ConnectionSummary {
                remote: PeerName::from_u64(*remote),
                remote_address: (*address).to_owned(),
                outbound: *outbound,
                established: true,
            });
        self.peers.merge(&[PeerSummary {
            name: PeerName::from_u64(name),
            nickname: String::new(),
            uid: 1,
            version: 1,
            short_id: None,
            connections: connections.collect(),
        }]);
    }
}

fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

/// `ip` or `ip:port`, IPv4.
fn direct(text: &str) -> DirectPeer {
    let (ip, port) = text
        .split_once(':')
        .map_or((text, None), |(ip, port)| (ip, Some(port)));
    DirectPeer {
        text: text.to_owned(),
        ip: ip.parse().unwrap(),
        port: port.map(|port| port.parse().unwrap()),
    }
}

#[test]
fn a_direct_peer_is_dialled_at_once_and_on_our_port_if_none_was_given() {
    let mut bench = Bench::new();
    bench.connect(&["10.0.0.2", "10.0.0.3:7000"]);
    assert_eq!(bench.choose(), ["10.0.0.2:6783", "10.0.0.3:7000"]);
    assert!(
        bench.choose().is_empty(),
        "attempts under way are not repeated"
    );
    assert!(matches!(bench.shown()[0], TargetState::Connecting));
}

#[test]
fn waits_grow_by_half_between_half_and_one_and_a_half_intervals_up_to_six_minutes() {
    let mut bench = Bench::new();
    bench.connect(&["10.0.0.2"]);
    let mut interval = 2.0_f64;
    for _ in 0..20 {
        assert_eq!(bench.choose(), ["10.0.0.2:6783"]);
        bench.fail("10.0.0.2:6783");
        let due = bench.maker.next_due().unwrap();
        let wait = (due - bench.now).as_secs_f64();
        assert!(
            wait >= interval / 2.0 - 1e-6 && wait <= interval * 1.5 + 1e-6,
            "{wait} {interval}"
        );
        interval = (interval * 1.5).min(360.0);
        bench.now = due;
    }
    assert!((interval - 360.0).abs() < 1e-6);
    assert!(matches!(&bench.shown()[0],
        TargetState::Failed { error, retry_in: Some(_) } if error == "refused"));
}

#[test]
fn a_connection_that_lasted_is_retried_at_once_and_a_short_one_later() {
    let mut bench = Bench::new();
    bench.connect(&["10.0.0.2"]);
    let link = LinkId::outbound(0);
    bench.choose();
    bench.fail("10.0.0.2:6783");
    bench.now = bench.maker.next_due().unwrap();
    bench.choose();
    bench.maker.connection_created(link, at("10.0.0.2:6783"));
    assert!(bench.choose().is_empty());
    assert!(bench.shown().is_empty(), "connected targets are not shown");
    bench.wait(61);
    bench.end(link, "10.0.0.2:6783", Ending::Ordinary);
    assert_eq!(bench.choose(), ["10.0.0.2:6783"]);
    bench.end(link, "10.0.0.2:6783", Ending::Ordinary);
    assert!(bench.choose().is_empty());
    let wait = bench.maker.next_due().unwrap() - bench.now;
    assert!(
        wait >= Duration::from_secs(1) && wait <= Duration::from_secs(3),
        "{wait:?}"
    );
    assert_eq!(bench.maker.termination_count(), 2);
}

#[test]
fn a_peer_that_died_is_dialled_every_second_or_so_until_it_had_time_to_come_back() {
    let mut bench = Bench::new();
    bench.connect(&["10.0.0.2"]);
    let link = LinkId::outbound(0);
    bench.choose();
    bench.maker.connection_created(link, at("10.0.0.2:6783"));
    bench.wait(2);
    bench.end(link, "10.0.0.2:6783", Ending::Ordinary);
    let died = bench.now;
    let mut attempts = 0;
    while bench.now - died < SOON_FOR {
        bench.now = bench.maker.next_due().unwrap();
        assert_eq!(bench.choose(), ["10.0.0.2:6783"]);
        // A daemon killed once more while it starts is a failure like any other.
        bench.maker.connection_created(link, at("10.0.0.2:6783"));
        bench.end(link, "10.0.0.2:6783", Ending::Ordinary);
        let wait = bench.maker.next_due().unwrap() - bench.now;
        let is_soon = bench.now - died < SOON_FOR;
        let limit = if is_soon { 1.5 } else { 3.0 };
        assert!((0.5..=limit).contains(&wait.as_secs_f64()), "{wait:?}");
        attempts += 1;
    }
    assert!((20..=60).contains(&attempts), "{attempts}");
}

#[test]
fn a_peer_that_ends_every_connection_at_once_is_dialled_less_and_less() {
    let mut bench = Bench::new();
    bench.connect(&["10.0.0.2"]);
    let link = LinkId::outbound(0);
    let start = bench.now;
    for _ in 0..12 {
        assert_eq!(bench.choose(), ["10.0.0.2:6783"]);
        bench.maker.connection_created(link, at("10.0.0.2:6783"));
        bench.wait(1);
        bench.end(link, "10.0.0.2:6783", Ending::Ordinary);
        bench.now = bench.maker.next_due().unwrap();
    }
    assert!(bench.now - start > Duration::from_secs(150));
}

#[test]
fn ourselves_are_not_dialled_again_until_the_user_asks() {
    let mut bench = Bench::new();
    bench.connect(&["10.0.0.2"]);
    bench.choose();
    bench.end(LinkId::outbound(0), "10.0.0.2:6783", Ending::SelfConnection);
    bench.wait(100_000);
    assert!(bench.choose().is_empty());
    assert_eq!(bench.maker.next_due(), None);
    assert_eq!(bench.maker.active_direct_count(), 0);
    assert!(matches!(
        bench.shown()[0],
        TargetState::Failed { retry_in: None, .. }
    ));
    bench.connect(&["10.0.0.2"]);
    assert_eq!(bench.choose(), ["10.0.0.2:6783"]);
    assert_eq!(bench.maker.active_direct_count(), 1);
    assert_eq!(bench.maker.termination_count(), 0);
}

#[test]
fn namesakes_are_looked_for_once_a_minute() {
    let mut bench = Bench::new();
    bench.connect(&["10.0.0.2"]);
    for _ in 0..10 {
        assert_eq!(bench.choose(), ["10.0.0.2:6783"]);
        bench.end(LinkId::outbound(0), "10.0.0.2:6783", Ending::NameCollision);
        bench.wait(59);
        assert!(bench.choose().is_empty());
        bench.wait(1);
    }
    assert_eq!(bench.maker.termination_count(), 10);
}

#[test]
fn a_peer_without_a_port_is_left_alone_while_it_is_connected_to_us() {
    let mut bench = Bench::new();
    let inbound = LinkId::inbound(0);
    bench
        .maker
        .connection_created(inbound, at("10.0.0.2:41234"));
    bench.connect(&["10.0.0.2", "10.0.0.2:6784"]);
    assert_eq!(bench.choose(), ["10.0.0.2:6784"]);
    bench.end(inbound, "10.0.0.2:41234", Ending::Ordinary);
    assert_eq!(bench.choose(), ["10.0.0.2:6783"]);
}

#[test]
fn a_direct_target_that_is_not_wanted_now_is_suspended_and_keeps_its_interval() {
    let mut bench = Bench::new();
    bench.connect(&["10.0.0.2"]);
    bench.choose();
    bench.fail("10.0.0.2:6783");
    bench
        .maker
        .connection_created(LinkId::inbound(0), at("10.0.0.2:41234"));
    assert!(bench.choose().is_empty());
    assert!(bench.shown().is_empty(), "suspended targets are not shown");
    assert_eq!(bench.maker.next_due(), None);
    bench.end(LinkId::inbound(0), "10.0.0.2:41234", Ending::Ordinary);
    assert!(bench.choose().is_empty(), "still waiting");
    bench.wait(3);
    assert_eq!(bench.choose(), ["10.0.0.2:6783"]);
}

#[test]
fn peers_of_peers_are_discovered_at_the_address_that_makes_sense() {
    let mut bench = Bench::new();
    // Dialled by 2: its address. Accepted by 2: the same host on our own port.
    let seen = [
        (3, "10.0.0.3:7000", true),
        (4, "10.0.0.4:51234", false),
        (1, "10.0.0.1:6783", true),
    ];
    bench.learn(2, &seen);
    bench.learn(
        3,
        &[
            (5, "not an address", true),
            (6, "0.0.0.0:6783", true),
            (7, "10.0.0.7:0", true),
        ],
    );
    assert_eq!(bench.choose(), ["10.0.0.3:7000", "10.0.0.4:6783"]);
    let attempts = bench.maker.choose(&bench.peers, bench.now);
    assert!(attempts.is_empty());
}

#[test]
fn discovered_targets_are_not_direct_and_go_away_with_what_made_them() {
    let mut bench = Bench::new();
    bench.learn(2, &[(3, "10.0.0.3:6783", true)]);
    let attempts = bench.maker.choose(&bench.peers, bench.now);
    assert_eq!(
        attempts,
        [Attempt {
            address: at("10.0.0.3:6783"),
            direct: false
        }]
    );
    bench.fail("10.0.0.3:6783");
    assert_eq!(bench.shown().len(), 1);
    bench.peers.collect_garbage();
    assert!(bench.choose().is_empty());
    assert!(bench.shown().is_empty());
}

#[test]
fn without_discovery_only_direct_peers_are_dialled() {
    let mut bench = Bench::new();
    bench.maker = Maker::new(6783, false);
    bench.learn(2, &[(3, "10.0.0.3:6783", true)]);
    bench.connect(&["10.0.0.9"]);
    assert_eq!(bench.choose(), ["10.0.0.9:6783"]);
}

#[test]
fn replace_and_forget_change_what_is_wanted() {
    let mut bench = Bench::new();
    bench.connect(&["10.0.0.2", "10.0.0.3"]);
    assert!(
        !bench
            .maker
            .connect(vec![direct("10.0.0.2")], false, bench.now),
        "nothing new"
    );
    assert!(
        bench
            .maker
            .connect(vec![direct("10.0.0.4")], true, bench.now)
    );
    assert_eq!(bench.maker.direct_peers(), ["10.0.0.4"]);
    assert!(!bench.maker.forget(&["10.0.0.2".to_owned()]));
    assert!(bench.maker.forget(&["10.0.0.4".to_owned()]));
    assert!(bench.choose().is_empty());
}

#[test]
fn mapped_addresses_are_the_ipv4_ones() {
    let mut bench = Bench::new();
    let ip = "::ffff:10.0.0.2".parse().unwrap();
    let peer = DirectPeer {
        text: "two".to_owned(),
        ip,
        port: None,
    };
    bench.maker.connect(vec![peer], false, bench.now);
    assert_eq!(bench.choose(), ["10.0.0.2:6783"]);
}

#[test]
fn gossip_opens_only_so_many_sockets_at_once() {
    let mut bench = Bench::new();
    let addresses: Vec<String> = (0..200).map(|n| format!("10.1.0.{n}:6783")).collect();
    let seen: Vec<(u64, &str, bool)> = (100..)
        .zip(&addresses)
        .map(|(n, address)| (n, address.as_str(), true))
        .collect();
    bench.learn(2, &seen);
    let first = bench.choose();
    assert_eq!(first.len(), ATTEMPTS_MAX);
    assert_eq!(
        bench.maker.next_due(),
        None,
        "an attempt's end is what we wait for"
    );
    bench.fail(&first[0]);
    assert_eq!(bench.choose().len(), 1);
}
