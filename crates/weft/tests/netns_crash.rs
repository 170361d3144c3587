//! Kernel tests of crash safety: daemons killed at any moment, containers that must not notice, and
//! what is left in the end.
//!
//! ```text
//!   a ──┬── b      on each host one and two talk all the time, through the bridge of that host;
//!       │          guest comes and goes while the daemon dies
//!       c
//! ```
//!
//! `cargo xtask crash` does the same for longer and measures how soon hosts are joined again.

mod lab;

use std::net::{SocketAddr, UdpSocket};
use std::process::Stdio;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use lab::Lab;
use lab::capture::MARKER;
use lab::host::{Container, Host};
use lab::namespace::signal;
use lab::patience::{Stopwatch, wait_for, wait_until};
use lab::traffic::wait_ping;
use rustix::process::Signal;

/// Between two datagrams of containers that talk all the time.
const EVERY: Duration = Duration::from_millis(50);
/// A datagram whose answer takes longer is lost.
const LOST_AFTER: Duration = Duration::from_secs(5);
/// Much longer than hosts need to be joined again, so that a busy machine fails no test; what they
/// need is measured by `cargo xtask crash`.
const JOINED_WITHIN: Duration = Duration::from_secs(20);

/// Two containers that send each other numbered datagrams until it is asked what came of them.
struct Talk {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    echo: JoinHandle<()>,
    speaker: JoinHandle<u64>,
}

impl Talk {
    fn start(from: &Container, to: &Container, address: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicU64::new(0));
        let bind = || UdpSocket::bind("0.0.0.0:0").expect("a port is free");
        let (here, there) = (from.namespace.within(bind), to.namespace.within(bind));
        let port = there.local_addr().expect("bound").port();
        let target = SocketAddr::new(address.parse().expect("an address"), port);
        for socket in [&here, &there] {
            socket.set_read_timeout(Some(EVERY)).expect("a valid time");
        }
        let stopped = Arc::clone(&stop);
        let echo = std::thread::spawn(move || {
            let mut bytes = [0; 256];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((length, from)) = there.recv_from(&mut bytes) {
                    let _ = there.send_to(&bytes[..length], from);
                }
            }
        });
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&answered));
        let speaker = std::thread::spawn(move || speak(&here, target, &stopped, &counted));
        Self {
            stop,
            answered,
            echo,
            speaker,
        }
    }

    /// Waits for an answer that nobody has counted yet.
    fn wait_answer(&self, who: &str) {
        let before = self.answered.load(Ordering::Relaxed);
        wait_until(&format!("an answer on {who}"), || {
            self.answered.load(Ordering::Relaxed) > before
        });
    }

    /// Datagrams sent and answers received.
    fn finish(self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.speaker.join().expect("the speaker saw no error");
        self.echo.join().expect("the echo saw no error");
        (sent, self.answered.load(Ordering::Relaxed))
    }
}

/// Sends one datagram after the other, each when the answer to the last is there; ends at the first
/// that is lost.
fn speak(socket: &UdpSocket, target: SocketAddr, stop: &AtomicBool, answered: &AtomicU64) -> u64 {
    let mut sent = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        let datagram = [MARKER.as_slice(), &sent.to_be_bytes()].concat();
        socket.send_to(&datagram, target).expect("there is a way");
        sent += 1;
        let watch = Stopwatch::start();
        let mut bytes = [0; 256];
        loop {
            match socket.recv(&mut bytes) {
                Ok(length) if bytes[..length] == *datagram => break,
                _ if stop.load(Ordering::Relaxed) => return sent - 1,
                _ if watch.elapsed() > LOST_AFTER => return sent,
                _ => {}
            }
        }
        answered.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(EVERY);
    }
    sent
}

/// Three encrypted hosts, each with containers one and two, and an empty namespace guest.
struct Scene {
    hosts: [Rc<Host>; 3],
    ones: Vec<Container>,
    twos: Vec<Container>,
    guests: Vec<Container>,
}

impl Scene {
    fn new(lab: &Lab) -> Self {
        let hosts = lab.hosts(["a", "b", "c"]);
        hosts[0].launch(&[]);
        hosts[1].join(&[&hosts[0]]);
        hosts[2].join(&[&hosts[0], &hosts[1]]);
        hosts.iter().for_each(|host| host.wait_established(2));
        let attach = |name: &str, number: usize| -> Vec<Container> {
            let address = |index: usize| address(index, number);
            let hosts = hosts.iter().enumerate();
            hosts
                .map(|(index, host)| lab.attached(host, name, &[&format!("{}/12", address(index))]))
                .collect()
        };
        let (ones, twos) = (attach("one", 1), attach("two", 2));
        let guests = hosts.iter().map(|host| lab.container(host, "guest"));
        let guests = guests.collect();
        let scene = Self {
            hosts,
            ones,
            twos,
            guests,
        };
        scene.wait_joined(0);
        scene.wait_joined(1);
        scene
    }

    /// Waits until containers of this host and of all others reach each other.
    fn wait_joined(&self, index: usize) {
        let watch = Stopwatch::start();
        for other in (0..3).filter(|other| *other != index) {
            wait_ping(&self.ones[index].namespace, &address(other, 1));
        }
        assert!(watch.elapsed() < JOINED_WITHIN, "{:?}", watch.elapsed());
    }

    /// Kills the daemon of a host and waits until there is another.
    fn kill(&self, index: usize) {
        let old = wait_for("a daemon", || {
            daemon(&self.hosts[index]).ok_or_else(|| self.hosts[index].story())
        });
        signal(old, Signal::KILL);
        wait_for("another daemon", || match daemon(&self.hosts[index]) {
            Some(pid) if pid != old => Ok(()),
            other => Err(format!("{other:?} {}", self.hosts[index].story())),
        });
    }

