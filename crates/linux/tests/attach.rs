//! Attaching and detaching in real namespaces.
//!
//! ```text
//!   host namespace                 container namespaces
//!   weave (bridge) ── vethweplN ── ethwe
//!                  ── vethweplM ── ethwe
//! ```

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod support;

use linux::attach::{AttachError, attach, attachment_state, detach};
use linux::bridge::{bridge_state, ensure_bridge};
use linux::netlink::Netlink;
use linux::netns::{Netns, NetnsError};
use support::{Space, attachment, can_run, cidr, links, weave};
use wire::ethernet::MacAddr;

fn host() -> Space {
    let host = Space::new("host");
    host.run(|| ensure_bridge(&weave())).unwrap();
    host
}

#[test]
fn two_attached_containers_reach_each_other() {
    if !can_run() {
        return;
    }
    let (host, one, two) = (host(), Space::new("c"), Space::new("c"));
    host.run(|| attach(&one.netns, &attachment("1", &["10.32.0.1/12"])))
        .unwrap();
    host.run(|| attach(&two.netns, &attachment("2", &["10.32.0.2/12"])))
        .unwrap();
    assert!(one.pings("10.32.0.2"));
    assert!(two.pings("10.32.0.1"));
    assert!(
        !host.succeeds("ping -c 1 -W 1 10.32.0.1"),
        "the host is not exposed"
    );
}

#[test]
fn an_attached_interface_is_as_specified() {
    if !can_run() {
        return;
    }
    let (host, container) = (host(), Space::new("c"));
    let config = attachment("123456789", &["10.2.1.1/24", "10.2.2.1/24", "fd00::1/64"]);
    let attached = host.run(|| attach(&container.netns, &config)).unwrap();
    assert!(attached.created);
    assert_eq!(attached.added, config.addresses);

    let inner = container
        .run(|| Netlink::open().unwrap().need_link("ethwe"))
        .unwrap();
    assert!(inner.up);
    assert_eq!(inner.mtu_bytes, 1376);
    assert_eq!(inner.gso_max_bytes, Some(60_300));
    let state = host
        .run(|| attachment_state(&container.netns, "ethwe"))
        .unwrap()
        .unwrap();
    assert_eq!((state.mac, state.addresses.len()), (attached.mac, 3));
    let ports = host.run(|| bridge_state("weave")).unwrap().unwrap().ports;
    assert_eq!(ports[0].name, "vethwepl1234567");
    assert_eq!(ports[0].hairpin, Some(false));

    let routes = container.sh("ip route");
    assert!(
        routes.contains("224.0.0.0/4 dev ethwe scope link"),
        "{routes}"
    );
    for (path, value) in [
        ("ipv6/conf/ethwe/accept_ra", "0"),
        ("ipv4/neigh/ethwe/base_reachable_time", "5"),
        ("ipv4/neigh/ethwe/delay_first_probe_time", "2"),
        ("ipv4/neigh/ethwe/ucast_solicit", "1"),
    ] {
        let got = container.sh(&format!("cat /proc/sys/net/{path}"));
        assert_eq!(got.trim(), value, "{path}");
    }
    let accept_ra = host.sh("cat /proc/sys/net/ipv6/conf/vethwepl1234567/accept_ra");
    assert_eq!(accept_ra.trim(), "0");
    let features = container.sh("ethtool -k ethwe 2>/dev/null || true");
    assert!(!features.contains("tx-checksumming: off"), "{features}");
}

#[test]
fn subnets_do_not_reach_each_other() {
    if !can_run() {
        return;
    }
    let (host, one, both) = (host(), Space::new("c"), Space::new("c"));
    host.run(|| attach(&one.netns, &attachment("1", &["10.2.1.1/24"])))
        .unwrap();
    let config = attachment("2", &["10.2.1.2/24", "10.2.2.2/24"]);
    host.run(|| attach(&both.netns, &config)).unwrap();
    assert!(one.pings("10.2.1.2"));
    assert!(!one.succeeds("ping -c 1 -W 1 10.2.2.2"));
}

#[test]
fn multicast_is_heard_within_a_subnet_only() {
    if !can_run() {
        return;
    }
    let (host, sender, same, other) = (host(), Space::new("c"), Space::new("c"), Space::new("c"));
    host.run(|| attach(&sender.netns, &attachment("1", &["10.2.1.1/24"])))
        .unwrap();
    host.run(|| attach(&same.netns, &attachment("2", &["10.2.1.2/24"])))
        .unwrap();
    host.run(|| attach(&other.netns, &attachment("3", &["10.2.2.3/24"])))
        .unwrap();
    let listen = |space: &Space, own: [u8; 4]| {
        space.run(move || {
            let socket = std::net::UdpSocket::bind("0.0.0.0:5353").unwrap();
            socket
                .join_multicast_v4(&[239, 1, 1, 1].into(), &own.into())
                .unwrap();
            socket
        })
    };
    let (near, far) = (listen(&same, [10, 2, 1, 2]), listen(&other, [10, 2, 2, 3]));
    let mouth = sender.run(|| std::net::UdpSocket::bind("10.2.1.1:0").unwrap());
    mouth.send_to(b"hello", "239.1.1.1:5353").unwrap();
    let mut buffer = [0; 16];
    near.set_read_timeout(Some(std::time::Duration::from_secs(5)))
        .unwrap();
    assert_eq!(near.recv(&mut buffer).unwrap(), 5);
    // The bridge delivers to both ports in one go, so what is not there now was dropped.
    far.set_read_timeout(Some(std::time::Duration::from_millis(200)))
        .unwrap();
    assert!(far.recv(&mut buffer).is_err());
}

