//! Kernel tests of addresses as users ask for them: attach, detach, expose and hide in every form, what
//! is given back and when, the HTTP interface, and routes in the way.
//!
//! The numbers are those of spec/users.md. What needs Docker is left for the tests of the Docker edge:
//! 310 (an address outlives a restart of the engine), and of 140, 190, 195 and 660 the parts about
//! containers.

mod lab;

use std::process::Stdio;
use std::rc::Rc;

use lab::Lab;
use lab::host::{Container, Host};
use lab::patience::{holds_for, wait_for, wait_until};
use lab::ring::{Said, request};
use lab::traffic::{assert_no_pings, wait_ping};

/// A range and a smaller default subnet.
const RANGE: [&str; 4] = [
    "--ipalloc-range",
    "10.2.0.0/16",
    "--ipalloc-default-subnet",
    "10.2.1.0/24",
];
/// A network that never has a majority here.
const NO_MAJORITY: [&str; 4] = [
    "--ipalloc-range",
    "10.2.0.0/16",
    "--ipalloc-init",
    "consensus=3",
];

fn launched(lab: &Lab, arguments: &[&str]) -> Rc<Host> {
    let host = lab.host("a");
    host.launch(arguments);
    host
}

fn ask(host: &Host, method: &str, path: &str) -> Said {
    let answer = host.namespace.within(|| request(method, path));
    answer.expect("the daemon answers")
}

/// The addresses a container has on `ethwe`, with prefixes, in the order they were given.
fn addresses(container: &Container) -> Vec<String> {
    let shown = container.namespace.ip(&["-o", "-4", "addr", "show"]);
    let lines = shown.lines().filter(|line| line.contains(" ethwe "));
    lines
        .filter_map(|line| line.split_whitespace().nth(3).map(str::to_owned))
        .collect()
}

/// Who holds addresses, as the daemon says it.
fn holders(host: &Host) -> String {
    ask(host, "GET", "/ip").ok()
}

#[test]
fn many_forms_of_addresses_are_attached_and_detached_lowest_first() {
    // 500
    let Some(lab) = Lab::plain() else { return };
    let host = launched(&lab, &RANGE);
    let first = lab.container(&host, "first");
    assert_eq!(first.attach(&[]).trim_end(), "10.2.1.1");
    let mixed = [
        "net:default",
        "net:10.2.2.0/24",
        "ip:10.2.3.1/24",
        "10.2.4.1/24",
    ];
    let said = first.attach(&mixed);
    assert_eq!(said.trim_end(), "10.2.1.1 10.2.2.1 10.2.3.1 10.2.4.1");
    let all = ["10.2.1.1/24", "10.2.2.1/24", "10.2.3.1/24", "10.2.4.1/24"];
    assert_eq!(addresses(&first), all);
    let listed = first.weft("ps", &[]).ok();
    assert!(listed.trim_end().ends_with(&all.join(" ")), "{listed}");

    let said = first.detach(&["net:10.2.2.0/24", "10.2.3.1/24"]);
    assert_eq!(said.trim_end(), "10.2.2.1 10.2.3.1");
    assert_eq!(addresses(&first), ["10.2.1.1/24", "10.2.4.1/24"]);
    let second = lab.container(&host, "second");
    assert_eq!(second.attach(&["net:10.2.2.0/24"]).trim_end(), "10.2.2.1");
    assert_eq!(first.attach(&["net:10.2.2.0/24"]).trim_end(), "10.2.2.2");
    assert_eq!(first.detach(&[]).trim_end(), "10.2.1.1");
    assert_eq!(second.attach(&["net:default"]).trim_end(), "10.2.1.1");
}

#[test]
fn many_forms_of_addresses_are_exposed_and_hidden() {
    // 500
    let Some(lab) = Lab::plain() else { return };
    let host = launched(&lab, &RANGE);
    let expose = |words: &[&str]| {
        let said = host.weft(&[&["expose"], words].concat()).ok();
        said.trim_end().to_owned()
    };
    let hide = |words: &[&str]| {
        let said = host.weft(&[&["hide"], words].concat()).ok();
        said.trim_end().to_owned()
    };
    assert_eq!(expose(&[]), "10.2.1.1");
    assert_eq!(expose(&["net:default"]), "10.2.1.1");
    assert_eq!(
        expose(&["10.2.3.7/24", "net:10.2.2.0/24"]),
        "10.2.3.7 10.2.2.1"
    );
    let listed = host.weft(&["ps", "weave:expose"]).ok();
    for address in ["10.2.1.1/24", "10.2.3.7/24", "10.2.2.1/24"] {
        assert!(listed.contains(address), "{listed}");
    }
    assert_eq!(listed.split_whitespace().count(), 5, "{listed}");
    assert_eq!(
        hide(&["net:10.2.2.0/24", "ip:10.2.3.7/24"]),
        "10.2.2.1 10.2.3.7"
    );
    assert_eq!(hide(&["10.2.3.7/24"]), "10.2.3.7");
    assert_eq!(hide(&[]), "10.2.1.1");
    assert_eq!(hide(&[]), "");
    assert_eq!(holders(&host), "{\"owned\":null}\n");
}

