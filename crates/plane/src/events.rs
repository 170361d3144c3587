//! What the data plane tells the control plane: a bounded queue on which no thread ever waits.
//!
//! Many threads put events in; one reader takes them out, by asking or by leaving a waker. The queue
//! also carries the end of the data plane and why, behind the events that came before it.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use overlay::kind::TunnelEvent;
use overlay::mac::Sighting;
use overlay::table::PlaneEvent;
use wire::PeerName;
use wire::ethernet::MacAddr;

/// Why the data plane does not run any more.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Ended {
    /// It was told to.
    #[error("the data plane was stopped")]
    Stopped,
    /// A thread met an error it cannot go on with.
    #[error("data-plane thread {thread}: {source}")]
    Failed {
        /// Name of the thread.
        thread: &'static str,
        /// What it met.
        source: Arc<io::Error>,
    },
    /// A thread broke an invariant.
    #[error("data-plane thread {thread} panicked: {message}")]
    Panicked {
        /// Name of the thread.
        thread: &'static str,
        /// What it said.
        message: String,
    },
}

/// A queue for so many events, and its reader.
pub(crate) fn queue(room: usize) -> (Sender, Events) {
    let state = State {
        room,
        waiting: VecDeque::with_capacity(room),
        learned: BTreeMap::new(),
        ended: None,
        reader: None,
    };
    let shared = Arc::new(Mutex::new(state));
    (Sender(Arc::clone(&shared)), Events(shared))
}

struct State {
    room: usize,
    waiting: VecDeque<TunnelEvent>,
    /// Where addresses were learned since the reader last asked, one of each peer: it wants to know the
    /// peers, and who invents addresses keeps out neither heartbeats nor the sightings of others.
    learned: BTreeMap<PeerName, MacAddr>,
    ended: Option<Ended>,
    /// Who to wake at the next event, or the end.
    reader: Option<Waker>,
}

/// The end where events go in; cheap to clone.
#[derive(Clone)]
pub(crate) struct Sender(Arc<Mutex<State>>);

impl Sender {
    /// Whether the event found room.
    pub(crate) fn send(&self, event: TunnelEvent) -> bool {
        let mut state = lock(&self.0);
        if state.waiting.len() >= state.room || state.ended.is_some() {
            return false;
        }
        state.waiting.push_back(event);
        wake_reader(state);
        true
    }

    /// Notes that an address was learned; of several at one peer the first stands for all.
    pub(crate) fn learned(&self, sighting: Sighting) {
        let mut state = lock(&self.0);
        if state.ended.is_none() && !state.learned.contains_key(&sighting.peer) {
            state.learned.insert(sighting.peer, sighting.mac);
            wake_reader(state);
        }
    }

    /// Says that the data plane ended; the first to say so gives the reason.
    pub(crate) fn end(&self, why: Ended) {
        let mut state = lock(&self.0);
        if state.ended.is_none() {
            state.ended = Some(why);
            wake_reader(state);
        }
    }
}

/// The end where events come out.
pub struct Events(Arc<Mutex<State>>);

impl Events {
    /// The next event, if there is one. An error once the data plane ended and all events are out.
    pub fn try_next(&mut self) -> Result<Option<PlaneEvent>, Ended> {
        lock(&self.0).next()
    }

    /// The next event; `Pending` leaves the waker, which is woken at the next event or the end.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<PlaneEvent, Ended>> {
        let mut state = lock(&self.0);
        match state.next() {
            Ok(Some(event)) => Poll::Ready(Ok(event)),
            Err(ended) => Poll::Ready(Err(ended)),
            Ok(None) => {
                match &mut state.reader {
                    Some(waker) => waker.clone_from(context.waker()),
                    None => state.reader = Some(context.waker().clone()),
                }
                Poll::Pending
            }
        }
    }
}

