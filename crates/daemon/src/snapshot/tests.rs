//! The situation of the samples in spec/cli-api.md 5, and the report made from it.

use overlay::protection::Cipher;
use overlay::switch::Reason;
use wire::LinkId;
use wire::topology::{ConnectionSummary, PeerSummary};

use super::*;

/// Two peers with one connection, and one target that cannot be reached.
fn status(encryption: bool) -> NodeStatus {
    let one = PeerName::from_u64(1);
    let two = PeerName::from_u64(2);
    let peer = |name, nickname: &str, remote, address: &str, outbound| PeerSummary {
        name,
        nickname: nickname.to_owned(),
        uid: 7,
        version: 3,
        short_id: Some(9),
        connections: vec![ConnectionSummary {
            remote,
            remote_address: address.to_owned(),
            outbound,
            established: true,
        }],
    };
    let no_route = "dial tcp :0->192.168.70.9:6783: connect: no route to host";
    NodeStatus {
        mesh: MeshStatus {
            name: one,
            nickname: "host1".to_owned(),
            uid: 7,
            protocol_versions: (1, 2),
            encryption,
            discovery: true,
            peers: vec![
                peer(one, "host1", two, "192.168.70.2:50093", false),
                peer(two, "host2", one, "192.168.70.1:6783", true),
            ],
            unicast_routes: vec![(one, PeerName::UNKNOWN), (two, two)],
            broadcast_routes: vec![(one, vec![two]), (two, Vec::new())],
            connections: vec![ConnectionStatus {
                link: LinkId::inbound(1),
                remote: two,
                remote_nickname: "host2".to_owned(),
                remote_address: "192.168.70.2:50093".parse().expect("an address"),
                outbound: false,
                established: true,
                data_encrypted: encryption,
                protocol_version: 2,
                weft: None,
            }],
            targets: vec![TargetStatus {
                address: "192.168.70.9:6783".parse().expect("an address"),
                state: TargetState::Failed {
                    error: no_route.to_owned(),
                    retry_in: Some(Duration::from_millis(1_540)),
                },
            }],
            direct_peers: Vec::new(),
            termination_count: 0,
            trusted_subnets: Vec::new(),
        },
        tunnels: vec![TunnelStatus {
            link: LinkId::inbound(1),
            remote: two,
            name: "sleeve",
            cipher: encryption.then_some(Cipher::Secretbox),
            mtu_bytes: if encryption { 1414 } else { 1438 },
            reason: Reason::OnlyCommon,
        }],
        ipam: None,
        clone_text: None,
    }
}

/// The report of `status`.
fn sample(encryption: bool) -> Report {
    let facts = Facts {
        version: "2.8.1".to_owned(),
        ready: true,
        port: 6783,
        interface: "weft-tap (via tap)".to_owned(),
        unix_time: Duration::from_secs(1_795_291_196),
        macs: vec![LearnedMac {
            mac: [2, 0, 0, 0, 0, 9],
            owner: PeerName::from_u64(2),
            age: Duration::from_secs(60),
        }],
        ..Facts::default()
    };
    report(&status(encryption), &facts)
}

#[test]
fn report_of_two_peers_is_the_recorded_json() {
    let encrypted = include_str!("../../../report/testdata/report-encrypted.json");
    assert_eq!(sample(true).to_json(), encrypted.trim_end());
    let plain = include_str!("../../../report/testdata/report.json");
    assert_eq!(sample(false).to_json(), plain.trim_end());
}

#[test]
fn targets_show_what_is_happening_to_them() {
    let target = |state| {
        let address = "192.168.70.9:6783".parse().expect("an address");
        target_connection(
            &TargetStatus { address, state },
            Duration::from_secs(86_400),
        )
    };
    let never = target(TargetState::Failed {
        error: "cannot connect to ourself".to_owned(),
        retry_in: None,
    });
    assert_eq!(never.info, "cannot connect to ourself, retry: never");
    let waiting = target(TargetState::Waiting {
        until: Duration::from_secs(1),
    });
    assert_eq!(waiting.state, "waiting");
    assert_eq!(waiting.info, "until: 1970-01-02 00:00:01 +0000 UTC");
    let connecting = target(TargetState::Connecting);
    assert_eq!(
        (connecting.state.as_str(), connecting.info.as_str()),
        ("connecting", "")
    );
}

#[test]
fn metrics_count_what_the_report_lists() {
    let established = node::ConnectionClass {
        established: true,
        tunnel: "sleeve",
        encrypted: true,
    };
    let counted = counts(&NodeCounts {
        peers: 2,
        connections: BTreeMap::from([(established, 1)]),
        targets: mesh::status::TargetCounts {
            failed: 1,
            ..Default::default()
        },
        termination_count: 0,
        ipam: None,
        has_clone: false,
    });
    let report = sample(true);
    for connection in &report.router.connections {
        let attrs = connection.attrs.as_ref();
        let expected = Connections {
            state: live_state(true),
            kind: "sleeve",
            encrypted: true,
            count: 1,
        };
        let expected = match attrs {
            Some(attrs) => {
                assert_eq!(
                    (attrs.name.as_str(), attrs.encrypted),
                    ("sleeve", Some(true))
                );
                expected
            }
            None => Connections {
                state: "failed",
                kind: "unknown",
                encrypted: false,
                ..expected
            },
        };
        assert_eq!(connection.state, expected.state);
        assert!(counted.connections.contains(&expected), "{counted:?}");
    }
    let all: u64 = counted.connections.iter().map(|some| some.count).sum();
    assert_eq!(all, report.router.connections.len() as u64);
    assert_eq!(counted.peers, report.router.peers.len());
}
