//! The words programs and people get for each condition.

use std::collections::BTreeSet;

use super::*;

fn peer(number: u64, nickname: &str) -> Peer {
    Peer {
        name: PeerName::from_u64(number),
        nickname: nickname.to_owned(),
    }
}

fn share(number: u64) -> Share {
    Share {
        peer: peer(number, "host"),
        addresses: number,
    }
}

fn elsewhere(stance: Stance) -> Refusal {
    Refusal::OwnedElsewhere {
        cidr: "10.32.0.1/12".parse().unwrap(),
        owner: peer(1, "host1"),
        stance,
    }
}

/// A condition, its code, and its text.
type Said = (Refusal, &'static str, &'static str);

/// One of each condition under which a request is refused for good.
fn lasting() -> Vec<Said> {
    let subnet = "10.32.4.0/24".parse().unwrap();
    let universe = "10.32.0.0/12".parse().unwrap();
    let cidr: Cidr = "10.32.0.1/12".parse().unwrap();
    let holder = || "a".to_owned();
    vec![
        (Refusal::Cancelled, "cancelled", "cancelled"),
        (
            Refusal::Disabled,
            "disabled",
            "address allocation is not enabled",
        ),
        (
            Refusal::NameTaken("another machine has our peer name".into()),
            "name-taken",
            "another machine has our peer name",
        ),
        (
            Refusal::OutOfRange { subnet, universe },
            "out-of-range",
            "range 10.32.4.0/24 out of bounds: 10.32.0.0/12",
        ),
        (
            Refusal::InUse {
                cidr,
                holder: Some(holder()),
            },
            "in-use",
            "address 10.32.0.1/12 already in use by a",
        ),
        (
            Refusal::OwnedHere {
                cidr,
                holder: holder(),
            },
            "owned-here",
            "address 10.32.0.1/12 is already owned by a",
        ),
        (
            elsewhere(Stance::Denies),
            "owned-elsewhere",
            "address 10.32.0.1/12 is owned by other peer 00:00:00:00:00:01 (host1)",
        ),
        (
            Refusal::NothingHeld { ident: holder() },
            "nothing-held",
            "Delete: no addresses for a",
        ),
        (
            Refusal::NotHeld {
                ident: holder(),
                address: cidr.address,
            },
            "not-held",
            "Free: address 10.32.0.1 not found for a",
        ),
    ]
}

/// One of each condition that may pass.
fn passing() -> Vec<Said> {
    let subnet = "10.32.4.0/24".parse().unwrap();
    vec![
        (
            NoRing::NoMajority {
                known: 1,
                size: 3,
                quorum: 2,
            }
            .into(),
            "no-ring",
            "no majority: 1 of 3 peers known, 2 must agree",
        ),
        (
            Refusal::NotManaged { subnet },
            "not-managed",
            "no address of 10.32.4.0/24 is managed",
        ),
        (
            Dispute::Unconfirmed {
                range: Range::new(0, 4),
                former: peer(1, ""),
            }
            .into(),
            "disputed",
            "range contested: 0.0.0.0-0.0.0.3 was given to us, but 00:00:00:00:00:01 has not agreed yet",
        ),
        (
            Refusal::PeersSilent {
                subnet,
                peers: vec![share(1), share(2)],
            },
            "peers-silent",
            "no answer yet from peers with free addresses in 10.32.4.0/24: \
             00:00:00:00:00:01(host) 1, 00:00:00:00:00:02(host) 2",
        ),
        (
            Refusal::PeersUnreachable {
                subnet,
                peers: vec![share(3)],
            },
            "peers-unreachable",
            "free addresses in 10.32.4.0/24 are owned by peers which cannot be reached: \
             00:00:00:00:00:03(host) 3",
        ),
        (
            Refusal::Exhausted {
                subnet,
                used: 7,
                owners: vec![share(4)],
            },
            "exhausted",
            "space exhausted in 10.32.4.0/24: 7 used, owners 00:00:00:00:00:04(host) 4",
        ),
        (
            Refusal::TooManyWaiting { limit: 9 },
            "too-many-waiting",
            "9 requests for addresses wait already",
        ),
    ]
}

#[test]
fn every_condition_has_a_code_of_its_own_a_text_and_an_outlook() {
    for (all, is_passing) in [(lasting(), false), (passing(), true)] {
        for (refusal, code, text) in all {
            assert_eq!((refusal.code(), &*refusal.to_string()), (code, text));
            assert_eq!(refusal.is_passing(), is_passing, "{refusal}");
        }
    }
    let all = || lasting().into_iter().chain(passing());
    let codes: BTreeSet<&str> = all().map(|(refusal, ..)| refusal.code()).collect();
    assert_eq!(codes.len(), all().count());
}

#[test]
fn what_the_owner_says_decides_whether_a_claim_may_be_granted_later() {
    let error = "unknown relay destination: 1".to_owned();
    for (stance, end, is_passing) in [
        (Stance::Denies, "(host1)", false),
        (
            Stance::NotAsked { error },
            "(host1) - unknown relay destination: 1",
            false,
        ),
        (Stance::Silent, "(host1) which has not answered yet", true),
        (Stance::OutOfReach, "(host1) which cannot be reached", true),
    ] {
        let refusal = elsewhere(stance);
        assert!(refusal.to_string().ends_with(end), "{refusal}");
        assert_eq!(refusal.is_passing(), is_passing, "{refusal}");
    }
}

#[test]
fn long_lists_of_peers_are_cut_short() {
    let refusal = Refusal::PeersSilent {
        subnet: "10.32.4.0/24".parse().unwrap(),
        peers: (0..10).map(share).collect(),
    };
    let text = refusal.to_string();
    assert!(
        text.ends_with("00:00:00:00:00:07(host) 7 and 2 more"),
        "{text}"
    );
}

#[test]
fn no_text_names_a_verb_or_a_flag_of_a_command_line() {
    for (refusal, ..) in lasting().into_iter().chain(passing()) {
        let text = refusal.to_string();
        assert!(!text.contains("--") && !text.contains("weft"), "{text}");
    }
}
