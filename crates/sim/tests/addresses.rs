//! Ten thousand seeded histories of addresses: no address is used twice, nothing acknowledged is lost,
//! and whoever waits is served once the network is whole.
//!
//! In eight parts, so that the test threads share them.

use sim::addresses::plan::Setting;
use sim::addresses::{self, Summary};

const PART: u64 = 1250;

fn part_is_right(part: u64) -> Summary {
    let mut total = Summary::default();
    for seed in part * PART..(part + 1) * PART {
        let setting = Setting {
            seed,
            ..Setting::default()
        };
        match addresses::run(&setting, None) {
            Ok(summary) => total.add(&summary),
            Err(failure) => panic!("{failure}"),
        }
    }
    total
}

#[test]
fn histories_0_to_1249_are_right_and_full_of_events() {
    let total = part_is_right(0);
    assert_eq!(total.histories, PART);
    assert!(total.with_ring > PART * 8 / 10, "{total:?}");
    for (what, least) in [
        ("address", 10),
        ("done", 3),
        ("unavailable", 1),
        ("refused", 1),
    ] {
        assert!(total.answers[what] > PART * least, "{what}: {total:?}");
    }
    for (what, least) in [
        ("crash", 500),
        ("leave", 100),
        ("blank", 20),
        ("takeover", 100),
    ] {
        assert!(total.faults[what] > least, "{what}: {total:?}");
    }
}

#[test]
fn histories_1250_to_2499_are_right() {
    part_is_right(1);
}

#[test]
fn histories_2500_to_3749_are_right() {
    part_is_right(2);
}

#[test]
fn histories_3750_to_4999_are_right() {
    part_is_right(3);
}

#[test]
fn histories_5000_to_6249_are_right() {
    part_is_right(4);
}

#[test]
fn histories_6250_to_7499_are_right() {
    part_is_right(5);
}

#[test]
fn histories_7500_to_8749_are_right() {
    part_is_right(6);
}

#[test]
fn histories_8750_to_9999_are_right() {
    part_is_right(7);
}

#[test]
fn histories_of_thirty_peers_are_right() {
    for seed in 0..10 {
        let setting = Setting {
            seed,
            peers: Some(30),
            ..Setting::default()
        };
        if let Err(failure) = addresses::run(&setting, None) {
            panic!("{failure}");
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_history_of_addresses() {
    for seed in 40..60 {
        let setting = Setting {
            seed,
            ..Setting::default()
        };
        let describe = || format!("{:?}", addresses::run(&setting, None));
        assert_eq!(describe(), describe());
    }
}