#[test]
fn attaching_again_adds_only_what_is_new() {
    if !can_run() {
        return;
    }
    let (host, container) = (host(), Space::new("c"));
    let first = attachment("1", &["10.2.1.1/24"]);
    let before = host.run(|| attach(&container.netns, &first)).unwrap();
    let again = host.run(|| attach(&container.netns, &first)).unwrap();
    assert_eq!(
        (again.created, again.added.len(), again.mac),
        (false, 0, before.mac)
    );
    let more = attachment("1", &["10.2.1.1/16", "10.2.2.1/24"]);
    let third = host.run(|| attach(&container.netns, &more)).unwrap();
    assert_eq!(third.added, [cidr("10.2.2.1/24")]);
    assert_eq!(links(&host), ["vethwepl1", "weave"]);
}

#[test]
fn attaching_again_plugs_into_a_bridge_that_was_made_anew() {
    if !can_run() {
        return;
    }
    let (host, one, two) = (host(), Space::new("c"), Space::new("c"));
    for (space, id, address) in [(&one, "1", "10.2.1.1/24"), (&two, "2", "10.2.1.2/24")] {
        host.run(|| attach(&space.netns, &attachment(id, &[address])))
            .unwrap();
    }
    host.sh("ip link del weave");
    assert!(!one.succeeds("ping -c 1 -W 1 10.2.1.2"));
    host.run(|| ensure_bridge(&weave())).unwrap();
    for (space, id, address) in [(&one, "1", "10.2.1.1/24"), (&two, "2", "10.2.1.2/24")] {
        host.run(|| attach(&space.netns, &attachment(id, &[address])))
            .unwrap();
    }
    assert!(one.pings("10.2.1.2"));
}

#[test]
fn hairpin_mode_follows_the_configuration() {
    if !can_run() {
        return;
    }
    let (host, container) = (host(), Space::new("c"));
    for hairpin in [true, false] {
        let config = linux::attach::AttachConfig {
            hairpin,
            ..attachment("1", &["10.2.1.1/24"])
        };
        host.run(|| attach(&container.netns, &config)).unwrap();
        let ports = host.run(|| bridge_state("weave")).unwrap().unwrap().ports;
        assert_eq!(ports[0].hairpin, Some(hairpin));
    }
}

#[test]
fn detaching_the_last_address_removes_everything() {
    if !can_run() {
        return;
    }
    let (host, container) = (host(), Space::new("c"));
    let config = attachment("1", &["10.2.1.1/24", "10.2.2.1/24"]);
    host.run(|| attach(&container.netns, &config)).unwrap();

    let half = host
        .run(|| detach(&container.netns, "ethwe", &[cidr("10.2.1.1/24")]))
        .unwrap();
    assert_eq!((half.removed.len(), half.deleted), (1, false));
    let rules = container.sh("nft list ruleset");
    assert!(
        rules.contains("10.2.2.0/24") && !rules.contains("10.2.1.0/24"),
        "{rules}"
    );

    let rest = host
        .run(|| detach(&container.netns, "ethwe", &config.addresses))
        .unwrap();
    assert_eq!(
        (rest.removed, rest.deleted),
        (vec![cidr("10.2.2.1/24")], true)
    );
    assert_eq!(links(&container), Vec::<String>::new());
    assert_eq!(links(&host), ["weave"]);
    assert_eq!(container.sh("nft list ruleset"), "");

    let error = host
        .run(|| detach(&container.netns, "ethwe", &config.addresses))
        .unwrap_err();
    assert_eq!(error.to_string(), "Link not found");
}

#[test]
fn a_refused_address_leaves_nothing_behind() {
    if !can_run() {
        return;
    }
    let (host, container) = (host(), Space::new("c"));
    let bad = attachment("1", &["10.2.1.1/24", "ff02::1/64"]);
    let error = host.run(|| attach(&container.netns, &bad)).unwrap_err();
    assert!(
        error.to_string().starts_with("add ff02::1/64 on ethwe: "),
        "{error}"
    );
    assert_eq!(links(&host), ["weave"]);
    assert_eq!(links(&container), Vec::<String>::new());
    assert_eq!(container.sh("nft list ruleset"), "");
}