#[test]
fn subnets_that_cannot_be_are_refused() {
    // 500
    let Some(lab) = Lab::plain() else { return };
    let host = launched(&lab, &RANGE);
    let container = lab.container(&host, "c");
    for (subnet, reason) in [
        (
            "net:10.2.2.1/24",
            "bits after network prefix are not all zero: 10.2.2.1/24",
        ),
        (
            "net:10.2.2.0/31",
            "smaller than minimum size 4: 10.2.2.0/31",
        ),
        (
            "net:10.9.0.0/24",
            "range 10.9.0.0/24 out of bounds: 10.2.0.0/16",
        ),
        ("net:nonsense", "invalid CIDR address: nonsense"),
        ("10.2.2.300/24", "invalid CIDR address: 10.2.2.300/24"),
    ] {
        for answer in [
            container.weft("attach", &["10.2.7.7/24", subnet]),
            host.weft(&["expose", subnet]),
        ] {
            assert_eq!(answer.code, 1, "{subnet}: {answer:?}");
            assert!(answer.err.contains(reason), "{subnet}: {answer:?}");
        }
    }
    assert_eq!(addresses(&container), Vec::<String>::new());
    assert_eq!(holders(&host), "{\"owned\":null}\n");
}

#[test]
fn detach_and_hide_never_wait_for_other_peers() {
    // 510
    let Some(lab) = Lab::plain() else { return };
    let host = launched(&lab, &NO_MAJORITY);
    let container = lab.container(&host, "c");
    container.attach(&["10.9.0.1/24"]);
    assert_eq!(container.detach(&[]).trim_end(), "");
    assert_eq!(container.detach(&["net:10.2.2.0/24"]).trim_end(), "");
    assert_eq!(container.detach(&["10.9.0.1/24"]).trim_end(), "10.9.0.1");
    host.weft(&["expose", "10.9.0.9/24"]).ok();
    assert_eq!(host.weft(&["hide"]).ok().trim_end(), "");
    assert_eq!(
        host.weft(&["hide", "10.9.0.9/24"]).ok().trim_end(),
        "10.9.0.9"
    );
    assert_eq!(holders(&host), "{\"owned\":null}\n");
}

#[test]
fn automatic_and_chosen_addresses_mix() {
    // F8
    let Some(lab) = Lab::plain() else { return };
    let hosts = lab.hosts(["a", "b"]);
    let arguments = [
        "--ipalloc-range",
        "10.2.3.0/24",
        "--ipalloc-default-subnet",
        "10.2.0.0/16",
    ];
    hosts[0].launch(&arguments);
    hosts[1].launch(&[&arguments[..], &[&hosts[0].address(0)]].concat());
    hosts.iter().for_each(|host| host.wait_established(1));
    let chosen = lab.attached(&hosts[0], "chosen", &["10.2.9.9/16"]);
    let automatic = lab.container(&hosts[1], "automatic");
    let address = automatic.attach(&["--wait"]).trim_end().to_owned();
    assert!(address.starts_with("10.2.3."), "{address}");
    assert_eq!(addresses(&automatic), [format!("{address}/16")]);
    wait_ping(&chosen.namespace, &address);
    wait_ping(&automatic.namespace, "10.2.9.9");
}

