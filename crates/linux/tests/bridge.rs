//! The bridge in a real namespace: made, repaired, refused.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod support;

use linux::bridge::{BridgeConfig, BridgeError, bridge_state, ensure_bridge, existing_mac, plug};
use linux::netlink::{LinkWatch, Netlink};
use support::{Space, can_run, links, weave};
use wire::ethernet::MacAddr;

#[test]
fn a_bridge_is_made_once_and_then_left_alone() {
    if !can_run() {
        return;
    }
    let host = Space::new("host");
    assert!(host.run(|| ensure_bridge(&weave())).unwrap());
    let before = host.run(|| bridge_state("weave")).unwrap();
    assert!(!host.run(|| ensure_bridge(&weave())).unwrap());
    assert_eq!(host.run(|| bridge_state("weave")).unwrap(), before);
    let link = before.unwrap().link;
    assert_eq!(
        (link.mac, link.mtu_bytes, link.up),
        (Some(weave().mac), 1376, true)
    );
    assert_eq!(link.multicast_snooping, Some(false));
    assert_eq!(
        host.sh("cat /proc/sys/net/ipv6/conf/weave/accept_ra")
            .trim(),
        "0"
    );
    assert_eq!(
        host.sh("cat /proc/sys/net/ipv4/neigh/weave/ucast_solicit")
            .trim(),
        "1"
    );
}

#[test]
fn what_others_changed_is_repaired() {
    if !can_run() {
        return;
    }
    let host = Space::new("host");
    host.run(|| ensure_bridge(&weave())).unwrap();
    host.sh("ip address add 10.2.1.5/24 dev weave; ip link set weave down address 02:00:00:00:00:99 mtu 900");
    host.run(|| ensure_bridge(&weave())).unwrap();
    let link = host.run(|| bridge_state("weave")).unwrap().unwrap().link;
    assert_eq!(
        (link.mac, link.mtu_bytes, link.up),
        (Some(weave().mac), 1376, true)
    );
    assert!(host.sh("ip address show weave").contains("10.2.1.5/24"));
}

#[test]
fn the_mtu_does_not_follow_the_ports() {
    if !can_run() {
        return;
    }
    for mtu_bytes in [1376, 1500, 8916, 65_535] {
        let host = Space::new("host");
        let config = BridgeConfig {
            mtu_bytes,
            ..weave()
        };
        host.run(|| ensure_bridge(&config)).unwrap();
        host.sh("ip link add small mtu 1000 type veth peer name x; ip link set small master weave");
        let link = host.run(|| bridge_state("weave")).unwrap().unwrap().link;
        assert_eq!(link.mtu_bytes, mtu_bytes);
    }
}

#[test]
fn a_link_of_another_kind_is_named_in_the_error() {
    if !can_run() {
        return;
    }
    let host = Space::new("host");
    host.sh("ip link add weave type veth peer name x");
    let error = host.run(|| ensure_bridge(&weave())).unwrap_err();
    assert!(matches!(error, BridgeError::NotBridge { .. }));
    let text = error.to_string();
    assert!(
        text.contains("weave") && text.contains("veth") && text.contains("weft reset"),
        "{text}"
    );
    assert_eq!(links(&host), ["weave", "x"]);
}

#[test]
fn a_port_is_plugged_in_and_repaired() {
    if !can_run() {
        return;
    }
    let host = Space::new("host");
    host.run(|| ensure_bridge(&weave())).unwrap();
    host.sh("ip tuntap add dev tap0 mode tap");
    for spoil in ["true", "ip link set tap0 down nomaster mtu 9000"] {
        host.sh(spoil);
        host.run(|| plug("weave", "tap0")).unwrap();
        let state = host.run(|| bridge_state("weave")).unwrap().unwrap();
        assert_eq!(state.ports.len(), 1);
        let port = &state.ports[0];
        assert_eq!(
            (port.name.as_str(), port.up, port.mtu_bytes),
            ("tap0", true, 1376)
        );
        assert_eq!(port.gso_max_bytes, Some(60_300));
        assert_eq!(
            state.link.mac,
            Some(MacAddr([2, 0, 0, 0, 0, 1])),
            "ports do not change it"
        );
    }
}