#[test]
fn a_refused_address_leaves_an_existing_attachment_as_it_was() {
    if !can_run() {
        return;
    }
    let (host, container) = (host(), Space::new("c"));
    host.run(|| attach(&container.netns, &attachment("1", &["10.2.1.1/24"])))
        .unwrap();
    let before = (
        container.sh("nft list ruleset"),
        container.sh("ip -br address show ethwe"),
    );
    let bad = attachment("1", &["10.2.2.1/24", "ff02::1/64"]);
    host.run(|| attach(&container.netns, &bad)).unwrap_err();
    let after = (
        container.sh("nft list ruleset"),
        container.sh("ip -br address show ethwe"),
    );
    assert_eq!(before, after);
}

#[test]
fn a_foreign_interface_of_that_name_is_left_alone() {
    if !can_run() {
        return;
    }
    let (host, container) = (host(), Space::new("c"));
    container.sh("ip link add ethwe type veth peer name other");
    let error = host
        .run(|| attach(&container.netns, &attachment("1", &["10.2.1.1/24"])))
        .unwrap_err();
    assert!(matches!(error, AttachError::Foreign(_)), "{error}");
    container.sh("ip address add 10.2.1.1/24 dev other");
    let error = host
        .run(|| detach(&container.netns, "other", &[cidr("10.2.1.1/24")]))
        .unwrap_err();
    assert!(matches!(error, AttachError::Foreign(_)), "{error}");
    assert_eq!(links(&container), ["ethwe", "other"]);
    assert_eq!(links(&host), ["weave"]);
    assert!(!container.sh("ip address show ethwe").contains("inet "));
}

#[test]
fn a_taken_pair_name_is_an_error_that_names_the_pair() {
    if !can_run() {
        return;
    }
    let (host, container) = (host(), Space::new("c"));
    host.sh("ip link add vethwepl1 type veth peer name x");
    let error = host
        .run(|| attach(&container.netns, &attachment("1", &["10.2.1.1/24"])))
        .unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with("could not create veth pair vethwepl1-vethwepg1: "),
        "{text}"
    );
    assert_eq!(links(&host), ["vethwepl1", "weave", "x"]);
    assert_eq!(links(&container), Vec::<String>::new());
}

#[test]
fn attaching_without_a_bridge_says_so() {
    if !can_run() {
        return;
    }
    let (host, container) = (Space::new("host"), Space::new("c"));
    let error = host
        .run(|| attach(&container.netns, &attachment("1", &["10.2.1.1/24"])))
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "bridge \"weave\" not present; did you launch weave?"
    );
}

#[test]
fn the_hosts_own_namespace_is_refused() {
    if !can_run() {
        return;
    }
    let host = host();
    let config = attachment("1", &["10.2.1.1/24"]);
    let same = Netns::named(&host.name).unwrap();
    let error = host.run(|| attach(&same, &config)).unwrap_err();
    assert!(
        matches!(error, AttachError::Netns(NetnsError::Host)),
        "{error}"
    );
    assert_eq!(links(&host), ["weave"]);
}

#[test]
fn a_container_that_died_is_reported_and_leaves_nothing() {
    if !can_run() {
        return;
    }
    let (host, container) = (host(), Space::new("c"));
    let mut process = container.process();
    let pid = process.0.id();
    let netns = Netns::of_process(pid).unwrap();
    assert_eq!(netns.identity(), container.netns.identity());
    process.end();
    assert!(matches!(Netns::of_process(pid), Err(NetnsError::NoProcess(p)) if p == pid));
    let error = host
        .run(|| attach(&netns, &attachment("1", &["10.2.1.1/24"])))
        .unwrap_err();
    assert_eq!(error.to_string(), "Container 1 died");
    assert_eq!(links(&host), ["weave"]);
}

#[test]
fn attaching_announces_the_new_addresses() {
    if !can_run() {
        return;
    }
    let (host, one, two) = (host(), Space::new("c"), Space::new("c"));
    host.run(|| attach(&one.netns, &attachment("1", &["10.2.1.1/24"])))
        .unwrap();
    host.run(|| attach(&two.netns, &attachment("2", &["10.2.1.2/24"])))
        .unwrap();
    assert!(one.pings("10.2.1.2"));
    let old = host
        .run(|| attachment_state(&two.netns, "ethwe"))
        .unwrap()
        .unwrap()
        .mac;
    host.run(|| detach(&two.netns, "ethwe", &[cidr("10.2.1.2/24")]))
        .unwrap();
    let new = host
        .run(|| attach(&two.netns, &attachment("2", &["10.2.1.2/24"])))
        .unwrap()
        .mac;
    assert_ne!(old, new);
    let neighbours = one.sh("ip neigh show 10.2.1.2");
    assert!(neighbours.contains(&new.to_string()), "{neighbours}");
    assert_ne!(new, MacAddr::default());
}