#[test]
fn an_address_that_is_taken_is_refused_on_every_host() {
    // F9
    let Some(lab) = Lab::plain() else { return };
    let hosts = lab.hosts(["a", "b"]);
    hosts[0].launch(&RANGE);
    hosts[1].launch(&[&RANGE[..], &[&hosts[0].address(0)]].concat());
    hosts.iter().for_each(|host| host.wait_established(1));
    hosts[0].weft(&["prime"]).ok();
    let first = lab.attached(&hosts[0], "first", &["10.2.5.5/24"]);
    assert_eq!(addresses(&first), ["10.2.5.5/24"]);
    let near = lab.container(&hosts[0], "near");
    let answer = near.weft("attach", &["10.2.5.5/24"]);
    assert_eq!(answer.code, 1, "{answer:?}");
    let expected = format!(
        "address 10.2.5.5/24 is already owned by netns:{}",
        first.namespace.name()
    );
    assert!(answer.err.contains(&expected), "{answer:?}");
    let far = lab.container(&hosts[1], "far");
    let answer = far.weft("attach", &["net:default", "10.2.5.5/24"]);
    assert_eq!(answer.code, 1, "{answer:?}");
    let expected = "address 10.2.5.5/24 is owned by other peer 00:00:00:00:00:01(a)";
    assert!(
        answer.err.replace(" (a)", "(a)").contains(expected),
        "{answer:?}"
    );
    assert_eq!(addresses(&far), Vec::<String>::new());
    assert_eq!(holders(&hosts[1]), "{\"owned\":null}\n");
}

#[test]
fn subnets_span_hosts_and_do_not_mix() {
    // F11
    let Some(lab) = Lab::plain() else { return };
    let hosts = lab.hosts(["a", "b"]);
    hosts[0].launch(&RANGE);
    hosts[1].launch(&[&RANGE[..], &[&hosts[0].address(0)]].concat());
    hosts.iter().for_each(|host| host.wait_established(1));
    let give = |host: usize, subnet: &str| {
        let name = format!("{host}-{}", &subnet[9..10]);
        let container = lab.container(&hosts[host], &name);
        let address = container.attach(&["--wait", subnet]).trim_end().to_owned();
        (container, address)
    };
    let (two_here, two_here_address) = give(0, "net:10.2.2.0/24");
    let (two_there, two_there_address) = give(1, "net:10.2.2.0/24");
    let (three_here, three_here_address) = give(0, "net:10.2.3.0/24");
    let (three_there, three_there_address) = give(1, "net:10.2.3.0/24");
    wait_ping(&two_here.namespace, &two_there_address);
    wait_ping(&two_there.namespace, &two_here_address);
    wait_ping(&three_here.namespace, &three_there_address);
    wait_ping(&three_there.namespace, &three_here_address);
    assert_no_pings(&two_here.namespace, &three_here_address);
    assert_no_pings(&two_here.namespace, &three_there_address);
}

#[test]
fn an_address_that_is_used_again_is_reached_at_once() {
    // 300
    let Some(lab) = Lab::plain() else { return };
    let host = launched(&lab, &RANGE);
    let watcher = lab.attached(&host, "watcher", &[]);
    let before = lab.container(&host, "before");
    let address = before.attach(&[]).trim_end().to_owned();
    wait_ping(&watcher.namespace, &address);
    assert_eq!(before.detach(&[]).trim_end(), address);
    let after = lab.container(&host, "after");
    assert_eq!(after.attach(&[]).trim_end(), address);
    lab::traffic::assert_pings(&watcher.namespace, &address);
}

#[test]
fn an_address_is_not_given_twice_to_one_interface() {
    let Some(lab) = Lab::plain() else { return };
    let host = launched(&lab, &["--ipalloc-range", "10.2.0.0/16"]);
    let container = lab.container(&host, "c");
    assert_eq!(
        container.attach(&["net:10.2.4.0/24"]).trim_end(),
        "10.2.4.1"
    );
    assert_eq!(container.attach(&["net:default"]).trim_end(), "10.2.4.1");
    assert_eq!(addresses(&container), ["10.2.4.1/24"]);
    // The same namespace by other words.
    let path = format!("/run/netns/{}", container.namespace.name());
    let said = host.weft(&["attach", "--netns", &path, "net:10.2.4.0/24"]);
    assert_eq!(said.ok().trim_end(), "10.2.4.1");
}

#[test]
fn what_could_not_be_plugged_in_is_given_back() {
    let Some(lab) = Lab::plain() else { return };
    let host = launched(&lab, &RANGE);
    let container = lab.container(&host, "c");
    let foreign = [
        "link", "add", "ethwe", "type", "veth", "peer", "name", "other",
    ];
    container.namespace.ip(&foreign);
    let answer = container.weft("attach", &["net:default", "10.2.7.7/24", "10.9.0.1/24"]);
    assert_eq!(answer.code, 1, "{answer:?}");
    assert!(answer.err.contains("not attached to weave"), "{answer:?}");
    assert_eq!(holders(&host), "{\"owned\":null}\n");
}

