//! Channels: the ones somebody here owns, and stand-ins for those we only pass on
//! (spec/mesh.md 7).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::{Rng, RngExt};
use wire::{LinkId, PeerName};

use crate::link::outbox::Topic;

/// The channel the mesh itself owns.
pub(crate) const TOPOLOGY: &str = "topology";
/// How often every channel's complete state goes to some neighbours.
pub(crate) const GOSSIP_INTERVAL: Duration = Duration::from_secs(30);
/// Most channels passed on for others; the one idle longest makes room.
pub(crate) const SURROGATES_MAX: usize = 64;
/// Longest name of a channel passed on for others, bytes.
const CHANNEL_BYTES_MAX: usize = 255;
/// Most payloads one stand-in remembers.
pub(crate) const REMEMBERED_MAX: usize = 1024;
/// Most bytes of payloads one stand-in remembers; the largest payload fits.
pub(crate) const REMEMBERED_BYTES_MAX: usize = 10 << 20;
/// Most bytes of payloads all stand-ins remember together, before the next one is added.
pub(crate) const ALL_REMEMBERED_BYTES_MAX: usize = 32 << 20;

/// All channels but `topology`.
#[derive(Debug, Default)]
pub(crate) struct Channels {
    owned: BTreeMap<Arc<str>, Owned>,
    surrogates: BTreeMap<Arc<str>, Surrogate>,
}

/// A channel somebody here owns.
#[derive(Debug, Default)]
struct Owned {
    /// Who gets the state once its owner has provided it. Not empty while the owner is being asked.
    wanted: BTreeSet<(LinkId, Topic)>,
}

impl Channels {
    /// Declares a channel ours.
    pub(crate) fn register(&mut self, channel: &str) {
        assert_ne!(channel, TOPOLOGY, "[gossip] duplicate channel topology");
        let channel: Arc<str> = channel.into();
        self.surrogates.remove(&channel);
        let earlier = self.owned.insert(Arc::clone(&channel), Owned::default());
        assert!(earlier.is_none(), "[gossip] duplicate channel {channel}");
    }

    /// The names of the channels somebody here owns.
    pub(crate) fn owned(&self) -> Vec<Arc<str>> {
        self.owned.keys().cloned().collect()
    }

    /// Whether somebody here owns it.
    pub(crate) fn is_owned(&self, channel: &str) -> bool {
        self.owned.contains_key(channel)
    }

    /// Notes that a link is to get the state. Whether its owner must be asked now.
    pub(crate) fn want_state(&mut self, link: LinkId, topic: Topic) -> bool {
        let Some(owned) = self.owned.get_mut(topic.channel()) else {
            return false;
        };
        let must_ask = owned.wanted.is_empty();
        owned.wanted.insert((link, topic));
        must_ask
    }

    /// Everybody who is to get the state that was provided.
    pub(crate) fn take_wanted(&mut self, channel: &str) -> BTreeSet<(LinkId, Topic)> {
        self.owned
            .get_mut(channel)
            .map(|owned| std::mem::take(&mut owned.wanted))
            .unwrap_or_default()
    }

    fn drop_idlest(&mut self) {
        let surrogates = self.surrogates.iter();
        let idlest = surrogates.min_by_key(|(_, surrogate)| surrogate.used_at);
        if let Some(name) = idlest.map(|(name, _)| Arc::clone(name)) {
            self.surrogates.remove(&name);
        }
    }

    /// Stand-ins, payloads they remember, and the bytes of those.
    pub(crate) fn footprint(&self) -> (usize, usize, usize) {
        let surrogates = self.surrogates.values();
        let payloads = surrogates.clone().map(|s| s.remembered.len()).sum();
        let bytes = surrogates.map(|s| s.remembered_bytes).sum();
        (self.surrogates.len(), payloads, bytes)
    }

