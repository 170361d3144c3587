//! Kernel tests of the host's side: attach, detach, expose, hide, ps, and what they answer.

mod lab;

use std::rc::Rc;

use lab::Lab;
use lab::host::Host;
use lab::traffic::{assert_no_pings, wait_ping};

fn launched(lab: &Lab) -> Rc<Host> {
    let host = lab.host("a");
    host.launch(&[]);
    host
}

#[test]
fn attach_gives_addresses_and_says_which() {
    let Some(lab) = Lab::plain() else { return };
    let host = launched(&lab);
    let container = lab.container(&host, "c");
    let said = container.attach(&["10.32.0.1/24", "10.33.0.1/16"]);
    assert_eq!(said.trim_end(), "10.32.0.1 10.33.0.1");
    let shown = container
        .namespace
        .ip(&["-o", "-4", "addr", "show", "dev", "ethwe"]);
    assert!(
        shown.contains("10.32.0.1/24") && shown.contains("10.33.0.1/16"),
        "{shown}"
    );
    let link = container.namespace.ip(&["link", "show", "dev", "ethwe"]);
    assert!(link.contains("mtu 1376") && link.contains("UP"), "{link}");
    let routes = container.namespace.ip(&["route", "show"]);
    assert!(routes.contains("224.0.0.0/4 dev ethwe"), "{routes}");
}

#[test]
fn attach_again_adds_what_is_missing() {
    let Some(lab) = Lab::plain() else { return };
    let host = launched(&lab);
    let container = lab.attached(&host, "c", &["10.32.0.1/24"]);
    container.attach(&["10.32.0.1/24"]);
    container.attach(&["10.33.0.1/24"]);
    let shown = container
        .namespace
        .ip(&["-o", "-4", "addr", "show", "dev", "ethwe"]);
    assert_eq!(shown.lines().count(), 2, "{shown}");
}

#[test]
fn attach_without_the_multicast_route_leaves_it_out() {
    let Some(lab) = Lab::plain() else { return };
    let host = launched(&lab);
    let container = lab.container(&host, "c");
    container
        .weft("attach", &["--no-multicast-route", "10.32.0.1/24"])
        .ok();
    let routes = container.namespace.ip(&["route", "show"]);
    assert!(!routes.contains("224.0.0.0/4"), "{routes}");
}

#[test]
fn attach_takes_a_process_id() {
    let Some(lab) = Lab::plain() else { return };
    let host = launched(&lab);
    let container = lab.container(&host, "c");
    let mut sleeper = container
        .namespace
        .entered("sleep")
        .arg("600")
        .spawn()
        .expect("sleep runs");
    lab::patience::wait_until("the process to be inside", || {
        !container.namespace.pids().is_empty()
    });
    let pid = sleeper.id().to_string();
    host.weft(&["attach", "10.32.0.1/24", "--pid", &pid]).ok();
    let shown = container
        .namespace
        .ip(&["-o", "-4", "addr", "show", "dev", "ethwe"]);
    assert!(shown.contains("10.32.0.1/24"), "{shown}");
    sleeper.kill().expect("it is ours");
    sleeper.wait().expect("it is ours");
}

#[test]
fn attach_takes_the_path_of_a_namespace() {
    let Some(lab) = Lab::plain() else { return };
    let host = launched(&lab);
    let container = lab.container(&host, "c");
    let path = format!("/run/netns/{}", container.namespace.name());
    host.weft(&["attach", "10.32.0.1/24", "--netns", &path])
        .ok();
    assert_eq!(container.namespace.interfaces("ethwe"), ["ethwe"]);
}

#[test]
fn a_refused_attach_leaves_nothing_behind() {
    let Some(lab) = Lab::plain() else { return };
    let host = launched(&lab);
    let before = host.namespace.interfaces("veth");
    let container = lab.container(&host, "c");
    for addresses in [
        &["10.32.0.1/33"][..],
        &["nonsense"],
        &["10.32.0.300/24"],
        &["fe80::1/64"],
    ] {
        let answer = container.weft("attach", addresses);
        assert_eq!(answer.code, 1, "{addresses:?}: {answer:?}");
        assert!(!answer.err.trim().is_empty());
    }
    let answer = host.weft(&[
        "attach",
        "10.32.0.1/24",
        "--netns",
        "there-is-no-such-namespace",
    ]);
    assert_eq!(answer.code, 1, "{answer:?}");
    assert!(
        answer.err.contains("there-is-no-such-namespace"),
        "{answer:?}"
    );
    assert_eq!(host.namespace.interfaces("veth"), before);
    assert_eq!(
        container.namespace.interfaces("ethwe"),
        Vec::<String>::new()
    );
}