#[test]
fn a_caller_that_goes_away_takes_its_request_back() {
    let Some(lab) = Lab::plain() else { return };
    let host = launched(&lab, &["--ipalloc-range", "10.2.0.0/30"]);
    let full = lab.container(&host, "full");
    full.attach(&[]);
    let other = lab.attached(&host, "other", &[]);
    let waiting = || {
        let answer = host.weft(&["report", "-f", "{{json .IPAM.PendingAllocates}}"]);
        answer.ok().trim().to_owned()
    };
    let container = lab.container(&host, "c");
    let mut caller = host
        .command()
        .args(["attach", "--wait", "10.9.0.1/24", "net:default", "--netns"])
        .arg(container.namespace.name())
        .stdin(Stdio::null())
        .spawn()
        .expect("the binary runs");
    wait_until("the request to wait", || waiting() != "null");
    assert!(holders(&host).contains("10.9.0.1/24"));
    caller.kill().expect("it is ours");
    caller.wait().expect("it is ours");
    wait_until("the request to be gone", || waiting() == "null");
    wait_until("what it had got to be given back", || {
        !holders(&host).contains("10.9.0.1/24")
    });
    // Nobody takes the place of one who left.
    other.detach(&[]);
    assert_eq!(addresses(&container), Vec::<String>::new());
}

