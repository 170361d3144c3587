//! The data plane: datagrams of neighbours and strangers, in clear and sealed, and captured frames.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::{Arc, RwLock};

use arbitrary::{Result, Unstructured};
use nacl::SessionKey;
use overlay::forward::{Compiler, SleevePlan};
use overlay::frame::capture::CapturePath;
use overlay::frame::counters::Counters;
use overlay::frame::egress::Outlet;
use overlay::frame::plan::UdpPath;
use overlay::frame::receive::{ReceivePath, Scene};
use overlay::frame::segment::{SuperFrame, VnetHeader};
use overlay::kind::{Kind, Lane, Lanes};
use overlay::mac::MacTable;
use overlay::mac::Sighting;
use overlay::protection::{Cipher, Protection};
use overlay::sleeve::framing::{SleeveFraming, SleeveTunnel};
use overlay::sleeve::lane::{SleeveLane, SpecialKind};
use overlay::table::{ForwardingTable, Neighbour, Routes};
use wire::sleeve::{
    DatagramError, FRAME_HEADER_BYTES, Frames, UDP_PAYLOAD_MAX_BYTES, parse_datagram,
    write_frame_header,
};
use wire::{LinkId, PeerName};

use crate::frames::frame;
use crate::shell::{US, address};

/// Neighbours: the first in clear, the second and third sealed. The fourth peer is behind the second.
const PEERS: [PeerName; 4] = [
    PeerName::from_u64(0x0200_0000_0b01),
    PeerName::from_u64(0x0200_0000_0b02),
    PeerName::from_u64(0x0200_0000_0b03),
    PeerName::from_u64(0x0200_0000_0b04),
];
/// Things that happen in one input.
const STEPS_MAX: usize = 40;
/// Most datagrams one call to the kernel takes.
const RUN_DATAGRAMS_MAX: usize = 64;

/// What comes in by datagram or from the bridge leaves as datagrams the far end can open and split,
/// within the limits of their tunnel, or as frames the kernel can take.
pub fn run(bytes: &[u8]) {
    let mut input = Unstructured::new(bytes);
    let Ok(flags) = input.arbitrary() else { return };
    let mut world = World::new(flags);
    for _ in 0..STEPS_MAX {
        if input.is_empty() || world.step(&mut input).is_err() {
            break;
        }
    }
}

fn lane(n: usize, outbound: bool, flags: u8) -> SleeveLane {
    let cipher = [Cipher::Secretbox, Cipher::AesGcm][usize::from(flags >> 6 & 1)];
    let key = (n > 0).then(|| Arc::new(SessionKey::from_bytes([n as u8; 32])));
    SleeveLane {
        protection: key.map_or(Protection::Clear, |key| Protection::Sealed(key, cipher)),
        outbound,
        remote_address: (flags & 1 == 0 || n == 0).then(|| address(n as u8 + 1)),
        mtu_bytes: if flags & 4 != 0 { 576 } else { 1414 },
        max_payload_bytes: if flags & 4 != 0 { 634 } else { 1472 },
        stack_frag: flags & 8 != 0,
        exceeds_kernel_mtu: flags & 32 != 0,
    }
}

fn link(n: usize) -> LinkId {
    LinkId::outbound(n as u64 + 1)
}

fn neighbour(n: usize, flags: u8) -> Neighbour {
    Neighbour {
        link: link(n),
        serial: n as u64 + 1,
        remote: PEERS[n],
        lanes: Lanes::from_iter([Lane::Sleeve(lane(n, n == 1, flags))]),
        chosen: (flags & 2 == 0 || n < 2).then_some(Kind::Sleeve),
    }
}

struct World {
    plan: SleevePlan,
    macs: RwLock<MacTable>,
    counters: Counters,
    receive: ReceivePath<SleeveFraming>,
    capture: CapturePath<SleeveFraming>,
    /// The neighbours' ends of the tunnels.
    far: Far,
    numbers: [u64; 3],
}

