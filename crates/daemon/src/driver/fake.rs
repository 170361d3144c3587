//! What stands in for kernel and disk under a driver in tests: a data plane whose special frames cross
//! the air at once, and a disk that notes each time something became durable, or is full.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use overlay::kind::{LaneProbe, Probe, TunnelEvent};
use overlay::mac::MacCorrection;
use overlay::table::{ForwardingTable, PlaneEvent};
use plane::Ended;
use redb::StorageBackend;
use redb::backends::InMemoryBackend;
use tokio::sync::Notify;
use wire::{LinkId, PeerName};

use super::DataPlane;

/// What happened beneath a driver, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Deed {
    /// The disk has it.
    Durable,
    /// A snapshot with tunnels of these links was published.
    Program(Vec<LinkId>),
    /// A special frame was sent on a link's tunnel.
    Probe(LinkId),
}

/// What happened, shared by everything beneath one driver.
#[derive(Debug, Clone, Default)]
pub(super) struct Journal(Arc<(Mutex<Vec<Deed>>, Notify)>);

impl Journal {
    fn note(&self, deed: Deed) {
        lock(&self.0.0).push(deed);
        self.0.1.notify_one();
    }

    /// What happened since the last call.
    pub(super) fn take(&self) -> Vec<Deed> {
        std::mem::take(&mut lock(&self.0.0))
    }

    /// Waits until something of the kind happened; everything until then.
    pub(super) async fn until(&self, wanted: impl Fn(&Deed) -> bool) -> Vec<Deed> {
        loop {
            if lock(&self.0.0).iter().any(&wanted) {
                return self.take();
            }
            self.0.1.notified().await;
        }
    }
}

/// The planes of one test, by the names of their peers; what joins them loses nothing.
#[derive(Debug, Clone, Default)]
pub(super) struct Air(Arc<Mutex<BTreeMap<PeerName, FakePlane>>>);

/// A data plane without a kernel; clones are the same one.
#[derive(Debug, Clone)]
pub(super) struct FakePlane {
    us: PeerName,
    air: Air,
    journal: Journal,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    table: Arc<ForwardingTable>,
    events: VecDeque<PlaneEvent>,
    ended: Option<Ended>,
    reader: Option<Waker>,
    is_broken: bool,
}

impl FakePlane {
    pub(super) fn new(us: PeerName, air: &Air, journal: &Journal) -> Self {
        let plane = Self {
            us,
            air: air.clone(),
            journal: journal.clone(),
            state: Arc::default(),
        };
        lock(&air.0).insert(us, plane.clone());
        plane
    }

    /// Has something to tell.
    pub(super) fn tell(&self, event: PlaneEvent) {
        let mut state = lock(&self.state);
        state.events.push_back(event);
        wake(state);
    }

    /// Ends.
    pub(super) fn end(&self, why: Ended) {
        let mut state = lock(&self.state);
        state.ended = Some(why);
        wake(state);
    }

    /// Breaks an invariant of whoever listens.
    pub(super) fn break_down(&self) {
        let mut state = lock(&self.state);
        state.is_broken = true;
        wake(state);
    }

    /// How many events nobody has taken.
    pub(super) fn untaken(&self) -> usize {
        lock(&self.state).events.len()
    }

    fn table(&self) -> Arc<ForwardingTable> {
        Arc::clone(&lock(&self.state).table)
    }

    /// Takes a special frame of a neighbour in, if there is a tunnel for it.
    fn receive(&self, from: PeerName, probe: LaneProbe) {
        if let Some(neighbour) = self.table().neighbours.get(&from) {
            let event = probe.heard(SocketAddr::from((Ipv4Addr::LOCALHOST, 9)));
            let link = neighbour.link;
            self.tell(PlaneEvent::Tunnel(TunnelEvent { link, event }));
        }
    }
}

impl DataPlane for FakePlane {
    fn program(&mut self, table: Arc<ForwardingTable>) {
        let links = table.neighbours.values().map(|neighbour| neighbour.link);
        self.journal.note(Deed::Program(links.collect()));
        lock(&self.state).table = table;
    }

    fn correct(&mut self, _: &MacCorrection) {}

    fn probe(&mut self, probe: Probe) {
        self.journal.note(Deed::Probe(probe.link));
        let Some(remote) = self
            .table()
            .neighbour(probe.link)
            .map(|neighbour| neighbour.remote)
        else {
            return;
        };
        let remote = lock(&self.air.0).get(&remote).cloned();
        if let Some(remote) = remote {
            remote.receive(self.us, probe.probe);
        }
    }

    fn try_event(&mut self) -> Result<Option<PlaneEvent>, Ended> {
        let is_broken = lock(&self.state).is_broken;
        assert!(!is_broken, "an event of no tunnel");
        let mut state = lock(&self.state);
        match (state.events.pop_front(), &state.ended) {
            (None, Some(ended)) => Err(ended.clone()),
            (event, _) => Ok(event),
        }
    }

    fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<Result<PlaneEvent, Ended>> {
        lock(&self.state).reader = Some(context.waker().clone());
        match self.try_event() {
            Ok(Some(event)) => Poll::Ready(Ok(event)),
            Ok(None) => Poll::Pending,
            Err(ended) => Poll::Ready(Err(ended)),
        }
    }
}

/// A disk in memory.
#[derive(Debug)]
pub(super) struct FakeDisk {
    blocks: InMemoryBackend,
    journal: Journal,
    is_full: Arc<AtomicBool>,
}

impl FakeDisk {
    /// An empty disk, and the switch that makes it full.
    pub(super) fn new(journal: &Journal) -> (Self, Arc<AtomicBool>) {
        let is_full = Arc::default();
        let disk = Self {
            blocks: InMemoryBackend::new(),
            journal: journal.clone(),
            is_full: Arc::clone(&is_full),
        };
        (disk, is_full)
    }
}

impl StorageBackend for FakeDisk {
    fn len(&self) -> io::Result<u64> {
        self.blocks.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.blocks.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.blocks.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.is_full.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.journal.note(Deed::Durable);
        self.blocks.sync_data()
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.blocks.write(offset, bytes)
    }
}

fn wake(mut state: MutexGuard<'_, State>) {
    let reader = state.reader.take();
    drop(state);
    if let Some(reader) = reader {
        reader.wake();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no test panics while holding it")
}