#[test]
fn the_network_of_the_host_itself_is_not_attached() {
    let Some(lab) = Lab::plain() else { return };
    let host = launched(&lab);
    let answer = host.weft(&["attach", "10.32.0.1/24", "--netns", host.namespace.name()]);
    assert_eq!(answer.code, 1, "{answer:?}");
    assert!(answer.err.contains("host network namespace"), "{answer:?}");
}

#[test]
fn attach_without_a_daemon_says_so() {
    let Some(lab) = Lab::plain() else { return };
    let host = lab.host("a");
    let container = lab.container(&host, "c");
    let answer = container.weft("attach", &["10.32.0.1/24"]);
    assert_ne!(answer.code, 0, "{answer:?}");
    assert!(answer.err.contains("launch"), "{answer:?}");
}

#[test]
fn detach_removes_addresses_and_with_the_last_the_interface() {
    let Some(lab) = Lab::plain() else { return };
    let host = launched(&lab);
    let ports = host.namespace.interfaces("vethwepl").len();
    let container = lab.attached(&host, "c", &["10.32.0.1/24", "10.33.0.1/24"]);
    assert_eq!(host.namespace.interfaces("vethwepl").len(), ports + 1);
    assert_eq!(container.detach(&["10.32.0.1/24"]).trim_end(), "10.32.0.1");
    let shown = container
        .namespace
        .ip(&["-o", "-4", "addr", "show", "dev", "ethwe"]);
    assert!(
        shown.contains("10.33.0.1/24") && !shown.contains("10.32.0.1"),
        "{shown}"
    );
    container.detach(&["10.33.0.1/24"]);
    assert_eq!(
        container.namespace.interfaces("ethwe"),
        Vec::<String>::new()
    );
    assert_eq!(host.namespace.interfaces("vethwepl").len(), ports);
}

#[test]
fn an_exposed_host_reaches_containers_until_it_hides() {
    let Some(lab) = Lab::plain() else { return };
    let hosts = lab.hosts(["a", "b"]);
    hosts[0].launch(&[]);
    hosts[1].join(&[&hosts[0]]);
    hosts.iter().for_each(|host| host.wait_established(1));
    let near = lab.attached(&hosts[0], "near", &["10.32.0.1/24"]);
    let _far = lab.attached(&hosts[1], "far", &["10.32.0.2/24"]);
    assert_eq!(
        hosts[0].weft(&["expose", "10.32.0.100/24"]).ok().trim_end(),
        "10.32.0.100"
    );
    hosts[0].weft(&["expose", "10.32.0.100/24"]).ok();
    wait_ping(&hosts[0].namespace, "10.32.0.1");
    wait_ping(&hosts[0].namespace, "10.32.0.2");
    wait_ping(&near.namespace, "10.32.0.100");
    assert_eq!(
        hosts[0].weft(&["hide", "10.32.0.100/24"]).ok().trim_end(),
        "10.32.0.100"
    );
    hosts[0].weft(&["hide", "10.32.0.100/24"]).ok();
    assert_no_pings(&near.namespace, "10.32.0.100");
}

#[test]
fn ps_lists_what_is_attached() {
    let Some(lab) = Lab::plain() else { return };
    let host = launched(&lab);
    let container = lab.attached(&host, "c", &["10.32.0.1/24"]);
    host.weft(&["expose", "10.32.0.100/24"]).ok();
    let listed = host.weft(&["ps"]).ok();
    let bridge = listed
        .lines()
        .find(|line| line.starts_with("weave:expose"))
        .expect("the bridge");
    assert!(bridge.ends_with(" 10.32.0.100/24"), "{bridge}");
    let one = container.weft("ps", &[]).ok();
    let mac = container
        .namespace
        .ip(&["-o", "link", "show", "dev", "ethwe"]);
    let mac = mac
        .split("link/ether ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next());
    assert!(one.contains(mac.expect("an interface has a MAC")), "{one}");
    assert!(one.trim_end().ends_with(" 10.32.0.1/24"), "{one}");
}