impl World {
    fn new(flags: u8) -> Self {
        let mut peers: Vec<PeerName> = [US].into_iter().chain(PEERS).collect();
        peers.sort();
        let neighbours = (0..3).map(|n| (PEERS[n], Arc::new(neighbour(n, flags))));
        let hops = [(0, 0), (1, 1), (2, 2), (3, 1)];
        let routes = Routes {
            peers,
            unicast: hops.map(|(to, hop)| (PEERS[to], PEERS[hop])).into(),
            broadcast: [
                (US, vec![PEERS[0], PEERS[1], PEERS[2]]),
                (PEERS[0], vec![PEERS[1]]),
                (PEERS[3], vec![PEERS[0], PEERS[2]]),
            ]
            .into(),
            ..Routes::default()
        };
        let table = ForwardingTable {
            us: US,
            routes: Arc::new(routes),
            neighbours: neighbours.collect(),
        };
        let far = (0..3).map(|n| (PEERS[n], SleeveTunnel::new(&lane(n, n != 1, flags))));
        Self {
            plan: Compiler::new().compile(&table),
            macs: RwLock::default(),
            counters: Counters::default(),
            receive: ReceivePath::new(flags & 16 != 0),
            capture: CapturePath::new(),
            far: Far {
                tunnels: far.collect(),
                told: RefCell::default(),
            },
            numbers: [0; 3],
        }
    }

    fn step(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        if input.ratio(1, 3)? {
            self.capture_frames(input)
        } else {
            self.receive_datagrams(input)
        }
    }

    fn capture_frames(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let mut outcome = Ok(());
        for _ in 0..=input.int_in_range(0..=2)? {
            let (header, mut frame) = match frame(input) {
                Ok((header, frame, _)) => (header, frame),
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            };
            self.capture.handle_frame(
                &self.plan,
                &self.macs,
                1,
                &header,
                &mut frame,
                &self.counters,
                &mut self.far,
            );
        }
        self.capture.flush(&self.counters, &mut self.far);
        outcome
    }

    fn receive_datagrams(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let neighbour = input.int_in_range(0..=2_usize)?;
        let count = input.int_in_range(0..=3)?;
        let datagrams: Vec<Vec<u8>> = (0..=count)
            .map_while(|_| self.datagram(neighbour, input).ok())
            .collect();
        let largest = datagrams.first().map_or(1, Vec::len).max(1);
        let mut arena = datagrams.concat();
        let length = arena.len();
        let scene = Scene {
            plan: &self.plan,
            macs: &self.macs,
            now_secs: 1,
            counters: &self.counters,
        };
        let from: SocketAddr = address(neighbour as u8 + 1);
        // As the kernel hands over what it joined: all but the last are of one size. If these are
        // not, most of what follows is noise, which must do no harm either.
        let is_joined = datagrams
            .iter()
            .rev()
            .skip(1)
            .all(|datagram| datagram.len() == largest);
        if is_joined || input.arbitrary()? {
            let range = 0..length;
            self.receive
                .handle_datagrams(scene, from, &mut arena, range, largest, &mut self.far);
        } else {
            let mut start = 0;
            for datagram in &datagrams {
                let range = start..start + datagram.len();
                start = range.end;
                let length = datagram.len();
                self.receive.handle_datagrams(
                    scene,
                    from,
                    &mut arena,
                    range,
                    length,
                    &mut self.far,
                );
            }
        }
        self.receive.flush(scene, &mut arena, &mut self.far);
        Ok(())
    }

    /// A datagram of a neighbour: frames with arbitrary names, perhaps followed by garbage; sealed as
    /// the tunnel demands, unless it is noise altogether.
    fn datagram(&mut self, neighbour: usize, input: &mut Unstructured<'_>) -> Result<Vec<u8>> {
        if input.ratio(1, 8)? {
            let name = PEERS[neighbour].to_bytes();
            let length = input.int_in_range(0..=80)?;
            let noise = input.bytes(usize::min(length, input.len()))?;
            let names_sender = input.arbitrary()?;
            return Ok(if names_sender {
                [&name, noise].concat()
            } else {
                noise.to_vec()
            });
        }
        let tunnel = &self.far.tunnels[&PEERS[neighbour]];
        let mut datagram = vec![0; tunnel.header_bytes()];
        for _ in 0..=input.int_in_range(0..=2)? {
            let (origin, destination) = (name(neighbour, input)?, name(4, input)?);
            let frame = self.carried(input)?;
            let mut header = [0; FRAME_HEADER_BYTES];
            write_frame_header(&mut header, origin, destination, frame.len() as u16);
            datagram.extend(header);
            datagram.extend(frame);
        }
        let garbage = if input.ratio(1, 8)? {
            input.int_in_range(1..=20)?
        } else {
            0
        };
        datagram.extend(input.bytes(usize::min(garbage, input.len()))?);
        datagram.truncate(UDP_PAYLOAD_MAX_BYTES);
        let number = match input.int_in_range(0..=15)? {
            0 => input.arbitrary::<u64>()? % tunnel.numbers_end(),
            1 => self.numbers[neighbour].saturating_sub(1),
            _ => {
                self.numbers[neighbour] += 1;
                self.numbers[neighbour]
            }
        };
        tunnel.seal(PEERS[neighbour], input.arbitrary()?, number, &mut datagram);
        Ok(datagram)
    }

