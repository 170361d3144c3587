//! Live interop with the original router: protocol version 1 and trusted subnets.

mod lab;

use lab::mix::{Mix, Peer, Recipe, Shape};

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
