//! Gossip of neighbours with an introduced link: topologies made up or malformed, and other channels.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use arbitrary::{Result, Unstructured};
use wire::LinkId;
use wire::PeerName;
use wire::message::{Message, OverlayControl};
use wire::topology::{self, ConnectionSummary, PeerSummary};

use crate::remote::{Manner, Remote, features};
use crate::shell::{Setting, Shell, US};

/// Names peers have; gossip is about few, so that it contradicts itself.
const NAMES: u8 = 10;
/// Messages of one input.
const MESSAGES_MAX: usize = 40;

/// Two neighbours say things about everybody. What they say twice changes nothing the second time,
/// what we pass on can be read, bounds hold, and routes lead over neighbours.
pub fn run(bytes: &[u8]) {
    let mut input = Unstructured::new(bytes);
    let mut scene = Scene::new();
    for _ in 0..MESSAGES_MAX {
        if input.is_empty() || scene.step(&mut input).is_err() {
            break;
        }
    }
    scene.shell.settle();
    scene.check_reachable();
}

/// The n-th peer.
fn name(n: u8) -> PeerName {
    match n % NAMES {
        0 => US,
        n => PeerName::from_u64(0x0200_0000_0b00 + u64::from(n)),
    }
}

struct Scene {
    shell: Shell,
    neighbours: Vec<(LinkId, Remote)>,
}

impl Scene {
    fn new() -> Self {
        let mut shell = Shell::new(Setting::new(false));
        let manner = Manner {
            version: 2,
            has_password: false,
            dialled: true,
        };
        let neighbours = [1, 2].map(|n| {
            let link = shell.accept(n);
            let remote = shell.introduce(link, manner, features(name(n)));
            let mut remote = remote.expect("neighbours are let in");
            let control = Message::Overlay(OverlayControl {
                index: Some(0),
                tag: 1,
                body: Vec::new(),
            });
            let heard = remote.seal(&control.encode());
            shell.bytes(link, &heard);
            (link, remote)
        });
        Self {
            shell,
            neighbours: neighbours.into(),
        }
    }

    fn step(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let speaker = usize::from(input.arbitrary::<bool>()?);
        let wait = input.int_in_range(0..=40_u64)?;
        if wait < 32 {
            let message = self.message(input)?;
            self.say(speaker, &message);
            let before = self.shell.node.status(self.shell.now).mesh.peers;
            self.say(speaker, &message);
            let after = self.shell.node.status(self.shell.now).mesh.peers;
            if self.is_linked(0) && self.is_linked(1) {
                assert_eq!(before, after, "nothing is news twice");
            }
        } else {
            self.shell.pass(Duration::from_secs(wait - 31));
        }
        self.listen();
        self.check_routes();
        Ok(())
    }

    fn is_linked(&self, neighbour: usize) -> bool {
        self.shell.links.contains_key(&self.neighbours[neighbour].0)
    }

    fn message(&self, input: &mut Unstructured<'_>) -> Result<Message> {
        let payload = if input.ratio(7, 8)? {
            topology::encode(&summaries(input)?)
        } else {
            let length = input.int_in_range(0..=600)?;
            input.bytes(usize::min(length, input.len()))?.to_vec()
        };
        let channel = match input.int_in_range(0..=9)? {
            0 => format!("other-{}", input.arbitrary::<u8>()? % 80),
            1 => input.arbitrary::<String>()?,
            _ => "topology".to_owned(),
        };
        let source = name(input.arbitrary()?);
        Ok(match input.int_in_range(0..=3)? {
            0 => Message::GossipBroadcast {
                channel,
                source,
                payload,
            },
            1 => {
                let destination = name(input.arbitrary()?);
                Message::GossipUnicast {
                    channel,
                    source,
                    destination,
                    payload,
                }
            }
            _ => Message::GossipNeighbour {
                channel,
                sender: source,
                payload,
            },
        })
    }

    fn say(&mut self, speaker: usize, message: &Message) {
        if !self.is_linked(speaker) {
            return;
        }
        let (link, remote) = &mut self.neighbours[speaker];
        let said = remote.seal(&message.encode());
        self.shell.bytes(*link, &said);
    }

