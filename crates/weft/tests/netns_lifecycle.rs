//! Kernel tests of a daemon's life: launch, stop, restart, crash, reset, and what they answer.

mod lab;

use std::rc::Rc;

use lab::Lab;
use lab::host::{Container, Host};
use lab::patience::wait_until;
use lab::traffic::{assert_pings, transfer, wait_ping};

/// Two encrypted hosts with a container each.
fn pair(lab: &Lab) -> ([Rc<Host>; 2], [Container; 2]) {
    let hosts = lab.hosts(["a", "b"]);
    hosts[0].launch(&[]);
    hosts[1].join(&[&hosts[0]]);
    hosts.iter().for_each(|host| host.wait_established(1));
    let containers = [
        lab.attached(&hosts[0], "c", &["10.32.0.1/24"]),
        lab.attached(&hosts[1], "c", &["10.32.0.2/24"]),
    ];
    wait_ping(&containers[0].namespace, "10.32.0.2");
    (hosts, containers)
}

#[test]
fn containers_stay_attached_over_a_restart_of_the_daemon() {
    let Some(lab) = Lab::encrypted() else { return };
    let (hosts, containers) = pair(&lab);
    hosts[1].weft(&["stop"]).ok();
    assert_eq!(hosts[1].daemon_pid(), None, "{:?}", hosts[1].processes());
    hosts[0].wait_established(0);
    hosts[1].join(&[&hosts[0]]);
    hosts.iter().for_each(|host| host.wait_established(1));
    wait_ping(&containers[0].namespace, "10.32.0.2");
    assert_pings(&containers[1].namespace, "10.32.0.1");
    transfer(
        &containers[0].namespace,
        &containers[1].namespace,
        "10.32.0.2",
        1_000_000,
    );
}

#[test]
fn containers_on_one_host_talk_while_the_daemon_is_stopped() {
    let Some(lab) = Lab::plain() else { return };
    let host = lab.host("a");
    host.launch(&[]);
    let one = lab.attached(&host, "one", &["10.32.0.1/24"]);
    let _two = lab.attached(&host, "two", &["10.32.0.2/24"]);
    host.weft(&["stop"]).ok();
    assert_pings(&one.namespace, "10.32.0.2");
}

#[test]
fn a_killed_daemon_comes_back_with_its_peers_and_containers() {
    let Some(lab) = Lab::encrypted() else { return };
    let (hosts, containers) = pair(&lab);
    for _ in 0..2 {
        let killed = hosts[1].kill_daemon();
        wait_until("another daemon", || {
            hosts[1].daemon_pid().is_some_and(|pid| pid != killed)
        });
        hosts[1].wait_established(1);
        wait_ping(&containers[0].namespace, "10.32.0.2");
    }
    hosts[1].weft(&["stop"]).ok();
    assert_eq!(hosts[1].daemon_pid(), None, "{:?}", hosts[1].processes());
}

#[test]
fn a_daemon_whose_data_plane_dies_says_so_and_is_started_again() {
    let Some(lab) = Lab::encrypted() else { return };
    let (hosts, containers) = pair(&lab);
    let first = hosts[1].daemon_pid();
    hosts[1].namespace.ip(&["link", "del", "weft-tap"]);
    wait_until("another daemon", || {
        let daemon = hosts[1].daemon_pid();
        daemon.is_some() && daemon != first
    });
    let log = std::fs::read_to_string(hosts[1].path("run/weft.log")).expect("a log");
    assert!(log.contains("data-plane thread weft-"), "{log}");
    hosts[1].wait_established(1);
    wait_ping(&containers[0].namespace, "10.32.0.2");
}

#[test]
fn a_daemon_launched_without_restart_stays_dead() {
    let Some(lab) = Lab::plain() else { return };
    let host = lab.host("a");
    host.launch(&["--no-restart"]);
    host.kill_daemon();
    wait_until("the daemon to be gone", || host.daemon_pid().is_none());
    host.launch(&[]);
    host.weft(&["status"]).ok();
}

#[test]
fn a_host_whose_processes_all_died_can_launch_again() {
    let Some(lab) = Lab::encrypted() else { return };
    let (hosts, containers) = pair(&lab);
    hosts[1].kill_everything();
    hosts[1].join(&[&hosts[0]]);
    hosts.iter().for_each(|host| host.wait_established(1));
    wait_ping(&containers[0].namespace, "10.32.0.2");
    assert_pings(&containers[1].namespace, "10.32.0.1");
}

#[test]
fn connected_peers_are_remembered_only_when_resuming() {
    let Some(lab) = Lab::plain() else { return };
    let hosts = lab.hosts(["a", "b"]);
    hosts[1].launch(&[]);
    hosts[1].weft(&["connect", "192.168.77.1"]).ok();
    hosts[1].weft(&["stop"]).ok();
    hosts[1].launch(&["--resume"]);
    assert_eq!(hosts[1].status("targets").trim(), "192.168.77.1");
    hosts[1].weft(&["stop"]).ok();
    hosts[1].launch(&[]);
    assert_eq!(hosts[1].status("targets").trim(), "");
    hosts[1].weft(&["stop"]).ok();
    let answer = hosts[1].try_launch(&["--resume", "192.168.77.1"]);
    assert_ne!(answer.code, 0);
    assert!(
        answer.err.contains("in conjunction with --resume"),
        "{answer:?}"
    );
}

