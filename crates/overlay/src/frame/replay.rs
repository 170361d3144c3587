//! Replay window of one direction of one tunnel (spec/sleeve.md 3.1).
//!
//! Two sequence spaces (DF and non-DF), each with the set of numbers seen in the current half-window
//! and in the one just below. Sets are bit maps whose pieces are allocated when first touched and
//! recycled when the window slides, so an idle tunnel costs a few kilobytes and a busy one stops
//! allocating after two half-windows.

/// Numbers per half-window.
pub const HALF_WINDOW: u64 = 1 << 20;
/// Numbers per lazily allocated piece: 2 KiB of bits.
const PIECE_NUMBERS: usize = 1 << 14;
const PIECES: usize = HALF_WINDOW as usize / PIECE_NUMBERS;
const PIECE_WORDS: usize = PIECE_NUMBERS / 64;

type Piece = Box<[u64; PIECE_WORDS]>;

/// A set of offsets within one half-window.
#[derive(Default)]
struct Seen {
    pieces: Vec<Option<Piece>>,
}

impl Seen {
    /// Adds an offset; false when it was there already.
    fn insert(&mut self, offset: usize, spare: &mut Vec<Piece>) -> bool {
        if self.pieces.is_empty() {
            self.pieces.resize_with(PIECES, || None);
        }
        let piece = self.pieces[offset / PIECE_NUMBERS].get_or_insert_with(|| {
            spare.pop().map_or_else(
                || Box::new([0; PIECE_WORDS]),
                |mut piece| {
                    piece.fill(0);
                    piece
                },
            )
        });
        let word = &mut piece[offset % PIECE_NUMBERS / 64];
        let bit = 1_u64 << (offset % 64);
        let fresh = *word & bit == 0;
        *word |= bit;
        fresh
    }

    fn clear(&mut self, spare: &mut Vec<Piece>) {
        for piece in &mut self.pieces {
            spare.extend(piece.take());
        }
    }
}

/// Window over one sequence space.
#[derive(Default)]
struct Space {
    window: u64,
    current: Seen,
    lower: Seen,
}

impl Space {
    fn accept(&mut self, number: u64, spare: &mut Vec<Piece>) -> bool {
        let window = number / HALF_WINDOW;
        let offset = (number % HALF_WINDOW) as usize;
        if window > self.window {
            if window == self.window + 1 {
                std::mem::swap(&mut self.current, &mut self.lower);
            } else {
                self.lower.clear(spare);
            }
            self.current.clear(spare);
            self.window = window;
        }
        if window == self.window {
            self.current.insert(offset, spare)
        } else if window + 1 == self.window {
            self.lower.insert(offset, spare)
        } else {
            false
        }
    }
}

/// What has been received on one tunnel, both spaces.
#[derive(Default)]
pub struct ReplayWindow {
    df: Space,
    non_df: Space,
    spare: Vec<Piece>,
}

impl ReplayWindow {
    /// A window that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the counter field of an *authenticated* datagram (bit 63 = DF space). False: it was
    /// seen before or is too old, drop silently.
    pub fn accept(&mut self, counter_field: u64) -> bool {
        let number = counter_field & !(1 << 63);
        if counter_field >> 63 == 1 {
            self.df.accept(number, &mut self.spare)
        } else {
            self.non_df.accept(number, &mut self.spare)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn vectors_accept_and_reject_as_the_original() {
        let text = include_str!("../../testdata/sleeve_replay.json");
        let file: serde_json::Value = serde_json::from_str(text).unwrap();
        let mut checked = 0;
        for vector in file["vectors"].as_array().unwrap() {
            if vector["kind"] != "replay-window" {
                continue;
            }
            let mut window = ReplayWindow::new();
            let numbers = vector["input"].as_array().unwrap();
            let expected = vector["expect"].as_array().unwrap();
            for (number, expect) in numbers.iter().zip(expected) {
                let number = number.as_str().unwrap().parse::<u64>().unwrap();
                assert_eq!(window.accept(number), expect.as_bool().unwrap(), "{vector}");
                checked += 1;
            }
        }
        assert!(checked > 40);
    }

    #[test]
    fn spaces_are_independent() {
        let mut window = ReplayWindow::new();
        assert!(window.accept(7));
        assert!(window.accept(7 | 1 << 63));
        assert!(!window.accept(7));
        assert!(!window.accept(7 | 1 << 63));
    }

    #[test]
    fn idle_window_is_small_and_a_sliding_one_recycles() {
        let mut window = ReplayWindow::new();
        for number in 0..100 {
            window.accept(number);
        }
        assert_eq!(window.non_df.current.pieces.iter().flatten().count(), 1);
        for number in (0..20 * HALF_WINDOW).step_by(PIECE_NUMBERS) {
            window.accept(number);
        }
        assert!(window.spare.len() <= PIECES);
    }

    /// The specification word for word, with sets.
    #[derive(Default)]
    struct Model {
        window: u64,
        current: BTreeSet<u64>,
        lower: BTreeSet<u64>,
    }

    impl Model {
        fn accept(&mut self, n: u64) -> bool {
            let (window, offset) = (n >> 20, n & 0xfffff);
            if window > self.window {
                let old = std::mem::take(&mut self.current);
                self.lower = if window == self.window + 1 {
                    old
                } else {
                    BTreeSet::new()
                };
                self.window = window;
            }
            if window == self.window {
                self.current.insert(offset)
            } else if window + 1 == self.window {
                self.lower.insert(offset)
            } else {
                false
            }
        }
    }

    proptest! {
        /// F43, F44: the window gives the answers of an unbounded set, in any order.
        #[test]
        fn window_equals_a_set(
            steps in prop::collection::vec((0_u64..6, 0_u64..40, any::<bool>()), 1..200),
            base in 0_u64..1 << 42,
        ) {
            let mut window = ReplayWindow::new();
            let mut model = Model::default();
            for (half, offset, near_edge) in steps {
                let low = if near_edge { HALF_WINDOW - 20 } else { 0 };
                let number = (base + half) * HALF_WINDOW + low + offset;
                prop_assert_eq!(window.accept(number), model.accept(number));
            }
        }
    }
}
