//! The whole node: everything that can happen to it, in any order, at any time.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use arbitrary::{Result, Unstructured};
use mesh::DirectPeer;
use node::{Command, Connect, Forget, Input};
use overlay::Overlay;
use overlay::kind::{Kind, LaneEvent};
use overlay::tunnel::Signal;
use wire::handshake::Features;
use wire::message::{Message, OverlayControl};
use wire::topology;
use wire::{LinkId, PeerName};

use crate::gossip::summaries;
use crate::remote::{Manner, Remote, features};
use crate::shell::{Setting, Shell, US, address};

/// Things that happen in one input.
const STEPS_MAX: usize = 60;
/// Links whose other end knows what it does.
const REMOTES_MAX: usize = 6;

/// Strangers, peers, forged news of the data plane, the operator and time do as the input says; the
/// node keeps its contract and its bounds.
pub fn run(bytes: &[u8]) {
    let mut input = Unstructured::new(bytes);
    let Ok(flags) = input.arbitrary::<u8>() else {
        return;
    };
    let setting = Setting {
        trusts: flags & 2 != 0,
        is_compatible: flags & 4 != 0,
        conn_limit: if flags & 8 != 0 { 2 } else { 200 },
        ..Setting::new(flags & 1 != 0)
    };
    let mut world = World {
        shell: Shell::new(setting),
        has_password: setting.has_password,
        remotes: BTreeMap::new(),
    };
    for _ in 0..STEPS_MAX {
        if input.is_empty() || world.step(&mut input).is_err() {
            break;
        }
        world.forget_ended();
    }
    world.shell.check();
    world.shell.settle();
    world.shell.check();
}

struct World {
    shell: Shell,
    has_password: bool,
    /// The introduced ends of links.
    remotes: BTreeMap<LinkId, Remote>,
}

impl World {
    fn step(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        match input.int_in_range(0..=15)? {
            0 => drop(self.shell.accept(input.arbitrary()?)),
            1 => self.connect(input)?,
            2 => self.end_dial(input)?,
            3 => self.speak_as_stranger(input)?,
            4 | 5 => self.introduce(input)?,
            6 => self.say_anything(input)?,
            7 => self.gossip(input)?,
            8 => self.control(input)?,
            9 | 10 => self.tell_of_tunnel(input)?,
            11 => self.flush(input)?,
            12 => self.close(input)?,
            13 => {
                // Mostly short: what a minute of timers shows, a few of them show.
                let milliseconds = u64::from(input.arbitrary::<u16>()?);
                let milliseconds = milliseconds / if input.ratio(1, 16)? { 1 } else { 8 };
                self.shell.pass(Duration::from_millis(milliseconds));
            }
            14 => self.name_unknown(input)?,
            _ => self.command(input)?,
        }
        Ok(())
    }

    fn forget_ended(&mut self) {
        let links = &self.shell.links;
        self.remotes.retain(|link, _| links.contains_key(link));
    }

    /// Some link that stands.
    fn link(&self, input: &mut Unstructured<'_>) -> Result<Option<LinkId>> {
        pick(input, self.shell.links.keys().copied())
    }

    /// Some link whose other end is introduced.
    fn remote(&self, input: &mut Unstructured<'_>) -> Result<Option<LinkId>> {
        pick(input, self.remotes.keys().copied())
    }

    fn connect(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let count = input.int_in_range(1..=3_u8)?;
        let peers = (0..count)
            .map(|_| direct_peer(input))
            .collect::<Result<_>>()?;
        let replace = input.arbitrary()?;
        self.shell
            .command(Command::Connect(Connect { peers, replace }));
        Ok(())
    }

    fn end_dial(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let succeeds = input.ratio(3, 4)?;
        if let Some(link) = pick(input, self.shell.dials.keys().copied())? {
            self.shell.answer_dial(link, succeeds);
        }
        Ok(())
    }

    fn speak_as_stranger(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        const OPENINGS: [&[u8]; 4] = [
            b"",
            b"weave\x01\x01",
            b"weave\x01\x02\x00",
            b"weave\x01\x02\x01",
        ];
        let opening = *input.choose(&OPENINGS)?;
        let said = [opening, some_bytes(input)?].concat();
        if let Some(link) = self.link(input)? {
            // Its remote would no longer understand what follows.
            self.remotes.remove(&link);
            self.shell.bytes(link, &said);
        }
        Ok(())
    }