    /// Kills the daemon while the command line talks to it; given again, the command has to work.
    fn kill_under(&self, index: usize, verb: &str, wait: Duration) {
        let cidr = format!("{}/12", address(index, 3));
        let guest = &self.guests[index];
        let arguments = [verb, &cidr, "--netns", guest.namespace.name()];
        let mut command = self.hosts[index].command();
        let mut child = command
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program is there");
        std::thread::sleep(wait);
        self.kill(index);
        let done = child.wait().expect("a child of ours").success();
        let has_interface = || !guest.namespace.interfaces("ethwe").is_empty();
        if done {
            assert_eq!(has_interface(), verb == "attach", "after {verb} succeeded");
        }
        wait_for(&format!("{verb} to work"), || {
            let answer = guest.weft(verb, &[&cidr]);
            // What is detached already is not found.
            let is_detached = verb == "detach" && answer.err.contains("Link not found");
            if answer.code == 0 || is_detached {
                Ok(())
            } else {
                Err(format!("{answer:?}"))
            }
        });
        assert_eq!(has_interface(), verb == "attach", "after {verb}");
    }
}

fn address(host: usize, number: usize) -> String {
    format!("10.32.{host}.{number}")
}

fn daemon(host: &Host) -> Option<i32> {
    let is_daemon = |line: &str| line.split(' ').nth(1) == Some("daemon");
    let mut processes = host.processes().into_iter();
    processes.find_map(|(pid, line)| is_daemon(&line).then_some(pid))
}

fn supervisor(host: &Host) -> Option<i32> {
    let is_supervisor = |line: &str| line.split(' ').nth(1) == Some("supervise");
    let mut processes = host.processes().into_iter();
    processes.find_map(|(pid, line)| is_supervisor(&line).then_some(pid))
}

/// What `reset` must not leave: interfaces, firewall tables, files, processes.
fn assert_nothing_left(host: &Host, interfaces: &[String], containers: &[&Container]) {
    assert_eq!(host.processes(), [], "processes on {}", host.name());
    assert_eq!(host.namespace.interfaces(""), interfaces, "{}", host.name());
    for container in containers {
        assert_eq!(
            container.namespace.interfaces("ethwe"),
            Vec::<String>::new()
        );
    }
    if lab::namespace::is_installed("nft") {
        let spaces = containers.iter().map(|container| &container.namespace);
        for space in spaces.chain([&host.namespace]) {
            assert_eq!(
                space.run("nft", &["list", "ruleset"]),
                "",
                "{}",
                space.name()
            );
        }
    }
    for part in ["state", "run"] {
        let entries = std::fs::read_dir(host.path(part)).into_iter().flatten();
        let left: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(left, Vec::<std::ffi::OsString>::new(), "{part}");
    }
}

#[test]
fn daemons_killed_at_any_moment_come_back_unnoticed_on_their_host_and_leave_nothing() {
    let Some(lab) = Lab::encrypted() else { return };
    let scene = Scene::new(&lab);
    let talks: Vec<Talk> = (0..3)
        .map(|index| Talk::start(&scene.ones[index], &scene.twos[index], &address(index, 2)))
        .collect();
    let millis = Duration::from_millis;
    // Once, and again while the next one starts.
    for (index, pause) in [(0, 100), (1, 450), (2, 1200)] {
        scene.kill(index);
        std::thread::sleep(millis(pause));
        scene.kill(index);
        scene.wait_joined(index);
        talks[index].wait_answer(scene.hosts[index].name());
    }
    // Under commands.
    for (index, verb, wait) in [(0, "attach", 3), (1, "attach", 12), (0, "detach", 6)] {
        scene.kill_under(index, verb, millis(wait));
    }
    // Two at a time.
    scene.kill(1);
    scene.kill(2);
    (0..3).for_each(|index| scene.wait_joined(index));
    for (index, talk) in talks.into_iter().enumerate() {
        let (sent, answered) = talk.finish();
        assert_eq!(sent, answered, "datagrams and answers on host {index}");
    }
    let interfaces = ["lo".to_owned(), "eth0".to_owned()];
    let reset = |index: usize, arguments: &[&str]| {
        scene.hosts[index].weft(arguments).ok();
        let containers = [&scene.ones[index], &scene.twos[index], &scene.guests[index]];
        assert_nothing_left(&scene.hosts[index], &interfaces, &containers);
    };
    reset(0, &["reset"]);
    scene.hosts[1].kill_everything();
    reset(1, &["reset", "--force"]);
    let killed = daemon(&scene.hosts[2]).expect("it runs");
    signal(killed, Signal::KILL);
    reset(2, &["reset", "--force"]);
}

#[test]
fn a_daemon_whose_supervisor_died_can_be_stopped_and_launched() {
    let Some(lab) = Lab::plain() else { return };
    let host = lab.host("a");
    host.launch(&[]);
    signal(supervisor(&host).expect("it runs"), Signal::KILL);
    wait_until("the supervisor to be gone", || supervisor(&host).is_none());
    host.weft(&["status"]).ok();
    host.weft(&["stop"]).ok();
    assert_eq!(host.processes(), []);
    host.launch(&[]);
    signal(supervisor(&host).expect("it runs"), Signal::KILL);
    let killed = host.kill_daemon();
    wait_until("both to be gone", || {
        host.processes().iter().all(|(pid, _)| *pid != killed)
            && !std::path::Path::new(&format!("/proc/{killed}")).exists()
    });
    host.launch(&[]);
}
