//! Kernel tests with real Docker engines, one per host: containers attached by id and by name.

mod lab;

use std::rc::Rc;

use lab::docker::Engine;
use lab::host::Host;
use lab::patience::wait_until;
use lab::ring::request;
use lab::{Lab, PASSWORD};

/// Launches with the engine's address; returns the arguments that make the command line find it too.
fn launch(host: &Rc<Host>, engine: &Engine, peers: &[&str]) {
    let answer = {
        let mut command = host.command();
        command
            .env("WEAVE_PASSWORD", PASSWORD)
            .env("DOCKER_HOST", engine.url());
        command
            .args([
                "launch",
                "--nickname",
                host.name(),
                "--name",
                &host.peer_name(),
            ])
            .args(peers);
        lab::namespace::run(&mut command)
    };
    assert!(
        answer.status.success(),
        "{}",
        lab::namespace::text(&answer.stderr)
    );
}

#[test]
fn docker_containers_on_two_hosts_reach_each_other() {
    let Some(lab) = Lab::encrypted() else { return };
    let hosts = lab.hosts(["a", "b"]);
    let Some(first) = Engine::start(&hosts[0], 1) else {
        return;
    };
    let Some(second) = Engine::start(&hosts[1], 2) else {
        return;
    };
    launch(&hosts[0], &first, &[]);
    launch(&hosts[1], &second, &[&hosts[0].address(0)]);
    hosts.iter().for_each(|host| host.wait_established(1));
    let id = first.run_idle("web", &[]);
    second.run_idle("client", &["--network", "none"]);
    assert_eq!(
        hosts[0]
            .weft(&["attach", "10.32.0.1/24", "web"])
            .ok()
            .trim_end(),
        "10.32.0.1"
    );
    hosts[1]
        .weft(&["attach", "10.32.0.2/24", "10.33.0.2/24", "client"])
        .ok();
    second.wait_ping("client", "10.32.0.1");
    first.wait_ping("web", "10.32.0.2");

    let listed = hosts[0].weft(&["ps"]).ok();
    let line = listed
        .lines()
        .find(|line| line.starts_with(&id[..12]))
        .expect("the container");
    assert!(line.ends_with(" 10.32.0.1/24"), "{line}");

    hosts[0].weft(&["detach", "10.32.0.1/24", &id]).ok();
    let shown = first.docker(&["exec", "web", "ip", "addr"]);
    assert!(!shown.contains("ethwe"), "{shown}");
}

#[test]
fn what_is_not_a_running_container_is_named_and_refused() {
    let Some(lab) = Lab::encrypted() else { return };
    let hosts = lab.hosts(["a", "b"]);
    let Some(engine) = Engine::start(&hosts[0], 3) else {
        return;
    };
    launch(&hosts[0], &engine, &[]);
    engine.run_idle("stopped", &[]);
    engine.docker(&["kill", "stopped"]);
    engine.run_idle("hostly", &["--network", "host"]);
    let attach = |name: &str| hosts[0].weft(&["attach", "10.32.0.1/24", name]);
    for (name, words) in [
        ("nobody", "nobody"),
        ("stopped", "not running"),
        (
            "hostly",
            "Container is running in the host network namespace",
        ),
    ] {
        let answer = attach(name);
        assert_eq!(answer.code, 1, "{answer:?}");
        assert!(answer.err.contains(words), "{answer:?}");
    }
}

#[test]
fn addresses_follow_the_lives_of_containers() {
    let Some(lab) = Lab::encrypted() else { return };
    let hosts = lab.hosts(["a", "b"]);
    let Some(engine) = Engine::start(&hosts[0], 4) else {
        return;
    };
    let host = &hosts[0];
    launch(host, &engine, &[]);
    let attach = |name: &str| host.weft(&["attach", name]).ok().trim_end().to_owned();
    let holds = |id: &str| {
        let list = host.namespace.within(|| request("GET", "/ip"));
        list.expect("the daemon answers").ok().contains(id)
    };
    let web = engine.run_idle("web", &[]);
    assert_eq!(attach("web"), "10.32.0.1");
    // A restart within the time of grace.
    engine.docker(&["restart", "-t", "0", "web"]);
    assert_eq!(attach("web"), "10.32.0.1");
    // Destroyed.
    let other = engine.run_idle("other", &[]);
    assert_eq!(attach("other"), "10.32.0.2");
    engine.docker(&["rm", "-f", "other"]);
    wait_until("its address to be given back", || !holds(&other));
    // Dead for long.
    let dead = engine.run_idle("dead", &[]);
    assert_eq!(attach("dead"), "10.32.0.2");
    engine.docker(&["kill", "dead"]);
    wait_until("its address to be given back", || !holds(&dead));
    // Dead while nobody looked, and one that went on living.
    let lives = engine.run_idle("lives", &[]);
    assert_eq!(attach("lives"), "10.32.0.2");
    host.weft(&["stop"]).ok();
    engine.docker(&["kill", "web"]);
    launch(host, &engine, &[]);
    assert!(!holds(&web) && holds(&lives));
}
