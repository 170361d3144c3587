//! What a thread expects next, from what came before. Two programs that ask and answer in turns send
//! one small packet at a time, and each packet waits for the one before: what counts is how soon it
//! leaves, not what it costs.
//!
//! ```text
//!   frame out ── answer ──► frame in ── question ──► frame out ...        a conversation
//! ```
//!
//! * Where the last batch was one small packet and some time has passed, the next batch is expected
//!   to be one too: it leaves at once, and nobody asks the kernel for a second one before.
//! * In a conversation, after a frame was sent and before the answer, this core has nothing to do. To
//!   sleep and be woken takes longer than the answer needs, so the thread looks for it, for a moment.
//!   An answer that does not come in time, or another program that wants the core, ends that.
//!
//! No clock is read here.

use std::time::{Duration, Instant};

/// More than this is no question and no answer, bytes.
const SMALL_BYTES: usize = 1024;
/// Batches closer than this are a stream: looking for more is cheaper than being woken for more.
const STREAM_GAP: Duration = Duration::from_micros(20);
/// Turns further apart than this are no conversation: sleeping costs little beside them.
const TURN_MAX: Duration = Duration::from_micros(400);
/// Turns that make a conversation.
const TURNS_MIN: u32 = 16;
/// How long an answer is looked for.
const PATIENCE: Duration = Duration::from_micros(200);
/// A look takes a microsecond; one that took this long was interrupted by who wants the core too.
const HELD_UP: Duration = Duration::from_micros(100);
/// How long nothing is looked for after that, at first and at most.
const REST_MIN: Duration = Duration::from_millis(10);
const REST_MAX: Duration = Duration::from_secs(5);

/// The way of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// From the TAP to a socket.
    Out,
    /// From a socket to the TAP.
    In,
}

/// What one batch had.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Batch {
    /// Frames read, or receive calls that gave something.
    pub(crate) items: usize,
    /// Bytes of all of them.
    pub(crate) bytes: usize,
}

impl Batch {
    /// Counts one more.
    pub(crate) const fn add(&mut self, bytes: usize) {
        self.items += 1;
        self.bytes += bytes;
    }

    /// Whether it is one small packet.
    pub(crate) const fn is_lone(self) -> bool {
        self.items == 1 && self.bytes <= SMALL_BYTES
    }
}

/// How much a batch should ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expect {
    /// One packet, and then to be told.
    One,
    /// All there is.
    Many,
}

/// The last batch of a way.
#[derive(Debug, Clone, Copy)]
struct Last {
    batch: Batch,
    at: Instant,
}

/// The memory of a thread.
#[derive(Debug, Default)]
pub(crate) struct Rhythm {
    last: [Option<Last>; 2],
    /// The way of the last batch of all.
    way: Option<Way>,
    /// Turns of the conversation so far.
    turns: u32,
    /// When to look for answers again, and how long that was.
    rest: Option<(Instant, Duration)>,
}

impl Rhythm {
    /// Of a thread that has seen nothing.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// What the next batch of a way is likely to have.
    pub(crate) fn expects(&self, way: Way, now: Instant) -> Expect {
        match self.last[way as usize] {
            Some(last) if last.batch.is_lone() && now - last.at >= STREAM_GAP => Expect::One,
            _ => Expect::Many,
        }
    }

    /// Remembers a batch; one without anything is none.
    pub(crate) fn took(&mut self, way: Way, batch: Batch, now: Instant) {
        if batch.items == 0 {
            return;
        }
        let before = self.way.and_then(|way| self.last[way as usize]);
        let is_turn = batch.is_lone()
            && self.way.is_some_and(|before| before != way)
            && before.is_some_and(|before| now - before.at <= TURN_MAX);
        self.turns = if is_turn { self.turns + 1 } else { 0 };
        self.way = Some(way);
        self.last[way as usize] = Some(Last { batch, at: now });
    }

    /// Until when to look for an answer instead of sleeping, if at all.
    pub(crate) fn answer_due(&self, now: Instant) -> Option<Instant> {
        let is_resting = self.rest.is_some_and(|(until, _)| now < until);
        let is_asked = self.way == Some(Way::Out) && self.turns >= TURNS_MIN;
        (is_asked && !is_resting).then(|| now + PATIENCE)
    }

    /// It did not come.
    pub(crate) const fn in_vain(&mut self) {
        self.turns = 0;
    }