#[test]
fn a_second_launch_is_refused() {
    let Some(lab) = Lab::plain() else { return };
    let host = lab.host("a");
    host.launch(&[]);
    let answer = host.try_launch(&[]);
    assert_eq!(answer.code, 3, "{answer:?}");
    assert!(answer.err.contains("already running"), "{answer:?}");
    host.weft(&["status"]).ok();
}

#[test]
fn a_peer_keeps_its_name_over_restarts() {
    let Some(lab) = Lab::plain() else { return };
    let host = lab.host("a");
    let name = || host.weft(&["report", "-f", "{{.Router.Name}}"]).ok();
    host.weft(&["launch"]).ok();
    let first = name();
    assert_eq!(first.len(), "00:00:00:00:00:00".len(), "{first}");
    host.weft(&["stop"]).ok();
    host.weft(&["launch"]).ok();
    assert_eq!(name(), first);
}

#[test]
fn reset_leaves_nothing_behind() {
    let Some(lab) = Lab::plain() else { return };
    let host = lab.host("a");
    let links = host.namespace.interfaces("");
    host.launch(&[]);
    let container = lab.attached(&host, "c", &["10.32.0.1/24"]);
    host.weft(&["expose", "10.32.0.100/24"]).ok();
    host.weft(&["reset"]).ok();
    assert_eq!(host.processes(), []);
    assert_eq!(host.namespace.interfaces(""), links);
    assert_eq!(
        container.namespace.interfaces("ethwe"),
        Vec::<String>::new()
    );
    if lab::namespace::is_installed("nft") {
        assert_eq!(host.namespace.run("nft", &["list", "ruleset"]), "");
    }
    let left: Vec<_> = std::fs::read_dir(host.path("state"))
        .map(|entries| entries.flatten().map(|entry| entry.file_name()).collect())
        .unwrap_or_default();
    assert_eq!(left, Vec::<std::ffi::OsString>::new());
    host.launch(&[]);
}

#[test]
fn reset_of_a_stopped_daemon_wants_force() {
    let Some(lab) = Lab::plain() else { return };
    let host = lab.host("a");
    host.launch(&[]);
    host.weft(&["stop"]).ok();
    host.weft(&["reset", "--force"]).ok();
    assert_eq!(host.namespace.interfaces("weave"), Vec::<String>::new());
}

#[test]
fn stop_of_nothing_is_no_error() {
    let Some(lab) = Lab::plain() else { return };
    let host = lab.host("a");
    let answer = host.weft(&["stop"]);
    assert_eq!(answer.code, 0, "{answer:?}");
    assert!(answer.err.contains("Weave is not running"), "{answer:?}");
}

#[test]
fn a_launch_that_cannot_work_says_why_and_leaves_nothing() {
    let Some(lab) = Lab::plain() else { return };
    let host = lab.host("a");
    let links = host.namespace.interfaces("");
    for (arguments, words) in [
        (
            &["--name", "bogus"][..],
            "invalid peer name format: \"bogus\"",
        ),
        (&["--min-protocol-version", "7"], "must be in range [1,2]"),
        (&["--trusted-subnets", "nonsense"], "trusted subnets"),
        (&["no-such-host.invalid"], "no-such-host.invalid"),
    ] {
        let answer = host.try_launch(arguments);
        assert_ne!(answer.code, 0, "{arguments:?}: {answer:?}");
        let said = format!("{}{}", answer.err, answer.out);
        assert!(said.contains(words), "{arguments:?}: {answer:?}");
    }
    wait_until("no process to be left", || host.processes().is_empty());
    assert_eq!(host.namespace.interfaces("weave"), Vec::<String>::new());
    assert!(host.namespace.interfaces("").starts_with(&links));
}

#[test]
fn status_tells_what_was_asked_for() {
    let Some(lab) = Lab::plain() else { return };
    let hosts = lab.hosts(["a", "b"]);
    hosts[0].launch(&["--name", "00:00:00:00:00:01"]);
    hosts[1].launch(&[
        "--name",
        "00:00:00:00:00:02",
        "192.168.77.1",
        "192.168.77.99",
    ]);
    hosts[1].wait_established(1);
    wait_until("both directions to be known", || {
        hosts[1].weft(&["status"]).out.contains("2 established")
    });
    let summary = hosts[1].weft(&["status"]).ok();
    for line in [
        "           Protocol: weave 1..2\n",
        "               Name: 00:00:00:00:00:02(b)\n",
        "         Encryption: disabled\n",
        "      PeerDiscovery: enabled\n",
        "            Targets: 2\n",
        "     TrustedSubnets: none\n",
    ] {
        assert!(
            summary.contains(line.trim_start_matches("    ")),
            "{line}{summary}"
        );
    }
    wait_until(
        "the other side to see the connection as established",
        || {
            let summary = hosts[1].weft(&["status"]).ok();
            summary.contains("Peers: 2 (with 2 established connections)")
        },
    );
    assert_eq!(hosts[1].status("targets"), "192.168.77.1\n192.168.77.99\n");
    let wanted = "-> 192.168.77.1:6783     established sleeve 00:00:00:00:00:01(a) mtu=1438";
    hosts[1].wait_status("connections", |status| status.contains(wanted));
    let peers = hosts[1].status("peers");
    assert!(
        peers.contains("00:00:00:00:00:01(a)\n   <- 192.168.77.2:"),
        "{peers}"
    );
    let report = hosts[1].weft(&["report"]).ok();
    assert!(
        report.contains("\"Name\": \"00:00:00:00:00:02\""),
        "{report}"
    );
    assert_eq!(hosts[1].weft(&["status", "nonsense"]).code, 1);
    assert_eq!(hosts[1].weft(&["nonsense"]).code, 1);
}
