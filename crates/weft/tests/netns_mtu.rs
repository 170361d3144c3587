//! Kernel tests of the path MTU: narrow underlays from 576 to 9000 bytes, on either side and in the
//! middle, that shrink and grow under load, with routers that say so and routers that keep silent.
//!
//! ```text
//!   a ── left ── r1 ── middle ── r2 ── right ── b      r1, r2: routers; fragment, answer by ICMP
//! ```
//!
//! Each step changes one link while data is under way, and then asks: does 1 MiB arrive by TCP and
//! in UDP datagrams both ways, does each side know the MTU exactly, and is a container told it?
//! Containers have an MTU of 8900, so every step is smaller than what they would send.

mod lab;

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use lab::host::{Container, Host};
use lab::patience::wait_for;
use lab::traffic::{Pace, datagrams, paced, ping, wait_ping};
use lab::{Lab, namespace};

const MEBIBYTE: usize = 1 << 20;
/// What every link carries at first, bytes.
const WIDE: usize = 9000;
/// MTU of the containers, bytes.
const CONTAINERS: &str = "8900";
/// What sleeve adds to a container's IP packet, bytes (IPv4 underlay).
const OVERHEAD_CLEAR: usize = 62;
const OVERHEAD_ENCRYPTED: usize = 86;
/// What an IPv6 underlay adds to that.
const OVERHEAD_IPV6: usize = 20;
const ADDRESSES: [&str; 2] = ["10.32.0.1", "10.32.0.2"];

/// A link of the path.
#[derive(Debug, Clone, Copy)]
enum Link {
    Left,
    Middle,
    Right,
}

use Link::{Left, Middle, Right};

/// What the underlay speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Underlay {
    Ipv4,
    Ipv6,
}

impl Underlay {
    /// The `number`th network, as a prefix of addresses.
    fn prefix(self, number: usize) -> String {
        match self {
            Self::Ipv4 => format!("192.168.{}", 60 + number),
            Self::Ipv6 => format!("fd77:{number}::"),
        }
    }

    /// The address of the first or second host on it.
    fn address(self, number: usize, host: usize) -> String {
        match self {
            Self::Ipv4 => format!("{}.{host}", self.prefix(number)),
            Self::Ipv6 => format!("{}{host}", self.prefix(number)),
        }
    }

    /// All of it, as the target of a route.
    fn network(self, number: usize) -> String {
        match self {
            Self::Ipv4 => format!("{}.0/24", self.prefix(number)),
            Self::Ipv6 => format!("{}/64", self.prefix(number)),
        }
    }
}

/// Two hosts, two routers between them, and a container on each host.
struct Path {
    hosts: [Rc<Host>; 2],
    routers: [Rc<Host>; 2],
    containers: Vec<Container>,
    overhead: usize,
    /// Largest packet a container may believe in, bytes.
    believed: Cell<usize>,
    links: Cell<[usize; 3]>,
    // Dropped last: it ends what runs on its hosts.
    lab: Lab,
}

