//! Real data planes between real namespaces, with forwarding tables made by hand.
//!
//! ```text
//!  cont-a ── weave ── TAP │ host-a ──── underlay bridge ──── host-b │ TAP ── weave ── cont-b
//!  10.32.0.1              │ 192.168.99.1      192.168.99.2          │            10.32.0.2
//! ```
//! Needs root; says so and passes otherwise. `WEFT_BENCH_SECS=5` makes `throughput` measure;
//! `WEFT_BENCH_NIC=1` lets it do so over real 1500-byte packets.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use linux::netns::{Netns, run_in};
use nacl::SessionKey;
use overlay::kind::{Kind, Lane, Lanes, TunnelEvent};
use overlay::protection::{Cipher, Protection};
use overlay::sleeve::lane::{SleeveEvent, SleeveLane, SleeveProbe, SpecialKind};
use overlay::table::{ForwardingTable, Neighbour, PlaneEvent, Routes};
use plane::{Config, Ended, Events, Plane};
use rustix::thread::{CpuSet, sched_setaffinity};
use wire::{LinkId, PeerName};

const PORT: u16 = 6783;

/// Runs a shell script; its output. Panics with everything it said when it fails.
fn sh(script: &str) -> String {
    let output = Command::new("sh").args(["-ec", script]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}\n{text}{errors}");
    text
}

/// Says that a test could not run, where the test harness does not swallow it.
fn skip(why: &str) {
    let line = format!(
        "skipped: {}: {why}\n",
        std::thread::current().name().unwrap_or("?")
    );
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}

/// How a lab differs from the usual.
#[derive(Clone, Copy)]
struct Plan {
    hosts: usize,
    encrypted: bool,
    underlay_mtu: usize,
    container_mtu: usize,
    tunnel_mtu: usize,
    stack_frag: bool,
    ipv6: bool,
    /// Whether each data plane may use one core only, and so has one thread.
    one_core: bool,
}

const PLAIN: Plan = Plan {
    hosts: 2,
    encrypted: false,
    underlay_mtu: 1500,
    container_mtu: 1376,
    tunnel_mtu: 1438,
    stack_frag: true,
    ipv6: false,
    one_core: false,
};
const ENCRYPTED: Plan = Plan {
    encrypted: true,
    tunnel_mtu: 1414,
    ..PLAIN
};

/// Hosts in a row; each is linked with the next only. Namespaces go away when this does.
struct Lab {
    id: String,
    plan: Plan,
    planes: Vec<(Plane, Events)>,
    /// Held by those on one core, whose threads a test counts by their name.
    _alone: Option<MutexGuard<'static, ()>>,
}

