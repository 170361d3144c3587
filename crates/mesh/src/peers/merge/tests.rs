//! Merge rules, garbage collection and short ids against the golden vectors; merge as a property.

use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::Value;
use wire::topology::{ConnectionSummary, decode};

use super::*;
use crate::peers::doubts::{OUTRUN_VERSIONS, PLAUSIBLE_VERSIONS};
use crate::peers::table::{ADJACENCIES_MAX, PEERS_MAX};
use crate::testing::{base, connections, hex, name, names, number, vectors};

const US: PeerName = PeerName::from_u64(0x0200_0000_0a01);

const SOMEBODY: Teller = Teller {
    name: PeerName::from_u64(0x9999),
    uid: 99,
};

impl PeerTable {
    /// Merges what somebody said at the beginning of time.
    pub(crate) fn merge(&mut self, update: &[PeerSummary]) -> Merged {
        self.merge_from(SOMEBODY, update, base())
    }
}

fn table() -> PeerTable {
    let mut table = PeerTable::new(US, "alpha", 9, 1);
    for _ in 0..3 {
        table.change_own();
    }
    table
}

fn summary_of(value: &Value) -> PeerSummary {
    let connections = value["connections"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    PeerSummary {
        name: name(&value["name"]),
        nickname: value["nickname"].as_str().unwrap().to_owned(),
        uid: number(&value["uid"]),
        version: number(&value["version"]),
        short_id: value["has_short_id"]
            .as_bool()
            .unwrap()
            .then(|| u16::try_from(number(&value["short_id"])).unwrap()),
        connections: connections
            .iter()
            .map(|c| ConnectionSummary {
                remote: name(&c["name"]),
                remote_address: c["remote_tcp_addr"].as_str().unwrap().to_owned(),
                outbound: c["outbound"].as_bool().unwrap(),
                established: c["established"].as_bool().unwrap(),
            })
            .collect(),
    }
}

fn set(list: &Value) -> BTreeSet<PeerName> {
    names(list).into_iter().collect()
}

fn everything(table: &PeerTable) -> Vec<PeerSummary> {
    let names: Vec<PeerName> = table.names().collect();
    table.summaries(&names)
}

#[test]
fn merging_follows_the_golden_rules() {
    for vector in vectors("topology", "topology-merge") {
        let id = &vector["id"];
        let mut table = table();
        if !vector["input"]["known"].is_null() {
            table.merge(&[summary_of(&vector["input"]["known"])]);
        }
        let update = decode(&hex(&vector["input"]["update"])).unwrap();
        let merged = table.merge(&update);
        assert_eq!(merged.improved, set(&vector["expect"]["improved"]), "{id}");
        assert_eq!(merged.received, set(&vector["expect"]["received"]), "{id}");
        if let Some(all) = vector["expect"]["all_peers"].as_array() {
            assert_eq!(
                everything(&table),
                all.iter().map(summary_of).collect::<Vec<_>>(),
                "{id}"
            );
        }
        table.assert_consistent();
    }
}

#[test]
fn an_earlier_incarnation_of_ours_is_outrun() {
    for vector in vectors("topology", "topology-merge-self") {
        let mut table = table();
        let before = table.own().version;
        assert_eq!(before, number(&vector["input"]["our_version"]));
        if vector["id"] == "topo-self-2" {
            // The original believes its own UID at any version and stays pinned; see below.
            continue;
        }
        let merged = table.merge(&decode(&hex(&vector["input"]["update"])).unwrap());
        let after = number(&vector["expect"]["our_version_after"]);
        assert_eq!(table.own().version, after, "{}", vector["id"]);
        assert_eq!(merged.outran, after != before);
        assert!(merged.improved.is_empty());
    }
}

fn summary(name: PeerName, version: u64, uid: u64, remotes: &[u64]) -> PeerSummary {
    PeerSummary {
        name,
        nickname: String::new(),
        uid,
        version,
        short_id: None,
        connections: remotes
            .iter()
            .map(|n| ConnectionSummary {
                remote: PeerName::from_u64(*n),
                remote_address: String::new(),
                outbound: true,
                established: true,
            })
            .collect(),
    }
}

#[test]
fn what_somebody_forged_about_us_is_outrun_without_end() {
    let mut table = table();
    let forged = |version, uid, remotes: &[u64]| [summary(US, version, uid, remotes)];
    // Our own incarnation, in a version we never had.
    assert!(table.merge(&forged(50, 9, &[])).outran);
    assert_eq!(table.own().version, 51);
    // The present version, saying something else; and saying what we say.
    assert!(table.merge(&forged(51, 9, &[7])).outran);
    assert!(!table.merge(&forged(52, 9, &[])).outran);
    assert!(table.merge(&forged(52, 10, &[])).outran);
    // Beyond reason: nobody of us believes it, and our counter neither wraps nor sticks.
    for version in [OUTRUN_VERSIONS, u64::MAX - 1, u64::MAX] {
        for uid in [9, 10, u64::MAX] {
            assert!(!table.merge(&forged(version, uid, &[])).outran);
        }
    }
    assert_eq!(table.own().version, 53);
    assert!(table.merge(&forged(OUTRUN_VERSIONS - 1, 10, &[])).outran);
    table.change_own();
    assert_eq!(table.own().version, OUTRUN_VERSIONS + 1);
    assert!(table.own().version < PLAUSIBLE_VERSIONS / 2 + 2);
}

#[test]
fn a_version_beyond_reason_loses_against_a_reasonable_one_in_any_order() {
    let him = PeerName::from_u64(5);
    for forged in [PLAUSIBLE_VERSIONS, u64::MAX - 1, u64::MAX] {
        for uid in [1, 7, u64::MAX] {
            let mut table = table();
            let forged = [summary(him, forged, uid, &[6])];
            let real = [summary(him, 3, 7, &[8])];
            table.merge(&real);
            assert!(table.merge(&forged).improved.is_empty());
            table = self::table();
            table.merge(&forged);
            assert_eq!(table.merge(&real).improved, BTreeSet::from([him]));
            assert!(table.merge(&forged).improved.is_empty());
            assert_eq!(table.get(him).unwrap().version, 3);
            table.assert_consistent();
        }
    }
}

#[test]
fn what_a_neighbour_says_of_itself_wins_over_what_others_say() {
    let mut table = table();
    let mut features = crate::link::handshake::tests::features(US, "bravo");
    features.name = PeerName::from_u64(2);
    table.hold(&features);
    let himself = Teller {
        name: features.name,
        uid: features.uid,
    };
    let real = [summary(features.name, 3, features.uid, &[8])];
    let forged = [summary(features.name, 1 << 40, features.uid, &[6])];
    let at = |secs| base_plus(secs);
    table.merge_from(himself, &real, at(0));
    table.merge_from(SOMEBODY, &forged, at(1));
    assert_eq!(table.get(features.name).unwrap().version, 1 << 40);
    // Honest news may overtake each other for a moment.
    assert!(table.merge_from(himself, &real, at(10)).improved.is_empty());
    assert_eq!(table.merge_from(himself, &real, at(40)).improved.len(), 1);
    assert_eq!(table.get(features.name).unwrap().version, 3);
    // The same forgery again is not believed again, another one only until he speaks.
    assert!(
        table
            .merge_from(SOMEBODY, &forged, at(41))
            .improved
            .is_empty()
    );
    // Somebody with his name on another link is not him; what others repeat for long is nothing.
    let other = Teller {
        uid: 12345,
        ..himself
    };
    let older = [summary(features.name, 2, features.uid, &[])];
    for secs in (50..2000).step_by(30) {
        assert!(
            table
                .merge_from(other, &older, at(secs))
                .improved
                .is_empty()
        );
    }
    table.assert_consistent();
}

#[test]
fn what_is_contradicted_for_minutes_gives_way_and_does_not_come_back() {
    let him = PeerName::from_u64(5);
    let mut table = table();
    let real = [summary(him, 3, 7, &[8])];
    let forged = [summary(him, PLAUSIBLE_VERSIONS - 1, u64::MAX, &[6])];
    table.merge_from(SOMEBODY, &real, base_plus(0));
    table.merge_from(SOMEBODY, &forged, base_plus(1));
    let mut healed_at = None;
    for secs in (30..900).step_by(30) {
        let healed = table.merge_from(SOMEBODY, &real, base_plus(secs));
        if !healed.improved.is_empty() {
            assert_eq!(healed_at.replace(secs), None, "once is enough");
        }
        // Others hold on to the forgery for some minutes more.
        table.merge_from(SOMEBODY, &forged, base_plus(secs + 1));
        table.assert_consistent();
    }
    assert_eq!(healed_at, Some(120));
    assert_eq!(table.get(him).unwrap().version, 3);
    table.collect_garbage();
    assert_eq!(
        table.doubts().len(),
        0,
        "nothing is left of whoever is gone"
    );
}

fn base_plus(secs: u64) -> Instant {
    thread_local!(static BASE: Instant = base());
    BASE.with(|base| *base) + std::time::Duration::from_secs(secs)
}

#[test]
fn several_forgeries_out_of_reach_do_not_take_turns() {
    let him = PeerName::from_u64(5);
    let mut table = table();
    let real = [summary(him, 3, 7, &[8])];
    let forged = |n: u64| {
        [summary(
            him,
            PLAUSIBLE_VERSIONS - 1 - n % 3,
            u64::MAX - n,
            &[6],
        )]
    };
    table.merge_from(SOMEBODY, &real, base_plus(0));
    let mut believed = 0;
    for secs in (1..880).step_by(5) {
        let merged = table.merge_from(SOMEBODY, &forged(secs), base_plus(secs));
        believed += merged.improved.len();
        table.merge_from(SOMEBODY, &real, base_plus(secs + 1));
    }
    assert!(believed < 30, "{believed} times");
    assert_eq!(table.get(him).unwrap().version, 3);
}

#[test]
fn unreachable_peers_are_collected() {
    for vector in vectors("topology", "topology-gc") {
        let mut table = table();
        table.merge(&decode(&hex(&vector["input"]["update"])).unwrap());
        let removed: Vec<PeerName> = table
            .collect_garbage()
            .into_iter()
            .map(|(n, _)| n)
            .collect();
        assert_eq!(removed, names(&vector["expect"]["removed"]));
        table.assert_consistent();
    }
}

#[test]
fn short_ids_go_to_the_lowest_name() {
    for vector in vectors("shortids", "short-id-ownership") {
        let input = &vector["input"];
        let short_id = u16::try_from(number(&input["our_short_id"])).unwrap();
        let mut table = PeerTable::new(name(&input["our_name"]), "us", 9, short_id);
        for _ in 0..number(&input["our_version"]) {
            table.change_own();
        }
        table.merge(&decode(&hex(&input["topology_update"])).unwrap());
        table.contest_short_id(&mut StdRng::from_seed([3; 32]));
        assert_eq!(
            table.own().version,
            number(&vector["expect"]["our_version_after"])
        );
        for (id, owner) in vector["expect"]["owners"].as_object().unwrap() {
            let id = id.strip_prefix("0x").map_or_else(
                || table.own().short_id.unwrap(),
                |digits| u16::from_str_radix(digits, 16).unwrap(),
            );
            assert_eq!(
                table.short_id_owner(id),
                Some(name(owner)),
                "{}",
                vector["id"]
            );
        }
    }
}

#[test]
fn a_held_peer_is_not_collected_and_a_released_one_is() {
    let mut table = table();
    let mut features = crate::link::handshake::tests::features(US, "bravo");
    features.name = PeerName::from_u64(2);
    table.hold(&features);
    assert!(table.collect_garbage().is_empty());
    table.release(features.name);
    assert_eq!(table.collect_garbage().len(), 1);
    table.assert_consistent();
}

#[test]
fn gossip_cannot_fill_the_table_without_bound() {
    let mut table = table();

    let peer = |n: u64, connections| PeerSummary {
        name: PeerName::from_u64(n),
        nickname: "n".repeat(1000),
        uid: 1,
        version: 1,
        short_id: Some(60_000),
        connections,
    };
    table.merge(&[peer(1, connections(1 << 20, 2 * PEERS_MAX as u64))]);
    assert_eq!(table.names().count(), PEERS_MAX);
    assert_eq!(
        table.get(PeerName::from_u64(1)).unwrap().nickname.len(),
        255
    );
    assert_eq!(table.get(PeerName::from_u64(1)).unwrap().short_id, None);
    let more: Vec<PeerSummary> = (0..64)
        .map(|n| peer((1 << 20) + n, connections(1 << 30, 4096)))
        .collect();
    let merged = table.merge(&more);
    assert!(merged.improved.len() < 32);
    table.assert_consistent();
    let total: usize = table.iter().map(|(_, peer)| peer.adjacencies.len()).sum();
    assert!(total <= ADJACENCIES_MAX);
    table.collect_garbage();
    assert_eq!(table.names().count(), 1);
    table.assert_consistent();
}

/// What one peer said at one time. Equal ages mean equal content, as with honest peers.
fn entry() -> impl Strategy<Value = PeerSummary> {
    (1_u64..6, 0_u64..4, 1_u64..3).prop_map(|(peer, version, uid)| {
        let mixed = peer.wrapping_mul(31) ^ version.wrapping_mul(17) ^ uid;
        let remotes = (1..6)
            .filter(|n| (mixed >> n) & 1 == 1)
            .chain([version + 10]);
        PeerSummary {
            name: PeerName::from_u64(peer),
            nickname: format!("n{mixed}"),
            uid,
            version,
            short_id: (mixed % 3 > 0).then_some(u16::try_from(mixed % 5).unwrap()),
            connections: remotes
                .map(|n| ConnectionSummary {
                    remote: PeerName::from_u64(n),
                    remote_address: format!("10.0.0.{n}:6783"),
                    outbound: mixed.is_multiple_of(2),
                    established: mixed.is_multiple_of(5),
                })
                .collect(),
        }
    })
}

/// Placeholders depend on what was said in between; who is described, and how, does not.
fn described(table: &PeerTable) -> Vec<PeerSummary> {
    let mut all = everything(table);
    all.retain(|peer| peer.uid != 0);
    all
}

proptest! {
    #[test]
    fn merge_commutes_and_repeats(
        first in prop::collection::vec(entry(), 0..6),
        second in prop::collection::vec(entry(), 0..6),
    ) {
        let (mut one, mut other) = (table(), table());
        one.merge(&first);
        one.merge(&second);
        other.merge(&second);
        other.merge(&first);
        prop_assert_eq!(described(&one), described(&other));
        let before = everything(&one);
        prop_assert!(one.merge(&first).improved.is_empty());
        prop_assert!(one.merge(&second).improved.is_empty());
        prop_assert_eq!(everything(&one), before);
        one.assert_consistent();
        for id in 0..5 {
            let claimants = described(&one).into_iter().filter(|p| p.short_id == Some(id));
            if id != 1 {
                prop_assert_eq!(one.short_id_owner(id), claimants.map(|p| p.name).min());
            }
        }
    }

    #[test]
    fn merge_survives_anything_that_decodes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(update) = decode(&bytes) {
            table().merge(&update);
        }
    }
}
