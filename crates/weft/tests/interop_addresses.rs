//! Live interop with the original router, which `WEFT_PEER_WEAVER` names: one ring of addresses shared
//! by both kinds.
//!
//! Peers are named by letters in the order they start, `O` original and `W` Weft; each has a role,
//! which is its `--ipalloc-init`.

mod lab;

use std::collections::BTreeSet;

use lab::patience::{wait_for, wait_until};
use lab::ring::Ring;

const RANGE: &str = "10.40.0.0/16";
const RANGE_ADDRESSES: u64 = 1 << 16;
/// Addresses each peer asks for.
const EACH: usize = 10;

/// Everybody gets addresses, none of them twice, and all agree on the shares.
fn share_out(kinds: &str, roles: &[&str]) {
    let Some(ring) = Ring::start(kinds, RANGE, roles) else {
        return;
    };
    let mut given = Vec::new();
    for round in 0..EACH {
        for (index, member) in ring.members.iter().enumerate() {
            given.push(member.allocate(&format!("c{round}-{index}")));
        }
    }
    assert_unique(&given);
    let owners = ring.wait_agreed();
    assert_eq!(owners.values().sum::<u64>(), RANGE_ADDRESSES, "{owners:?}");
    ring.assert_healthy();
}

fn assert_unique(given: &[String]) {
    let unique: BTreeSet<_> = given.iter().collect();
    assert_eq!(unique.len(), given.len(), "an address was given out twice");
}

#[test]
fn three_electors_share_out_addresses_in_every_order() {
    for kinds in ["OOW", "OWO", "WOO", "WWO", "WOW", "OWW"] {
        share_out(kinds, &["consensus=3"; 3]);
    }
}

#[test]
fn observers_of_either_kind_get_addresses() {
    let roles = ["consensus=2", "consensus=2", "observer"];
    for kinds in ["OWO", "OWW", "WOW", "WOO", "WWO", "OOW"] {
        share_out(kinds, &roles);
    }
}

#[test]
fn an_observer_that_starts_first_calls_an_election() {
    let roles = ["observer", "consensus=2", "consensus=2"];
    for kinds in ["OWW", "WOO", "OWO", "WOW"] {
        share_out(kinds, &roles);
    }
}

#[test]
fn seeded_peers_share_what_they_were_told() {
    let roles = ["seed=::1,::2,::3"; 3];
    for kinds in ["OWO", "WOW", "WWO"] {
        share_out(kinds, &roles);
    }
}

#[test]
fn a_seed_an_elector_and_an_observer_become_one_ring() {
    // The elector gets the ring before it needs one.
    let roles = ["seed=::1", "consensus=3", "observer"];
    for kinds in ["OWW", "WOO", "WOW", "OWO"] {
        share_out(kinds, &roles);
    }
}

/// The first of two owns everything; the second gets half of it by asking.
fn donate(kinds: &str) {
    let Some(ring) = Ring::start(kinds, RANGE, &["seed=::1", "observer"]) else {
        return;
    };
    let [donor, asker] = &ring.members[..] else {
        unreachable!("two were asked for")
    };
    let first = donor.allocate("c1");
    let second = asker.allocate("c2");
    assert_ne!(first, second);
    let owners = ring.wait_agreed();
    let share = owners[&asker.name()];
    // The upper half of the donor's largest aligned block, which its own use cut to half of the ring.
    assert!((RANGE_ADDRESSES / 8..=RANGE_ADDRESSES / 2).contains(&share));
    ring.assert_healthy();
}

#[test]
fn an_original_donates_to_a_weft() {
    donate("OW");
}

#[test]
fn a_weft_donates_to_an_original() {
    donate("WO");
}