    /// Whether somebody else used the core between two looks; then nothing is looked for in a while,
    /// and longer each time that happens again soon.
    pub(crate) fn is_held_up(&mut self, before: Instant, now: Instant) -> bool {
        if now - before < HELD_UP {
            return false;
        }
        let rest = match self.rest {
            Some((until, rest)) if now.saturating_duration_since(until) < REST_MAX => {
                (rest * 2).min(REST_MAX)
            }
            _ => REST_MIN,
        };
        self.rest = Some((now + rest, rest));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONE: Batch = Batch {
        items: 1,
        bytes: 140,
    };
    const BULK: Batch = Batch {
        items: 1,
        bytes: 60_000,
    };

    const fn micros(count: u64) -> Duration {
        Duration::from_micros(count)
    }

    /// A rhythm and its virtual time.
    struct Scene {
        rhythm: Rhythm,
        now: Instant,
    }

    impl Scene {
        fn new() -> Self {
            Self {
                rhythm: Rhythm::new(),
                now: crate::clock::now(),
            }
        }

        /// A batch, some time after the one before.
        fn take(&mut self, way: Way, batch: Batch, after: Duration) {
            self.now += after;
            self.rhythm.took(way, batch, self.now);
        }

        /// Questions of the container with their answers; the last word is a question.
        fn converse(&mut self, turns: u32, apart: Duration) {
            for _ in 0..turns {
                self.take(Way::In, LONE, apart);
                self.take(Way::Out, LONE, apart);
            }
        }

        fn looks(&self) -> bool {
            self.rhythm.answer_due(self.now).is_some()
        }
    }

    #[test]
    fn an_answer_is_looked_for_only_in_a_conversation_and_only_after_a_question() {
        let mut scene = Scene::new();
        assert!(!scene.looks());
        scene.converse(8, micros(50));
        assert!(!scene.looks(), "too early to tell");
        scene.converse(1, micros(50));
        assert_eq!(
            scene.rhythm.answer_due(scene.now),
            Some(scene.now + PATIENCE)
        );
        scene.take(Way::In, LONE, micros(50));
        assert!(!scene.looks(), "the container is to speak");
        scene.take(Way::Out, LONE, micros(50));
        assert!(scene.looks());
    }

    #[test]
    fn neither_streams_nor_bulk_nor_slow_turns_are_a_conversation() {
        let mut one_way = Scene::new();
        for _ in 0..100 {
            one_way.take(Way::Out, LONE, micros(27));
        }
        assert!(!one_way.looks());

        let mut bulk = Scene::new();
        for _ in 0..100 {
            bulk.take(Way::In, LONE, micros(30));
            bulk.take(Way::Out, BULK, micros(30));
        }
        assert!(!bulk.looks());

        let mut slow = Scene::new();
        slow.converse(100, micros(500));
        assert!(!slow.looks());
    }

    #[test]
    fn one_look_in_vain_ends_the_conversation() {
        let mut scene = Scene::new();
        scene.converse(20, micros(50));
        scene.rhythm.in_vain();
        assert!(!scene.looks());
        scene.converse(7, micros(50));
        assert!(!scene.looks());
        scene.converse(2, micros(50));
        assert!(scene.looks());
    }

    #[test]
    fn who_shares_the_core_is_left_alone_for_longer_and_longer() {
        let mut scene = Scene::new();
        scene.converse(20, micros(50));
        let mut rests = Vec::new();
        for _ in 0..12 {
            assert!(scene.looks());
            let before = scene.now;
            assert!(!scene.rhythm.is_held_up(before, before + micros(50)));
            scene.now += micros(3000);
            assert!(scene.rhythm.is_held_up(before, scene.now));
            let start = scene.now;
            while !scene.looks() {
                scene.now += Duration::from_millis(5);
            }
            rests.push((scene.now - start).as_millis());
        }
        assert_eq!(rests[..4], [10, 20, 40, 80]);
        assert_eq!(rests[9..], [5000, 5000, 5000]);
        // After a long time without, it begins again.
        scene.now += Duration::from_secs(60);
        assert!(scene.rhythm.is_held_up(scene.now - micros(200), scene.now));
        scene.now += REST_MIN;
        assert!(scene.looks());
    }

    #[test]
    fn one_packet_is_expected_after_one_packet_unless_they_come_fast() {
        let mut scene = Scene::new();
        let expects = |scene: &Scene, after| scene.rhythm.expects(Way::In, scene.now + after);
        assert_eq!(expects(&scene, micros(0)), Expect::Many);
        scene.take(Way::In, LONE, micros(0));
        assert_eq!(expects(&scene, micros(100)), Expect::One);
        assert_eq!(expects(&scene, micros(5)), Expect::Many, "a stream");
        assert_eq!(
            scene.rhythm.expects(Way::Out, scene.now + micros(100)),
            Expect::Many,
            "the other way is another matter"
        );
        let two = Batch {
            items: 2,
            bytes: 200,
        };
        for other in [two, BULK] {
            scene.take(Way::In, other, micros(100));
            assert_eq!(expects(&scene, micros(100)), Expect::Many);
        }
        scene.take(Way::In, LONE, micros(100));
        scene.take(Way::In, Batch::default(), micros(100));
        assert_eq!(expects(&scene, micros(100)), Expect::One, "nothing came");
    }
}
