//! Tests of the forwarding decision.

use super::*;
use crate::kind::{Kind, Lanes};
use crate::protection::Protection;
use crate::table::Routes;
use crate::testing::{sleeve_vectors, unhex};
use wire::LinkId;

fn name(n: u64) -> PeerName {
    PeerName::from_u64(n)
}

const US: u64 = 1;

fn mac(n: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, n])
}

fn lane() -> SleeveLane {
    SleeveLane {
        protection: Protection::Clear,
        outbound: true,
        remote_address: Some("192.0.2.1:6783".parse().unwrap()),
        mtu_bytes: 1438,
        max_payload_bytes: 1472,
        exceeds_kernel_mtu: false,
        stack_frag: true,
    }
}

fn neighbour(remote: u64) -> Neighbour {
    Neighbour {
        link: LinkId::outbound(remote),
        serial: remote,
        remote: name(remote),
        lanes: Lanes::from_iter([Lane::Sleeve(lane())]),
        chosen: Some(Kind::Sleeve),
    }
}

/// We are 1, neighbours 2 and 3; 4 is behind 3.
fn table() -> ForwardingTable {
    let routes = Routes {
        peers: (1..=4).map(name).collect(),
        unicast: [(2, 2), (3, 3), (4, 3)]
            .map(|(to, hop)| (name(to), name(hop)))
            .into(),
        broadcast: [(1, vec![2, 3]), (2, vec![3]), (3, vec![])]
            .map(|(from, hops)| (name(from), hops.into_iter().map(name).collect()))
            .into(),
        ..Routes::default()
    };
    ForwardingTable {
        us: name(US),
        routes: Arc::new(routes),
        neighbours: [2, 3].map(|n| (name(n), Arc::new(neighbour(n)))).into(),
    }
}

fn frame(destination: MacAddr, source: MacAddr) -> Vec<u8> {
    [&destination.0[..], &source.0, &[8, 0], &[0; 50]].concat()
}

#[test]
fn captured_frame_goes_to_the_peer_of_its_destination() {
    let (table, mut macs) = (table(), MacTable::new());
    macs.learn(mac(4), name(4), 0);
    let verdict = decide_captured(&table, &macs, mac(1), mac(4));
    assert_eq!(
        verdict,
        Captured::Unicast {
            destination: name(4),
            next_hop: name(3)
        }
    );
}

#[test]
fn captured_frame_for_an_unknown_or_group_address_is_broadcast() {
    let (table, macs) = (table(), MacTable::new());
    let hops = [name(2), name(3)];
    for destination in [mac(9), MacAddr([0xff; 6]), MacAddr([1, 0, 0x5e, 0, 0, 1])] {
        let verdict = decide_captured(&table, &macs, mac(1), destination);
        assert_eq!(verdict, Captured::Broadcast(&hops));
    }
}

#[test]
fn captured_frame_that_must_stay_is_dropped() {
    let (table, mut macs) = (table(), MacTable::new());
    macs.learn(mac(1), name(US), 0);
    macs.learn(mac(2), name(2), 0);
    macs.learn(mac(5), name(5), 0);
    let check = |source, destination, reason| {
        let verdict = decide_captured(&table, &macs, source, destination);
        assert_eq!(verdict, Captured::Drop(reason));
    };
    check(mac(7), mac(1), DropReason::LocalDestination);
    check(mac(2), mac(1), DropReason::Injected);
    check(mac(7), MacAddr::SPANNING_TREE, DropReason::SpanningTree);
    check(mac(7), mac(5), DropReason::NoRoute);
}

#[test]
fn received_frame_for_us_is_delivered_and_passed_on_unless_its_destination_is_local() {
    let (table, mut macs) = (table(), MacTable::new());
    let via = neighbour(2);
    let bytes = frame(mac(1), mac(2));
    let decide = |macs: &MacTable| {
        let verdict = decide_received(&table, macs, &via, name(2), name(US), &bytes);
        let Received::Deliver { pass_on } = verdict else {
            panic!("{verdict:?}")
        };
        pass_on.to_vec()
    };
    assert_eq!(decide(&macs), [name(3)]);
    macs.learn(mac(1), name(US), 0);
    assert_eq!(decide(&macs), []);
}

#[test]
fn received_frame_for_another_is_relayed_but_never_back() {
    let (table, macs) = (table(), MacTable::new());
    let bytes = frame(mac(1), mac(2));
    let decide = |via: u64, origin: u64, destination: u64| {
        decide_received(
            &table,
            &macs,
            &neighbour(via),
            name(origin),
            name(destination),
            &bytes,
        )
    };
    assert_eq!(decide(2, 2, 4), Received::Relay { next_hop: name(3) });
    assert_eq!(decide(3, 2, 4), Received::Drop(DropReason::RelayLoop));
    assert_eq!(decide(2, 9, 4), Received::Drop(DropReason::UnknownPeer));
    assert_eq!(decide(2, 2, 9), Received::Drop(DropReason::UnknownPeer));
    assert_eq!(decide(2, US, 4), Received::Drop(DropReason::OwnOrigin));
}

