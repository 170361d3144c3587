//! The rest of the host's side in real namespaces: expose, firewall, reset, finding attachments.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

mod support;

use linux::addr::Cidr;
use linux::attach::attach;
use linux::attachments::find_attachments;
use linux::bridge::ensure_bridge;
use linux::expose::{expose, exposed_addresses, hide};
use linux::iptables::{ensure_forwarding, remove_forwarding};
use linux::nft::{self, Exposed, HostRules};
use linux::overlap::routes_overlapping;
use linux::reset::reset;
use support::{Space, attachment, can_run, cidr, links, weave};

fn host() -> Space {
    let host = Space::new("host");
    host.run(|| ensure_bridge(&weave())).unwrap();
    host
}

fn rules(exposed: &[(&str, bool)]) -> HostRules {
    let exposed = exposed.iter().map(|&(a, masquerade)| Exposed {
        cidr: cidr(a),
        masquerade,
    });
    HostRules {
        bridge: "weave".to_owned(),
        control_port: 6784,
        docker: None,
        exposed: exposed.collect(),
    }
}

#[test]
fn an_exposed_host_reaches_its_subnet_only() {
    if !can_run() {
        return;
    }
    let (host, one, two) = (host(), Space::new("c"), Space::new("c"));
    host.run(|| attach(&one.netns, &attachment("1", &["10.2.1.1/24"])))
        .unwrap();
    host.run(|| attach(&two.netns, &attachment("2", &["10.2.2.1/24"])))
        .unwrap();
    assert!(host.run(|| expose("weave", cidr("10.2.1.5/24"))).unwrap());
    assert!(!host.run(|| expose("weave", cidr("10.2.1.5/24"))).unwrap());
    assert!(host.pings("10.2.1.1"));
    assert!(one.pings("10.2.1.5"));
    assert!(!host.succeeds("ping -c 1 -W 1 10.2.2.1"));
    assert_eq!(
        host.run(|| exposed_addresses("weave")).unwrap(),
        [cidr("10.2.1.5/24")]
    );

    assert!(host.run(|| hide("weave", cidr("10.2.1.5/24"))).unwrap());
    assert!(!host.run(|| hide("weave", cidr("10.2.1.5/24"))).unwrap());
    assert!(!host.succeeds("ping -c 1 -W 1 10.2.1.1"));
}

#[test]
fn masquerading_hides_containers_behind_the_host() {
    if !can_run() {
        return;
    }
    //   c (10.2.1.1) ── weave (10.2.1.5) host (192.168.9.1) ── outside (192.168.9.2)
    let (host, container, outside) = (host(), Space::new("c"), Space::new("out"));
    host.sh("echo 1 > /proc/sys/net/ipv4/ip_forward");
    support::sh(&format!(
        "ip -n {} link add out type veth peer name eth0 netns {}",
        host.name, outside.name
    ));
    host.sh("ip address add 192.168.9.1/24 dev out; ip link set out up");
    outside.sh("ip address add 192.168.9.2/24 dev eth0; ip link set eth0 up");
    host.run(|| attach(&container.netns, &attachment("1", &["10.2.1.1/24"])))
        .unwrap();
    host.run(|| expose("weave", cidr("10.2.1.5/24"))).unwrap();
    container.sh("ip route add default via 10.2.1.5");

    host.run(|| nft::apply(&rules(&[("10.2.1.5/24", false)])))
        .unwrap();
    assert!(
        !container.succeeds("ping -c 1 -W 1 192.168.9.2"),
        "no way back without"
    );
    host.run(|| nft::apply(&rules(&[("10.2.1.5/24", true)])))
        .unwrap();
    assert!(container.pings("192.168.9.2"));
}

#[test]
fn host_rules_are_replaced_watched_and_removed() {
    if !can_run() {
        return;
    }
    let host = host();
    let first = host
        .run(|| nft::apply(&rules(&[("10.2.1.5/24", true)])))
        .unwrap();
    assert!(first.contains("10.2.1.0/24"));
    assert!(host.run(|| nft::is_intact(&first)).unwrap());
    let second = host.run(|| nft::apply(&rules(&[]))).unwrap();
    assert!(!second.contains("10.2.1.0/24"));
    assert!(!host.run(|| nft::is_intact(&first)).unwrap());
    for spoil in ["nft flush table inet weft", "nft flush ruleset"] {
        host.sh(spoil);
        assert!(!host.run(|| nft::is_intact(&second)).unwrap(), "{spoil}");
        assert_eq!(host.run(|| nft::apply(&rules(&[]))).unwrap(), second);
    }
    host.run(nft::remove).unwrap();
    host.run(nft::remove).unwrap();
    assert_eq!(host.sh("nft list ruleset"), "");
}

