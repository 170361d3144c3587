//! Kernel tests of rings of addresses over several hosts: how they come into being, what happens to
//! the share of a host that leaves, dies or comes back, and what a restart keeps.
//!
//! The numbers are those of spec/users.md, part 2, and F7 to F13 of part 1a; `netns_addresses` has the
//! rest of them. F13 (hundreds of hosts) is simulated. 310 needs Docker and is left for the tests of the
//! Docker edge.

mod lab;

use std::collections::BTreeSet;
use std::process::{Child, Stdio};
use std::rc::Rc;
use std::time::Duration;

use lab::Lab;
use lab::host::{Container, Host};
use lab::patience::{Stopwatch, holds_for, wait_for, wait_until};
use lab::ring::request;
use lab::traffic::wait_ping;

const RANGE: [&str; 2] = ["--ipalloc-range", "10.2.0.0/16"];
/// Longest wait that users of the original were promised (spec/users.md 330).
const PROMPT: Duration = Duration::from_secs(10);

/// Launches with the range, further arguments, and peers.
fn launch(host: &Host, arguments: &[&str], peers: &[&Rc<Host>]) {
    let peers: Vec<String> = peers.iter().map(|peer| peer.address(0)).collect();
    let peers: Vec<&str> = peers.iter().map(String::as_str).collect();
    host.launch(&[&RANGE[..], arguments, &peers].concat());
}

/// Two hosts that know each other and have a ring.
fn pair(lab: &Lab) -> [Rc<Host>; 2] {
    let hosts = lab.hosts(["a", "b"]);
    launch(&hosts[0], &["--ipalloc-init", "consensus=2"], &[]);
    launch(&hosts[1], &["--ipalloc-init", "consensus=2"], &[&hosts[0]]);
    hosts.iter().for_each(|host| host.wait_established(1));
    hosts[0].weft(&["prime"]).ok();
    hosts[1].weft(&["prime"]).ok();
    hosts
}

/// Attaches without an address, waiting for one; returns it.
fn attach(container: &Container) -> String {
    container.attach(&["--wait"]).trim_end().to_owned()
}

fn ask(host: &Host, method: &str, path: &str) -> (u16, String) {
    let answer = host.namespace.within(|| request(method, path));
    let answer = answer.expect("the daemon answers");
    (answer.status, answer.body)
}

fn holders(host: &Host) -> String {
    ask(host, "GET", "/ip").1
}

