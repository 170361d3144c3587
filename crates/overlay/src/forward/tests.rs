//! Tests of the forwarding decision, and of plans.

use wire::ethernet::MacAddr;

use super::*;
use crate::frame::framing::Framing;
use crate::frame::path::{IpClass, Path, choose_path};
use crate::kind::Lanes;
use crate::mac::MacTable;
use crate::protection::Protection;
use crate::sleeve::lane::SpecialKind;
use crate::testing::{sleeve_vectors, unhex};

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

/// The ways of that table.
fn ways() -> Ways {
    ways_of(&table())
}

fn next(peer: u64) -> NextHop {
    ways().hop(name(peer)).unwrap()
}

/// The decision about a sleeve frame.
fn received<'w>(
    ways: &'w Ways,
    macs: &MacTable,
    via: u64,
    (origin, destination): (u64, u64),
    bytes: &[u8],
) -> Received<'w, SpecialKind> {
    let envelope = Envelope {
        origin: name(origin),
        destination: name(destination),
    };
    let class = SleeveFraming::classify(bytes);
    decide_received(ways, macs, name(via), envelope, bytes, class)
}

fn frame(destination: MacAddr, source: MacAddr) -> Vec<u8> {
    [&destination.0[..], &source.0, &[8, 0], &[0; 50]].concat()
}

#[test]
fn captured_frame_goes_to_the_peer_of_its_destination() {
    let (ways, mut macs) = (ways(), MacTable::new());
    macs.learn(mac(4), name(4), 0);
    let verdict = decide_captured(&ways, &macs, mac(1), mac(4));
    assert_eq!(
        verdict,
        Captured::Unicast {
            destination: name(4),
            next_hop: next(3)
        }
    );
}

#[test]
fn captured_frame_for_an_unknown_or_group_address_is_broadcast() {
    let (ways, macs) = (ways(), MacTable::new());
    let hops = [next(2), next(3)];
    for destination in [mac(9), MacAddr([0xff; 6]), MacAddr([1, 0, 0x5e, 0, 0, 1])] {
        let verdict = decide_captured(&ways, &macs, mac(1), destination);
        assert_eq!(verdict, Captured::Broadcast(&hops));
    }
}

#[test]
fn captured_frame_that_must_stay_is_dropped() {
    let (ways, mut macs) = (ways(), MacTable::new());
    macs.learn(mac(1), name(US), 0);
    macs.learn(mac(2), name(2), 0);
    macs.learn(mac(5), name(5), 0);
    let check = |source, destination, reason| {
        let verdict = decide_captured(&ways, &macs, source, destination);
        assert_eq!(verdict, Captured::Drop(reason));
    };
    check(mac(7), mac(1), DropReason::LocalDestination);
    check(mac(2), mac(1), DropReason::Injected);
    check(mac(7), MacAddr::SPANNING_TREE, DropReason::SpanningTree);
    check(mac(7), mac(5), DropReason::NoRoute);
}

#[test]
fn received_frame_for_us_is_delivered_and_passed_on_unless_its_destination_is_local() {
    let (ways, mut macs) = (ways(), MacTable::new());
    let bytes = frame(mac(1), mac(2));
    let decide = |macs: &MacTable| {
        let verdict = received(&ways, macs, 2, (2, US), &bytes);
        let Received::Deliver { pass_on } = verdict else {
            panic!("{verdict:?}")
        };
        pass_on.to_vec()
    };
    assert_eq!(decide(&macs), [next(3)]);
    macs.learn(mac(1), name(US), 0);
    assert_eq!(decide(&macs), []);
}

#[test]
fn received_frame_for_another_is_relayed_but_never_back() {
    let (ways, macs) = (ways(), MacTable::new());
    let bytes = frame(mac(1), mac(2));
    let decide = |via: u64, origin: u64, destination: u64| {
        received(&ways, &macs, via, (origin, destination), &bytes)
    };
    assert_eq!(decide(2, 2, 4), Received::Relay { next_hop: next(3) });
    assert_eq!(decide(3, 2, 4), Received::Drop(DropReason::RelayLoop));
    assert_eq!(decide(2, 9, 4), Received::Drop(DropReason::UnknownPeer));
    assert_eq!(decide(2, 2, 9), Received::Drop(DropReason::UnknownPeer));
    assert_eq!(decide(2, US, 4), Received::Drop(DropReason::OwnOrigin));
}