    fn introduce(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        if self.remotes.len() >= REMOTES_MAX {
            return Ok(());
        }
        let announced = announcement(input)?;
        let version = if input.ratio(1, 4)? { 1 } else { 2 };
        let address: u8 = input.arbitrary()?;
        let waiting = self.shell.dials.keys().next().copied();
        let link = match waiting.filter(|_| address & 1 == 0) {
            Some(link) => {
                self.shell.answer_dial(link, true);
                link
            }
            None => self.shell.accept(address),
        };
        let manner = Manner {
            version,
            has_password: self.has_password,
            dialled: !link.is_outbound(),
        };
        if let Some(remote) = self.shell.introduce(link, manner, announced) {
            self.remotes.insert(link, remote);
        }
        Ok(())
    }

    fn say(&mut self, link: LinkId, message: &[u8]) {
        if let Some(remote) = self.remotes.get_mut(&link) {
            let said = remote.seal(message);
            self.shell.bytes(link, &said);
        }
    }

    fn say_anything(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let message = some_bytes(input)?;
        if let Some(link) = self.remote(input)? {
            self.say(link, message);
        }
        Ok(())
    }

    fn gossip(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let Some(link) = self.remote(input)? else {
            return Ok(());
        };
        let (channel, payload) = if input.ratio(2, 3)? {
            ("topology", topology::encode(&summaries(input)?))
        } else {
            ("weft-topology", some_bytes(input)?.to_vec())
        };
        let channel = channel.to_owned();
        let source = peer_name(input)?;
        let message = if input.arbitrary()? {
            Message::GossipNeighbour {
                channel,
                sender: source,
                payload,
            }
        } else {
            Message::GossipBroadcast {
                channel,
                source,
                payload,
            }
        };
        self.say(link, &message.encode());
        Ok(())
    }

    fn control(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let Some(link) = self.remote(input)? else {
            return Ok(());
        };
        let message = Message::Overlay(OverlayControl {
            index: input.ratio(7, 8)?.then_some(0),
            tag: input.int_in_range(0..=4)?,
            body: input.arbitrary::<u16>()?.to_be_bytes().to_vec(),
        });
        self.say(link, &message.encode());
        Ok(())
    }

    fn tell_of_tunnel(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let known = self
            .shell
            .table
            .neighbours
            .values()
            .map(|neighbour| neighbour.link);
        let known = pick(input, known)?;
        let link = match known.filter(|_| !input.len().is_multiple_of(8)) {
            Some(link) => link,
            None => LinkId::outbound(input.arbitrary::<u8>()?.into()),
        };
        let mut from = address(1);
        let signal = match input.int_in_range(0..=7)? {
            0 => Signal::Exhausted,
            1 | 2 => {
                let path_mtu_bytes = if input.ratio(1, 8)? {
                    input.arbitrary()?
                } else {
                    input.arbitrary::<u16>()?.into()
                };
                Signal::TooBig { path_mtu_bytes }
            }
            _ => {
                from = socket_address(input)?;
                self.arrival(link, input)?
            }
        };
        let neighbour = self.shell.table.neighbour(link);
        let chosen = neighbour.and_then(|neighbour| neighbour.chosen);
        let kind = chosen.unwrap_or(Kind::COMPATIBLE);
        if let Some(event) = LaneEvent::of(kind, signal, from) {
            self.shell.input(Input::Tunnel(event.on(link)));
        }
        Ok(())
    }

    /// What arrived on a tunnel: half the time the heartbeat that belongs to it.
    fn arrival(&self, link: LinkId, input: &mut Unstructured<'_>) -> Result<Signal> {
        Ok(match input.int_in_range(0..=5)? {
            0 => Signal::FragmentationTest,
            1 => Signal::MtuTest {
                frame_bytes: input.arbitrary::<u32>()? as usize,
            },
            2 => Signal::Heartbeat {
                connection_uid: input.arbitrary()?,
            },
            _ => {
                let uids = &self.shell.uids;
                let connection_uid = uids.get(&link).copied().unwrap_or(0);
                Signal::Heartbeat { connection_uid }
            }
        })
    }