#[test]
fn who_cannot_be_served_is_told_why_and_may_wait() {
    let Some(lab) = Lab::plain() else { return };
    let host = launched(&lab, &["--ipalloc-range", "10.2.0.0/30"]);
    let first = lab.attached(&host, "first", &[]);
    let _second = lab.attached(&host, "second", &[]);
    let third = lab.container(&host, "third");
    let answer = third.weft("attach", &[]);
    assert_eq!(answer.code, 1, "{answer:?}");
    assert!(answer.err.contains("space exhausted"), "{answer:?}");
    assert!(answer.err.contains("--wait"), "{answer:?}");
    let mut caller = host
        .command()
        .args(["attach", "--wait", "--netns", third.namespace.name()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("the binary runs");
    holds_for(std::time::Duration::from_secs(6), "waiting", || {
        matches!(caller.try_wait(), Ok(None))
    });
    first.detach(&[]);
    assert!(caller.wait().expect("it is ours").success());
    assert_eq!(addresses(&third), ["10.2.0.1/30"]);
}

#[test]
fn addresses_of_a_namespace_that_is_gone_are_given_back() {
    let Some(lab) = Lab::plain() else { return };
    let host = launched(&lab, &RANGE);
    let stays = lab.attached(&host, "stays", &[]);
    let goes = lab.attached(&host, "goes", &[]);
    let ident = format!("netns:{}", goes.namespace.name());
    assert!(holders(&host).contains(&ident));
    drop(goes);
    wait_until("its address to be given back", || {
        !holders(&host).contains(&ident)
    });
    assert_eq!(addresses(&stays), ["10.2.1.1/24"]);
    assert!(holders(&host).contains("10.2.1.1/24"));
}

#[test]
fn the_http_interface_is_the_originals() {
    let Some(lab) = Lab::plain() else { return };
    let host = launched(&lab, &RANGE);
    let said = |method: &str, path: &str| {
        let said = ask(&host, method, path);
        (said.status, said.body)
    };
    let ok = |body: &str| (200, body.to_owned());
    let bad = |body: &str| (400, format!("{body}\n"));
    let nothing = |status: u16| (status, String::new());
    assert_eq!(said("GET", "/ipinfo/defaultsubnet"), ok("10.2.1.0/24"));
    assert_eq!(said("GET", "/ipinfo/tracker"), ok("\n"));
    assert_eq!(said("GET", "/ip"), ok("{\"owned\":null}\n"));
    assert_eq!(said("GET", "/ring"), nothing(200));
    assert_eq!(said("POST", "/ip/one"), ok("10.2.1.1/24"));
    assert_eq!(said("POST", "/ip/one"), ok("10.2.1.1/24"));
    assert_eq!(said("POST", "/ip/one/10.2.2.0/24"), ok("10.2.2.1/24"));
    assert_eq!(said("GET", "/ip/one"), ok("10.2.1.1/24"));
    assert_eq!(said("GET", "/ip/one/10.2.2.0/24"), ok("10.2.2.1/24"));
    assert_eq!(said("GET", "/ip/two"), ok(""));
    let owned =
        "{\"owned\":[{\"containerid\":\"one\",\"addrs\":[\"10.2.1.1/24\",\"10.2.2.1/24\"]}]}\n";
    assert_eq!(said("GET", "/ip"), ok(owned));
    assert_eq!(said("PUT", "/ip/two/10.2.1.9/24"), nothing(204));
    assert_eq!(
        said("PUT", "/ip/three/10.2.1.9/24"),
        bad("Unable to claim: address 10.2.1.9/24 is already owned by two")
    );
    assert_eq!(
        said("POST", "/ip/one/10.200.0.0/24"),
        bad("range 10.200.0.0/24 out of bounds: 10.2.0.0/16")
    );
    assert_eq!(said("DELETE", "/ip/one/10.2.2.1"), nothing(204));
    assert_eq!(
        said("DELETE", "/ip/one/10.2.2.1"),
        bad("Unable to free: Free: address 10.2.2.1 not found for one")
    );
    assert_eq!(said("DELETE", "/ip/one/xx"), bad("invalid IP Address: xx"));
    assert_eq!(said("DELETE", "/ip/one"), nothing(204));
    assert_eq!(
        said("DELETE", "/ip/one"),
        bad("Delete: no addresses for one")
    );
    assert_eq!(said("POST", "/ring"), nothing(405));
    assert_eq!(said("PUT", "/ip/one"), nothing(405));
    assert_eq!(
        said("DELETE", "/peer/nobody"),
        ok("0 IPs taken over from nobody\n")
    );
    assert_eq!(said("DELETE", "/peer"), nothing(204));
}

#[test]
fn without_allocation_its_routes_are_unknown() {
    let Some(lab) = Lab::plain() else { return };
    let host = launched(&lab, &["--ipalloc-range", ""]);
    for (method, path) in [
        ("GET", "/ipinfo/defaultsubnet"),
        ("GET", "/ipinfo/tracker"),
        ("GET", "/ring"),
        ("GET", "/ip"),
        ("POST", "/ip/one"),
        ("POST", "/ip/one/10.2.2.0/33"),
        ("PUT", "/ip/one/10.2.2.1/24"),
        ("DELETE", "/ip/one"),
        ("GET", "/status/ipam"),
    ] {
        assert_eq!(ask(&host, method, path).status, 404, "{method} {path}");
    }
    assert_eq!(ask(&host, "DELETE", "/peer").status, 204);
    let removed = ask(&host, "DELETE", "/peer/b");
    assert_eq!((removed.status, removed.body.as_str()), (200, ""));
    assert_eq!(host.weft(&["status", "ipam"]).code, 4);
    assert_eq!(host.weft(&["prime"]).code, 4);
    let container = lab.container(&host, "c");
    let answer = container.weft("attach", &["net:default"]);
    assert_eq!(answer.code, 1, "{answer:?}");
    assert!(
        answer.err.contains("must be enabled to use 'net:'"),
        "{answer:?}"
    );
    container.attach(&["10.2.1.1/24", "10.2.2.1/24"]);
    assert_eq!(container.detach(&[]).trim_end(), "10.2.1.1 10.2.2.1");
}

#[test]
fn a_route_in_the_way_is_named_before_launch() {
    let Some(lab) = Lab::plain() else { return };
    let host = lab.host("a");
    lab.network("192.168.77", &[&host]);
    host.namespace
        .ip(&["route", "add", "10.40.0.0/16", "dev", "eth0"]);
    let answer = host.try_launch(&[]);
    assert_eq!(answer.code, 1, "{answer:?}");
    for part in ["10.32.0.0/12", "10.40.0.0/16 on eth0", "10.48.0.0/12"] {
        assert!(answer.err.contains(part), "{answer:?}");
    }
    let answer = host.try_launch(&["--ipalloc-range", "10.40.0.0/16"]);
    assert!(answer.err.contains("WARNING"), "{answer:?}");
    answer.ok();
    let container = lab.container(&host, "c");
    let answer = container.weft("attach", &["10.40.3.3/24"]);
    assert!(
        answer
            .err
            .contains("overlaps with existing route 10.40.0.0/16 on eth0"),
        "{answer:?}"
    );
    answer.ok();
}

#[test]
fn prime_tells_why_it_waits() {
    let Some(lab) = Lab::plain() else { return };
    let host = launched(&lab, &NO_MAJORITY);
    let log = host.path("prime.txt");
    let file = std::fs::File::create(&log).expect("the lab's directory is writable");
    let mut prime = host
        .command()
        .arg("prime")
        .stdin(Stdio::null())
        .stderr(file)
        .spawn()
        .expect("the binary runs");
    wait_for("a reason", || {
        let told = std::fs::read_to_string(&log).unwrap_or_default();
        if told.starts_with("waiting: no majority") {
            Ok(())
        } else {
            Err(told)
        }
    });
    assert!(matches!(prime.try_wait(), Ok(None)));
    prime.kill().expect("it is ours");
    prime.wait().expect("it is ours");
}