/// A free address of the other is claimed by moving it over, one in use is refused by name.
fn claim(kinds: &str) {
    let Some(ring) = Ring::start(kinds, RANGE, &["seed=::1", "observer"]) else {
        return;
    };
    let [owner, claimer] = &ring.members[..] else {
        unreachable!("two were asked for")
    };
    let taken = owner.allocate("c1");
    assert_eq!(taken, "10.40.0.1/16");
    wait_for("the ring to be known", || {
        let owners = claimer.owners();
        if owners.is_empty() {
            Err(claimer.story())
        } else {
            Ok(())
        }
    });
    let free = claimer.ask("PUT", "/ip/c2/10.40.0.77/16");
    assert_eq!(free.expect("an answer").status, 204);
    let refused = claimer
        .ask("PUT", "/ip/c3/10.40.0.1/16")
        .expect("an answer");
    let text = format!(
        "Unable to claim: address 10.40.0.1/16 is owned by other peer {}({})\n",
        owner.name(),
        owner.host().name()
    );
    assert_eq!(refused.status, 400, "{refused:?}");
    let same = |text: &str| text.replace(' ', "");
    assert_eq!(same(&refused.body), same(&text));
    let owners = ring.wait_agreed();
    assert_eq!(owners[&claimer.name()], 1, "{owners:?}");
    ring.assert_healthy();
}

#[test]
fn a_weft_claims_from_an_original() {
    claim("OW");
}

#[test]
fn an_original_claims_from_a_weft() {
    claim("WO");
}

/// The last of two dies and the first takes its space over.
fn take_over(kinds: &str) {
    let Some(ring) = Ring::start(kinds, RANGE, &["consensus=2"; 2]) else {
        return;
    };
    let [survivor, victim] = &ring.members[..] else {
        unreachable!("two were asked for")
    };
    survivor.allocate("c1");
    victim.allocate("c2");
    let owners = ring.wait_agreed();
    victim.kill();
    wait_until("the dead peer to be noticed", || {
        survivor.shares().contains("unreachable")
    });
    let path = format!("/peer/{}", victim.host().name());
    let said = survivor.ask("DELETE", &path).expect("an answer").ok();
    let wanted = format!(
        "{} IPs taken over from {}\n",
        owners[&victim.name()],
        victim.host().name()
    );
    assert_eq!(said, wanted);
    assert_eq!(survivor.owners()[&survivor.name()], RANGE_ADDRESSES);
    survivor.assert_healthy();
}

#[test]
fn a_weft_takes_over_the_space_of_a_dead_original() {
    take_over("WO");
}

#[test]
fn an_original_takes_over_the_space_of_a_dead_weft() {
    take_over("OW");
}

/// The last of two leaves and hands everything to the first.
fn hand_over(kinds: &str) {
    let Some(ring) = Ring::start(kinds, RANGE, &["consensus=2"; 2]) else {
        return;
    };
    let [heir, leaver] = &ring.members[..] else {
        unreachable!("two were asked for")
    };
    heir.allocate("c1");
    leaver.allocate("c2");
    ring.wait_agreed();
    assert_eq!(
        leaver.ask("DELETE", "/peer").expect("an answer").status,
        204
    );
    wait_for("the space to be handed over", || {
        let owners = heir.owners();
        if owners.get(&heir.name()) == Some(&RANGE_ADDRESSES) {
            Ok(())
        } else {
            Err(format!("{owners:?}{}{}", heir.story(), leaver.story()))
        }
    });
    heir.assert_healthy();
}

#[test]
fn a_weft_that_is_reset_hands_its_space_to_an_original() {
    hand_over("OW");
}

#[test]
fn an_original_that_is_reset_hands_its_space_to_a_weft() {
    hand_over("WO");
}

#[test]
fn five_thousand_addresses_given_out_by_both_kinds_at_once_are_all_different() {
    let roles = ["consensus=4"; 4];
    let Some(ring) = Ring::start("OWOW", "10.40.0.0/18", &roles) else {
        return;
    };
    let members = &ring.members;
    members[0].allocate("first");
    let given = lab::ring::allocate_everywhere(members, 5, 250);
    assert_eq!(given.len(), 5000);
    assert_unique(&given);
    ring.wait_agreed();
    ring.assert_healthy();
}