#[test]
fn the_control_port_is_closed_to_routed_packets_only() {
    if !can_run() {
        return;
    }
    let (host, container) = (host(), Space::new("c"));
    host.run(|| nft::apply(&rules(&[]))).unwrap();
    host.run(|| attach(&container.netns, &attachment("1", &["10.2.1.1/24"])))
        .unwrap();
    host.run(|| expose("weave", cidr("10.2.1.5/24"))).unwrap();
    host.sh("echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet; echo 0 > /proc/sys/net/ipv4/conf/all/rp_filter");
    container.sh("echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet; ip route del table local local 127.0.0.0/8 dev lo; ip route del table local local 127.0.0.1 dev lo; ip route add 127.0.0.0/8 via 10.2.1.5 dev ethwe");
    let listener =
        |port| host.run(move || std::net::TcpListener::bind(("127.0.0.1", port)).unwrap());
    let (_guarded, _open) = (listener(6784), listener(6799));
    let connect = |space: &Space, port| {
        space.run(move || {
            let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
            let patience = std::time::Duration::from_millis(300);
            std::net::TcpStream::connect_timeout(&address, patience).is_ok()
        })
    };
    assert!(connect(&host, 6784));
    // The container takes no answer from a loopback address; what counts is that the host gives one.
    let answered = |port: u16| {
        connect(&container, port);
        let listing = host.sh(&format!("ss -Htn state syn-recv sport = :{port}"));
        listing.contains("10.2.1.1")
    };
    assert!(answered(6799), "the attack works where nothing guards");
    assert!(!answered(6784));
}

#[test]
fn a_closed_forward_chain_is_opened_for_the_bridge_and_closed_again() {
    if !can_run() {
        return;
    }
    let host = host();
    if !host.succeeds("iptables -S FORWARD") {
        eprintln!("SKIPPED: iptables does not work here");
        return;
    }
    let open = |exposed: &[&str]| {
        let exposed: Vec<Cidr> = exposed.iter().map(|e| cidr(e)).collect();
        host.run(move || ensure_forwarding("weave", &exposed))
            .unwrap()
    };
    assert!(!open(&[]));
    host.sh("iptables -P FORWARD DROP; iptables -A FORWARD -i eth9 -j ACCEPT");
    let before = host.sh("iptables -S FORWARD");
    assert!(open(&["10.2.1.5/24"]));
    let opened = host.sh("iptables -S FORWARD");
    assert_eq!(opened.matches("--comment weft").count(), 4, "{opened}");
    assert!(opened.contains("-d 10.2.1.0/24 -o weave"));
    assert!(open(&["10.2.1.6/24"]));
    assert_eq!(host.sh("iptables -S FORWARD"), opened);
    assert!(open(&[]));
    assert_eq!(
        host.sh("iptables -S FORWARD")
            .matches("--comment weft")
            .count(),
        3
    );
    host.sh("iptables -P FORWARD ACCEPT");
    assert!(!open(&[]));
    host.sh("iptables -P FORWARD DROP");
    assert_eq!(host.sh("iptables -S FORWARD"), before);
    open(&[]);
    host.run(remove_forwarding).unwrap();
    assert_eq!(host.sh("iptables -S FORWARD"), before);
}

#[test]
fn bridged_frames_pass_where_docker_closed_forwarding() {
    if !can_run() {
        return;
    }
    let (host, one, two) = (host(), Space::new("c"), Space::new("c"));
    let close = "echo 1 > /proc/sys/net/bridge/bridge-nf-call-iptables && iptables -P FORWARD DROP";
    if !host.succeeds(close) {
        eprintln!("SKIPPED: no br_netfilter or iptables here");
        return;
    }
    host.run(|| attach(&one.netns, &attachment("1", &["10.2.1.1/24"])))
        .unwrap();
    host.run(|| attach(&two.netns, &attachment("2", &["10.2.1.2/24"])))
        .unwrap();
    assert!(
        !one.succeeds("ping -c 1 -W 1 10.2.1.2"),
        "the test closes forwarding"
    );
    assert!(host.run(|| ensure_forwarding("weave", &[])).unwrap());
    assert!(one.pings("10.2.1.2"));
}