/// An attach that waits in the background.
fn attach_behind(container: &Container) -> Child {
    container
        .host()
        .command()
        .args(["attach", "--wait", "--netns", container.namespace.name()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("the binary runs")
}

fn log(host: &Host) -> String {
    std::fs::read_to_string(host.path("run").join("weft.log")).unwrap_or_default()
}

/// Stops a daemon and makes it forget everything.
fn stop_and_forget(host: &Host) {
    host.weft(&["stop"]).ok();
    let state = host.path("state");
    std::fs::remove_dir_all(&state).expect("it is there");
    std::fs::create_dir_all(&state).expect("the lab's directory is writable");
}

/// How much of the ring a peer owns by the word of a host.
fn share(host: &Host, of: &Host) -> u64 {
    let status = host.status("ipam");
    let line = status
        .lines()
        .find(|line| line.starts_with(&of.peer_name()));
    let count = line.and_then(|line| line.split(')').nth(1)?.split_whitespace().next());
    count.and_then(|count| count.parse().ok()).unwrap_or(0)
}

#[test]
fn containers_on_all_hosts_get_addresses_of_their_own() {
    // F7
    let Some(lab) = Lab::plain() else { return };
    let hosts = lab.hosts(["a", "b", "c"]);
    launch(&hosts[0], &[], &[]);
    launch(&hosts[1], &[], &[&hosts[0]]);
    launch(&hosts[2], &[], &[&hosts[0]]);
    hosts.iter().for_each(|host| host.wait_established(2));
    let mut containers = Vec::new();
    let mut given = BTreeSet::new();
    for round in 0..4 {
        for host in &hosts {
            let container = lab.container(host, &format!("c{round}"));
            let address = attach(&container);
            assert!(address.starts_with("10.2."), "{address}");
            assert!(given.insert(address.clone()), "{address} was given twice");
            containers.push((container, address));
        }
    }
    let (first, _) = &containers[0];
    let (_, last) = &containers[containers.len() - 1];
    wait_ping(&first.namespace, last);
}

#[test]
fn a_host_that_joins_late_gets_a_share() {
    // F10
    let Some(lab) = Lab::plain() else { return };
    let hosts = lab.hosts(["a", "b", "c"]);
    let seed = ["--ipalloc-init", "seed=::1,::2"];
    launch(&hosts[0], &seed, &[]);
    launch(&hosts[1], &seed, &[&hosts[0]]);
    hosts[0].wait_established(1);
    assert_eq!(share(&hosts[0], &hosts[0]), 32_768);
    assert_eq!(share(&hosts[0], &hosts[1]), 32_768);
    launch(&hosts[2], &[], &[&hosts[0]]);
    let watch = Stopwatch::start();
    attach(&lab.container(&hosts[2], "c"));
    assert!(watch.elapsed() < PROMPT, "{:?}", watch.elapsed());
}

#[test]
fn one_host_may_use_everything() {
    // F12
    let Some(lab) = Lab::plain() else { return };
    let hosts = lab.hosts(["a", "b"]);
    let small = ["--ipalloc-range", "10.2.0.0/28"];
    let seed = ["--ipalloc-init", "seed=::1,::2"];
    launch(&hosts[0], &[small, seed].concat(), &[]);
    launch(&hosts[1], &[small, seed].concat(), &[&hosts[0]]);
    hosts.iter().for_each(|host| host.wait_established(1));
    let given: BTreeSet<String> = (0..14)
        .map(|number| ask(&hosts[0], "POST", &format!("/ip/c{number}?wait=true")).1)
        .collect();
    let all: BTreeSet<String> = (1..15).map(|n| format!("10.2.0.{n}/28")).collect();
    assert_eq!(given, all);
    let (status, reason) = ask(&hosts[0], "POST", "/ip/more");
    assert_eq!(status, 503, "{reason}");
    assert!(
        reason.contains("space exhausted in 10.2.0.0/28"),
        "{reason}"
    );
}

#[test]
fn addresses_in_use_are_claimed_from_a_host_that_divided_the_range_anew() {
    // 320
    let Some(lab) = Lab::plain() else { return };
    let hosts = lab.hosts(["a", "b"]);
    launch(&hosts[0], &["--ipalloc-init", "consensus=1"], &[]);
    let old = lab.container(&hosts[0], "old");
    assert_eq!(attach(&old), "10.2.0.1");
    stop_and_forget(&hosts[0]);
    launch(&hosts[1], &["--ipalloc-init", "consensus=1"], &[]);
    hosts[1].weft(&["prime"]).ok();
    launch(&hosts[0], &["--ipalloc-init", "observer"], &[&hosts[1]]);
    let ident = format!(
        "\"netns:{}\",\"addrs\":[\"10.2.0.1/16\"]",
        old.namespace.name()
    );
    wait_until("the address to be claimed", || {
        holders(&hosts[0]).contains(&ident)
    });
    for (host, name) in [(&hosts[0], "new"), (&hosts[1], "new"), (&hosts[1], "newer")] {
        let container = lab.container(host, name);
        assert_ne!(attach(&container), "10.2.0.1");
        wait_ping(&container.namespace, "10.2.0.1");
    }
}

#[test]
fn a_claim_waits_for_the_owner_and_one_outside_the_range_for_nobody() {
    // 320
    let Some(lab) = Lab::plain() else { return };
    let hosts = ["a", "b"].map(|name| lab.host(name));
    let cables = lab.network("192.168.77", &[&hosts[0], &hosts[1]]);
    launch(&hosts[1], &["--ipalloc-init", "consensus=1"], &[]);
    hosts[1].weft(&["prime"]).ok();
    launch(&hosts[0], &["--ipalloc-init", "observer"], &[&hosts[1]]);
    let container = lab.container(&hosts[0], "c");
    wait_until("the ring to be known", || share(&hosts[0], &hosts[1]) > 0);
    cables[1].cut();
    let claim = |words: &[&str]| container.weft("claim", words);
    assert_eq!(claim(&["10.9.0.1/24"]).ok().trim_end(), "10.9.0.1");
    let answer = claim(&["10.2.0.9/16"]);
    assert_eq!(answer.code, 1, "{answer:?}");
    assert!(answer.err.contains("owned by other peer"), "{answer:?}");
    let mut waiting = hosts[0]
        .command()
        .args(["claim", "--wait", "10.2.0.9/16", "--netns"])
        .arg(container.namespace.name())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("the binary runs");
    holds_for(Duration::from_secs(3), "waiting", || {
        matches!(waiting.try_wait(), Ok(None))
    });
    cables[1].heal();
    assert!(waiting.wait().expect("it is ours").success());
    assert!(holders(&hosts[0]).contains("10.2.0.9/16"));
}

#[test]
fn a_host_that_is_reset_hands_its_addresses_on() {
    // 330
    let Some(lab) = Lab::plain() else { return };
    let hosts = pair(&lab);
    for (leaving, staying) in [(0, 1), (1, 0)] {
        let (leaving, staying) = (&hosts[leaving], &hosts[staying]);
        attach(&lab.container(leaving, "short"));
        leaving.weft(&["reset"]).ok();
        wait_until("everything to be the other's", || {
            share(staying, staying) == 65_536
        });
        let watch = Stopwatch::start();
        attach(&lab.container(staying, &format!("by-{}", staying.name())));
        assert!(watch.elapsed() < PROMPT, "{:?}", watch.elapsed());
        for part in ["state", "run"] {
            std::fs::create_dir_all(leaving.path(part)).expect("the lab's directory is writable");
        }
        launch(leaving, &[], &[staying]);
        leaving.wait_established(1);
        let watch = Stopwatch::start();
        attach(&lab.container(leaving, "again"));
        assert!(watch.elapsed() < PROMPT, "{:?}", watch.elapsed());
    }
}

#[test]
fn the_share_of_a_dead_host_can_be_taken_over() {
    // 335
    let Some(lab) = Lab::plain() else { return };
    let hosts = lab.hosts(["a", "b", "c"]);
    let seed = ["--ipalloc-init", "seed=::1"];
    launch(&hosts[0], &seed, &[]);
    launch(&hosts[1], &seed, &[&hosts[0]]);
    launch(&hosts[2], &seed, &[&hosts[0], &hosts[1]]);
    hosts.iter().for_each(|host| host.wait_established(2));
    assert_eq!(share(&hosts[1], &hosts[0]), 65_536);
    hosts[0].kill_everything();
    hosts[1].wait_peers(2);
    let container = lab.container(&hosts[1], "c");
    let answer = container.weft("attach", &[]);
    assert_eq!(answer.code, 1, "{answer:?}");
    assert!(answer.err.contains("(a) 6"), "{answer:?}");
    assert!(hosts[1].status("ipam").contains("- unreachable!"));
    let said = hosts[1].weft(&["rmpeer", "a"]).ok();
    assert_eq!(said, "65536 IPs taken over from a\n");
    let said = hosts[2].weft(&["rmpeer", "a", "nobody"]).ok();
    assert!(said.ends_with("0 IPs taken over from nobody\n"), "{said}");
    let watch = Stopwatch::start();
    let first = attach(&container);
    let second = attach(&lab.container(&hosts[2], "c"));
    assert_ne!(first, second);
    assert!(watch.elapsed() < PROMPT, "{:?}", watch.elapsed());
}

#[test]
fn observers_do_not_vote() {
    // 340
    let Some(lab) = Lab::plain() else { return };
    let hosts = lab.hosts(["a", "b", "c"]);
    launch(&hosts[0], &["--ipalloc-init", "consensus=2"], &[]);
    launch(&hosts[1], &["--ipalloc-init", "observer"], &[&hosts[0]]);
    hosts[0].wait_established(1);
    let container = lab.container(&hosts[0], "c");
    let answer = container.weft("attach", &[]);
    assert_eq!(answer.code, 1, "{answer:?}");
    assert!(answer.err.contains("no majority: 1 of 2"), "{answer:?}");
    let mut waiting = attach_behind(&container);
    holds_for(Duration::from_secs(3), "waiting", || {
        matches!(waiting.try_wait(), Ok(None))
    });
    launch(&hosts[2], &["--ipalloc-init", "consensus=2"], &[&hosts[0]]);
    assert!(waiting.wait().expect("it is ours").success());
}

#[test]
fn an_observer_that_asks_calls_an_election() {
    // 350
    let Some(lab) = Lab::plain() else { return };
    let hosts = lab.hosts(["a", "b", "c"]);
    launch(&hosts[0], &["--ipalloc-init", "consensus=2"], &[]);
    launch(&hosts[1], &["--ipalloc-init", "consensus=2"], &[&hosts[0]]);
    launch(&hosts[2], &["--ipalloc-init", "observer"], &[&hosts[0]]);
    hosts.iter().for_each(|host| host.wait_established(2));
    for host in &hosts {
        assert_eq!(host.status("ipam"), "", "{}", host.name());
    }
    let address = attach(&lab.container(&hosts[2], "c"));
    assert!(address.starts_with("10.2."), "{address}");
    for host in &hosts {
        host.wait_status("ipam", |status| status.lines().count() >= 2);
    }
}

#[test]
fn rings_of_different_seeds_do_not_harm_who_knows_both() {
    // 360
    let Some(lab) = Lab::plain() else { return };
    let hosts = lab.line(["a", "c", "b"]);
    launch(&hosts[0], &["--ipalloc-init", "seed=::1"], &[]);
    launch(&hosts[2], &["--ipalloc-init", "seed=::3"], &[]);
    let peers = [hosts[0].address(0), hosts[2].address(0)];
    let arguments = ["--ipalloc-init", "observer", &peers[0], &peers[1]];
    hosts[1].launch(&[&RANGE[..], &arguments].concat());
    hosts[1].wait_established(2);
    let address = attach(&lab.container(&hosts[1], "c"));
    assert!(address.starts_with("10.2."), "{address}");
    wait_for("the mismatch to be told", || {
        let logs: String = hosts.iter().map(|host| log(host)).collect();
        if logs.contains("IP allocation was seeded by different peers") {
            Ok(())
        } else {
            Err(logs)
        }
    });
    hosts[1].wait_established(2);
    for host in &hosts {
        assert!(!log(host).contains("panicked"), "{}", host.story());
        attach(&lab.container(host, "more"));
    }
}

#[test]
fn another_range_makes_the_old_addresses_be_forgotten() {
    // 362
    let Some(lab) = Lab::plain() else { return };
    let host = lab.host("a");
    host.launch(&RANGE);
    let old = lab.container(&host, "old");
    assert_eq!(attach(&old), "10.2.0.1");
    host.weft(&["stop"]).ok();
    host.launch(&["--ipalloc-range", "10.3.0.0/24"]);
    let told =
        "Deleting persisted data for IPAM range 10.2.0.0-10.2.255.255; our range is 10.3.0.0/24";
    assert!(log(&host).contains(told), "{}", host.story());
    assert_eq!(attach(&lab.container(&host, "new")), "10.3.0.1");
    assert_eq!(attach(&old), "10.3.0.2");
}

#[test]
fn a_restart_keeps_what_lives_and_frees_what_ended() {
    // 370
    let Some(lab) = Lab::plain() else { return };
    let hosts = pair(&lab);
    let kept: Vec<Container> = hosts
        .iter()
        .map(|host| lab.container(host, "kept"))
        .collect();
    let mut used: BTreeSet<String> = kept.iter().map(attach).collect();
    let ended = lab.container(&hosts[0], "ended");
    let freed = attach(&ended);
    let exposed = hosts[0].weft(&["expose"]).ok().trim_end().to_owned();
    used.insert(exposed.clone());
    hosts
        .iter()
        .for_each(|host| drop(host.weft(&["stop"]).ok()));
    drop(ended);
    for host in &hosts {
        // Alone: nobody can be asked.
        launch(host, &["--ipalloc-init", "consensus=2"], &[]);
        let new = attach(&lab.container(host, "new"));
        assert!(used.insert(new.clone()), "{new} was given twice");
        if host.name() == "a" {
            assert_eq!(new, freed);
            assert!(holders(host).contains(&format!("{exposed}/16")));
        }
        host.weft(&["stop"]).ok();
    }
}

#[test]
fn seeded_hosts_allocate_apart_and_then_join() {
    // 380
    let Some(lab) = Lab::plain() else { return };
    let hosts = lab.hosts(["a", "b"]);
    let seed = ["--ipalloc-init", "seed=::1,::2"];
    hosts.iter().for_each(|host| launch(host, &seed, &[]));
    let containers = hosts.each_ref().map(|host| lab.container(host, "c"));
    let addresses = containers.each_ref().map(attach);
    assert_ne!(addresses[0], addresses[1]);
    hosts[1].weft(&["connect", &hosts[0].address(0)]).ok();
    hosts.iter().for_each(|host| host.wait_established(1));
    wait_ping(&containers[0].namespace, &addresses[1]);
    hosts[0].weft(&["stop"]).ok();
    hosts[0].namespace.ip(&["link", "delete", "weave"]);
    launch(&hosts[0], &["--name", "::9"], &[&hosts[1]]);
    let told = "Deleting persisted data for peername 00:00:00:00:00:01";
    assert!(log(&hosts[0]).contains(told), "{}", hosts[0].story());
    attach(&lab.container(&hosts[0], "new"));
}
