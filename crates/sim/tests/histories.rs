//! A fixed set of seeds: every history comes to rest in a state that is right.

use std::ops::Range;

use sim::plan::Setting;

fn all_are_right(seeds: Range<u64>, peers: Option<usize>, events: Option<usize>) {
    for seed in seeds {
        let setting = Setting {
            seed,
            peers,
            events,
            hostile: false,
        };
        if let Err(failure) = sim::run(setting, None) {
            panic!("{failure}");
        }
    }
}

#[test]
fn histories_0_to_499_are_right() {
    all_are_right(0..500, None, None);
}

#[test]
fn histories_500_to_999_are_right() {
    all_are_right(500..1000, None, None);
}

#[test]
fn histories_1000_to_1499_are_right() {
    all_are_right(1000..1500, None, None);
}

#[test]
fn histories_1500_to_1999_are_right() {
    all_are_right(1500..2000, None, None);
}

#[test]
fn a_pair_and_a_single_peer_are_right() {
    all_are_right(0..20, Some(1), Some(3));
    all_are_right(0..40, Some(2), None);
}

#[test]
fn histories_of_thirty_peers_are_right() {
    all_are_right(0..4, Some(30), Some(10));
}

#[test]
fn a_history_of_a_hundred_peers_is_right() {
    all_are_right(1..2, Some(100), Some(10));
}

#[test]
fn the_same_seed_gives_the_same_history() {
    for seed in 40..44 {
        let setting = Setting {
            seed,
            peers: None,
            events: None,
            hostile: false,
        };
        let describe = || format!("{:?}", sim::run(setting, None));
        assert_eq!(describe(), describe());
    }
}

#[test]
fn ill_will_breaks_no_rule() {
    for seed in 0..150 {
        let setting = Setting {
            seed,
            peers: None,
            events: Some(4),
            hostile: true,
        };
        if let Err(failure) = sim::run(setting, None) {
            panic!("{failure}");
        }
    }
}
