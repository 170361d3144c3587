//! Many strangers at once: half-open and slow connections, bad handshakes, floods of datagrams.

use std::io::Write;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use wire::PeerName;
use wire::handshake::{FLAG_ENCRYPTED, encode_header};

use crate::lab::Lab;
use crate::lab::host::Host;
use crate::lab::namespace::Namespace;
use crate::lab::patience::{Stopwatch, wait_for};
use crate::lab::traffic::{assert_pings, transfer, wait_ping};
use crate::log_of;
use crate::vitals::{Vitals, has_all_descriptors};

/// The daemon under attack.
const TARGET: &str = "192.168.77.1:6783";
/// How long a good peer may take to join a daemon under attack.
const JOIN_MAX: Duration = Duration::from_secs(5);
/// Accepted connections: so many at once, and one more in each of these times (spec/mesh.md 11).
const ACCEPT_BURST: usize = 20;
const ACCEPT_REFILL: Duration = Duration::from_millis(50);

/// Threads that attack until this is dropped.
struct Crowd {
    stop: Arc<AtomicBool>,
    /// How often they tried.
    attempts: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<()>>,
}

impl Crowd {
    fn new() -> Self {
        Self {
            stop: Arc::new(AtomicBool::new(false)),
            attempts: Arc::new(AtomicUsize::new(0)),
            threads: Vec::new(),
        }
    }

    /// Starts a thread inside that repeats an act, which is told how often it was done.
    fn act(&mut self, from: &Namespace, mut act: impl FnMut(usize) + Send + 'static) {
        let (stop, attempts) = (Arc::clone(&self.stop), Arc::clone(&self.attempts));
        self.threads.push(from.within(move || {
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    act(attempts.fetch_add(1, Ordering::Relaxed));
                }
            })
        }));
    }

    fn attempts(&self) -> usize {
        self.attempts.load(Ordering::Relaxed)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panic in it has been printed already.
            let _ = thread.join();
        }
    }
}

fn connect() -> Option<TcpStream> {
    let target: SocketAddr = TARGET.parse().expect("an address");
    TcpStream::connect_timeout(&target, Duration::from_millis(300)).ok()
}

/// What strangers say first: nothing of use, in many ways.
fn bad_introduction(number: usize) -> Vec<u8> {
    let header = encode_header(1, 2);
    match number % 6 {
        0 => Vec::new(),
        1 => b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        2 => encode_header(7, 9).to_vec(),
        3 => [&header[..], &[0]].concat(),
        // A key, and features sealed with another.
        4 => [
            &header[..],
            &[FLAG_ENCRYPTED],
            &[9; 32],
            &[0, 0, 1, 0],
            &[3; 256],
        ]
        .concat(),
        _ => [&header[..], &[FLAG_ENCRYPTED], &[9; 32], &[255; 64]].concat(),
    }
}

/// Connects, says something bad, and goes away.
fn pester(number: usize) {
    if let Some(mut stream) = connect() {
        // The other side may close at once, which is its right.
        let _ = stream.write_all(&bad_introduction(number));
    }
}

