//! Tests of the overlay switch.

use super::*;
use crate::protection::Protection;
use crate::sleeve::HEARTBEAT_TIMEOUT;
use crate::sleeve::lane::{SleeveEvent, SpecialKind};

const UID: u64 = 7;
const ALL: [Kind; 3] = [Kind::Wireguard, Kind::Fastdp, Kind::Sleeve];
const BAD: Health = Health {
    working: false,
    on_hold: false,
    established: false,
};
const NEW: Health = Health {
    working: true,
    on_hold: false,
    established: false,
};
const UP: Health = Health {
    working: true,
    on_hold: false,
    established: true,
};
const HELD: Health = Health {
    working: true,
    on_hold: true,
    established: true,
};

#[expect(clippy::disallowed_methods, reason = "base of virtual time")]
fn base() -> Instant {
    Instant::now()
}

fn names(list: &str) -> Vec<String> {
    list.split_whitespace().map(str::to_owned).collect()
}

fn switch(ours: &[Kind], theirs: Option<&str>) -> Result<Switch, SwitchError> {
    let theirs = theirs.map(names);
    let config = TunnelConfig {
        remote_label: "02:00:00:00:0b:02(bravo)".into(),
        remote_address: "192.0.2.2:6783".parse().unwrap(),
        outbound: true,
        uid: UID,
        protection: Protection::Clear,
    };
    Switch::new(ours, theirs.as_deref(), &config)
}

fn drain(switch: &mut Switch) -> Vec<SwitchOutput> {
    std::iter::from_fn(|| switch.poll_output()).collect()
}

fn control(index: Option<u8>, tag: u8) -> OverlayControl {
    OverlayControl {
        index,
        tag,
        body: Vec::new(),
    }
}

fn heard(kind: SpecialKind) -> LaneEvent {
    let from = "192.0.2.2:6783".parse().unwrap();
    LaneEvent::Sleeve(SleeveEvent::Special { from, kind })
}

/// The control messages sent after a heartbeat was heard.
fn controls_after_heartbeat(switch: &mut Switch) -> Vec<OverlayControl> {
    let now = base();
    switch.confirm(now);
    let kind = SpecialKind::Heartbeat {
        connection_uid: UID,
    };
    switch.handle_event(heard(kind), now);
    let control = |output| match output {
        SwitchOutput::Control(control) => Some(control),
        SwitchOutput::Probe(_)
        | SwitchOutput::Established
        | SwitchOutput::Changed
        | SwitchOutput::Failed(_) => None,
    };
    drain(switch).into_iter().filter_map(control).collect()
}

#[test]
fn the_common_list_is_ours_filtered_by_theirs() {
    let common = common_kinds(&ALL, &names("sleeve unheard-of fastdp"));
    assert_eq!(common, Ok(vec![Kind::Fastdp, Kind::Sleeve]));
    assert_eq!(common_kinds(&ALL, &names("sleeve")), Ok(vec![Kind::Sleeve]));
}

#[test]
fn nothing_in_common_is_an_error() {
    for theirs in ["", "awsvpc", "Sleeve"] {
        let error = switch(&[Kind::Sleeve], Some(theirs)).unwrap_err();
        assert_eq!(error.to_string(), "no overlays in common with peer");
    }
}

#[test]
fn established_ones_come_first_then_list_order() {
    assert_eq!(choose(&[NEW, NEW]), Some(0));
    assert_eq!(choose(&[NEW, UP]), Some(1));
    assert_eq!(choose(&[UP, UP]), Some(0));
    assert_eq!(choose(&[HELD, UP]), Some(1));
    assert_eq!(choose(&[HELD, NEW]), Some(1));
    assert_eq!(choose(&[BAD, NEW]), Some(1));
    assert_eq!(choose(&[BAD, HELD]), None);
    assert_eq!(choose(&[BAD, BAD]), None);
    assert_eq!(choose(&[]), None);
}

#[test]
fn reasons_are_stable_words() {
    let two = [Kind::Fastdp, Kind::Sleeve];
    let word = |health: [Health; 2]| reason(&two, &health, choose(&health)).to_string();
    assert_eq!(word([UP, UP]), "preferred");
    assert_eq!(word([NEW, UP]), "fastdp-not-established");
    assert_eq!(word([HELD, UP]), "fastdp-on-hold");
    assert_eq!(word([BAD, UP]), "fastdp-unusable");
    assert_eq!(word([NEW, NEW]), "not-established");
    assert_eq!(word([BAD, BAD]), "no-working-tunnel");
    assert_eq!(reason(&two[1..], &[UP], Some(0)).to_string(), "only-common");
}

