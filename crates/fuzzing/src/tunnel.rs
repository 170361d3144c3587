//! The control machine of the tunnel that every peer has, its path MTU search included, and the table
//! of addresses.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arbitrary::{Result, Unstructured};
use nacl::SessionKey;
use overlay::kind::{Kind, LaneEvent};
use overlay::mac::{ENTRIES_MAX, EXPIRY_SECS, Learned, MacTable};
use overlay::machine::{Machine, MachineOutput};
use overlay::protection::{Cipher, Protection};
use overlay::tunnel::{Signal, TunnelConfig};
use wire::PeerName;
use wire::ethernet::MacAddr;

use crate::shell::{address, base};

/// Things that happen in one input.
const STEPS_MAX: usize = 300;
/// Connection UID of the tunnel.
const UID: u64 = 0x1234_5678;
/// Without a heartbeat for this long it is dead, as the specification has it.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(60);
/// Length of a heartbeat's frame there.
const HEARTBEAT_BYTES: usize = 22;
/// Length of the frame there that tests fragmentation.
const FRAGMENTATION_TEST_BYTES: usize = 60_001;
/// No datagram over IPv4 carries more.
const UDP_PAYLOAD_MAX_BYTES: usize = 65_507;
/// More outputs than one call may cause.
const OUTPUTS_MAX: usize = 64;

/// Whatever arrives and whenever, limits stay within those of a datagram, no test looks like
/// another kind of frame, a tunnel fails once and is silent then; the table forgets nothing early
/// and keeps nothing long.
pub fn run(bytes: &[u8]) {
    let mut input = Unstructured::new(bytes);
    let Ok(flags) = input.arbitrary::<u8>() else {
        return;
    };
    if flags & 0x80 != 0 {
        return learn(&mut input);
    }
    let mut scene = Scene::new(flags);
    for _ in 0..STEPS_MAX {
        if input.is_empty() || scene.step(&mut input).is_err() {
            break;
        }
    }
    scene.end();
}

struct Scene {
    machine: Machine,
    now: Instant,
    last_heartbeat: Instant,
    established: bool,
    failed: bool,
}

impl Scene {
    fn new(flags: u8) -> Self {
        let remote_address = if flags & 1 != 0 {
            SocketAddr::from(([0xfd, 0, 0, 0, 0, 0, 0, 1], 6783))
        } else {
            address(2)
        };
        let now = base();
        let key = (flags & 4 != 0).then(|| Arc::new(SessionKey::from_bytes([7; 32])));
        let config = TunnelConfig {
            remote_label: "peer".to_owned(),
            remote_address,
            outbound: flags & 2 != 0,
            uid: UID,
            protection: key.map_or(Protection::Clear, |key| {
                Protection::Sealed(key, Cipher::Secretbox)
            }),
        };
        let machine = Machine::prepare(Kind::COMPATIBLE, &config);
        let mut machine = machine.expect("every peer has it, at any address");
        assert!(machine.poll_timeout().is_none(), "silent until confirmed");
        machine.confirm(now);
        let mut scene = Self {
            machine,
            now,
            last_heartbeat: now,
            established: false,
            failed: false,
        };
        scene.drain();
        scene
    }

    fn step(&mut self, input: &mut Unstructured<'_>) -> Result<()> {
        let now = self.now;
        match input.int_in_range(0..=9)? {
            0 => {
                let tag = input.int_in_range(0..=5)?;
                let body = input.arbitrary::<u16>()?.to_be_bytes();
                let length = input.int_in_range(0..=2)?;
                self.machine.handle_control(tag, &body[..length], now);
            }
            // The acknowledgement of the test that runs, if any: the far end got it.
            1 | 2 => {
                let mtu = self.machine.lane().mtu_bytes() as u16;
                let mtu = mtu.wrapping_sub(input.int_in_range(0..=3)?);
                self.machine.handle_control(3, &mtu.to_be_bytes(), now);
            }
            3 => {
                let path_mtu_bytes = if input.ratio(1, 8)? {
                    input.arbitrary()?
                } else {
                    input.arbitrary::<u16>()?.into()
                };
                self.tell(Signal::TooBig { path_mtu_bytes }, address(2));
            }
            4 => {
                self.last_heartbeat = now;
                let heartbeat = Signal::Heartbeat {
                    connection_uid: UID,
                };
                self.tell(heartbeat, from(input)?);
            }
            5 => {
                let signal = match input.int_in_range(0..=2)? {
                    0 => Signal::FragmentationTest,
                    1 => Signal::MtuTest {
                        frame_bytes: input.arbitrary::<u32>()? as usize,
                    },
                    _ => Signal::Heartbeat {
                        connection_uid: input.arbitrary::<u8>()?.into(),
                    },
                };
                self.tell(signal, from(input)?);
            }
            6 => {
                self.now += Duration::from_millis(input.arbitrary::<u16>()?.into());
                self.machine.handle_timeout(self.now);
            }
            7 if input.ratio(1, 16)? => self.tell(Signal::Exhausted, address(2)),
            _ => {
                if let Some((at, _)) = self.machine.poll_timeout() {
                    self.now = self.now.max(at);
                    self.machine.handle_timeout(self.now);
                }
            }
        }
        self.drain();
        Ok(())
    }