    /// The stand-in for a channel nobody here owns, created if need be. `None`: the name is too
    /// long to keep. The flag says that it is new.
    pub(crate) fn surrogate(
        &mut self,
        channel: &str,
        now: Instant,
    ) -> Option<(Arc<str>, &mut Surrogate, bool)> {
        if channel.len() > CHANNEL_BYTES_MAX {
            return None;
        }
        let is_new = !self.surrogates.contains_key(channel);
        if is_new && self.surrogates.len() >= SURROGATES_MAX {
            self.drop_idlest();
        }
        while self.surrogates.len() > 1 && self.footprint().2 > ALL_REMEMBERED_BYTES_MAX {
            self.drop_idlest();
        }
        let is_new = !self.surrogates.contains_key(channel);
        let name: Arc<str> = channel.into();
        let surrogate = self
            .surrogates
            .entry(Arc::clone(&name))
            .or_insert_with(|| Surrogate::new(now));
        surrogate.used_at = now;
        Some((name, surrogate, is_new))
    }
}

/// Stand-in for a channel we do not know: passes on, and remembers what it passed on.
#[derive(Debug)]
pub(crate) struct Surrogate {
    remembered: VecDeque<Remembered>,
    remembered_bytes: usize,
    used_at: Instant,
}

#[derive(Debug)]
struct Remembered {
    hash: u64,
    payload: Arc<[u8]>,
    seen_at: Instant,
}

impl Surrogate {
    fn new(now: Instant) -> Self {
        Self {
            remembered: VecDeque::new(),
            remembered_bytes: 0,
            used_at: now,
        }
    }

    /// Whether an identical payload is remembered; if not, it is from now on.
    pub(crate) fn has_seen(&mut self, payload: &Arc<[u8]>, now: Instant) -> bool {
        let hash = fnv1a64(payload);
        if self
            .remembered
            .iter()
            .any(|old| old.hash == hash && old.payload == *payload)
        {
            return true;
        }
        self.remembered_bytes += payload.len();
        self.remembered.push_back(Remembered {
            hash,
            payload: Arc::clone(payload),
            seen_at: now,
        });
        while let Some(oldest) = self.remembered.front() {
            let is_old = now.saturating_duration_since(oldest.seen_at) > GOSSIP_INTERVAL;
            let is_full = self.remembered.len() > REMEMBERED_MAX
                || self.remembered_bytes > REMEMBERED_BYTES_MAX;
            if !is_old && !is_full {
                break;
            }
            self.remembered_bytes -= oldest.payload.len();
            self.remembered.pop_front();
        }
        false
    }
}

/// The 64-bit FNV-1a hash.
fn fnv1a64(bytes: &[u8]) -> u64 {
    const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    bytes.iter().fold(OFFSET_BASIS, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(PRIME)
    })
}

