//! Kernel tests of the daemon around the allocator: how often it waits for its disk, callers that
//! hang up, two machines of one name, and what the routes of a host say about the range.

mod lab;

use std::io::Write;
use std::net::TcpStream;

use lab::Lab;
use lab::patience::wait_for;
use lab::ring::{Member, Ring, allocate_everywhere};

const RANGE: &str = "10.40.0.0/16";

/// The value of a metric without labels.
fn metric(member: &Member, name: &str) -> u64 {
    let text = member
        .ask("GET", "/metrics")
        .expect("the daemon answers")
        .ok();
    let line = text
        .lines()
        .find(|line| line.starts_with(&format!("{name} ")));
    let value = line.and_then(|line| line.rsplit(' ').next()?.parse().ok());
    value.unwrap_or_else(|| panic!("no {name} in {text}"))
}

#[test]
fn many_clients_share_the_wait_for_the_disk() {
    let Some(ring) = Ring::start("W", RANGE, &["consensus=1"]) else {
        return;
    };
    let member = &ring.members[0];
    member.allocate("first");
    let commits = || metric(member, "weft_state_commits_total");
    let before = commits();
    for n in 0..50 {
        member.allocate(&format!("alone{n}"));
    }
    let alone = commits() - before;
    assert!((50..=55).contains(&alone), "{alone} waits for 50 addresses");
    let before = commits();
    let given = allocate_everywhere(&ring.members, 32, 20);
    assert_eq!(given.len(), 640);
    let together = commits() - before;
    lab::say(&format!(
        "640 addresses for 32 clients: {together} waits for the disk"
    ));
    assert!(together < 320, "{together} waits for 640 addresses");
}

#[test]
fn a_caller_that_hangs_up_takes_its_request_along() {
    let Some(ring) = Ring::start("W", RANGE, &["consensus=3"]) else {
        return;
    };
    let member = &ring.members[0];
    let pending = || metric(member, "weave_ipam_pending_allocates");
    let caller = member.host().namespace.within(|| {
        let mut stream = TcpStream::connect("127.0.0.1:6784").expect("the daemon listens");
        let request = "POST /ip/impatient?wait=true HTTP/1.1\r\nHost: localhost\r\n\
                       Content-Length: 0\r\n\r\n";
        stream.write_all(request.as_bytes()).expect("it reads");
        stream
    });
    wait_for("the request to wait", || match pending() {
        1 => Ok(()),
        other => Err(other.to_string()),
    });
    drop(caller);
    wait_for("the request to be gone", || match pending() {
        0 => Ok(()),
        other => Err(other.to_string()),
    });
    ring.assert_healthy();
}

#[test]
fn two_machines_of_one_name_both_say_so_and_give_nothing_out() {
    let Some(lab) = Lab::plain() else {
        return;
    };
    let [first, copy] = lab.hosts(["first", "copy"]);
    let name = first.peer_name();
    first.launch(&["--ipalloc-range", RANGE, "--ipalloc-init=consensus=1"]);
    first.weft(&["expose"]).ok();
    copy.launch(&[
        "--name",
        &name,
        "--ipalloc-range",
        RANGE,
        "--ipalloc-init=consensus=1",
        &first.address(0),
    ]);
    for (host, other) in [(&first, "copy"), (&copy, "first")] {
        let says = |status: &str| {
            status.contains("another machine has our peer name") && status.contains(other)
        };
        host.wait_status("ipam", says);
        let answer = host.weft(&["expose", "net:10.40.9.0/24"]);
        assert_ne!(answer.code, 0, "{answer:?}");
        assert!(answer.err.contains("peer name"), "{answer:?}");
        assert!(host.story().contains("another machine has our peer name"));
    }
    copy.wait_status("connections", |status| {
        status.contains("peer names collision")
    });
}

#[test]
fn a_range_that_a_route_of_the_host_leads_to_is_refused_by_name_unless_it_was_chosen() {
    let Some(lab) = Lab::plain() else {
        return;
    };
    let [host] = lab.hosts(["host"]);
    host.namespace
        .ip(&["route", "add", "10.44.0.0/16", "via", "192.168.77.200"]);
    let answer = host.try_launch(&[]);
    assert_eq!(answer.code, 1, "{answer:?}");
    for expected in [
        "ERROR: Default --ipalloc-range 10.32.0.0/12 overlaps with existing route on host.",
        "10.44.0.0/16 on eth0",
        "--ipalloc-range=10.48.0.0/12, which is free here",
    ] {
        assert!(answer.err.contains(expected), "{answer:?}");
    }
    let links = host.namespace.ip(&["link", "show"]);
    assert!(!links.contains("weave"), "nothing was changed: {links}");
    let answer = host.try_launch(&["--ipalloc-range=10.32.0.0/12"]);
    assert_eq!(answer.code, 0, "{answer:?}");
    assert!(answer.err.contains("WARNING: "), "{answer:?}");
    assert!(answer.err.contains("10.44.0.0/16 on eth0"), "{answer:?}");
}
