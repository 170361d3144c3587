//! Datagrams that somebody on the path repeats, changes, cuts, reorders and invents.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::rc::Rc;
use std::time::Duration;

use wire::sleeve::{COUNTER_DF_BIT, parse_datagram, parse_sealed_body};

use crate::lab::Lab;
use crate::lab::capture::MARKER;
use crate::lab::host::{Container, Host};
use crate::lab::traffic::{assert_pings, transfer, wait_ping};
use crate::log_of;
use crate::middle::{Middle, Way, lock};

/// Port of the container that counts.
const PORT: u16 = 7000;
/// A counter that has heard nothing for so long has heard everything.
const QUIET: Duration = Duration::from_millis(1500);

/// Two hosts with a container each, and the middle all their packets go through.
struct Scene {
    hosts: [Rc<Host>; 3],
    middle: Middle,
    one: Container,
    two: Container,
    counter: UdpSocket,
    /// What the second container has heard and was not asked about yet.
    inbox: RefCell<BTreeMap<u32, usize>>,
}

impl Scene {
    fn new(lab: &Lab) -> Self {
        let hosts = lab.line(["a", "m", "b"]);
        let middle = Middle::new(&hosts);
        hosts[2].launch(&[]);
        hosts[0].join(&[&hosts[1]]);
        hosts[0].wait_established(1);
        hosts[2].wait_established(1);
        let one = lab.attached(&hosts[0], "c", &["10.32.0.1/24"]);
        let two = lab.attached(&hosts[2], "c", &["10.32.0.2/24"]);
        wait_ping(&one.namespace, "10.32.0.2");
        let counter = two
            .namespace
            .within(|| UdpSocket::bind(("10.32.0.2", PORT)))
            .expect("the address is there");
        Self {
            hosts,
            middle,
            one,
            two,
            counter,
            inbox: RefCell::default(),
        }
    }

    /// The first container says these numbers, no faster than the second can listen.
    fn say(&self, numbers: std::ops::Range<u32>) {
        let socket = self.one.namespace.within(|| UdpSocket::bind("10.32.0.1:0"));
        let socket = socket.expect("the address is there");
        for number in numbers {
            let sent = socket.send_to(&saying(number), ("10.32.0.2", PORT));
            sent.expect("there is a route");
            self.listen(Duration::from_millis(1));
        }
    }

    /// How often the second container has heard each number since it was last asked. Fails the
    /// test if anything else was heard.
    fn heard(&self) -> BTreeMap<u32, usize> {
        self.listen(QUIET);
        self.inbox.take()
    }

    /// Listens until nothing was heard for `quiet`.
    fn listen(&self, quiet: Duration) {
        let set = self.counter.set_read_timeout(Some(quiet));
        set.expect("a valid time");
        let mut heard = self.inbox.borrow_mut();
        let mut bytes = [0; 2048];
        while let Ok(length) = self.counter.recv(&mut bytes) {
            let number = bytes[MARKER.len()..].first_chunk().expect("room for both");
            let number = u32::from_be_bytes(*number);
            assert_eq!(bytes[..length], saying(number), "what was heard was said");
            *heard.entry(number).or_default() += 1;
        }
    }

    /// Says numbers and asserts that each is heard once.
    fn assert_heard_once(&self, numbers: std::ops::Range<u32>) {
        self.say(numbers.clone());
        assert_eq!(self.heard(), numbers.map(|number| (number, 1)).collect());
    }

    fn assert_still_works(&self) {
        self.middle.pass_datagrams();
        assert_pings(&self.one.namespace, "10.32.0.2");
        transfer(
            &self.one.namespace,
            &self.two.namespace,
            "10.32.0.2",
            200_000,
        );
        for host in [&self.hosts[0], &self.hosts[2]] {
            host.wait_established(1);
            let log = log_of(host);
            assert_eq!(
                log.matches("connection fully established").count(),
                1,
                "{log}"
            );
        }
    }
}

/// What a container says for a number: bytes of many lengths that follow from it.
fn saying(number: u32) -> Vec<u8> {
    let mut bytes = [MARKER.as_slice(), &number.to_be_bytes()].concat();
    let length = bytes.len() + (number as usize * 37) % 1200;
    let mut next = number;
    bytes.resize_with(length, || {
        next = next.wrapping_mul(0x9e37_79b1).wrapping_add(0x85eb);
        next.to_be_bytes()[0]
    });
    bytes
}

/// F42, F46: recorded datagrams sent again, once and often, soon and late, from where they came and
/// from elsewhere, reach no container, are not answered, and move no tunnel.
#[test]
fn repeated_datagrams_are_delivered_once() {
    let Some(lab) = Lab::encrypted() else { return };
    let scene = Scene::new(&lab);
    let record = scene.middle.record_datagrams(Way::There);
    scene.assert_heard_once(0..50);
    let old = lock(&record).clone();
    assert!(old.len() >= 50, "{} recorded", old.len());
    old.iter()
        .for_each(|datagram| scene.middle.inject(Way::There, datagram));
    assert_eq!(scene.heard(), BTreeMap::new(), "once more, at once");
    scene.assert_heard_once(50..300);
    let all = lock(&record).clone();
    for datagram in all.iter().flat_map(|datagram| [datagram; 4]) {
        scene.middle.inject(Way::There, datagram);
    }
    assert_eq!(scene.heard(), BTreeMap::new(), "four times more, in order");
    for datagram in all.iter().rev() {
        scene.middle.inject(Way::There, datagram);
    }
    assert_eq!(scene.heard(), BTreeMap::new(), "once more, in reverse");
    let elsewhere = scene.hosts[1].namespace.within(|| {
        let socket = UdpSocket::bind("192.168.82.1:0").expect("the address is there");
        for datagram in &all {
            let sent = socket.send_to(datagram, "192.168.82.2:6783");
            sent.expect("there is a route");
        }
        socket
    });
    assert_eq!(scene.heard(), BTreeMap::new(), "from elsewhere");
    elsewhere
        .set_read_timeout(Some(QUIET))
        .expect("a valid time");
    let answer = elsewhere.recv(&mut [0; 2048]);
    assert!(answer.is_err(), "{answer:?}");
    let moved = log_of(&scene.hosts[2]);
    assert_eq!(moved.matches("UDP address changed").count(), 0, "{moved}");
    scene.assert_heard_once(300..320);
    scene.assert_still_works();
}