#[test]
fn special_frames_count_only_from_the_neighbour_to_us() {
    let (table, macs) = (table(), MacTable::new());
    let decide = |origin: u64, destination: u64, bytes: &[u8]| {
        decide_received(
            &table,
            &macs,
            &neighbour(2),
            name(origin),
            name(destination),
            bytes,
        )
    };
    let mut heartbeat = [0; 22];
    heartbeat[14..].copy_from_slice(&0xffde_b99c_7352_3518_u64.to_be_bytes());
    let kind = SpecialKind::Heartbeat {
        connection_uid: 0xffde_b99c_7352_3518,
    };
    assert_eq!(decide(2, 1, &heartbeat), Received::Special(kind));
    let foreign = Received::Drop(DropReason::ForeignSpecial);
    assert_eq!(decide(3, 1, &heartbeat), foreign);
    assert_eq!(decide(2, 4, &heartbeat), foreign);
    let test = Received::Special(SpecialKind::FragmentationTest);
    assert_eq!(decide(2, 1, &[0; 60_001]), test);
    let mtu = |frame_bytes| Received::Special(SpecialKind::MtuTest { frame_bytes });
    assert_eq!(decide(2, 1, &[0; 60_000]), mtu(60_000));
    assert_eq!(decide(2, 1, &[0; 1452]), mtu(1452));
    let mut dirty = [0; 1452];
    dirty[1451] = 1;
    assert_eq!(decide(2, 1, &dirty), foreign);
    assert_eq!(
        decide(2, 1, &[0; 13]),
        Received::Drop(DropReason::MalformedFrame)
    );
}

#[test]
fn tunnel_must_exist_carry_traffic_and_have_an_address() {
    let mut table = table();
    assert!(carrier_to(&table, name(2)).is_ok());
    let why_not = |table: &ForwardingTable, n| carrier_to(table, name(n)).err();
    assert_eq!(why_not(&table, 4), Some(DropReason::NoTunnel));
    let silent = Neighbour {
        chosen: None,
        ..neighbour(2)
    };
    table.neighbours.insert(name(2), Arc::new(silent));
    assert_eq!(why_not(&table, 2), Some(DropReason::NoTunnel));
    let mut unheard = neighbour(2);
    unheard.lanes.insert(Lane::Sleeve(SleeveLane {
        remote_address: None,
        ..lane()
    }));
    table.neighbours.insert(name(2), Arc::new(unheard));
    assert_eq!(why_not(&table, 2), Some(DropReason::AwaitingContact));
}

#[test]
fn path_follows_df_bit_size_and_trust_in_fragmentation() {
    use IpClass::{DontFragment, MayFragment, NonIp};
    let trusted = lane();
    let untrusted = SleeveLane {
        stack_frag: false,
        ..lane()
    };
    let (fits, big) = (1438 + 14, 1438 + 15);
    assert_eq!(choose_path(DontFragment, fits, &trusted, false), Path::Df);
    assert_eq!(
        choose_path(DontFragment, big, &trusted, false),
        Path::AnswerTooBig
    );
    let dropped = Path::Drop(DropReason::TooBigBroadcast);
    assert_eq!(choose_path(DontFragment, big, &trusted, true), dropped);
    assert_eq!(choose_path(NonIp, big, &untrusted, false), Path::NonDf);
    assert_eq!(choose_path(MayFragment, big, &trusted, false), Path::NonDf);
    assert_eq!(choose_path(MayFragment, fits, &untrusted, false), Path::Df);
    assert_eq!(
        choose_path(MayFragment, big, &untrusted, false),
        Path::Fragment
    );
}

#[test]
fn vectors_classify_frames_as_the_original() {
    let mut checked = 0;
    for vector in sleeve_vectors("frame-classify") {
        if vector["id"] == "sleeve-classify-mtutest" {
            continue;
        }
        let bytes = unhex(vector["input"].as_str().unwrap());
        let layers = vector["expect"]["decoded_layers"].as_u64().unwrap();
        let df = vector["expect"]["df"].as_bool().unwrap();
        let expected = match (layers, df) {
            (2, true) => IpClass::DontFragment,
            (2, false) => IpClass::MayFragment,
            _ => IpClass::NonIp,
        };
        assert_eq!(IpClass::of(&bytes), expected, "{vector}");
        let (table, macs, via) = (table(), MacTable::new(), neighbour(2));
        let verdict = decide_received(&table, &macs, &via, name(2), name(US), &bytes);
        let is_special = vector["expect"]["special"].as_bool().unwrap();
        assert_eq!(
            matches!(verdict, Received::Special(_)),
            is_special,
            "{vector}"
        );
        checked += 1;
    }
    assert_eq!(checked, 4);
}