#[test]
fn special_frames_count_only_from_the_neighbour_to_us() {
    let (ways, macs) = (ways(), MacTable::new());
    let decide = |origin: u64, destination: u64, bytes: &[u8]| {
        received(&ways, &macs, 2, (origin, destination), bytes)
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
    let trusted = Limits {
        mtu_bytes: 1438,
        may_be_fragmented: true,
    };
    let untrusted = Limits {
        may_be_fragmented: false,
        ..trusted
    };
    let (fits, big) = (1438 + 14, 1438 + 15);
    assert_eq!(choose_path(DontFragment, fits, trusted, false), Path::Df);
    assert_eq!(
        choose_path(DontFragment, big, trusted, false),
        Path::AnswerTooBig
    );
    let dropped = Path::Drop(DropReason::TooBigBroadcast);
    assert_eq!(choose_path(DontFragment, big, trusted, true), dropped);
    assert_eq!(choose_path(NonIp, big, untrusted, false), Path::NonDf);
    assert_eq!(choose_path(MayFragment, big, trusted, false), Path::NonDf);
    assert_eq!(choose_path(MayFragment, fits, untrusted, false), Path::Df);
    assert_eq!(
        choose_path(MayFragment, big, untrusted, false),
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
        let (ways, macs) = (ways(), MacTable::new());
        let verdict = received(&ways, &macs, 2, (2, US), &bytes);
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

fn table_of(neighbours: &[(PeerName, Arc<Neighbour>)]) -> ForwardingTable {
    ForwardingTable {
        neighbours: neighbours.iter().cloned().collect(),
        ..ForwardingTable::default()
    }
}

fn only(id: u64) -> ForwardingTable {
    table_of(&[published(2, id, id)])
}

/// A neighbour with this link and serial number.
fn published(remote: u64, link: u64, serial: u64) -> (PeerName, Arc<Neighbour>) {
    let neighbour = Neighbour {
        link: LinkId::outbound(link),
        serial,
        ..neighbour(remote)
    };
    (name(remote), Arc::new(neighbour))
}

/// The tunnel to a peer.
fn tunnel(plan: &SleevePlan, remote: u64) -> Option<Arc<SleeveTunnel>> {
    plan.sender(name(remote)).map(|hop| Arc::clone(&hop.tunnel))
}

#[test]
fn tunnel_keeps_its_keys_over_snapshots() {
    let mut compiler = Compiler::new();
    let first = compiler.compile(&only(1));
    let second = compiler.compile(&only(1));
    let of_two = |plan: &SleevePlan| tunnel(plan, 2).unwrap();
    assert!(Arc::ptr_eq(&of_two(&first), &of_two(&second)));
    let third = compiler.compile(&only(9));
    assert!(!Arc::ptr_eq(&of_two(&first), &of_two(&third)));
}

/// F48: counters never start again under the same key.
#[test]
fn tunnel_that_was_removed_never_gets_a_second_session() {
    let mut compiler = Compiler::new();
    compiler.compile(&only(1));
    compiler.compile(&ForwardingTable::default());
    let plan = compiler.compile(&only(1));
    assert!(tunnel(&plan, 2).is_none());
}

/// F48: what is new is told from what comes back by one mark.
#[test]
fn links_may_be_published_out_of_the_order_of_their_numbers() {
    let mut compiler = Compiler::new();
    let mut publish = |neighbours: &[(PeerName, Arc<Neighbour>)]| {
        let plan = compiler.compile(&table_of(neighbours));
        let has = |remote| tunnel(&plan, remote).is_some();
        [has(2), has(3), has(4)]
    };
    // The numbers of the links fall while those of their publication rise.
    let [nine, five, one] = [(2, 9, 1), (3, 5, 2), (4, 1, 3)]
        .map(|(remote, link, serial)| published(remote, link, serial));
    assert_eq!(publish(std::slice::from_ref(&nine)), [true, false, false]);
    let both = [nine.clone(), five.clone()];
    assert_eq!(publish(&both), [true, true, false]);
    // One goes, one comes in the same step.
    assert_eq!(publish(&[nine.clone(), one.clone()]), [true, false, true]);
    assert_eq!(publish(&[nine, five, one]), [true, false, true]);
}

#[test]
fn tunnel_that_needs_no_keys_at_first_gets_them_later() {
    let mut compiler = Compiler::new();
    let (remote, with) = published(2, 1, 1);
    let without = Arc::new(Neighbour {
        lanes: Lanes::default(),
        ..(*with).clone()
    });
    for (neighbour, has_keys) in [(without, false), (with, true)] {
        let plan = compiler.compile(&table_of(&[(remote, neighbour)]));
        assert_eq!(tunnel(&plan, 2).is_some(), has_keys);
    }
}

#[test]
fn plan_of_a_table_with_the_same_routes_and_neighbours_shares_its_ways() {
    let mut compiler = Compiler::new();
    let mut table = table();
    let ways = |plan: &SleevePlan| std::ptr::from_ref(plan.ways());
    let first = compiler.compile(&table);
    let changed = Neighbour {
        chosen: None,
        ..neighbour(2)
    };
    table.neighbours.insert(name(2), Arc::new(changed));
    let second = compiler.compile(&table);
    assert_eq!(ways(&first), ways(&second));
    assert!(first.way(next(2)).is_ok());
    assert_eq!(second.way(next(2)).err(), Some(DropReason::NoTunnel));
    table.neighbours.remove(&name(2));
    let third = compiler.compile(&table);
    assert_ne!(ways(&second), ways(&third));
}
