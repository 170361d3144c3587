//! Peers of both kinds in one network, and what must hold whatever they are.

use std::rc::Rc;

use super::Lab;
use super::host::Host;
use super::namespace::{Namespace, run};
use super::original::{Original, find_original, peer_name};
use super::patience::wait_for;
use super::traffic::{Listener, assert_heard_once, assert_pings, transfer, wait_ping};
use super::{PASSWORD, host::Container};

/// Bytes of the small transfers.
const SMALL_BYTES: usize = 1_000_000;
/// Ports of the shouting tests.
const SHOUT_PORT: u16 = 7000;

/// Which kind a peer is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The original router.
    Original,
    /// Ours.
    Weft,
}

/// How peers are cabled and told of each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// All on one underlay network; all but the first know the first.
    Flat,
    /// Neighbours share a network and nobody forwards; each but the first knows the one before it.
    Line,
}

/// What a mix is made of.
#[derive(Clone, Copy)]
pub(crate) struct Recipe<'a> {
    /// One letter per peer: `O` original, `W` Weft.
    pub(crate) kinds: &'a str,
    pub(crate) shape: Shape,
    pub(crate) is_encrypted: bool,
    /// Trusted subnets of originals and of Wefts.
    pub(crate) trusted: (Option<&'a str>, Option<&'a str>),
    /// Highest protocol version our peers speak.
    pub(crate) weft_speaks: &'a str,
    /// Password of our peers.
    pub(crate) weft_password: Option<&'a str>,
}

impl<'a> Recipe<'a> {
    pub(crate) const fn new(kinds: &'a str, shape: Shape, is_encrypted: bool) -> Self {
        Self {
            kinds,
            shape,
            is_encrypted,
            trusted: (None, None),
            weft_speaks: "2",
            weft_password: if is_encrypted { Some(PASSWORD) } else { None },
        }
    }
}

/// One peer with its container.
pub(crate) enum Peer {
    Original(Original, Namespace),
    Weft(Rc<Host>, Container),
}

impl Peer {
    pub(crate) fn host(&self) -> &Host {
        match self {
            Self::Original(original, _) => original.host(),
            Self::Weft(host, _) => host,
        }
    }

    pub(crate) fn container(&self) -> &Namespace {
        match self {
            Self::Original(_, namespace) => namespace,
            Self::Weft(_, container) => &container.namespace,
        }
    }

    /// What it says about its connections or peers.
    pub(crate) fn status(&self, what: &str) -> String {
        match self {
            Self::Original(original, _) => original.status(what),
            Self::Weft(host, _) => host.status(what),
        }
    }

    pub(crate) fn stop(&self) {
        match self {
            Self::Original(original, _) => original.stop(),
            Self::Weft(host, _) => drop(host.weft(&["stop"]).ok()),
        }
    }
}

/// A running network of both kinds, one container on each peer.
pub(crate) struct Mix {
    pub(crate) peers: Vec<Peer>,
    arguments: Vec<Vec<String>>,
    weft_speaks: String,
    shape: Shape,
    weft_password: Option<String>,
    // Dropped last: it ends what runs on its hosts.
    pub(crate) lab: Lab,
}

impl Mix {
    /// Starts everything and waits for all connections; `None`, loudly, where that cannot be.
    pub(crate) fn start(recipe: Recipe<'_>) -> Option<Self> {
        let mix = Self::launched(recipe)?;
        mix.wait_connected();
        mix.plug_containers();
        Some(mix)
    }