#[test]
fn a_tap_on_a_bridge_of_the_largest_mtu_gets_as_much_as_it_can_take() {
    if !can_run() {
        return;
    }
    let host = Space::new("host");
    host.run(|| {
        ensure_bridge(&BridgeConfig {
            mtu_bytes: 65_535,
            ..weave()
        })
    })
    .unwrap();
    host.sh("ip tuntap add dev tap0 mode tap");
    host.run(|| plug("weave", "tap0")).unwrap();
    let state = host.run(|| bridge_state("weave")).unwrap().unwrap();
    assert_eq!(
        (state.link.mtu_bytes, state.ports[0].mtu_bytes),
        (65_535, 65_521)
    );
}

#[test]
fn a_port_of_another_bridge_is_not_taken() {
    if !can_run() {
        return;
    }
    let host = Space::new("host");
    host.run(|| ensure_bridge(&weave())).unwrap();
    host.sh("ip link add other type bridge; ip link add p type veth peer name x; ip link set p master other");
    assert!(matches!(
        host.run(|| plug("weave", "p")),
        Err(BridgeError::PortTaken { .. })
    ));
    assert!(matches!(
        host.run(|| plug("none", "p")),
        Err(BridgeError::NoBridge(_))
    ));
    let link = host
        .run(|| Netlink::open().unwrap().need_link("p"))
        .unwrap();
    let other = host
        .run(|| Netlink::open().unwrap().need_link("other"))
        .unwrap();
    assert_eq!(link.master, Some(other.index));
}

#[test]
fn values_no_interface_can_have_are_refused_by_name() {
    if !can_run() {
        return;
    }
    let host = Space::new("host");
    for (mac, word) in [
        (MacAddr([0; 6]), "all zero"),
        (MacAddr([1, 0, 0, 0, 0, 1]), "multicast"),
    ] {
        let error = host
            .run(|| ensure_bridge(&BridgeConfig { mac, ..weave() }))
            .unwrap_err();
        assert!(error.to_string().contains(&mac.to_string()), "{error}");
        assert!(error.to_string().contains(word), "{error}");
    }
    assert_eq!(links(&host), Vec::<String>::new());
    let error = host
        .run(|| {
            ensure_bridge(&BridgeConfig {
                mtu_bytes: 10,
                ..weave()
            })
        })
        .unwrap_err();
    assert!(
        error.to_string().starts_with("set mtu 10, up of weave: "),
        "{error}"
    );
    assert_eq!(links(&host), Vec::<String>::new());
    // Not locally administered, and still a name peers of the original use.
    let low = MacAddr([0, 0, 0, 0, 0, 1]);
    host.run(|| {
        ensure_bridge(&BridgeConfig {
            mac: low,
            ..weave()
        })
    })
    .unwrap();
    assert_eq!(host.run(|| existing_mac("weave")).unwrap(), Some(low));
    assert_eq!(host.run(|| existing_mac("none")).unwrap(), None);
}

#[test]
fn a_watch_tells_that_the_bridge_went_down() {
    if !can_run() {
        return;
    }
    let host = Space::new("host");
    let watch = host.run(|| LinkWatch::open().unwrap());
    host.run(|| ensure_bridge(&weave())).unwrap();
    let moment = std::time::Duration::from_millis(1);
    let patience = std::time::Duration::from_secs(10);
    assert!(watch.wait(patience).unwrap());
    while watch.wait(moment).unwrap() {}
    host.sh("ip link set weave down");
    assert!(watch.wait(patience).unwrap());
    assert!(!host.run(|| bridge_state("weave")).unwrap().unwrap().link.up);
}