#[test]
fn attachments_are_found_by_their_ports() {
    if !can_run() {
        return;
    }
    let (host, named, running) = (host(), Space::new("c"), Space::new("c"));
    let process = running.process();
    host.run(|| attach(&named.netns, &attachment("named", &["10.2.1.1/24"])))
        .unwrap();
    let config = attachment("42", &["10.2.1.2/24", "10.2.2.2/24"]);
    let attached = host.run(|| attach(&running.netns, &config)).unwrap();
    host.sh("ip link add vethwl9 type veth peer name x; ip link set vethwl9 master weave");

    let found = host.run(|| find_attachments("weave")).unwrap();
    assert_eq!(found.len(), 2);
    assert_eq!(
        (found[0].port.as_str(), found[0].pid),
        ("vethwepl42", Some(process.0.id()))
    );
    assert_eq!(
        (found[0].mac, &found[0].addresses),
        (attached.mac, &config.addresses)
    );
    assert_eq!(found[0].interface, "ethwe");
    assert_eq!(
        (found[1].pid, found[1].netns.label()),
        (None, named.name.as_str())
    );
}

#[test]
fn overlapping_routes_are_found_but_the_bridges_own() {
    if !can_run() {
        return;
    }
    let host = host();
    host.sh("ip address add 10.32.0.1/12 dev weave");
    host.sh("ip link add e type veth peer name f; ip link set e up; ip link set f up");
    host.sh("ip address add 10.40.0.1/16 dev e; ip route add default via 10.40.0.2");
    host.sh("ip route add 10.0.0.0/8 via 10.40.0.2; ip -6 route add fd00:1::/64 dev e");
    let overlaps = |text: &str| {
        let wanted = cidr(text);
        let routes = host
            .run(move || routes_overlapping(wanted, "weave"))
            .unwrap();
        routes
            .iter()
            .map(|r| r.destination.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(overlaps("10.32.0.0/12"), ["10.0.0.0/8", "10.40.0.0/16"]);
    assert_eq!(overlaps("10.32.0.1/32"), ["10.0.0.0/8"]);
    assert_eq!(overlaps("192.168.0.0/16"), Vec::<String>::new());
    assert_eq!(overlaps("fd00::/16"), ["fd00:1::/64"]);
}

#[test]
fn reset_leaves_nothing_behind() {
    if !can_run() {
        return;
    }
    let (host, container) = (host(), Space::new("c"));
    host.sh("ip tuntap add dev weft-tap mode tap");
    host.run(|| attach(&container.netns, &attachment("1", &["10.2.1.1/24"])))
        .unwrap();
    host.run(|| nft::apply(&rules(&[("10.2.1.5/24", true)])))
        .unwrap();
    // What the original leaves.
    host.sh("ip link add vethwe-bridge type veth peer name vethwe-pcap");
    host.sh("ip link add datapath type bridge");
    let has_iptables = host.succeeds("iptables -S");
    if has_iptables {
        host.sh("iptables -P FORWARD DROP");
        host.run(|| ensure_forwarding("weave", &[])).unwrap();
        host.sh("for t in mangle nat filter; do iptables -t $t -N WEAVE-CANARY; done");
        host.sh("iptables -t nat -N WEAVE; iptables -t nat -A POSTROUTING -j WEAVE; iptables -t nat -A WEAVE -s 10.32.0.0/12 -j MASQUERADE");
        host.sh("iptables -N WEAVE-EXPOSE; iptables -A FORWARD -o weave -j WEAVE-EXPOSE; iptables -A FORWARD -i weave ! -o weave -j ACCEPT");
        host.sh("iptables -A INPUT -p tcp --dst 127.0.0.1 --dport 6784 -m addrtype ! --src-type LOCAL -m conntrack ! --ctstate RELATED,ESTABLISHED -m comment --comment \"Block non-local access to Weave Net control port\" -j DROP");
        host.sh("iptables -A FORWARD -i weave -s 10.9.9.9 -j DROP");
    }
    host.sh("ip link add keep type veth peer name kept");
    for _ in 0..2 {
        let errors = host.run(|| reset("weave", &["weft-tap"]));
        assert!(errors.is_empty(), "{errors:?}");
        assert_eq!(links(&host), ["keep", "kept"]);
        assert_eq!(links(&container), Vec::<String>::new());
        assert_eq!(container.sh("nft list ruleset"), "");
        assert!(!host.sh("nft list tables").contains("weft"));
    }
    if has_iptables {
        let left = host.sh("iptables -S; iptables -t nat -S; iptables -t mangle -S");
        assert!(!left.contains("WEAVE") && !left.contains("weft"), "{left}");
        assert!(
            left.contains("-s 10.9.9.9/32 -i weave -j DROP"),
            "users keep theirs: {left}"
        );
        assert_eq!(left.matches("-A ").count(), 1, "{left}");
    }
}
