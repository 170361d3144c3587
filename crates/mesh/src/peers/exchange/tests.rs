//! Tests of what neighbours tell each other about changes.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use wire::topology::ConnectionSummary;

use super::*;
use crate::testing::base;

const US: PeerName = PeerName::from_u64(1);
const THEM: PeerName = PeerName::from_u64(2);
const TELLER: Teller = Teller { name: THEM, uid: 2 };

fn connection(remote: u64, established: bool) -> ConnectionSummary {
    ConnectionSummary {
        remote: PeerName::from_u64(remote),
        remote_address: format!("10.0.0.{remote}:6783"),
        outbound: true,
        established,
    }
}

fn summary(version: u64, connections: Vec<ConnectionSummary>) -> PeerSummary {
    PeerSummary {
        name: PeerName::from_u64(9),
        nickname: "nine".to_owned(),
        uid: 99,
        version,
        short_id: Some(7),
        connections,
    }
}

fn table(us: PeerName) -> PeerTable {
    PeerTable::new(us, "", us.to_u64(), 1)
}

fn merge(table: &mut PeerTable, update: &PeerSummary) {
    table.merge_from(TELLER, std::slice::from_ref(update), base());
}

fn nine(table: &PeerTable) -> PeerSummary {
    table.summaries(&[PeerName::from_u64(9)]).remove(0)
}

/// Brings one table up to date with another by comparing once, and back if that was not enough.
fn reconcile(to: &mut PeerTable, from: &mut PeerTable) {
    let teller = Teller {
        name: from.us(),
        uid: from.own().uid,
    };
    let asker = Teller {
        name: to.us(),
        uid: to.own().uid,
    };
    let (lacking, _) = from.compare(asker, &to.known_entries(), true, base());
    let applied = to.apply(teller, from.news_since(&lacking), base());
    assert_eq!(
        applied.wanted,
        [],
        "who says what it has can use what it gets"
    );
}

#[test]
fn who_knows_the_version_before_is_told_the_difference_alone() {
    let (mut ours, mut theirs) = (table(US), table(THEM));
    let before = summary(3, (10..60).map(|n| connection(n, true)).collect());
    merge(&mut ours, &before);
    merge(&mut theirs, &before);
    let mut after = before.clone();
    after.version = 4;
    after.connections.remove(0);
    after.connections[0].established = false;
    after.connections.push(connection(60, false));
    merge(&mut ours, &after);
    let changes = Changes::from([(
        after.name,
        Base {
            uid: 99,
            version: 3,
        },
    )]);
    let news = ours.news_since(&changes);
    let EntryContent::Change {
        base: 3,
        connections,
        removed,
        ..
    } = &news[0].content
    else {
        panic!("a difference")
    };
    assert_eq!(*connections, [connection(11, false), connection(60, false)]);
    assert_eq!(*removed, [PeerName::from_u64(10)]);
    let applied = theirs.apply(TELLER, news, base());
    assert_eq!(applied.improved, changes);
    assert_eq!(nine(&theirs), nine(&ours));
    theirs.assert_consistent();
}

#[test]
fn a_difference_to_something_unknown_is_asked_for() {
    let mut ours = table(US);
    for n in 1..=5 {
        merge(&mut ours, &summary(n, vec![connection(10 + n, true)]));
    }
    let name = PeerName::from_u64(9);
    let news = |version| ours.news_since(&Changes::from([(name, Base { uid: 99, version })]));
    for known in [None, Some(2)] {
        let mut theirs = table(THEM);
        if let Some(version) = known {
            merge(&mut theirs, &summary(version, vec![connection(12, true)]));
        }
        let applied = theirs.apply(TELLER, news(4), base());
        assert!(applied.improved.is_empty());
        assert_eq!(applied.wanted[0].version, known.unwrap_or(0));
    }
    let mut younger = table(THEM);
    merge(&mut younger, &summary(6, Vec::new()));
    let applied = younger.apply(TELLER, news(4), base());
    assert!(applied.improved.is_empty() && applied.wanted.is_empty());
}