#[test]
fn the_index_is_that_of_the_common_list() {
    let cases = [
        (switch(&[Kind::Sleeve], Some("fastdp sleeve")), Some(0)),
        (
            switch(&[Kind::Fastdp, Kind::Sleeve], Some("fastdp sleeve")),
            Some(1),
        ),
        (switch(&[Kind::Sleeve], None), None),
    ];
    for (switch, index) in cases {
        assert_eq!(
            controls_after_heartbeat(&mut switch.unwrap()),
            [control(index, 1)]
        );
    }
}

#[test]
fn control_establishes_the_connection_once() {
    let now = base();
    for (theirs, index, word) in [
        (Some("sleeve"), Some(0), "only-common"),
        (None, None, "compatibility"),
    ] {
        let mut switch = switch(&[Kind::Sleeve], theirs).unwrap();
        switch.confirm(now);
        assert_eq!(switch.reason().to_string(), "not-established");
        assert_eq!(switch.best(), Some(Kind::Sleeve));
        switch.handle_control(&control(index, 1), now);
        switch.handle_control(&control(index, 1), now);
        let outputs = drain(&mut switch);
        let said = outputs
            .iter()
            .filter(|output| **output == SwitchOutput::Established);
        assert_eq!(said.count(), 1);
        assert_eq!(switch.reason().to_string(), word);
    }
}

#[test]
fn hostile_indices_are_ignored() {
    let now = base();
    let mut plain = switch(&[Kind::Fastdp, Kind::Sleeve], Some("fastdp sleeve")).unwrap();
    let mut compatible = switch(&[Kind::Sleeve], None).unwrap();
    plain.confirm(now);
    compatible.confirm(now);
    drain(&mut plain);
    drain(&mut compatible);
    for index in [None, Some(0), Some(2), Some(255)] {
        plain.handle_control(&control(index, 1), now);
    }
    for index in [Some(0), Some(1), Some(255)] {
        compatible.handle_control(&control(index, 1), now);
    }
    assert_eq!(drain(&mut plain), []);
    assert_eq!(drain(&mut compatible), []);
}

#[test]
fn a_dead_sleeve_fails_the_connection() {
    let now = base();
    for (theirs, text) in [
        (
            Some("fastdp sleeve"),
            "no working forwarders to 02:00:00:00:0b:02(bravo)",
        ),
        (None, "timed out waiting for UDP heartbeat"),
    ] {
        let ours = [Kind::Fastdp, Kind::Sleeve];
        let mut switch = switch(&ours, theirs).unwrap();
        switch.confirm(now);
        drain(&mut switch);
        switch.handle_timeout(now + HEARTBEAT_TIMEOUT);
        let outputs = drain(&mut switch);
        let Some(SwitchOutput::Failed(error)) = outputs.last() else {
            panic!("{outputs:?}")
        };
        assert_eq!(error.to_string(), text);
        assert_eq!(switch.poll_timeout(), None);
    }
}

/// What a switch sends after a special frame was heard, in wire form.
fn wire_bytes(theirs: Option<&str>, ours: &[Kind], kind: SpecialKind) -> Vec<u8> {
    let now = base();
    let mut switch = switch(ours, theirs).unwrap();
    switch.confirm(now);
    switch.handle_event(heard(kind), now);
    let mut outputs = drain(&mut switch).into_iter();
    outputs
        .find_map(|output| match output {
            SwitchOutput::Control(control) => {
                Some(wire::message::Message::Overlay(control).encode())
            }
            SwitchOutput::Probe(_)
            | SwitchOutput::Established
            | SwitchOutput::Changed
            | SwitchOutput::Failed(_) => None,
        })
        .unwrap()
}

#[test]
fn control_messages_are_those_of_the_vectors() {
    let text = include_str!("../../testdata/overlay_control.json");
    let file: serde_json::Value = serde_json::from_str(text).unwrap();
    let heartbeat = SpecialKind::Heartbeat {
        connection_uid: UID,
    };
    let mtu_test = SpecialKind::MtuTest { frame_bytes: 1452 };
    let fragmentation = SpecialKind::FragmentationTest;
    let both = &ALL[1..];
    let sleeve = &ALL[2..];
    let cases = [
        (
            "ctl-sleeve-established",
            wire_bytes(Some("sleeve"), sleeve, heartbeat),
        ),
        (
            "ctl-sleeve-fragmentation",
            wire_bytes(Some("fastdp sleeve"), both, fragmentation),
        ),
        (
            "ctl-sleeve-pmtu",
            wire_bytes(Some("sleeve"), sleeve, mtu_test),
        ),
        (
            "ctl-compat-established",
            wire_bytes(None, sleeve, heartbeat),
        ),
        ("ctl-compat-pmtu", wire_bytes(None, sleeve, mtu_test)),
    ];
    let vectors = file["vectors"].as_array().unwrap();
    assert_eq!(vectors.len(), cases.len());
    for (id, bytes) in cases {
        let vector = vectors.iter().find(|vector| vector["id"] == id).unwrap();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(vector["expect"]["message"], hex, "{id}");
    }
}