    /// The data plane reports something.
    fn tell(&mut self, signal: Signal, from: SocketAddr) {
        let event = LaneEvent::of(Kind::COMPATIBLE, signal, from);
        let event = event.expect("it has a word for everything");
        self.machine.handle_event(event, self.now);
    }

    fn drain(&mut self) {
        for _ in 0..OUTPUTS_MAX {
            let Some(output) = self.machine.poll_output() else {
                return self.check();
            };
            assert!(!self.failed, "nothing follows a failure");
            match output {
                MachineOutput::Control { tag, body } => {
                    assert!((1..=3).contains(&tag) && body.len() == if tag == 3 { 2 } else { 0 });
                }
                MachineOutput::Probe(probe) => {
                    let to = self.machine.lane().remote_address();
                    assert!(to.is_some(), "there is somewhere to send");
                    let frame_bytes = probe.frame_bytes();
                    let is_heartbeat = probe.connection_uid().is_some();
                    assert_eq!(
                        frame_bytes == FRAGMENTATION_TEST_BYTES,
                        probe.may_be_fragmented()
                    );
                    assert_eq!(frame_bytes <= HEARTBEAT_BYTES, is_heartbeat);
                    assert!(frame_bytes <= 65_535 + 14);
                }
                MachineOutput::Established => {
                    assert!(!std::mem::replace(&mut self.established, true), "said once");
                }
                MachineOutput::Changed => {}
                MachineOutput::OnHold | MachineOutput::Released => {
                    panic!("it dies rather than go on hold")
                }
                MachineOutput::Failed(_) => self.failed = true,
            }
        }
        panic!("one input caused more than {OUTPUTS_MAX} outputs");
    }

    fn check(&self) {
        let lane = self.machine.lane();
        assert!((68..=65_535).contains(&lane.mtu_bytes()));
        assert!((68..=UDP_PAYLOAD_MAX_BYTES).contains(&lane.max_payload_bytes()));
        match self.machine.poll_timeout() {
            None => assert!(self.failed, "a live tunnel waits for something"),
            Some((at, _)) => assert!(at <= self.last_heartbeat + HEARTBEAT_TIMEOUT),
        }
    }

    /// Left alone, the tunnel dies.
    fn end(&mut self) {
        let end = self.now + HEARTBEAT_TIMEOUT;
        for _ in 0..10_000 {
            let Some((at, _)) = self.machine.poll_timeout() else {
                break;
            };
            assert!(at <= end);
            self.now = self.now.max(at);
            self.machine.handle_timeout(self.now);
            self.drain();
        }
        assert!(self.failed, "a tunnel without heartbeats dies");
    }
}

fn from(input: &mut Unstructured<'_>) -> Result<SocketAddr> {
    Ok(match input.int_in_range(0..=3)? {
        0 => SocketAddr::from((input.arbitrary::<[u8; 16]>()?, input.arbitrary()?)),
        n => address(n),
    })
}

/// The table of addresses against a map.
fn learn(input: &mut Unstructured<'_>) {
    let mut table = MacTable::new();
    let mut model: BTreeMap<MacAddr, (PeerName, u32)> = BTreeMap::new();
    let mut now = 0_u32;
    while let Ok([kind, a, b, peer]) = input.arbitrary::<[u8; 4]>() {
        if input.is_empty() {
            break;
        }
        let mac = MacAddr([a & 3, 0, 0, 0, 0, b]);
        let peer = PeerName::from_u64(u64::from(peer % 4) + 1);
        match kind % 8 {
            0 => now += u32::from(b) * 8,
            1 => {
                table.expire(now);
                model.retain(|_, (_, seen)| now - *seen < EXPIRY_SECS);
            }
            _ => {
                let known = model.get(&mac).copied();
                let learned = table.learn(mac, peer, now);
                let expected = match known {
                    _ if mac.is_group() => Learned::Known,
                    None => Learned::New,
                    Some((at, _)) if at == peer => Learned::Known,
                    Some((from, _)) => Learned::Moved { from },
                };
                assert_eq!(learned, expected);
                // Within a minute the table may keep the earlier time.
                let is_fresh = known.is_some_and(|(at, seen)| at == peer && now - seen < 60);
                if !mac.is_group() && !is_fresh {
                    model.insert(mac, (peer, now));
                }
            }
        }
        assert_eq!(table.lookup(mac), model.get(&mac).map(|(peer, _)| *peer));
        assert_eq!(table.len(), model.len());
        assert!(table.len() <= ENTRIES_MAX);
    }
}