impl State {
    fn next(&mut self) -> Result<Option<PlaneEvent>, Ended> {
        if let Some(event) = self.waiting.pop_front() {
            return Ok(Some(PlaneEvent::Tunnel(event)));
        }
        if !self.learned.is_empty() {
            let learned = std::mem::take(&mut self.learned).into_iter();
            let sightings = learned.map(|(peer, mac)| Sighting { mac, peer });
            return Ok(Some(PlaneEvent::Learned(sightings.collect())));
        }
        match &self.ended {
            Some(ended) => Err(ended.clone()),
            None => Ok(None),
        }
    }
}

/// Wakes the reader with the queue open again, so that it does not wake to wait.
fn wake_reader(mut state: MutexGuard<'_, State>) {
    let reader = state.reader.take();
    drop(state);
    if let Some(reader) = reader {
        reader.wake();
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use overlay::sleeve::lane::SleeveEvent;
    use wire::LinkId;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn event(n: u64) -> TunnelEvent {
        SleeveEvent::CounterExhausted.on(LinkId::outbound(n))
    }

    fn told(n: u64) -> PlaneEvent {
        PlaneEvent::Tunnel(event(n))
    }

    #[test]
    fn peers_where_addresses_were_learned_come_out_once_and_keep_no_event_out() {
        let (sender, mut events) = queue(2);
        let sighting = |n, peer| Sighting {
            mac: MacAddr([2, 0, 0, 0, 0, n]),
            peer: PeerName::from_u64(peer),
        };
        for n in 0..100 {
            sender.learned(sighting(n, 1));
        }
        sender.learned(sighting(7, 2));
        assert!(sender.send(event(1)) && sender.send(event(2)));
        assert_eq!(events.try_next().unwrap(), Some(told(1)));
        assert_eq!(events.try_next().unwrap(), Some(told(2)));
        let learned = PlaneEvent::Learned(vec![sighting(0, 1), sighting(7, 2)]);
        assert_eq!(events.try_next().unwrap(), Some(learned));
        assert_eq!(events.try_next().unwrap(), None);
    }

    #[test]
    fn events_come_out_in_order_and_no_more_than_there_is_room_for() {
        let (sender, mut events) = queue(2);
        assert!(sender.send(event(1)) && sender.send(event(2)));
        assert!(!sender.send(event(3)), "full");
        assert_eq!(events.try_next().unwrap(), Some(told(1)));
        assert!(sender.send(event(4)), "room again");
        assert_eq!(events.try_next().unwrap(), Some(told(2)));
        assert_eq!(events.try_next().unwrap(), Some(told(4)));
        assert_eq!(events.try_next().unwrap(), None);
    }

    #[test]
    fn end_comes_out_behind_the_events_before_it_and_the_first_reason_stays() {
        let (sender, mut events) = queue(2);
        sender.send(event(1));
        sender.end(Ended::Panicked {
            thread: "weft-tx",
            message: "index out of bounds".to_owned(),
        });
        sender.end(Ended::Stopped);
        assert!(!sender.send(event(2)), "nothing comes behind the end");
        assert_eq!(events.try_next().unwrap(), Some(told(1)));
        let ended = events.try_next().unwrap_err();
        assert_eq!(
            ended.to_string(),
            "data-plane thread weft-tx panicked: index out of bounds"
        );
    }

    #[test]
    fn reader_that_waits_is_woken_once_by_an_event_and_by_the_end() {
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut context = Context::from_waker(&waker);
        let (sender, mut events) = queue(2);
        assert!(events.poll_next(&mut context).is_pending());
        sender.send(event(1));
        sender.send(event(2));
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        for n in 1..=2 {
            let Poll::Ready(Ok(got)) = events.poll_next(&mut context) else {
                panic!("event {n} is not there");
            };
            assert_eq!(got, told(n));
        }
        assert!(events.poll_next(&mut context).is_pending());
        sender.end(Ended::Stopped);
        assert_eq!(woken.0.load(Ordering::Relaxed), 2);
        let Poll::Ready(Err(Ended::Stopped)) = events.poll_next(&mut context) else {
            panic!("the end is not there");
        };
    }
}