/// F48: after a restart there is another key, and what was recorded before is worth nothing.
#[test]
fn datagrams_of_an_earlier_session_are_refused() {
    let Some(lab) = Lab::encrypted() else { return };
    let scene = Scene::new(&lab);
    let record = scene.middle.record_datagrams(Way::There);
    scene.assert_heard_once(0..50);
    let old = lock(&record).clone();
    scene.hosts[0].weft(&["stop"]).ok();
    scene.hosts[0].join(&[&scene.hosts[1]]);
    scene.hosts[0].wait_established(1);
    wait_ping(&scene.one.namespace, "10.32.0.2");
    old.iter()
        .for_each(|datagram| scene.middle.inject(Way::There, datagram));
    assert_eq!(scene.heard(), BTreeMap::new());
    scene.assert_heard_once(50..60);
}

/// F26: a changed bit anywhere, or a missing end, and the datagram is not delivered; the others are.
#[test]
fn changed_and_cut_datagrams_are_not_delivered() {
    let Some(lab) = Lab::encrypted() else { return };
    let scene = Scene::new(&lab);
    let mut count = 0_usize;
    scene.middle.on_datagrams(move |_, datagram| {
        let Some(mut datagram) = datagram.map(<[u8]>::to_vec) else {
            return Vec::new();
        };
        count += 1;
        let bit = count * 2_654_435_761 % (datagram.len() * 8);
        match count % 4 {
            0 => datagram[bit / 8] ^= 1 << (bit % 8),
            1 => datagram.truncate(bit / 8),
            _ => {}
        }
        vec![datagram]
    });
    scene.say(0..400);
    let heard = scene.heard();
    assert!(heard.values().all(|copies| *copies == 1), "{heard:?}");
    assert!((100..=300).contains(&heard.len()), "{} heard", heard.len());
    scene.assert_still_works();
}

/// F43: datagrams that overtake each other are all delivered, once.
#[test]
fn reordered_datagrams_are_each_delivered_once() {
    let Some(lab) = Lab::encrypted() else { return };
    let scene = Scene::new(&lab);
    let mut held = Vec::new();
    scene.middle.on_datagrams(move |way, datagram| {
        if way == Way::Back {
            return datagram.map(<[u8]>::to_vec).into_iter().collect();
        }
        held.extend(datagram.map(<[u8]>::to_vec));
        if datagram.is_some() && held.len() < 24 {
            return Vec::new();
        }
        // Every seventh, then the one behind each of them, and so on; the latest first.
        let mut order: Vec<usize> = (0..held.len()).rev().collect();
        order.sort_by_key(|at| at % 7);
        let sent = order.iter().map(|at| held[*at].clone()).collect();
        held.clear();
        sent
    });
    scene.assert_heard_once(0..300);
    scene.assert_still_works();
}

/// F47, F48: every datagram of a session carries a number, counted from its beginning, that no other
/// of its sequence space has.
#[test]
fn numbers_of_datagrams_are_consecutive_and_used_once() {
    let Some(lab) = Lab::encrypted() else { return };
    let hosts = lab.line(["a", "m", "b"]);
    let middle = Middle::new(&hosts);
    let record = middle.record_datagrams(Way::There);
    hosts[2].launch(&[]);
    hosts[0].join(&[&hosts[1]]);
    hosts[0].wait_established(1);
    let one = lab.attached(&hosts[0], "c", &["10.32.0.1/24"]);
    let two = lab.attached(&hosts[2], "c", &["10.32.0.2/24"]);
    wait_ping(&one.namespace, "10.32.0.2");
    transfer(&one.namespace, &two.namespace, "10.32.0.2", 500_000);
    let mut spaces: BTreeMap<bool, Vec<u64>> = BTreeMap::new();
    for mut datagram in lock(&record).clone() {
        let (sender, body) = parse_datagram(&datagram).expect("a datagram of ours");
        assert_eq!(sender.to_string(), hosts[0].peer_name());
        let name_bytes = datagram.len() - body.len();
        let sealed = parse_sealed_body(&mut datagram[name_bytes..]);
        let (field, _) = sealed.expect("a datagram of ours");
        let space = spaces.entry(field & COUNTER_DF_BIT != 0).or_default();
        space.push(field & !COUNTER_DF_BIT);
    }
    assert!(spaces.values().map(Vec::len).sum::<usize>() > 300);
    for (df, mut numbers) in spaces {
        numbers.sort_unstable();
        let distinct = numbers.windows(2).all(|pair| pair[0] < pair[1]);
        assert!(distinct, "DF {df}: {numbers:?}");
        assert!(numbers[0] <= 1, "DF {df} begins with {}", numbers[0]);
        // A socket of the middle may lose some when the machine is busy.
        let span = numbers[numbers.len() - 1] - numbers[0] + 1;
        assert!(span < 2 * numbers.len() as u64, "DF {df}: {numbers:?}");
    }
}
