//! The underlay: what passes between two sites, what datagrams suffer, and the TCP connections
//! under way.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use wire::LinkId;

use crate::plan::{PathMtu, Weather};

/// Identity of a TCP connection.
pub type StreamId = u64;

/// Condition of the paths between sites.
pub struct Network {
    /// Treatment of datagrams.
    pub weather: Weather,
    delay_max: Duration,
    cut: BTreeMap<(usize, usize), usize>,
    deaf: BTreeMap<(usize, usize), usize>,
    path_mtus: BTreeMap<(usize, usize), PathMtu>,
    garbled: BTreeMap<(usize, usize), usize>,
}

impl Network {
    /// Everything passes.
    pub fn new(delay_max: Duration) -> Self {
        Self {
            weather: Weather::CALM,
            delay_max,
            cut: BTreeMap::new(),
            deaf: BTreeMap::new(),
            path_mtus: BTreeMap::new(),
            garbled: BTreeMap::new(),
        }
    }

    /// Cuts both directions, once more if already cut.
    pub fn cut(&mut self, one: usize, two: usize) {
        *self.cut.entry(pair(one, two)).or_default() += 1;
    }

    /// Takes one cut back.
    pub fn mend(&mut self, one: usize, two: usize) {
        take_back(&mut self.cut, pair(one, two));
    }

    /// Has datagrams of one direction vanish.
    pub fn deafen(&mut self, from: usize, to: usize) {
        *self.deaf.entry((from, to)).or_default() += 1;
    }

    /// Takes one of these back.
    pub fn undeafen(&mut self, from: usize, to: usize) {
        take_back(&mut self.deaf, (from, to));
    }

    /// Has bytes on links changed.
    pub fn garble(&mut self, one: usize, two: usize) {
        *self.garbled.entry(pair(one, two)).or_default() += 1;
    }

    /// Takes one of these back.
    pub fn ungarble(&mut self, one: usize, two: usize) {
        take_back(&mut self.garbled, pair(one, two));
    }

    /// Bytes as they arrive.
    pub fn arriving(&self, rng: &mut StdRng, sites: (usize, usize), mut bytes: Vec<u8>) -> Vec<u8> {
        if self.garbled.contains_key(&pair(sites.0, sites.1)) && rng.random_bool(0.5) {
            for _ in 0..rng.random_range(1..=4) {
                let at = rng.random_range(0..bytes.len());
                bytes[at] = rng.random();
            }
        }
        bytes
    }

    /// Sets the MTU of a path.
    pub fn set_path_mtu(&mut self, one: usize, two: usize, mtu: PathMtu) {
        self.path_mtus.insert(pair(one, two), mtu);
    }

    /// The MTU of a path.
    pub fn path_mtu(&self, one: usize, two: usize) -> PathMtu {
        let mtu = self.path_mtus.get(&pair(one, two));
        mtu.copied().unwrap_or(PathMtu::FULL)
    }

    /// Whether TCP segments pass.
    pub fn passes(&self, one: usize, two: usize) -> bool {
        !self.cut.contains_key(&pair(one, two))
    }

    /// Whether datagrams of this direction pass.
    pub fn hears(&self, from: usize, to: usize) -> bool {
        self.passes(from, to) && !self.deaf.contains_key(&(from, to))
    }

    /// One-way delay without jitter: the same for a pair at all times.
    pub fn delay(&self, one: usize, two: usize) -> Duration {
        let (one, two) = pair(one, two);
        let share = (one * 31 + two * 17) % 16 + 1;
        let share = u32::try_from(share).expect("at most 16");
        self.delay_max * share / 16 + Duration::from_micros(50)
    }

    /// The delays of the copies of one datagram that arrive.
    pub fn copies(&self, rng: &mut StdRng, from: usize, to: usize) -> Vec<Duration> {
        let weather = self.weather;
        if !self.hears(from, to) || (weather.loss > 0.0 && rng.random_bool(weather.loss)) {
            return Vec::new();
        }
        let twice = weather.duplication > 0.0 && rng.random_bool(weather.duplication);
        let jitter_us = u64::try_from(weather.jitter.as_micros()).expect("jitter is short");
        let copies = 0..if twice { 2 } else { 1 };
        let delay = self.delay(from, to);
        let late = |_| delay + Duration::from_micros(rng.random_range(0..=jitter_us));
        copies.map(late).collect()
    }
}

fn pair(one: usize, two: usize) -> (usize, usize) {
    (one.min(two), one.max(two))
}

fn take_back(counts: &mut BTreeMap<(usize, usize), usize>, key: (usize, usize)) {
    if let Some(count) = counts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}

/// One end of a TCP connection.
pub struct End {
    /// The site.
    pub site: usize,
    /// Which run of its router.
    pub run: u32,
    /// What the router calls it.
    pub link: LinkId,
    /// Its TCP address.
    pub address: SocketAddr,
    /// Whether the router has it open.
    pub is_open: bool,
    /// Whether the router closed it, perhaps before it was open.
    pub is_done: bool,
    /// Bytes on the way to this end.
    pub incoming: VecDeque<u8>,
    /// Whether a delivery is on the way.
    pub is_scheduled: bool,
}

/// A TCP connection; end 0 dialled.
pub struct Stream {
    /// Both ends.
    pub ends: [End; 2],
}

/// All TCP connections.
#[derive(Default)]
pub struct Streams {
    streams: BTreeMap<StreamId, Stream>,
    made: u64,
    by_link: BTreeMap<(usize, u32, LinkId), (StreamId, usize)>,
}

impl Streams {
    /// Adds a connection that is being opened.
    pub fn add(&mut self, stream: Stream) -> StreamId {
        let id = self.made;
        self.made += 1;
        for (n, end) in stream.ends.iter().enumerate() {
            self.by_link.insert((end.site, end.run, end.link), (id, n));
        }
        self.streams.insert(id, stream);
        id
    }

    /// A connection, unless both ends are done with it.
    pub fn get(&self, id: StreamId) -> Option<&Stream> {
        self.streams.get(&id)
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, id: StreamId) -> Option<&mut Stream> {
        self.streams.get_mut(&id)
    }

    /// The connection and end a router calls by this link.
    pub fn find(&self, site: usize, run: u32, link: LinkId) -> Option<(StreamId, usize)> {
        self.by_link.get(&(site, run, link)).copied()
    }

    /// Forgets a connection.
    pub fn remove(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.remove(&id) {
            for end in stream.ends {
                self.by_link.remove(&(end.site, end.run, end.link));
            }
        }
    }

    /// All connections between two sites.
    pub fn between(&self, one: usize, two: usize) -> Vec<StreamId> {
        let matches = |stream: &Stream| {
            let sites: BTreeSet<_> = stream.ends.iter().map(|end| end.site).collect();
            sites == BTreeSet::from([one, two])
        };
        let found = self.streams.iter().filter(|(_, stream)| matches(stream));
        found.map(|(id, _)| *id).collect()
    }

    /// All ends a run of a router has open.
    pub fn open_ends(&self, site: usize, run: u32) -> Vec<(StreamId, usize)> {
        let all = self.by_link.range((site, run, LinkId::outbound(0))..);
        let own = all.take_while(|((s, r, _), _)| (*s, *r) == (site, run));
        let open = own.filter(|(_, (id, n))| self.streams[id].ends[*n].is_open);
        open.map(|(_, found)| *found).collect()
    }
}