/// F38: while strangers hold connections open, speak a byte at a time and guess passwords as fast as they can, the
/// daemon accepts no faster than it says, and a peer with the password joins within five seconds.
#[test]
fn a_good_peer_joins_within_five_seconds_of_a_flood() {
    let Some(lab) = Lab::encrypted() else { return };
    let hosts = lab.hosts(["a", "b", "stranger"]);
    hosts[0].launch(&[]);
    let accepted = || log_of(&hosts[0]).matches("connection accepted").count();
    let mut crowd = Crowd::new();
    let watch = Stopwatch::start();
    let stranger = &hosts[2].namespace;
    let mut open = Vec::new();
    crowd.act(stranger, move |number| {
        // Half of them have said who they are not yet.
        open.extend(connect().map(|mut stream| {
            let _ = stream.write_all(&encode_header(1, 2)[..7 * (number % 2)]);
            stream
        }));
        if open.len() > 400 {
            open.remove(0);
        }
    });
    let mut slow: Vec<(TcpStream, usize)> = Vec::new();
    crowd.act(stranger, move |_| {
        if slow.len() < 50 {
            slow.extend(connect().map(|stream| (stream, 0)));
        }
        let words = [&encode_header(1, 2)[..], &[FLAG_ENCRYPTED], &[9; 32]].concat();
        slow.retain_mut(|(stream, said)| {
            let byte = words.get(*said).copied().unwrap_or(0);
            *said += 1;
            stream.write_all(&[byte]).is_ok()
        });
        std::thread::sleep(Duration::from_millis(100));
    });
    for _ in 0..2 {
        crowd.act(stranger, pester);
    }
    wait_for("the flood to be felt", || {
        let (tried, accepted) = (crowd.attempts(), accepted());
        if tried > 3000 && accepted > ACCEPT_BURST {
            Ok(())
        } else {
            Err(format!("{tried}, {accepted}"))
        }
    });
    hosts[1].join(&[&hosts[0]]);
    let joined = Stopwatch::start();
    hosts[1].wait_established(1);
    let joined = joined.elapsed();
    let most =
        ACCEPT_BURST + watch.elapsed().as_millis() as usize / ACCEPT_REFILL.as_millis() as usize;
    let accepted = accepted();
    drop(crowd);
    assert!(joined < JOIN_MAX, "joined after {joined:?}");
    assert!(
        accepted <= most + 1,
        "{accepted} accepted, {most} are allowed"
    );
    hosts[0].wait_established(1);
}

/// F38: ten thousand attempts to connect cost the daemon a bounded number of descriptors and some
/// memory while they last, and nothing afterwards.
#[test]
fn ten_thousand_attempts_leave_nothing_behind() {
    let Some(lab) = Lab::encrypted() else { return };
    let hosts = lab.hosts(["a", "b", "stranger"]);
    hosts[0].launch(&[]);
    hosts[1].join(&[&hosts[0]]);
    hosts[0].wait_established(1);
    let pid = hosts[0].daemon_pid().expect("a daemon runs");
    assert!(has_all_descriptors(pid));
    let before = Vitals::of(pid);
    let mut crowd = Crowd::new();
    for _ in 0..4 {
        let mut kept = std::collections::VecDeque::new();
        crowd.act(&hosts[2].namespace, move |number| {
            kept.extend(connect().map(|mut stream| {
                let _ = stream.write_all(&bad_introduction(number));
                stream
            }));
            if kept.len() > 100 {
                kept.pop_front();
            }
        });
    }
    let mut most = before;
    wait_for("ten thousand attempts", || {
        let now = Vitals::of(pid);
        most.descriptors = most.descriptors.max(now.descriptors);
        most.resident_kib = most.resident_kib.max(now.resident_kib);
        most.threads = most.threads.max(now.threads);
        let attempts = crowd.attempts();
        if attempts >= 10_000 {
            Ok(())
        } else {
            Err(format!("{attempts}, {now:?}"))
        }
    });
    drop(crowd);
    most.assert_little_more(before, 24 << 10, 600);
    let after = wait_for("the strangers to be gone", || {
        let now = Vitals::of(pid);
        if now.descriptors <= before.descriptors + 4 {
            Ok(now)
        } else {
            Err(format!("{now:?}"))
        }
    });
    after.assert_little_more(before, 16 << 10, 4);
    assert_idle(pid);
    hosts[0].wait_established(1);
}

/// Fails the test if a process goes on using much of a processor.
fn assert_idle(pid: i32) {
    wait_for("the daemon to be idle", || {
        let before = Vitals::of(pid).ticks;
        std::thread::sleep(Duration::from_secs(1));
        let used = Vitals::of(pid).ticks - before;
        if used <= 10 {
            Ok(())
        } else {
            Err(format!("{used} of 100 ticks"))
        }
    });
}

