//! Live interop with the original router: protocol version 1, trusted subnets and passwords that
//! differ.

mod lab;

use lab::PASSWORD;
use lab::mix::{Mix, Peer, Recipe, Shape};
use lab::patience::wait_for;

const FLAT: Shape = Shape::Flat;
const UNDERLAY: &str = "192.168.77.0/24";

/// What an original's log says once per connection of this version.
fn assert_version(mix: &Mix, version: u8) {
    let words = format!("connection ready; using protocol version {version}");
    for peer in &mix.peers {
        if let Peer::Original(original, _) = peer {
            let log = original.log();
            assert!(log.contains(&words), "{log}");
        }
    }
}

fn speak_version_1(kinds: &str, is_encrypted: bool) {
    let recipe = Recipe {
        weft_speaks: "1",
        ..Recipe::new(kinds, FLAT, is_encrypted)
    };
    let Some(mix) = Mix::start(recipe) else {
        return;
    };
    assert_version(&mix, 1);
    let capture = mix.lab.capture();
    mix.assert_all_reach_all();
    assert_eq!(capture.marker_count() == 0, is_encrypted);
    mix.assert_no_complaints(&[]);
}

#[test]
fn version_1_works_when_we_dial() {
    speak_version_1("OW", false);
}

#[test]
fn version_1_works_when_we_dial_encrypted() {
    speak_version_1("OW", true);
}

#[test]
fn version_1_works_when_we_are_dialled() {
    speak_version_1("WO", false);
}

#[test]
fn version_1_works_when_we_are_dialled_encrypted() {
    speak_version_1("WO", true);
}

#[test]
fn version_1_and_2_live_in_one_network() {
    speak_version_1("OOW", true);
}

/// Whether data is encrypted follows from both sides' subnets.
fn trust(originals: Option<&'static str>, wefts: Option<&'static str>, is_clear: bool) {
    for kinds in ["OW", "WO"] {
        let recipe = Recipe {
            trusted: (originals, wefts),
            ..Recipe::new(kinds, FLAT, true)
        };
        let Some(mix) = Mix::start(recipe) else {
            return;
        };
        let capture = mix.lab.capture();
        mix.assert_all_reach_all();
        assert_eq!(capture.marker_count() > 0, is_clear, "{kinds}");
        for (from, to) in mix.pairs() {
            let line = mix.connection(from, to);
            let word = if is_clear {
                " unencrypted "
            } else {
                " encrypted "
            };
            assert!(line.contains(word), "{kinds}: {line}");
        }
        mix.assert_no_complaints(&[]);
    }
}

#[test]
fn mutual_trust_leaves_data_in_clear() {
    trust(Some(UNDERLAY), Some(UNDERLAY), true);
}

#[test]
fn trust_of_the_original_alone_changes_nothing() {
    trust(Some(UNDERLAY), None, false);
}

#[test]
fn our_trust_alone_changes_nothing() {
    trust(None, Some(UNDERLAY), false);
}

#[test]
fn trust_in_other_subnets_changes_nothing() {
    trust(Some("10.0.0.0/8"), Some("10.0.0.0/8"), false);
}

/// Both keep saying, in the original's words, why there is no connection; neither shows the other.
fn stay_apart(originals: bool, weft_password: Option<&str>, words: &[&str]) {
    for kinds in ["OW", "WO"] {
        let recipe = Recipe {
            weft_password,
            ..Recipe::new(kinds, FLAT, originals)
        };
        let Some(mix) = Mix::launched(recipe) else {
            return;
        };
        wait_for("a reason in the status of the one that dials", || {
            let status = mix.peers[1].status("connections");
            let is_told = words.iter().any(|part| status.contains(part));
            if is_told { Ok(()) } else { Err(status) }
        });
        for peer in &mix.peers {
            let status = peer.status("connections");
            assert!(!status.contains(" established "), "{kinds}: {status}");
        }
        mix.assert_no_complaints(words);
    }
}

/// Which of the two ends learns the reason is a race (spec/mesh.md 3).
const RESET: &str = "connection reset by peer";

#[test]
fn different_passwords_keep_peers_apart() {
    stay_apart(
        true,
        Some("something else"),
        &["Unable to decrypt TCP msg", RESET],
    );
}

#[test]
fn an_original_with_a_password_refuses_a_weft_without() {
    let ours = "no password specificed, but peer requested an encrypted connection";
    let theirs = "password specified, but peer requested an unencrypted connection";
    stay_apart(true, None, &[ours, theirs, RESET]);
}

#[test]
fn a_weft_with_a_password_refuses_an_original_without() {
    let ours = "password specified, but peer requested an unencrypted connection";
    let theirs = "no password specificed, but peer requested an encrypted connection";
    stay_apart(false, Some(PASSWORD), &[ours, theirs, RESET]);
}
