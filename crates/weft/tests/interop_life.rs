//! Live interop with the original router over time: restarts, crashes and quiet minutes.

mod lab;

use std::time::Duration;

use lab::mix::{Mix, Peer, Recipe, Shape};
use lab::patience::{holds_for, wait_until};

/// What an original says when any peer goes away and comes back.
const GONE: [&str; 3] = [
    "connection shutting down due to error",
    "error during connection attempt",
    "Failed to",
];
/// Longer than the heartbeat timeouts of links and tunnels (spec/mesh.md 1, spec/sleeve.md 1).
const QUIET: Duration = Duration::from_secs(75);

fn mix(kinds: &str, is_encrypted: bool) -> Option<Mix> {
    Mix::start(Recipe::new(kinds, Shape::Flat, is_encrypted))
}

/// Each peer in turn stops and starts again; its container stays.
fn restart_each(kinds: &str, is_encrypted: bool) {
    let Some(mix) = mix(kinds, is_encrypted) else {
        return;
    };
    for index in 0..mix.peers.len() {
        mix.peers[index].stop();
        mix.launch(index);
        mix.wait_connected();
        mix.assert_all_ping();
    }
    mix.assert_no_complaints(&GONE[..2]);
}

#[test]
fn peers_of_either_kind_come_back_after_a_restart() {
    restart_each("OW", false);
}

#[test]
fn peers_of_either_kind_come_back_after_a_restart_encrypted() {
    restart_each("OWO", true);
}

#[test]
fn an_original_takes_our_daemon_back_after_a_crash() {
    let Some(mix) = mix("OW", true) else { return };
    let Peer::Weft(host, _) = &mix.peers[1] else {
        unreachable!("the second is a Weft")
    };
    let killed = host.kill_daemon();
    wait_until("another daemon", || {
        host.daemon_pid().is_some_and(|pid| pid != killed)
    });
    mix.wait_connected();
    mix.assert_all_ping();
    mix.assert_no_complaints(&GONE[..2]);
}

#[test]
fn connections_outlive_quiet_minutes() {
    let Some(mix) = mix("OWW", true) else { return };
    let before: Vec<String> = mix
        .pairs()
        .iter()
        .map(|(a, b)| mix.connection(*a, *b))
        .collect();
    holds_for(QUIET, "the connections", || {
        let now: Vec<String> = mix
            .pairs()
            .iter()
            .map(|(a, b)| mix.connection(*a, *b))
            .collect();
        now == before
    });
    mix.assert_all_ping();
    mix.assert_no_complaints(&[]);
}