    /// Starts all daemons; `None`, loudly, where that cannot be.
    pub(crate) fn launched(recipe: Recipe<'_>) -> Option<Self> {
        let binary = find_original()?;
        let lab = Lab::plain()?;
        let password = recipe.is_encrypted.then(|| PASSWORD.to_owned());
        let hosts = hosts(&lab, recipe);
        let kinds = recipe.kinds.chars().map(|letter| match letter {
            'O' => Kind::Original,
            _ => Kind::Weft,
        });
        let mut peers = Vec::new();
        for (number, (kind, host)) in (1..).zip(kinds.zip(&hosts)) {
            host.set_password(password.as_deref());
            let container = lab.container(host, "c");
            peers.push(match kind {
                Kind::Weft => Peer::Weft(Rc::clone(host), container),
                Kind::Original => {
                    let (host, binary) = (Rc::clone(host), binary.clone());
                    let original = Original::new(host, binary, number, password.clone());
                    Peer::Original(original, container.namespace)
                }
            });
        }
        let arguments = (0..peers.len())
            .map(|index| arguments(&peers, index, recipe))
            .collect();
        let mix = Self {
            peers,
            arguments,
            weft_speaks: recipe.weft_speaks.to_owned(),
            shape: recipe.shape,
            weft_password: recipe.weft_password.map(str::to_owned),
            lab,
        };
        (0..mix.peers.len()).for_each(|index| mix.launch(index));
        Some(mix)
    }

    /// Starts (again) the daemon of one peer.
    pub(crate) fn launch(&self, index: usize) {
        let arguments: Vec<&str> = self.arguments[index].iter().map(String::as_str).collect();
        match &self.peers[index] {
            Peer::Original(original, _) => original.launch(&arguments),
            Peer::Weft(host, _) => {
                let mut command = host.command();
                command.env("WEFT_MAX_PROTOCOL_VERSION", &self.weft_speaks);
                if let Some(password) = &self.weft_password {
                    command.env("WEAVE_PASSWORD", password);
                }
                let name = peer_name(index + 1);
                command.args(["launch", "--nickname", host.name(), "--name", &name]);
                let output = run(command.args(arguments));
                assert!(output.status.success(), "{output:?}{}", host.story());
            }
        }
    }

    fn plug_containers(&self) {
        for (index, peer) in self.peers.iter().enumerate() {
            let address = format!("{}/24", address(index));
            match peer {
                Peer::Original(original, namespace) => original.plug(namespace, &address),
                Peer::Weft(_, container) => drop(container.attach(&[&address])),
            }
        }
    }

    /// How many connections a peer has when all is well.
    fn neighbours(&self, index: usize) -> usize {
        match self.shape {
            Shape::Flat => self.peers.len() - 1,
            Shape::Line => usize::from(index > 0) + usize::from(index + 1 < self.peers.len()),
        }
    }

    /// Waits until every peer shows all its connections as established and knows everybody.
    pub(crate) fn wait_connected(&self) {
        for (index, peer) in self.peers.iter().enumerate() {
            let name = peer.host().name();
            wait_for(&format!("all connections of {name}"), || {
                let (connections, peers) = (peer.status("connections"), peer.status("peers"));
                let established = connections
                    .lines()
                    .filter(|line| is_established(line))
                    .count();
                let known = peers
                    .lines()
                    .filter(|line| line.starts_with(|c| c != ' '))
                    .count();
                if established == self.neighbours(index) && known == self.peers.len() {
                    return Ok(());
                }
                Err(format!("{connections}{peers}{}", self.story()))
            });
        }
    }