    fn carried(&self, input: &mut Unstructured<'_>) -> Result<Vec<u8>> {
        Ok(match input.int_in_range(0..=9)? {
            0 => vec![0; input.int_in_range(0..=1500)?],
            1 => wire::sleeve::heartbeat_frame(input.arbitrary()?).to_vec(),
            _ => frame(input)?.1,
        })
    }
}

/// A name in a frame header: mostly that of the neighbour, or ours.
fn name(neighbour: usize, input: &mut Unstructured<'_>) -> Result<PeerName> {
    let n: u8 = input.arbitrary()?;
    Ok(match n {
        0..=3 => PEERS[usize::from(n)],
        4 => PeerName::from_u64(u64::from(n)),
        5 => US,
        _ => PEERS.get(neighbour).copied().unwrap_or(US),
    })
}

/// The rest of the world, which looks at what it gets.
struct Far {
    tunnels: BTreeMap<PeerName, SleeveTunnel>,
    told: RefCell<Vec<(LinkId, Option<SpecialKind>)>>,
}

impl Outlet<SleeveFraming> for Far {
    fn transmit(&mut self, path: &UdpPath, is_df: bool, bytes: &[u8], datagram_bytes: usize) {
        assert!(bytes.len() <= 65_536 && bytes.len().div_ceil(datagram_bytes) <= RUN_DATAGRAMS_MAX);
        let n = (0..3).position(|n| link(n) == path.link);
        let tunnel = &self.tunnels[&PEERS[n.expect("a link of ours")]];
        for datagram in bytes.chunks(datagram_bytes) {
            assert!(datagram.len() <= UDP_PAYLOAD_MAX_BYTES);
            assert!(!is_df || datagram.len() <= path.max_payload_bytes);
            let mut datagram = datagram.to_vec();
            assert_eq!(parse_datagram(&datagram).map(|(sender, _)| sender), Ok(US));
            assert_eq!(
                tunnel.open(&mut datagram),
                Ok(true),
                "what we send opens, once"
            );
            let frames = Frames::new(&datagram[tunnel.header_bytes()..]);
            let mut count = 0;
            for frame in frames {
                let frame = frame.expect("what we send can be split");
                assert!(PEERS.contains(&frame.destination) || frame.destination == US);
                assert!(frame.origin == US || PEERS.contains(&frame.origin));
                count += 1;
            }
            assert!(count > 0, "no datagram is empty");
        }
    }

    fn inject(&mut self, header: &VnetHeader, arena: &[u8], parts: &[Range<usize>]) {
        let frame: Vec<u8> = parts
            .iter()
            .flat_map(|part| &arena[part.clone()])
            .copied()
            .collect();
        assert!((14..=65_535 + 14).contains(&frame.len()));
        match SuperFrame::parse(header, &frame) {
            Ok(cut) => assert_eq!(cut.is_some(), parts.len() > 1),
            Err(error) => panic!("the kernel would refuse it: {error}"),
        }
    }

    fn special(&mut self, from: LinkId, _: SocketAddr, kind: SpecialKind) {
        assert!((0..3).any(|n| link(n) == from));
        self.told.borrow_mut().push((from, Some(kind)));
    }

    fn exhausted(&mut self, of: LinkId) {
        assert!((0..3).any(|n| link(n) == of));
        self.told.borrow_mut().push((of, None));
    }

    fn learned(&mut self, sighting: Sighting) {
        assert!(sighting.peer == US || PEERS.contains(&sighting.peer));
    }

    fn complain(&mut self, sender: PeerName, error: DatagramError) {
        assert!(PEERS.contains(&sender) && !error.to_string().is_empty());
    }
}