impl Lab {
    /// `None` without privileges.
    fn new(plan: Plan) -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        static ONE_CORE: Mutex<()> = Mutex::new(());
        if !rustix::process::geteuid().is_root() {
            skip("needs root to make network namespaces");
            return None;
        }
        let id = format!(
            "dp{}n{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let mut lab = Self {
            id,
            plan,
            planes: Vec::new(),
            _alone: plan
                .one_core
                .then(|| ONE_CORE.lock().unwrap_or_else(PoisonError::into_inner)),
        };
        sh(&format!(
            "ip netns add {0}u; ip -n {0}u link set lo up",
            lab.id
        ));
        for n in 1..=plan.hosts {
            lab.make_host(n);
        }
        for n in 1..=plan.hosts {
            let netns = Netns::named(&format!("{}h{n}", lab.id)).unwrap();
            let config = Config {
                bridge_mtu_bytes: plan.container_mtu,
                listen: None,
                port: PORT,
                name: name(n),
            };
            let start = || {
                if plan.one_core {
                    // This thread is made for the call, and what it starts inherits the limit.
                    let mut first = CpuSet::new();
                    first.set(0);
                    sched_setaffinity(None, &first).unwrap();
                }
                let (plane, events) = Plane::start(config).unwrap();
                for port in plane.ports() {
                    linux::bridge::plug("weave", port.interface).unwrap();
                }
                (plane, events)
            };
            lab.planes.push(run_in(&netns, start).unwrap());
        }
        for n in 1..=plan.hosts {
            lab.program(n, plan.tunnel_mtu);
        }
        Some(lab)
    }

    fn make_host(&self, n: usize) {
        let Plan {
            underlay_mtu,
            container_mtu,
            ..
        } = self.plan;
        let id = &self.id;
        sh(&format!(
            "
            ip netns add {id}h{n}; ip -n {id}h{n} link set lo up
            ip netns add {id}c{n}; ip -n {id}c{n} link set lo up
            ip -n {id}u link add br{n} type bridge 2>/dev/null; ip -n {id}u link set br{n} up
            ip -n {id}h{n} link add weave mtu {container_mtu} type bridge mcast_snooping 0
            ip -n {id}h{n} link set weave up
            ip -n {id}h{n} link add ctr mtu {container_mtu} type veth peer name ethwe \
                mtu {container_mtu} netns {id}c{n}
            ip -n {id}h{n} link set ctr master weave up
            ip -n {id}c{n} link set ethwe gso_max_size 60300
            ip -n {id}c{n} addr add 10.32.0.{n}/12 dev ethwe; ip -n {id}c{n} link set ethwe up
            ip -n {id}c{n} addr add fd99::{n}/64 dev ethwe nodad
            "
        ));
        // Cable k joins hosts k and k + 1.
        for k in n.saturating_sub(1).max(1)..=n.min(self.plan.hosts - 1) {
            sh(&format!(
                "
                ip -n {id}u link add br{k} type bridge 2>/dev/null || true
                ip -n {id}u link set br{k} mtu {underlay_mtu} up
                ip -n {id}u link add h{n}k{k} mtu {underlay_mtu} type veth peer name under{k} \
                    mtu {underlay_mtu} netns {id}h{n}
                ip -n {id}u link set h{n}k{k} master br{k} up
                ip -n {id}h{n} addr add 192.168.{k}.{n}/24 dev under{k}
                ip -n {id}h{n} addr add fd00:{k}::{n}/64 dev under{k} nodad
                ip -n {id}h{n} link set under{k} up
                "
            ));
        }
    }

    /// The table of host `n`: everybody known, neighbours by tunnel, others by relay.
    fn program(&self, n: usize, mtu_bytes: usize) {
        let Plan {
            hosts,
            encrypted,
            stack_frag,
            ipv6,
            ..
        } = self.plan;
        let mut table = ForwardingTable {
            us: name(n),
            ..ForwardingTable::default()
        };
        let mut routes = Routes {
            peers: (1..=hosts).map(name).collect(),
            ..Routes::default()
        };
        let neighbours: Vec<usize> = [n.wrapping_sub(1), n + 1]
            .into_iter()
            .filter(|m| (1..=hosts).contains(m))
            .collect();
        for &m in &neighbours {
            let cable = n.min(m);
            let address: SocketAddr = if ipv6 {
                format!("[fd00:{cable}::{m}]:{PORT}").parse().unwrap()
            } else {
                format!("192.168.{cable}.{m}:{PORT}").parse().unwrap()
            };
            let key = encrypted.then(|| Arc::new(SessionKey::from_bytes([cable as u8; 32])));
            let cipher = [Cipher::Secretbox, Cipher::AesGcm][cable % 2];
            let lane = SleeveLane {
                protection: key.map_or(Protection::Clear, |key| Protection::Sealed(key, cipher)),
                outbound: n < m,
                remote_address: Some(address),
                mtu_bytes,
                max_payload_bytes: mtu_bytes + if encrypted { 58 } else { 34 },
                exceeds_kernel_mtu: false,
                stack_frag,
            };
            let neighbour = Neighbour {
                link: LinkId::outbound(m as u64),
                serial: m as u64,
                remote: name(m),
                lanes: Lanes::from_iter([Lane::Sleeve(lane)]),
                chosen: Some(Kind::Sleeve),
            };
            table.neighbours.insert(name(m), Arc::new(neighbour));
        }
        for m in (1..=hosts).filter(|&m| m != n) {
            routes
                .unicast
                .insert(name(m), name(if m < n { n - 1 } else { n + 1 }));
            let onward = neighbours.iter().filter(|&&k| (k < n) != (m < n));
            routes
                .broadcast
                .insert(name(m), onward.map(|&k| name(k)).collect());
        }
        routes
            .broadcast
            .insert(name(n), neighbours.iter().map(|&m| name(m)).collect());
        table.routes = Arc::new(routes);
        self.planes[n - 1].0.program(Arc::new(table));
    }

    /// Lets real packets of the MTU's size cross the first cable, merged by the receiver alone.
    fn make_cable_nic_like(&self) {
        let (id, like) = (&self.id, "gso off tso off tx-udp-segmentation off gro on");
        // A veth merges only what its other end would not have sent in one piece.
        sh(&format!(
            "
            for n in 1 2; do
                ip netns exec {id}h$n ethtool -K under1 {like}
                ip netns exec {id}u ethtool -K h${{n}}k1 {like}
            done
            "
        ));
    }

    fn counters(&self, n: usize) -> BTreeMap<String, u64> {
        let mut counters = self.planes[n - 1].0.counters();
        counters.retain(|_, value| *value > 0);
        counters
    }

    /// Runs a script in container `n`.
    fn container(&self, n: usize, script: &str) -> String {
        sh(&format!("ip netns exec {}c{n} sh -ec '{script}'", self.id))
    }

    /// Runs something in host `n`'s namespace.
    fn in_host<T: Send>(&self, n: usize, work: impl FnOnce() -> T + Send) -> T {
        run_in(&Netns::named(&format!("{}h{n}", self.id)).unwrap(), work).unwrap()
    }

    /// Moves bytes between two containers by TCP and compares checksums.
    fn assert_tcp_carries(&self, from: usize, to: usize, address: &str, bytes: usize) {
        let id = &self.id;
        let listen = if address.contains(':') {
            "TCP6"
        } else {
            "TCP4"
        };
        sh(&format!(
            "
            dir=$(mktemp -d); head -c {bytes} /dev/urandom > $dir/sent
            timeout 60 ip netns exec {id}c{to} python3 -c '{RECEIVER}' {listen} > $dir/got &
            timeout 60 ip netns exec {id}c{from} python3 -c '{SENDER}' {address} < $dir/sent
            wait $!
            cmp $dir/sent $dir/got && rm -r $dir
            "
        ));
    }

    /// The next event of host `n`, waiting a little.
    fn event(&mut self, n: usize) -> Option<TunnelEvent> {
        for _ in 0..800 {
            if let Ok(Some(PlaneEvent::Tunnel(event))) = self.planes[n - 1].1.try_next() {
                return Some(event);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        None
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for n in 1..=self.planes.len() {
            eprintln!("host {n}: {:?}", self.counters(n));
        }
        self.planes.clear();
        for n in 1..=self.plan.hosts {
            for kind in ["c", "h"] {
                let netns = format!("{}{kind}{n}", self.id);
                let _ = Command::new("ip").args(["netns", "del", &netns]).status();
            }
        }
        let _ = Command::new("ip")
            .args(["netns", "del", &format!("{}u", self.id)])
            .status();
    }
}

const RECEIVER: &str = "
import socket, sys
s = socket.socket(socket.AF_INET6 if sys.argv[1] == \"TCP6\" else socket.AF_INET)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind((\"\", 5001)); s.listen(1); c = s.accept()[0]
while True:
    b = c.recv(1 << 20)
    if not b: break
    sys.stdout.buffer.write(b)
";
const SENDER: &str = "
import socket, sys, time
for i in range(100):
    try:
        c = socket.create_connection((sys.argv[1], 5001)); break
    except OSError: time.sleep(0.05)
c.sendall(sys.stdin.buffer.read()); c.shutdown(socket.SHUT_WR); c.recv(1)
";

/// Answers 64-byte questions until an empty one comes.
const ANSWERER: &str = "
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind((\"\", 5002))
while True:
    b, a = s.recvfrom(64)
    if not b: break
    s.sendto(b, a)
";
/// Asks one question after the other and compares the answers; the first ones may find nobody.
const ASKER: &str = "
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect((sys.argv[1], 5002))
s.settimeout(0.1)
for i in range(200):
    try: s.send(bytes(64)); s.recv(64); break
    except OSError: pass
s.settimeout(20)
for i in range(1, int(sys.argv[2])):
    q = i.to_bytes(64, \"big\"); s.send(q)
    a = s.recv(64)
    while a == bytes(64): a = s.recv(64)
    assert a == q, (a, q)
s.send(b\"\")
";

#[expect(clippy::disallowed_methods, reason = "a real data plane reads it, too")]
fn now() -> Instant {
    Instant::now()
}

fn name(n: usize) -> PeerName {
    PeerName::from_u64(0x0200_0000_0000 + n as u64)
}

#[test]
fn two_hosts_carry_ping_and_tcp_in_clear() {
    let Some(lab) = Lab::new(PLAIN) else { return };
    lab.container(1, "ping -c 3 -i 0.05 -W 2 10.32.0.2");
    lab.container(2, "ping -c 1 -W 2 -s 3000 10.32.0.1");
    lab.assert_tcp_carries(1, 2, "10.32.0.2", 20_000_000);
    lab.assert_tcp_carries(2, 1, "fd99::1", 20_000_000);
}

#[test]
fn two_hosts_carry_ping_and_tcp_encrypted() {
    let Some(lab) = Lab::new(ENCRYPTED) else {
        return;
    };
    lab.container(1, "ping -c 3 -i 0.05 -W 2 10.32.0.2");
    lab.container(2, "ping -c 1 -W 2 -s 3000 10.32.0.1");
    lab.assert_tcp_carries(1, 2, "10.32.0.2", 20_000_000);
    lab.assert_tcp_carries(2, 1, "fd99::1", 20_000_000);
    assert_eq!(lab.counters(1).get("dropped_undecryptable"), None);
    let macs = lab.planes[0].0.macs(now());
    assert!(
        (1..=2).all(|n| macs.iter().any(|(_, peer, _)| *peer == name(n))),
        "{macs:?}"
    );
}

#[test]
fn one_thread_carries_both_directions_where_there_is_one_core() {
    let Some(lab) = Lab::new(Plan {
        hosts: 3,
        one_core: true,
        ..ENCRYPTED
    }) else {
        return;
    };
    lab.container(1, "ping -c 3 -i 0.05 -W 2 10.32.0.3");
    lab.assert_tcp_carries(1, 3, "10.32.0.3", 20_000_000);
    lab.assert_tcp_carries(3, 1, "fd99::1", 20_000_000);
    lab.assert_tcp_carries(1, 2, "10.32.0.2", 20_000_000);
    assert_eq!(lab.counters(3).get("dropped_undecryptable"), None);
    // Threads name themselves, so they are counted once all of them have worked.
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")));
    let is_data =
        |name: &std::io::Result<String>| name.as_ref().is_ok_and(|name| name.trim() == "weft-data");
    assert_eq!(names.filter(is_data).count(), 3, "one per host");
}

#[test]
fn long_conversation_on_one_core_lets_others_have_a_word() {
    let plan = Plan {
        one_core: true,
        ..ENCRYPTED
    };
    let Some(lab) = Lab::new(plan) else { return };
    let id = &lab.id;
    sh(&format!(
        "
        timeout 60 ip netns exec {id}c2 python3 -c '{ANSWERER}' &
        timeout 60 ip netns exec {id}c1 python3 -c '{ASKER}' 10.32.0.2 3000 &
        ip netns exec {id}c2 ping -q -c 50 -i 0.01 -W 5 10.32.0.1
        ip netns exec {id}c1 ping -q -c 50 -i 0.01 -W 5 fd99::2
        wait %2; wait %1
        "
    ));
    assert_eq!(lab.counters(1).get("dropped_replayed"), None);
}

#[test]
fn two_hosts_carry_traffic_over_an_ipv6_underlay() {
    // 20 bytes more of IP header.
    let plan = Plan {
        ipv6: true,
        tunnel_mtu: 1394,
        ..ENCRYPTED
    };
    let Some(lab) = Lab::new(plan) else { return };
    lab.container(1, "ping -c 1 -W 2 10.32.0.2");
    lab.container(1, "ping -c 1 -W 2 -s 3000 10.32.0.2");
    lab.assert_tcp_carries(1, 2, "10.32.0.2", 20_000_000);
}

#[test]
fn host_in_the_middle_relays_unicast_and_broadcast() {
    let Some(lab) = Lab::new(Plan {
        hosts: 3,
        ..ENCRYPTED
    }) else {
        return;
    };
    lab.container(1, "ping -c 3 -i 0.05 -W 2 10.32.0.3");
    lab.container(1, "ping -c 1 -W 2 10.32.0.2");
    lab.assert_tcp_carries(1, 3, "10.32.0.3", 20_000_000);
    let frames = lab.counters(2).get("dropped_relay_loop").copied();
    assert_eq!(frames, None);
}

#[test]
fn too_big_packet_with_df_is_answered_and_tcp_adapts() {
    // Containers believe in 1500 although the tunnel carries 1414.
    let Some(lab) = Lab::new(Plan {
        container_mtu: 1500,
        ..ENCRYPTED
    }) else {
        return;
    };
    lab.container(1, "ping -c 1 -W 2 10.32.0.2");
    let said = lab.container(1, "ping -c 1 -W 2 -M do -s 1472 10.32.0.2 2>&1 || true");
    assert!(
        said.contains("mtu = 1414") || said.contains("mtu=1414"),
        "{said}"
    );
    lab.container(1, "ip route flush cache");
    lab.assert_tcp_carries(1, 2, "10.32.0.2", 5_000_000);
    lab.container(1, "ping -c 1 -W 2 -M dont -s 1472 10.32.0.2");
}

#[test]
fn own_fragments_cross_where_fragmentation_is_not_trusted() {
    let plan = Plan {
        stack_frag: false,
        container_mtu: 1500,
        ..ENCRYPTED
    };
    let Some(lab) = Lab::new(plan) else { return };
    lab.container(1, "ping -c 2 -i 0.05 -W 2 -M dont -s 5000 10.32.0.2");
    assert!(lab.counters(1)["datagrams_out"] > 8);
}

#[test]
fn datagram_beyond_the_path_mtu_is_reported_with_the_mtu() {
    // The tunnel claims more than the underlay carries.
    let plan = Plan {
        tunnel_mtu: 3000,
        container_mtu: 3000,
        underlay_mtu: 1400,
        ..ENCRYPTED
    };
    let Some(mut lab) = Lab::new(plan) else {
        return;
    };
    lab.container(1, "ping -c 1 -W 2 10.32.0.2");
    lab.container(1, "ping -c 1 -W 1 -M do -s 2000 10.32.0.2 || true");
    let event = SleeveEvent::TooBig {
        path_mtu_bytes: 1400,
    };
    assert_eq!(lab.event(1), Some(event.on(LinkId::outbound(2))));
}

#[test]
fn probes_arrive_as_what_they_were_sent_as() {
    let Some(mut lab) = Lab::new(ENCRYPTED) else {
        return;
    };
    let kinds = [
        (
            SleeveProbe::Heartbeat { connection_uid: 7 },
            SpecialKind::Heartbeat { connection_uid: 7 },
        ),
        (
            SleeveProbe::FragmentationTest,
            SpecialKind::FragmentationTest,
        ),
        (
            SleeveProbe::MtuTest { frame_bytes: 1428 },
            SpecialKind::MtuTest { frame_bytes: 1428 },
        ),
    ];
    for (probe, special) in kinds {
        lab.in_host(1, || lab.planes[0].0.probe(probe.on(LinkId::outbound(2))));
        let event = SleeveEvent::Special {
            from: "192.168.1.1:6783".parse().unwrap(),
            kind: special,
        };
        assert_eq!(
            lab.event(2),
            Some(event.on(LinkId::outbound(1))),
            "{probe:?}"
        );
    }
    let kind = SleeveProbe::MtuTest {
        frame_bytes: 60_000,
    };
    lab.in_host(1, || lab.planes[0].0.probe(kind.on(LinkId::outbound(2))));
    let event = SleeveEvent::TooBig {
        path_mtu_bytes: 1500,
    };
    assert_eq!(lab.event(1), Some(event.on(LinkId::outbound(2))));
}

#[test]
fn datagrams_are_counted_when_they_are_sent_and_as_drops_when_they_are_not() {
    let Some(lab) = Lab::new(ENCRYPTED) else {
        return;
    };
    let counts = || {
        let probe = SleeveProbe::Heartbeat { connection_uid: 7 };
        lab.in_host(1, || lab.planes[0].0.probe(probe.on(LinkId::outbound(2))));
        let counters = lab.planes[0].0.counters();
        ["datagrams_out", "bytes_out", "dropped_send_failed"].map(|name| counters[name])
    };
    let [datagrams, bytes, failed] = counts();
    assert!(datagrams >= 1 && bytes >= 66, "{datagrams} {bytes}");
    assert_eq!(failed, 0);
    sh(&format!("ip -n {}h1 link set under1 down", lab.id));
    let [datagrams, bytes, failed] = counts();
    assert!(failed >= 1);
    let [datagrams_then, bytes_then, failed_then] = counts();
    assert_eq!((datagrams_then, bytes_then), (datagrams, bytes));
    assert!(failed_then > failed);
}

#[test]
fn datagrams_that_are_not_merged_are_counted() {
    // On one core nothing is received before a whole batch was sent.
    let plan = Plan {
        one_core: true,
        ..PLAIN
    };
    let Some(lab) = Lab::new(plan) else { return };
    lab.make_cable_nic_like();
    lab.assert_tcp_carries(1, 2, "10.32.0.2", 20_000_000);
    let merged = lab.counters(2);
    assert!(
        merged["datagrams_in"] > 4 * merged["receive_buffers"],
        "{merged:?}"
    );
    assert_eq!(merged.get("datagrams_unmerged"), None, "{merged:?}");

    sh(&format!(
        "ip netns exec {}h2 ethtool -K under1 gro off",
        lab.id
    ));
    lab.assert_tcp_carries(1, 2, "10.32.0.2", 20_000_000);
    let single = lab.counters(2);
    assert!(single["datagrams_unmerged"] >= 4096, "{single:?}");
}

#[test]
fn cut_underlay_and_garbage_from_strangers_are_survived() {
    let Some(lab) = Lab::new(ENCRYPTED) else {
        return;
    };
    let id = &lab.id;
    lab.container(1, "ping -c 1 -W 2 10.32.0.2");
    sh(&format!("ip -n {id}h1 link set under1 down"));
    lab.container(1, "! ping -c 3 -i 0.1 -W 1 10.32.0.2");
    sh(&format!("ip -n {id}h1 link set under1 up"));
    lab.in_host(2, || {
        let stranger = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        let known = [&name(2).to_bytes()[..], &[7; 60]].concat();
        for bytes in [&[][..], &[1, 2, 3], &[9; 40], &known[..10], &known] {
            stranger.send_to(bytes, ("192.168.1.1", PORT)).unwrap();
        }
    });
    lab.container(1, "ping -c 1 -W 2 10.32.0.2");
    let counters = lab.counters(1);
    assert!(counters["dropped_send_failed"] > 0, "{counters:?}");
    let dropped = ["short_datagram", "unknown_sender", "undecryptable"]
        .map(|reason| counters[&format!("dropped_{reason}")]);
    assert_eq!(dropped, [1, 1, 2], "{counters:?}");
}

#[test]
fn data_plane_whose_tap_is_deleted_ends_and_says_why() {
    let Some(mut lab) = Lab::new(PLAIN) else {
        return;
    };
    sh(&format!("ip -n {}h1 link del weft-tap", lab.id));
    for _ in 0..400 {
        if let Err(ended) = lab.planes[0].1.try_next() {
            let Ended::Failed { thread, .. } = ended else {
                panic!("{ended}");
            };
            assert!(["weft-tx", "weft-data"].contains(&thread), "{thread}");
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("it runs on");
}

#[test]
fn second_data_plane_on_the_same_port_is_refused() {
    let Some(lab) = Lab::new(PLAIN) else { return };
    let config = Config {
        bridge_mtu_bytes: 1376,
        listen: None,
        port: PORT,
        name: name(9),
    };
    let error = lab.in_host(1, || Plane::start(config).err().unwrap().to_string());
    assert!(error.contains("weft-tap"), "{error}");
}

/// Prints throughput between the containers; one core per host, as `datapath.md` measures.
#[test]
fn throughput() {
    let Ok(secs) = std::env::var("WEFT_BENCH_SECS") else {
        eprintln!("SKIPPED: set WEFT_BENCH_SECS to measure");
        return;
    };
    for plan in [PLAIN, ENCRYPTED] {
        let Some(lab) = Lab::new(plan) else { return };
        let id = &lab.id;
        sh(&format!(
            "
            ip netns exec {id}h1 sh -c 'echo 1 > /sys/class/net/under1/queues/rx-0/rps_cpus'
            ip netns exec {id}h2 sh -c 'echo 2 > /sys/class/net/under1/queues/rx-0/rps_cpus'
            "
        ));
        if std::env::var_os("WEFT_BENCH_NIC").is_some() {
            lab.make_cable_nic_like();
        }
        pin(&lab.tids(0), 0);
        pin(&lab.tids(1), 1);
        lab.container(1, "ping -c 1 -W 2 10.32.0.2");
        for load in ["-P 1", "-P 4", "-u -b 400M -l 1300"] {
            let said = sh(&format!(
                "
                ip netns exec {id}c2 taskset -c 1 iperf3 -s -1 -p 5201 > /dev/null &
                sleep 0.5
                ip netns exec {id}c1 taskset -c 0 iperf3 -c 10.32.0.2 -O 1 -t {secs} {load} \
                    | grep -E '(SUM|\\[ +[0-9]+\\]).*(sender|receiver)' | tail -2
                wait
                "
            ));
            eprintln!("encrypted {}, {load}:\n{said}", plan.encrypted);
        }
    }
}

impl Lab {
    /// Thread ids of the data plane of the `index`-th host: they started in that order.
    fn tids(&self, index: usize) -> Vec<u32> {
        let mut tids: Vec<u32> = std::fs::read_dir("/proc/self/task")
            .unwrap()
            .filter_map(|entry| {
                let entry = entry.unwrap();
                let comm = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
                let tid = entry.file_name().to_str().unwrap().parse().unwrap();
                comm.starts_with("weft-").then_some(tid)
            })
            .collect();
        tids.sort_unstable();
        tids[2 * index..2 * index + 2].to_vec()
    }
}

fn pin(tids: &[u32], cpu: usize) {
    for tid in tids {
        sh(&format!("taskset -pc {cpu} {tid} > /dev/null"));
    }
}