#[test]
fn another_incarnation_or_one_long_gone_gets_the_whole_entry() {
    let mut ours = table(US);
    merge(
        &mut ours,
        &summary(1, (0..200).map(|n| connection(10 + n, true)).collect()),
    );
    for n in 0..100 {
        let rest = (n..200).map(|n| connection(10 + n, true));
        merge(&mut ours, &summary(2 + n, rest.collect()));
    }
    let news = |uid, version| {
        let changes = Changes::from([(PeerName::from_u64(9), Base { uid, version })]);
        ours.news_since(&changes).remove(0).content
    };
    assert!(matches!(news(98, 100), EntryContent::Whole { .. }));
    assert!(matches!(news(99, 2), EntryContent::Whole { .. }));
    // What was between two whole entries nobody knows.
    assert!(matches!(news(99, 99), EntryContent::Whole { .. }));
    assert!(matches!(news(99, 100), EntryContent::Change { .. }));
    let present = Changes::from([(
        PeerName::from_u64(9),
        ours.get(PeerName::from_u64(9)).unwrap().base(),
    )]);
    assert!(ours.news_since(&present).is_empty());
}

#[test]
fn tables_agree_after_comparing_whatever_happened_before() {
    let mut rng = StdRng::seed_from_u64(1);
    for _ in 0..50 {
        let mut tables = [table(US), table(THEM), table(PeerName::from_u64(3))];
        let mut present = summary(0, Vec::new());
        for _ in 0..150 {
            present.version += 1;
            let remote = rng.random_range(10..40);
            match present
                .connections
                .iter()
                .position(|c| c.remote.to_u64() == remote)
            {
                Some(at) if rng.random() => {
                    present.connections.remove(at);
                }
                Some(at) => present.connections[at].established = rng.random(),
                None => present.connections.push(connection(remote, false)),
            }
            present.connections.sort_by_key(|c| c.remote);
            merge(&mut tables[0], &present);
            if rng.random_bool(0.2) {
                let [first, second, third] = &mut tables;
                let (to, from) = match rng.random_range(0..3) {
                    0 => (second, first),
                    1 => (third, second),
                    _ => (third, first),
                };
                reconcile(to, from);
                assert!(nine_version(to) >= nine_version(from));
            }
        }
        let [first, second, third] = &mut tables;
        reconcile(second, first);
        reconcile(third, second);
        for table in [second, third] {
            assert_eq!(nine(table), present);
            table.assert_consistent();
        }
    }
}

fn nine_version(table: &PeerTable) -> u64 {
    table
        .get(PeerName::from_u64(9))
        .map_or(0, |peer| peer.version)
}

#[test]
fn digests_differ_exactly_when_the_entries_of_others_do() {
    let (mut ours, mut theirs) = (table(US), table(THEM));
    ours.change_own();
    assert_eq!(ours.digest_for(THEM), theirs.digest_for(US));
    merge(&mut ours, &summary(3, Vec::new()));
    assert_ne!(ours.digest_for(THEM), theirs.digest_for(US));
    merge(&mut theirs, &summary(2, Vec::new()));
    assert_ne!(ours.digest_for(THEM), theirs.digest_for(US));
    reconcile(&mut theirs, &mut ours);
    assert_eq!(ours.digest_for(THEM), theirs.digest_for(US));
}

#[test]
fn a_claim_to_know_a_younger_version_of_ourselves_is_outrun() {
    let mut ours = table(US);
    let claim = |uid, version| KnownEntry {
        name: US,
        uid,
        version,
    };
    ours.change_own();
    for (uid, version, after) in [(1, 1, 1), (8, 0, 1), (8, 1, 2), (1, 7, 8), (8, u64::MAX, 8)] {
        let (_, applied) = ours.compare(TELLER, &[claim(uid, version)], true, base());
        assert_eq!(ours.own().version, after);
        assert!(applied.wanted.is_empty());
    }
}