/// A random choice of neighbours, each weighted by how many peers are reached through it
/// (spec/mesh.md 7.5). `unicast` is the table over all connections.
pub(crate) fn choose_neighbours(
    unicast: &BTreeMap<PeerName, PeerName>,
    except: Option<PeerName>,
    rng: &mut impl Rng,
) -> Vec<PeerName> {
    let mut weights: BTreeMap<PeerName, usize> = BTreeMap::new();
    for next_hop in unicast.values() {
        if !next_hop.is_unknown() && Some(*next_hop) != except {
            *weights.entry(*next_hop).or_default() += 1;
        }
    }
    let size = unicast.len();
    // floor(2 * log2(size)) without floating point.
    let wanted = size.saturating_mul(size).checked_ilog2().unwrap_or(0) as usize;
    let mut chosen = Vec::new();
    while chosen.len() < wanted && !weights.is_empty() {
        let total: usize = weights.values().sum();
        let mut draw = rng.random_range(0..total);
        let neighbour = weights.iter().find_map(|(neighbour, weight)| {
            if draw < *weight {
                return Some(*neighbour);
            }
            draw -= weight;
            None
        });
        let neighbour = neighbour.expect("the draw is below the sum of weights");
        weights.remove(&neighbour);
        chosen.push(neighbour);
    }
    chosen
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;
    use crate::testing::{base, hex, vectors};

    const fn peer(n: u64) -> PeerName {
        PeerName::from_u64(n)
    }

    #[test]
    fn the_hash_is_the_golden_one() {
        for vector in vectors("fnv1a64", "fnv1a64") {
            let expect = u64::from_str_radix(vector["expect"].as_str().unwrap(), 16).unwrap();
            assert_eq!(fnv1a64(&hex(&vector["input"])), expect);
        }
    }

    /// Ourselves, and destinations with their next hops.
    fn table(hops: &[(u64, u64)]) -> BTreeMap<PeerName, PeerName> {
        let ours = (peer(1), PeerName::UNKNOWN);
        hops.iter()
            .map(|(to, hop)| (peer(*to), peer(*hop)))
            .chain([ours])
            .collect()
    }

    #[test]
    fn few_neighbours_are_all_chosen_and_the_excepted_one_is_not() {
        let mut rng = StdRng::from_seed([1; 32]);
        let table = table(&[(2, 2), (3, 3), (4, 3)]);
        let mut chosen = choose_neighbours(&table, None, &mut rng);
        chosen.sort_unstable();
        assert_eq!(chosen, [peer(2), peer(3)]);
        assert_eq!(
            choose_neighbours(&table, Some(peer(3)), &mut rng),
            [peer(2)]
        );
        assert!(choose_neighbours(&BTreeMap::new(), None, &mut rng).is_empty());
    }

    #[test]
    fn of_many_neighbours_twice_the_logarithm_is_chosen_without_repetition() {
        let mut rng = StdRng::from_seed([1; 32]);
        for (peers, expected) in [(99, 13), (127, 14), (126, 13)] {
            let hops: Vec<(u64, u64)> = (2..2 + peers).map(|n| (n, n)).collect();
            let chosen = choose_neighbours(&table(&hops), None, &mut rng);
            assert_eq!(chosen.iter().collect::<BTreeSet<_>>().len(), expected);
            assert_eq!(chosen.len(), expected);
        }
    }

    #[test]
    fn a_neighbour_with_many_peers_behind_it_is_chosen_more_often() {
        let mut rng = StdRng::from_seed([1; 32]);
        // Ten neighbours; seventeen more peers behind neighbour 2.
        let near = (2..12).map(|n| (n, n));
        let hops: Vec<(u64, u64)> = near.chain((12..29).map(|n| (n, 2))).collect();
        let table = table(&hops);
        let mut counts: BTreeMap<PeerName, usize> = BTreeMap::new();
        for _ in 0..2000 {
            let chosen = choose_neighbours(&table, None, &mut rng);
            assert_eq!(chosen.len(), 9);
            *counts.entry(chosen[0]).or_default() += 1;
        }
        let first = counts[&peer(2)];
        assert!(
            (1200..1470).contains(&first),
            "18 of 27 first draws, not {first} of 2000"
        );
    }

    #[test]
    fn a_payload_is_remembered_until_another_comes_half_a_minute_later() {
        let start = base();
        let mut channels = Channels::default();
        let payload = |n: u8| Arc::from([n].as_slice());
        let mut has_seen = |n, secs| {
            let now = start + Duration::from_secs(secs);
            channels
                .surrogate("x", now)
                .unwrap()
                .1
                .has_seen(&payload(n), now)
        };
        assert!(!has_seen(1, 0));
        assert!(has_seen(1, 10));
        assert!(!has_seen(2, 31));
        assert!(!has_seen(1, 32));
        assert!(has_seen(2, 33));
    }

    #[test]
    fn payloads_of_all_channels_together_are_bounded() {
        let start = base();
        let mut channels = Channels::default();
        for n in 0..200_u8 {
            let now = start + Duration::from_millis(n.into());
            let (_, surrogate, _) = channels.surrogate(&format!("x{}", n % 50), now).unwrap();
            surrogate.has_seen(&Arc::from(vec![n; 5 << 20]), now);
            let (_, _, bytes) = channels.footprint();
            assert!(bytes <= ALL_REMEMBERED_BYTES_MAX + REMEMBERED_BYTES_MAX);
        }
    }

    #[test]
    fn the_channel_idle_longest_makes_room() {
        let start = base();
        let mut channels = Channels::default();
        for n in 0..SURROGATES_MAX as u64 {
            let now = start + Duration::from_secs(n);
            assert!(channels.surrogate(&format!("x{n}"), now).unwrap().2);
        }
        let later = start + Duration::from_secs(1000);
        assert!(!channels.surrogate("x0", later).unwrap().2);
        assert!(channels.surrogate("new", later).unwrap().2);
        assert!(
            channels.surrogate("x1", later).unwrap().2,
            "x1 was the one idle longest"
        );
        assert!(!channels.surrogate("x0", later).unwrap().2);
        assert!(channels.surrogate(&"y".repeat(256), later).is_none());
    }
}
