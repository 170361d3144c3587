//! A running data plane: a TAP on the bridge, UDP sockets, and two threads between them (one,
//! `weft-data`, for both ways where the process may use one core only).
//!
//! ```text
//!  bridge ── TAP ──► weft-tx: cut, seal, batch ──► UDP (GSO)
//!         ◄──────── weft-rx: open, merge, relay ◄── UDP (GRO)
//! ```
//!
//! Everything a frame's way depends on is in the pure half (`overlay::frame`); here are the system
//! calls, the threads, and the hand-over: snapshots go in by an atomic swap and are read once per
//! batch, events come out by a bounded queue. The threads never wait for the control plane.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use linux::tap::{Tap, TapError};
use linux::udp::{UdpError, UdpPair, has_ipv6};
use overlay::forward::{Compiler, ETHERNET_BYTES};
use overlay::frame::counters::{Counters, DropReason};
use overlay::frame::plan::{Hop, UdpPath};
use overlay::frame::train::Train;
use overlay::frame::ways::Envelope;
use overlay::kind::Probe;
use overlay::mac::{MacCorrection, MacTable};
use overlay::sleeve::framing::SleeveFraming;
use overlay::sleeve::lane::{SleeveEvent, SleeveProbe};
use overlay::table::ForwardingTable;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::OwnedFd;
use wire::sleeve::{PMTU_DISCOVERY_BYTES, heartbeat_frame};
use wire::{LinkId, PeerName};

use crate::events::{self, Ended, Events};
use crate::outlet::{Port, Sockets};
use crate::shared::Shared;
use crate::{clock, threads};

/// Name of the TAP; one per network namespace.
pub const TAP_NAME: &str = "weft-tap";
/// Events that may wait for the control plane; more are dropped and counted.
const EVENTS_MAX: usize = 1024;
/// No UDP payload is larger.
const PAYLOAD_MAX_BYTES: usize = 65_507;

/// How to start a data plane.
#[derive(Debug, Clone)]
pub struct Config {
    /// Largest IP packet the bridge takes, bytes.
    pub bridge_mtu_bytes: usize,
    /// Where to bind; `None` is all addresses, of IPv6 too where the host has it.
    pub listen: Option<IpAddr>,
    /// UDP port.
    pub port: u16,
    /// Our name.
    pub name: PeerName,
}

/// A port of the bridge that a data plane needs. Whoever keeps the bridge plugs it in, with the
/// bridge's MTU and segmentation limit, and does so again when somebody took it out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgePort {
    /// Name of the interface, which lives as long as the data plane.
    pub interface: &'static str,
}

/// A running data plane. Dropping it ends the threads and removes the TAP.
pub struct Plane {
    shared: Arc<Shared>,
    compiler: Mutex<Compiler>,
    probes: Mutex<(Train<SleeveFraming>, Port)>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    probe_counters: Arc<Counters>,
    tx_counters: Arc<Counters>,
    rx_counters: Arc<Counters>,
}