    fn flush(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        if let Some(link) = self.link(input)? {
            match self.remotes.get_mut(&link) {
                Some(remote) => {
                    self.shell.deliver(link, remote);
                    remote.take_messages();
                }
                None => self.shell.flush(link),
            }
        }
        Ok(())
    }

    fn close(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        if let Some(link) = self.link(input)? {
            self.shell.links.remove(&link);
            let error = if input.arbitrary()? {
                "EOF"
            } else {
                "connection reset by peer"
            };
            let error = error.to_owned();
            self.shell.input(Input::LinkClosed { link, error });
        }
        Ok(())
    }

    /// Late news about what is long gone, or never was.
    fn name_unknown(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let number = (1 << 40) + u64::from(input.arbitrary::<u8>()?);
        let link = if input.arbitrary()? {
            LinkId::outbound(number)
        } else {
            LinkId::inbound(number)
        };
        let error = "EOF".to_owned();
        let (local, remote) = (address(0), address(9));
        self.shell.input(match input.int_in_range(0..=4)? {
            0 => Input::LinkBytes {
                link,
                bytes: b"weave\x01\x02".to_vec(),
            },
            1 => Input::LinkFlushed { link },
            2 => Input::LinkClosed { link, error },
            3 => Input::DialFailed { link, error },
            _ => {
                let link = LinkId::outbound(number);
                self.shell.links.insert(link, Default::default());
                self.shell.input(Input::LinkConnected {
                    link,
                    local,
                    remote,
                });
                assert!(!self.shell.links.contains_key(&link), "nobody asked for it");
                return Ok(());
            }
        });
        Ok(())
    }

    fn command(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        if input.arbitrary()? {
            self.shell.check();
        } else {
            let peers = vec![direct_peer(input)?.text];
            self.shell.command(Command::Forget(Forget { peers }));
        }
        Ok(())
    }
}

/// One of several, if there are any.
fn pick<T>(
    input: &mut Unstructured<'_>,
    from: impl ExactSizeIterator<Item = T>,
) -> Result<Option<T>> {
    let mut from = from;
    if from.len() == 0 {
        return Ok(None);
    }
    let at = input.int_in_range(0..=from.len() - 1)?;
    Ok(from.nth(at))
}

fn some_bytes<'a>(input: &mut Unstructured<'a>) -> Result<&'a [u8]> {
    let length = usize::from(input.arbitrary::<u8>()?);
    input.bytes(length.min(input.len()))
}

fn peer_name(input: &mut Unstructured<'_>) -> Result<PeerName> {
    let n: u8 = input.arbitrary()?;
    Ok(match n % 10 {
        0 => US,
        n => PeerName::from_u64(0x0200_0000_0b00 + u64::from(n)),
    })
}

/// What a peer says about itself, mostly sensible.
fn announcement(input: &mut Unstructured<'_>) -> Result<Features> {
    let mut announced = features(peer_name(input)?);
    announced.conn_id = input.arbitrary::<u8>()?.into();
    let odd: u8 = input.arbitrary()?;
    announced.trusted = odd & 1 != 0;
    if odd & 0x80 == 0
        && let Some(weft) = &mut announced.weft
    {
        weft.capabilities = vec!["delta".to_owned()];
    }
    if odd & 0x1e == 2 {
        announced.overlays = None;
    }
    if odd & 0x1e == 4 {
        announced.overlays = Some(Overlay::announced(Kind::ALL));
    }
    if odd & 0xe0 == 0x20 {
        announced.uid = u64::from(odd);
    }
    if odd & 0xe0 == 0x40 {
        announced.short_id = None;
        announced.nickname = input.arbitrary()?;
    }
    Ok(announced)
}

fn direct_peer(input: &mut Unstructured<'_>) -> Result<DirectPeer> {
    let n: u8 = input.arbitrary()?;
    Ok(DirectPeer {
        text: format!("peer-{}", n % 32),
        ip: address(n % 32).ip(),
        port: (n & 0x80 != 0).then_some(6783 + u16::from(n & 0x40)),
    })
}

fn socket_address(input: &mut Unstructured<'_>) -> Result<SocketAddr> {
    Ok(match input.int_in_range(0..=3)? {
        0 => SocketAddr::from((input.arbitrary::<[u8; 16]>()?, input.arbitrary()?)),
        n => address(n),
    })
}
