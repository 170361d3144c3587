//! Two machines with one peer name hear of each other; a restarted machine is no clone of itself.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod net;

use mesh::MeshConfig;
use net::{Net, config, name, secs};

/// A machine with the name of the first one.
fn copy() -> MeshConfig {
    MeshConfig::new(name(0), "copy")
}

fn is_told(net: &Net, n: usize) -> bool {
    net.meshes[n].clone_text().is_some()
}

#[test]
fn namesakes_that_meet_both_say_so_and_take_it_back_when_one_is_gone() {
    let mut net = Net::new(vec![config(0), copy()]);
    net.connect(0, 1);
    net.run(secs(2));
    let text = net.meshes[0].clone_text().unwrap();
    assert!(
        text.contains("02:00:00:00:00:01(copy) at 10.0.0.2"),
        "{text}"
    );
    assert!(is_told(&net, 1));
    net.run(secs(3600));
    assert!(is_told(&net, 0) && is_told(&net, 1), "they are still there");
    net.leave(1);
    // Long without any connection.
    net.run(secs(1200));
    assert!(!is_told(&net, 0));
}

#[test]
fn namesakes_that_never_meet_hear_of_each_other_through_those_between() {
    for between in [
        config(1),
        MeshConfig {
            announce_weft: false,
            ..config(1)
        },
    ] {
        let mut net = Net::new(vec![config(0), between, copy()]);
        net.connect(0, 1);
        net.run(secs(60));
        assert!(!is_told(&net, 0));
        net.connect(2, 1);
        net.run(secs(60));
        assert!(is_told(&net, 0), "the first one");
        assert!(is_told(&net, 2), "its copy");
        assert!(!is_told(&net, 1), "nobody else");
        net.assert_bounded(1);
    }
}

#[test]
fn a_clone_that_is_gone_is_forgotten_and_the_other_connects() {
    let mut net = Net::new(vec![config(0), config(1), copy()]);
    net.connect(0, 1);
    net.connect(2, 1);
    net.run(secs(60));
    assert!(is_told(&net, 0) && is_told(&net, 2));
    net.leave(2);
    net.run(secs(1800));
    assert!(!is_told(&net, 0));
    assert_eq!(net.neighbours(0), [(name(1), true)]);
}

#[test]
fn a_machine_that_restarts_again_and_again_is_no_clone_of_itself() {
    let mut net = Net::new((0..5).map(config).collect());
    for n in 1..5 {
        net.connect(n - 1, n);
    }
    net.run(secs(30));
    for round in 0..6 {
        net.restart(0, config(0), 100 + round);
        net.connect(0, 1);
        for _ in 0..20 {
            net.run(secs(1));
            assert!((0..5).all(|n| !is_told(&net, n)), "round {round}");
        }
    }
    net.run(secs(120));
    assert!((0..5).all(|n| !is_told(&net, n)));
}