/// Lets a host send datagrams that seem to come from another of its segment, without the segment
/// noticing.
fn impersonate(host: &Host, victim: &Host, other: &str) {
    let namespace = &host.namespace;
    for (name, value) in [("arp_ignore", 8), ("arp_announce", 2), ("rp_filter", 0)] {
        let command = format!("echo {value} > /proc/sys/net/ipv4/conf/all/{name}");
        namespace.run("sh", &["-c", &command]);
    }
    let shown = victim.namespace.ip(&["-o", "link", "show", "dev", "eth0"]);
    let mac = shown
        .split("link/ether ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next());
    let mac = mac.expect("an Ethernet interface").to_owned();
    let target = victim.address(0);
    namespace.ip(&["neigh", "replace", &target, "lladdr", &mac, "dev", "eth0"]);
    namespace.ip(&["addr", "add", &format!("{other}/32"), "dev", "lo"]);
}

/// Datagrams in a neighbour's name, with its address as their source, and from elsewhere, with bodies that mean
/// nothing: what containers say still gets through, no tunnel moves, and memory is bounded.
#[test]
fn floods_of_datagrams_in_a_peers_name_change_nothing() {
    let Some(lab) = Lab::encrypted() else { return };
    let hosts = lab.hosts(["a", "b", "stranger"]);
    hosts[0].launch(&[]);
    hosts[1].join(&[&hosts[0]]);
    hosts[..2].iter().for_each(|host| host.wait_established(1));
    let one = lab.attached(&hosts[0], "c", &["10.32.0.1/24"]);
    let two = lab.attached(&hosts[1], "c", &["10.32.0.2/24"]);
    wait_ping(&one.namespace, "10.32.0.2");
    let pid = hosts[0].daemon_pid().expect("a daemon runs");
    let before = Vitals::of(pid);
    impersonate(&hosts[2], &hosts[0], "192.168.77.2");
    let names = [
        hosts[1].peer_name(),
        hosts[0].peer_name(),
        "02:00:00:00:99:99".to_owned(),
    ];
    let mut crowd = Crowd::new();
    for source in ["192.168.77.2:6783", "192.168.77.3:0"] {
        let socket = hosts[2].namespace.within(|| UdpSocket::bind(source));
        let socket = socket.expect("the address is there");
        let names: Vec<PeerName> = names
            .iter()
            .map(|name| name.parse().expect("a name"))
            .collect();
        crowd.act(&hosts[2].namespace, move |number| {
            for part in 0..16_usize {
                let name = names[part % names.len()].to_bytes();
                let mix = number.wrapping_mul(2_654_435_761) + part;
                let body: Vec<u8> = (0..mix % 400).map(|at| ((at * mix) >> 3) as u8).collect();
                // A full queue is no reason to stop.
                let _ = socket.send_to(&[&name[..], &body].concat(), TARGET);
            }
            std::thread::sleep(Duration::from_millis(1));
        });
    }
    wait_for("a flood", || {
        let count = crowd.attempts();
        if count > 1000 {
            Ok(())
        } else {
            Err(count.to_string())
        }
    });
    transfer(&one.namespace, &two.namespace, "10.32.0.2", 1_000_000);
    transfer(&two.namespace, &one.namespace, "10.32.0.1", 1_000_000);
    hosts[..2].iter().for_each(|host| host.wait_established(1));
    let during = Vitals::of(pid);
    drop(crowd);
    during.assert_little_more(before, 16 << 10, 8);
    let log = log_of(&hosts[0]);
    assert_eq!(log.matches("UDP address changed").count(), 0, "{log}");
    assert!(
        log.lines().count() < 300,
        "the log grew to {} lines",
        log.lines().count()
    );
    assert_pings(&one.namespace, "10.32.0.2");
    assert_idle(pid);
}