    /// Reads what the node sent to its neighbours.
    fn listen(&mut self) {
        for (link, remote) in &mut self.neighbours {
            self.shell.deliver(*link, remote);
            for message in remote.take_messages() {
                let (Ok(Message::GossipNeighbour {
                    channel, payload, ..
                })
                | Ok(Message::GossipBroadcast {
                    channel, payload, ..
                })) = Message::decode(&message)
                else {
                    continue;
                };
                if channel == "topology" {
                    let peers = topology::decode(&payload).expect("we send what can be read");
                    assert_eq!(topology::encode(&peers), payload);
                }
            }
        }
    }

    fn check_routes(&self) {
        let linked: BTreeSet<PeerName> = (0..2)
            .filter(|n| self.is_linked(*n))
            .map(|n| name(n as u8 + 1))
            .collect();
        let table = &self.shell.table;
        let known: BTreeSet<&PeerName> = table.neighbours.keys().collect();
        assert_eq!(
            known,
            linked.iter().collect(),
            "a tunnel for each neighbour"
        );
        // Routes follow a moment after links end.
        let stands = self.is_linked(0) && self.is_linked(1);
        for hop in table
            .routes
            .unicast
            .values()
            .chain(table.routes.broadcast.values().flatten())
        {
            assert!(!stands || linked.contains(hop), "{hop} is no neighbour");
        }
    }

    /// Whoever nobody reachable mentions is forgotten.
    fn check_reachable(&self) {
        let peers = self.shell.node.status(self.shell.now).mesh.peers;
        let by_name: BTreeMap<PeerName, &PeerSummary> =
            peers.iter().map(|peer| (peer.name, peer)).collect();
        let mut reached = BTreeSet::from([US]);
        let mut pending = vec![US];
        while let Some(at) = pending.pop() {
            let mentioned = by_name
                .get(&at)
                .into_iter()
                .flat_map(|peer| &peer.connections);
            for connection in mentioned {
                if by_name.contains_key(&connection.remote) && reached.insert(connection.remote) {
                    pending.push(connection.remote);
                }
            }
        }
        assert!(
            by_name.keys().all(|name| reached.contains(name)),
            "unreachable peers are kept"
        );
    }
}

/// What gossip says about some peers.
pub(crate) fn summaries(input: &mut Unstructured<'_>) -> Result<Vec<PeerSummary>> {
    let count = input.int_in_range(0..=4)?;
    (0..count).map(|_| summary(input)).collect()
}

fn summary(input: &mut Unstructured<'_>) -> Result<PeerSummary> {
    let has_odd_name = input.ratio(1, 16)?;
    let connections = input.int_in_range(0..=5)?;
    Ok(PeerSummary {
        name: if has_odd_name {
            PeerName::from_u64(input.arbitrary()?)
        } else {
            name(input.arbitrary()?)
        },
        nickname: if input.ratio(1, 16)? {
            input.arbitrary()?
        } else {
            String::new()
        },
        uid: number(input)?,
        version: number(input)?,
        short_id: if input.arbitrary()? {
            Some(input.arbitrary::<u16>()? & 0x1fff)
        } else {
            None
        },
        connections: (0..connections)
            .map(|_| connection(input))
            .collect::<Result<_>>()?,
    })
}

fn connection(input: &mut Unstructured<'_>) -> Result<ConnectionSummary> {
    let remote = name(input.arbitrary()?);
    let flags: u8 = input.arbitrary()?;
    Ok(ConnectionSummary {
        remote,
        remote_address: match flags >> 4 {
            0 => input.arbitrary()?,
            1 => format!("[::ffff:10.0.0.{flags}]:6783"),
            n => format!("10.0.1.{n}:{}", 6783 + u16::from(flags & 4)),
        },
        outbound: flags & 1 != 0,
        established: flags & 2 != 0,
    })
}

/// Small, or at the far end of what there is.
fn number(input: &mut Unstructured<'_>) -> Result<u64> {
    let small: u8 = input.arbitrary()?;
    Ok(match small {
        255 => u64::MAX,
        254 => input.arbitrary()?,
        small => u64::from(small % 16),
    })
}