impl Path {
    /// The path, its links as wide as `links` says; nothing runs yet.
    fn new(underlay: Underlay, is_encrypted: bool, links: [usize; 3]) -> Option<Self> {
        let lab = if is_encrypted {
            Lab::encrypted()?
        } else {
            Lab::plain()?
        };
        let [a, r1, r2, b] = ["a", "r1", "r2", "b"].map(|name| lab.host(name));
        for (number, hosts) in (1..).zip([[&a, &r1], [&r1, &r2], [&r2, &b]]) {
            lab.network(&underlay.prefix(number), &hosts.map(AsRef::as_ref));
        }
        lab.limit_underlay(WIDE);
        let ways = [
            (&a, "default".to_owned(), underlay.address(1, 2)),
            (&r1, underlay.network(3), underlay.address(2, 2)),
            (&r2, underlay.network(1), underlay.address(2, 1)),
            (&b, "default".to_owned(), underlay.address(3, 1)),
        ];
        for (host, to, via) in ways {
            host.namespace.ip(&["route", "add", &to, "via", &via]);
        }
        for router in [&r1, &r2] {
            for forward in ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"] {
                router.namespace.run("sysctl", &["-q", "-w", forward]);
            }
        }
        let overhead = if is_encrypted {
            OVERHEAD_ENCRYPTED
        } else {
            OVERHEAD_CLEAR
        };
        let path = Self {
            hosts: [a, b],
            routers: [r1, r2],
            containers: Vec::new(),
            overhead: match underlay {
                Underlay::Ipv4 => overhead,
                Underlay::Ipv6 => overhead + OVERHEAD_IPV6,
            },
            believed: Cell::new(usize::MAX),
            links: Cell::new([WIDE; 3]),
            lab,
        };
        for (link, mtu) in [Left, Middle, Right].into_iter().zip(links) {
            path.set(link, mtu);
        }
        Some(path)
    }

    /// Starts the daemons and attaches the containers.
    fn start(mut self) -> Self {
        self.hosts[0].launch(&["--mtu", CONTAINERS]);
        let peer = SocketAddr::new(self.hosts[0].address(0).parse().expect("an address"), 6783);
        let peer = peer.to_string();
        self.hosts[1].launch(&["--mtu", CONTAINERS, &peer]);
        self.hosts.iter().for_each(|host| host.wait_established(1));
        for (host, address) in self.hosts.iter().zip(ADDRESSES) {
            let address = format!("{address}/24");
            self.containers
                .push(self.lab.attached(host, "c", &[&address]));
        }
        wait_ping(&self.containers[0].namespace, ADDRESSES[1]);
        self
    }

    /// The routers keep silent about what is too big.
    fn silence(&self) {
        for router in &self.routers {
            let namespace = &router.namespace;
            namespace.run("nft", &["add", "table", "inet", "lab"]);
            let hook = "{ type filter hook output priority 0 ; }";
            namespace.run("nft", &["add", "chain", "inet", "lab", "out", hook]);
            for drop in [
                ["icmp", "type", "destination-unreachable", "drop"],
                ["icmpv6", "type", "packet-too-big", "drop"],
            ] {
                let rule = [&["add", "rule", "inet", "lab", "out"][..], &drop].concat();
                namespace.run("nft", &rule);
            }
        }
    }

    /// Changes what both ends of a link carry.
    fn set(&self, link: Link, mtu: usize) {
        let [a, b] = &self.hosts;
        let [r1, r2] = &self.routers;
        let (ends, index) = match link {
            Left => ([(a, "eth0"), (r1, "eth0")], 0),
            Middle => ([(r1, "eth1"), (r2, "eth0")], 1),
            Right => ([(r2, "eth1"), (b, "eth0")], 2),
        };
        let mut links = self.links.get();
        links[index] = mtu;
        self.links.set(links);
        for (host, interface) in ends {
            let mtu = mtu.to_string();
            host.namespace.ip(&["link", "set", interface, "mtu", &mtu]);
        }
    }

    /// The largest IP packet of a container that fits now, bytes.
    fn mtu(&self) -> usize {
        self.links.get().into_iter().min().expect("three links") - self.overhead
    }

    /// Moves data both ways at once, changes the link meanwhile, and checks what came of it.
    fn step(&self, link: Link, mtu: usize) {
        let before = self.mtu();
        std::thread::scope(|scope| {
            let [one, two] = [&self.containers[0].namespace, &self.containers[1].namespace];
            let moves = [
                scope.spawn(|| paced(one, two, ADDRESSES[1], MEBIBYTE, Pace::Slow)),
                scope.spawn(|| paced(two, one, ADDRESSES[0], MEBIBYTE, Pace::Slow)),
            ];
            std::thread::sleep(Duration::from_millis(300));
            self.set(link, mtu);
            for thread in moves {
                thread.join().expect("data under way survives the change");
            }
        });
        self.assert_carries();
        if self.mtu() < before {
            self.assert_told();
        }
    }

    /// 1 MiB arrives by TCP and in datagrams both ways, and both sides know the MTU exactly.
    fn assert_carries(&self) {
        let [one, two] = [&self.containers[0].namespace, &self.containers[1].namespace];
        for (from, to, address) in [(one, two, ADDRESSES[1]), (two, one, ADDRESSES[0])] {
            paced(from, to, address, MEBIBYTE, Pace::Fast);
            datagrams(from, to, address, MEBIBYTE);
        }
        let mtu = format!("mtu={}", self.mtu());
        for host in &self.hosts {
            host.wait_status("connections", |status| status.contains(&mtu));
        }
    }

    /// A container that sends too much is told the exact limit by ICMP, whatever it believed before.
    fn assert_told(&self) {
        let mtu = self.mtu();
        let container = &self.containers[0].namespace;
        // Above the limit, and not above what it was told before, or its kernel would refuse.
        let size = (self.believed.get() - 28).min(mtu - 28 + 20).to_string();
        if self.believed.replace(mtu) <= mtu {
            return;
        }
        let answer = format!("From {} icmp_seq=", ADDRESSES[1]);
        let words = format!("Frag needed and DF set (mtu = {mtu})");
        wait_for("the container to be told", || {
            container.run("ip", &["route", "flush", "cache"]);
            let pings = ping(container, ADDRESSES[1], 1, &["-M", "do", "-s", &size]);
            let is_told = pings.text.contains(&answer) && pings.text.contains(&words);
            if is_told { Ok(()) } else { Err(pings.text) }
        });
    }
}