/// Why a data plane did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No TAP.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// The port is taken, or the address is not ours.
    #[error(transparent)]
    Bind(#[from] UdpError),
    /// The system has no more threads or descriptors for us.
    #[error("starting the data plane's threads")]
    Threads(#[from] io::Error),
}

impl Plane {
    /// Creates the TAP in the calling thread's network namespace, binds the sockets and starts the
    /// threads. Frames come once its [ports](Self::ports) are plugged in.
    pub fn start(config: Config) -> Result<(Self, Events), StartError> {
        let tap = Arc::new(Tap::create(TAP_NAME)?);
        silence_ipv6(TAP_NAME);
        let sockets = Arc::new(bind(config.listen, config.port)?);
        let (sender, events) = events::queue(EVENTS_MAX);
        let table = ForwardingTable {
            us: config.name,
            ..ForwardingTable::default()
        };
        let mut compiler = Compiler::new();
        let shared = Arc::new(Shared {
            plan: ArcSwap::from_pointee(compiler.compile(&table)),
            macs: RwLock::new(MacTable::new()),
            stopped: AtomicBool::new(false),
            wakers: [waker()?, waker()?],
            started: clock::now(),
            bridge_mtu_bytes: config.bridge_mtu_bytes,
            events: sender.clone(),
        });
        let port = || {
            let counters = Arc::new(Counters::default());
            (
                Port::new(
                    tap.clone(),
                    sockets.clone(),
                    sender.clone(),
                    counters.clone(),
                ),
                counters,
            )
        };
        let (tx_port, tx_counters) = port();
        let (rx_port, rx_counters) = port();
        let (probe_port, probe_counters) = port();
        let threads = threads::spawn_all(&shared, tx_port, rx_port)?;
        let plane = Self {
            shared,
            compiler: Mutex::new(compiler),
            probes: Mutex::new((Train::new(), probe_port)),
            threads: Mutex::new(threads),
            probe_counters,
            tx_counters,
            rx_counters,
        };
        Ok((plane, events))
    }

    /// The ports of the bridge it needs.
    pub fn ports(&self) -> Vec<BridgePort> {
        vec![BridgePort {
            interface: TAP_NAME,
        }]
    }

    /// Publishes a snapshot; the threads follow it from their next batch on.
    pub fn program(&self, table: Arc<ForwardingTable>) {
        let plan = lock(&self.compiler).compile(&table);
        self.shared.plan.store(Arc::new(plan));
    }

    /// Corrects what the threads learned.
    pub fn correct(&self, correction: &MacCorrection) {
        let macs = self.shared.macs.write();
        macs.unwrap_or_else(PoisonError::into_inner)
            .correct(correction);
    }

    /// Sends a probe at once. Without an address to send to it is dropped.
    pub fn probe(&self, probe: Probe) {
        let Probe { link, probe } = probe;
        match probe.sleeve() {
            Some(what) => self.probe_sleeve(link, what),
            None => self.probe_counters.count(DropReason::NoTunnel),
        }
    }

    fn probe_sleeve(&self, link: LinkId, probe: SleeveProbe) {
        let plan = self.shared.plan.load();
        let Some(hop) = plan.link(link) else {
            return self.probe_counters.count(DropReason::NoTunnel);
        };
        let Some(path) = hop.path else {
            return self.probe_counters.count(DropReason::AwaitingContact);
        };
        // Probes find the limits, so none of the known ones apply.
        let unlimited = UdpPath {
            max_payload_bytes: PAYLOAD_MAX_BYTES,
            ..path
        };
        let is_df = !probe.may_be_fragmented();
        let frame_bytes = probe.frame_bytes();
        let envelope = Envelope {
            origin: plan.us(),
            destination: hop.remote,
        };
        let mut probes = lock(&self.probes);
        let (train, port) = &mut *probes;
        train.begin(&plan.framing, &hop.tunnel, unlimited, is_df);
        let appended = train.append(envelope, frame_bytes, |out| match probe {
            SleeveProbe::Heartbeat { connection_uid } => {
                out.copy_from_slice(&heartbeat_frame(connection_uid));
            }
            SleeveProbe::FragmentationTest | SleeveProbe::MtuTest { .. } => out.fill(0),
        });
        if appended.is_err() {
            self.probe_counters.count(DropReason::TooBigDatagram);
        }
        let is_beyond = is_beyond(hop, probe);
        let is_sent = train.flush(|path, is_df, bytes, datagram_bytes| {
            if is_beyond {
                port.send_beyond(path, bytes);
            } else {
                port.send(path, is_df, bytes, datagram_bytes);
            }
        });
        if !is_sent {
            port.tell(SleeveEvent::CounterExhausted.on(link));
        }
    }

    /// Name of the interface for reports.
    pub fn interface(&self) -> String {
        format!("{TAP_NAME} (via tap)")
    }

    /// What happened to frames and datagrams so far.
    pub fn counters(&self) -> BTreeMap<String, u64> {
        let mut sums = BTreeMap::new();
        for counters in [&self.probe_counters, &self.tx_counters, &self.rx_counters] {
            for (name, value) in [
                ("frames_in", &counters.frames_in),
                ("frames_injected", &counters.frames_injected),
                ("datagrams_in", &counters.datagrams_in),
                ("receive_buffers", &counters.receive_buffers),
                ("datagrams_unmerged", &counters.datagrams_unmerged),
                ("datagrams_out", &counters.datagrams_out),
                ("bytes_in", &counters.bytes_in),
                ("bytes_out", &counters.bytes_out),
            ] {
                *sums.entry(name.to_owned()).or_insert(0) += value.load(Ordering::Relaxed);
            }
            for reason in DropReason::ALL {
                let name = format!("dropped_{}", reason.as_str().replace('-', "_"));
                *sums.entry(name).or_insert(0) += counters.dropped(reason);
            }
        }
        sums
    }

    /// Known Ethernet addresses, where each was last seen, and how long ago.
    pub fn macs(&self, now: Instant) -> Vec<([u8; 6], PeerName, Duration)> {
        let now_secs = (now - self.shared.started).as_secs();
        let macs = self
            .shared
            .macs
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let age = |seen_secs: u32| Duration::from_secs(now_secs.saturating_sub(seen_secs.into()));
        let entries = macs.entries().into_iter();
        entries
            .map(|entry| (entry.mac.0, entry.peer, age(entry.seen_secs)))
            .collect()
    }

    /// Ends the threads and waits for them. Safe to repeat.
    pub fn shutdown(&self) {
        self.shared.stop(Ended::Stopped);
        for thread in lock(&self.threads).drain(..) {
            // Panics are told where they happen.
            let _ = thread.join();
        }
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.shutdown();
    }
}

/// Whether a probe looks for more than its lane is known to carry. The discovery probe asks the
/// kernel what it knows, so it does not.
fn is_beyond(hop: &Hop<SleeveFraming>, probe: SleeveProbe) -> bool {
    let SleeveProbe::MtuTest { frame_bytes } = probe else {
        return false;
    };
    let known_bytes = hop.limits.mtu_bytes.saturating_add(ETHERNET_BYTES);
    frame_bytes > known_bytes && frame_bytes != PMTU_DISCOVERY_BYTES
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Something a thread waits on beside its descriptors.
fn waker() -> io::Result<OwnedFd> {
    Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}

/// Keeps the kernel from announcing addresses of the TAP itself into the overlay.
fn silence_ipv6(interface: &str) {
    let path = format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6");
    if let Err(error) = std::fs::write(&path, "1")
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::debug!(path, %error, "cannot disable IPv6 on the TAP");
    }
}

fn bind(listen: Option<IpAddr>, port: u16) -> Result<Sockets, UdpError> {
    let at = |ip| UdpPair::bind(SocketAddr::new(ip, port));
    Ok(match listen {
        Some(ip @ IpAddr::V4(_)) => Sockets {
            v4: Some(at(ip)?),
            v6: None,
        },
        Some(ip @ IpAddr::V6(_)) => Sockets {
            v4: None,
            v6: Some(at(ip)?),
        },
        None => {
            let v4 = at(Ipv4Addr::UNSPECIFIED.into())?;
            let v6 = has_ipv6()
                .then(|| at(Ipv6Addr::UNSPECIFIED.into()))
                .transpose();
            let v6 = v6.unwrap_or_else(|error| {
                tracing::warn!(%error, "no tunnels over IPv6");
                None
            });
            Sockets { v4: Some(v4), v6 }
        }
    })
}