    /// The lines of `status connections` of one peer that name another.
    pub(crate) fn connection(&self, from: usize, to: usize) -> String {
        let other = format!("({})", self.peers[to].host().name());
        let status = self.peers[from].status("connections");
        status
            .lines()
            .filter(|line| line.contains(&other))
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// Every container pings every other, moves data to it, and hears it shout once.
    pub(crate) fn assert_all_reach_all(&self) {
        self.assert_all_ping();
        for (from, to) in self.pairs().into_iter().filter(|(from, to)| from < to) {
            let (a, b) = (self.peers[from].container(), self.peers[to].container());
            transfer(a, b, &address(to), SMALL_BYTES);
            transfer(b, a, &address(from), SMALL_BYTES);
        }
        self.assert_all_hear_all();
    }

    /// Small pings, and large ones that the network or the peers have to cut.
    pub(crate) fn assert_all_ping(&self) {
        for (from, to) in self.pairs() {
            wait_ping(self.peers[from].container(), &address(to));
        }
        for peer in &self.peers {
            if let Peer::Original(original, _) = peer {
                original.settled();
            }
        }
        for (from, to) in self.pairs() {
            let namespace = self.peers[from].container();
            assert_pings(namespace, &address(to));
            let large = ["-s", "20000", "-M", "dont"];
            let pings = super::traffic::ping(namespace, &address(to), 3, &large);
            assert_eq!(
                pings.received,
                3,
                "{from} to {to}: {}{}",
                pings.text,
                self.story()
            );
        }
    }

    fn assert_all_hear_all(&self) {
        for target in [[10, 32, 0, 255], [239, 1, 2, 3]].map(Into::into) {
            for (from, peer) in self.peers.iter().enumerate() {
                let others = (0..self.peers.len()).filter(|other| *other != from);
                let listeners: Vec<Listener> = others
                    .map(|other| {
                        let own = address(other).parse().expect("an address");
                        Listener::new(self.peers[other].container(), target, own, SHOUT_PORT)
                    })
                    .collect();
                let own = address(from).parse().expect("an address");
                assert_heard_once(peer.container(), own, target, SHOUT_PORT, &listeners);
            }
        }
    }

    /// Nobody crashed, and no original says anything that another original would not make it say.
    pub(crate) fn assert_no_complaints(&self, expected: &[&str]) {
        for peer in &self.peers {
            match peer {
                Peer::Original(original, _) => {
                    assert!(
                        original.is_running(),
                        "an original ended:\n{}",
                        original.log()
                    );
                    let complaints = original.complaints(expected);
                    assert!(complaints.is_empty(), "{complaints:#?}\n{}", original.log());
                }
                Peer::Weft(host, _) => {
                    let story = host.story();
                    assert!(!story.contains("panicked"), "{story}");
                }
            }
        }
    }

    /// All ordered pairs of peers.
    pub(crate) fn pairs(&self) -> Vec<(usize, usize)> {
        let count = self.peers.len();
        let all = (0..count).flat_map(|from| (0..count).map(move |to| (from, to)));
        all.filter(|(from, to)| from != to).collect()
    }

    fn story(&self) -> String {
        let stories = self.peers.iter().map(|peer| match peer {
            Peer::Weft(host, _) => host.story(),
            Peer::Original(original, _) => {
                format!(
                    "\n==== original {}\n{}",
                    original.host().name(),
                    original.log()
                )
            }
        });
        stories.collect()
    }
}

/// The address of the container on the `index`th peer.
pub(crate) fn address(index: usize) -> String {
    format!("10.32.0.{}", index + 1)
}

/// Whether a line of `status connections` shows an established connection, in either's form.
fn is_established(line: &str) -> bool {
    line.split_whitespace().nth(2) == Some("established")
}

/// Hosts, named after what will run on them, and their cables.
fn hosts(lab: &Lab, recipe: Recipe<'_>) -> Vec<Rc<Host>> {
    let named = |(index, letter): (usize, char)| {
        lab.host(&format!("{}{}", letter.to_ascii_lowercase(), index + 1))
    };
    let hosts: Vec<_> = recipe.kinds.chars().enumerate().map(named).collect();
    match recipe.shape {
        Shape::Flat => {
            let all: Vec<&Host> = hosts.iter().map(AsRef::as_ref).collect();
            lab.network("192.168.77", &all);
        }
        Shape::Line => {
            for (index, pair) in hosts.windows(2).enumerate() {
                lab.network(&format!("192.168.{}", 81 + index), &[&pair[0], &pair[1]]);
            }
        }
    }
    hosts
}

/// Flags and peers of one daemon.
fn arguments(peers: &[Peer], index: usize, recipe: Recipe<'_>) -> Vec<String> {
    let mut arguments = Vec::new();
    let trusted = match peers[index] {
        Peer::Original(..) => recipe.trusted.0,
        Peer::Weft(..) => recipe.trusted.1,
    };
    if let Some(subnets) = trusted {
        arguments.extend(["--trusted-subnets".to_owned(), subnets.to_owned()]);
    }
    if let Some(before) = index.checked_sub(1) {
        arguments.push(match recipe.shape {
            Shape::Flat => peers[0].host().address(0),
            // The last address of the one before is the one on the network shared with us.
            Shape::Line => peers[before].host().address(usize::from(before > 0)),
        });
    }
    arguments
}
