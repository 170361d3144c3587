//! Gossip that waits for a link to accept it (spec/mesh.md 7.4, coalescing).
//!
//! Whatever arrives while the link is busy merges into what waits already, so a slow link costs a
//! bounded amount of memory and gets fewer, newer messages.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use wire::PeerName;

use crate::peers::Changes;

/// Most bytes of payloads waiting on one link; the largest frame fits.
pub(crate) const BYTES_MAX: usize = 16 << 20;
/// Most payloads of one channel waiting on one link.
const PAYLOADS_MAX: usize = 64;
/// Most different items waiting on one link.
pub(crate) const ITEMS_MAX: usize = 8192;
/// What a name or a payload costs besides its bytes.
const OVERHEAD_BYTES: usize = 48;

/// What an item is about. Neighbour gossip orders before broadcasts and is sent first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Topic {
    /// Neighbour gossip of a channel.
    Neighbour(Arc<str>),
    /// A broadcast of a channel and its originator.
    Broadcast(Arc<str>, PeerName),
}

impl Topic {
    pub(crate) fn channel(&self) -> &Arc<str> {
        match self {
            Self::Neighbour(channel) | Self::Broadcast(channel, _) => channel,
        }
    }
}

/// What is to be said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Item {
    /// The complete state of the channel at the time it is sent.
    State,
    /// Topology: what the table says about these at the time it is sent.
    Names(BTreeSet<PeerName>),
    /// Topology for those who understand deltas: what became of these at the time it is sent.
    Changes(Changes),
    /// These messages.
    Payloads(VecDeque<Arc<[u8]>>),
}

impl Item {
    pub(crate) fn payload(bytes: Arc<[u8]>) -> Self {
        Self::Payloads(VecDeque::from([bytes]))
    }

    fn weight(&self) -> usize {
        match self {
            Self::State => 0,
            Self::Names(names) => names.len() * OVERHEAD_BYTES,
            Self::Changes(changes) => changes.len() * OVERHEAD_BYTES,
            Self::Payloads(payloads) => payloads.iter().map(|p| p.len() + OVERHEAD_BYTES).sum(),
        }
    }

    fn merge(&mut self, new: Self) {
        match (&mut *self, new) {
            (Self::State, _) => {}
            (Self::Names(names), Self::Names(more)) => names.extend(more),
            (Self::Changes(changes), Self::Changes(more)) => {
                for (name, base) in more {
                    let merged = changes.get(&name).map_or(base, |old| old.meet(base));
                    changes.insert(name, merged);
                }
            }
            (Self::Payloads(payloads), Self::Payloads(more)) => payloads.extend(more),
            (_, new) => *self = new,
        }
    }
}

/// What waits on one link.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    items: BTreeMap<Topic, Item>,
    /// Sum of the items' weights.
    bytes: usize,
}

impl Outbox {
    /// Adds an item. `has_state` says whether the channel can be asked for its state: then what
    /// becomes too much turns into that, else the oldest payloads are lost. Whether all was kept.
    pub(crate) fn add(&mut self, topic: Topic, item: Item, has_state: bool) -> bool {
        if !self.items.contains_key(&topic) && self.items.len() >= ITEMS_MAX {
            return false;
        }
        let old = self.items.remove(&topic);
        self.bytes -= old.as_ref().map_or(0, Item::weight);
        let mut item = match old {
            Some(mut old) => {
                old.merge(item);
                old
            }
            None => item,
        };
        let mut kept = true;
        if has_state && self.is_too_much(&item) {
            item = Item::State;
        }
        while self.is_too_much(&item) {
            kept = false;
            let lost = match &mut item {
                Item::Payloads(payloads) => payloads.pop_front(),
                Item::State | Item::Names(_) | Item::Changes(_) => None,
            };
            if lost.is_none() {
                return false;
            }
        }
        self.bytes += item.weight();
        self.items.insert(topic, item);
        kept
    }

    fn is_too_much(&self, item: &Item) -> bool {
        let too_many = matches!(item, Item::Payloads(payloads) if payloads.len() > PAYLOADS_MAX);
        too_many || self.bytes + item.weight() > BYTES_MAX
    }

    /// Items that wait, and their weight in bytes.
    pub(crate) fn footprint(&self) -> (usize, usize) {
        (self.items.len(), self.bytes)
    }

    /// Everything that waits, in the order it is to be sent.
    pub(crate) fn take(&mut self) -> BTreeMap<Topic, Item> {
        self.bytes = 0;
        std::mem::take(&mut self.items)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(channel: &str) -> Topic {
        Topic::Neighbour(channel.into())
    }

    fn payload(bytes: usize) -> Item {
        Item::payload(vec![7; bytes].into())
    }

    #[test]
    fn name_sets_unite_and_a_request_for_everything_absorbs_them() {
        let mut outbox = Outbox::default();
        let names = |n: u64| Item::Names(BTreeSet::from([PeerName::from_u64(n)]));
        outbox.add(topic("topology"), names(1), true);
        outbox.add(topic("topology"), names(2), true);
        let united = BTreeSet::from([PeerName::from_u64(1), PeerName::from_u64(2)]);
        assert_eq!(outbox.items[&topic("topology")], Item::Names(united));
        outbox.add(topic("topology"), Item::State, true);
        outbox.add(topic("topology"), names(3), true);
        assert_eq!(outbox.take()[&topic("topology")], Item::State);
        assert!(outbox.take().is_empty());
    }

    #[test]
    fn too_many_payloads_become_the_state_where_there_is_one() {
        let mut outbox = Outbox::default();
        for _ in 0..=PAYLOADS_MAX {
            assert!(outbox.add(topic("nameserver"), payload(10), true));
        }
        assert_eq!(outbox.take()[&topic("nameserver")], Item::State);
    }

    #[test]
    fn too_many_payloads_of_a_foreign_channel_lose_the_oldest() {
        let mut outbox = Outbox::default();
        for n in 0..=PAYLOADS_MAX {
            let item = Item::payload(vec![u8::try_from(n).unwrap()].into());
            assert_eq!(outbox.add(topic("x"), item, false), n < PAYLOADS_MAX);
        }
        let Item::Payloads(payloads) = &outbox.take()[&topic("x")] else {
            panic!("payloads")
        };
        assert_eq!(payloads.len(), PAYLOADS_MAX);
        assert_eq!(payloads[0][0], 1);
    }

    #[test]
    fn bytes_waiting_are_bounded_whatever_the_channels() {
        let mut outbox = Outbox::default();
        for n in 0..100 {
            outbox.add(topic(&format!("x{n}")), payload(1 << 20), false);
            assert!(outbox.bytes <= BYTES_MAX);
        }
        assert!(!outbox.add(topic("y"), payload(2 << 20), false));
        let sum: usize = outbox.items.values().map(Item::weight).sum();
        assert_eq!(sum, outbox.bytes);
        assert!(outbox.add(topic("z"), payload(2 << 20), true));
        assert_eq!(outbox.items[&topic("z")], Item::State);
    }

    #[test]
    fn neighbour_gossip_goes_before_broadcasts() {
        let mut outbox = Outbox::default();
        let broadcast = Topic::Broadcast("a".into(), PeerName::from_u64(1));
        outbox.add(broadcast.clone(), payload(1), false);
        outbox.add(topic("z"), payload(1), false);
        let order: Vec<Topic> = outbox.take().into_keys().collect();
        assert_eq!(order, [topic("z"), broadcast]);
    }
}