fn nft_works() -> bool {
    let works = namespace::is_installed("nft");
    if !works {
        lab::skip("needs the program nft");
    }
    works
}

/// Every link becomes narrower under load, one after the other.
fn shrink(underlay: Underlay, is_encrypted: bool, is_silent: bool, steps: &[(Link, usize)]) {
    if !nft_works() {
        return;
    }
    let Some(path) = Path::new(underlay, is_encrypted, [WIDE; 3]) else {
        return;
    };
    if is_silent {
        path.silence();
    }
    let path = path.start();
    path.assert_carries();
    for (link, mtu) in steps {
        path.step(*link, *mtu);
    }
}

const MIDDLE_FIRST: [(Link, usize); 3] = [(Middle, 1500), (Left, 1280), (Right, 576)];
const SIDES_FIRST: [(Link, usize); 3] = [(Right, 1500), (Left, 1280), (Middle, 576)];
/// Down to the least an IPv6 link may carry.
const NARROW_IPV6: [(Link, usize); 2] = [(Middle, 1500), (Right, 1280)];

/// A path that was narrow from the start becomes wide under load.
fn grow(is_encrypted: bool, is_silent: bool, links: [usize; 3], steps: &[(Link, usize)]) {
    if !nft_works() {
        return;
    }
    let Some(path) = Path::new(Underlay::Ipv4, is_encrypted, links) else {
        return;
    };
    if is_silent {
        path.silence();
    }
    let path = path.start();
    path.assert_carries();
    path.assert_told();
    for (link, mtu) in steps {
        path.step(*link, *mtu);
    }
}

/// Runs cases beside each other, as they mostly wait, and names those that fail.
fn all_at_once(cases: &[(&str, fn())]) {
    std::thread::scope(|scope| {
        let spawn = |(name, case): &(&str, fn())| {
            let thread = std::thread::Builder::new().name((*name).to_owned());
            thread.spawn_scoped(scope, *case).expect("a thread starts")
        };
        let threads: Vec<_> = cases.iter().map(spawn).collect();
        let failed: Vec<&str> = threads
            .into_iter()
            .zip(cases)
            .filter_map(|(thread, (name, _))| thread.join().is_err().then_some(*name))
            .collect();
        assert!(failed.is_empty(), "failed: {failed:?}");
    });
}

#[test]
fn paths_that_shrink_carry_on() {
    use Underlay::{Ipv4, Ipv6};
    all_at_once(&[
        ("told", || shrink(Ipv4, false, false, &MIDDLE_FIRST)),
        ("told, encrypted", || {
            shrink(Ipv4, true, false, &SIDES_FIRST);
        }),
        ("told, IPv6", || shrink(Ipv6, false, false, &NARROW_IPV6)),
    ]);
}

/// F19: large packets vanish on the way and nobody says so.
#[test]
fn paths_that_shrink_in_silence_carry_on() {
    use Underlay::{Ipv4, Ipv6};
    all_at_once(&[
        ("silent", || shrink(Ipv4, false, true, &SIDES_FIRST)),
        ("silent, encrypted", || {
            shrink(Ipv4, true, true, &MIDDLE_FIRST);
        }),
        ("silent, encrypted, IPv6", || {
            shrink(Ipv6, true, true, &NARROW_IPV6);
        }),
    ]);
}

#[test]
fn paths_that_grow_are_used() {
    all_at_once(&[
        ("although the kernel remembers it narrow", || {
            grow(false, false, [WIDE, 576, WIDE], &[(Middle, WIDE)]);
        }),
        ("silent, encrypted", || {
            grow(true, true, [WIDE, 1280, WIDE], &[(Middle, WIDE)]);
        }),
        ("own interface, encrypted", || {
            grow(true, false, [1500, WIDE, WIDE], &[(Left, WIDE)]);
        }),
    ]);
}

#[test]
fn syns_offer_what_the_path_carries() {
    let Some(path) = Path::new(Underlay::Ipv4, true, [WIDE, 1400, WIDE]) else {
        return;
    };
    let path = path.start();
    let mtu = format!("mtu={}", path.mtu());
    for host in &path.hosts {
        host.wait_status("connections", |status| status.contains(&mtu));
    }
    let [one, two] = [&path.containers[0].namespace, &path.containers[1].namespace];
    let offered = lab::traffic::offered_segment(one, two, ADDRESSES[1]);
    // Time stamps take twelve bytes of each segment.
    let expected = path.mtu() - 40 - 12;
    assert_eq!(offered, [expected, expected]);
}
