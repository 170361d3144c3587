//! Notices when the kernel hands over datagrams one by one that came in trains: everything works,
//! at a fraction of the throughput, and nothing else would tell.
//!
//! A receive buffer continues a train when it holds full-size datagrams as the buffer before did, of
//! the same sender and size, and the socket was not found empty in between. Only such buffers say
//! anything: a lone datagram could not have been merged with another.

use std::net::SocketAddr;

/// Datagrams of trains that make one verdict.
const WINDOW_DATAGRAMS: u64 = 4096;
/// Smaller datagrams are no bulk.
const FULL_SIZE_BYTES: usize = 1000;
/// Complaints are at least this far apart, seconds.
const COMPLAINT_PAUSE_SECS: u32 = 600;

/// What one receive call gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceiveBuffer {
    /// Who sent all of it.
    pub from: SocketAddr,
    /// Length of each datagram but the last, which may be shorter.
    pub datagram_bytes: usize,
    /// How many there are.
    pub datagrams: u64,
}

/// A window's datagrams came one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OneByOne {
    /// Their number.
    pub datagrams: u64,
    /// Whether it is time to say so in the log.
    pub is_worth_saying: bool,
}

/// The watch over one thread's receive buffers.
#[derive(Debug, Default)]
pub struct MergeWatch {
    /// Sender and size of the train under way.
    train: Option<(SocketAddr, usize)>,
    datagrams: u64,
    buffers: u64,
    said_secs: Option<u32>,
}

impl MergeWatch {
    /// A watch that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// The socket was found empty: what comes next begins a train.
    pub const fn pause(&mut self) {
        self.train = None;
    }

    /// Takes the next buffer; `now_secs` is coarse monotonic time.
    pub fn take(&mut self, buffer: ReceiveBuffer, now_secs: u32) -> Option<OneByOne> {
        if buffer.datagram_bytes < FULL_SIZE_BYTES {
            self.train = None;
            return None;
        }
        let train = Some((buffer.from, buffer.datagram_bytes));
        if self.train != train {
            self.train = train;
            return None;
        }
        self.datagrams += buffer.datagrams;
        self.buffers += 1;
        if self.datagrams < WINDOW_DATAGRAMS {
            return None;
        }
        let (datagrams, buffers) = (self.datagrams, self.buffers);
        (self.datagrams, self.buffers) = (0, 0);
        // Where the kernel merges, a buffer of a train has ten and more.
        if datagrams * 4 >= buffers * 5 {
            return None;
        }
        let said = self.said_secs;
        let is_worth_saying = said.is_none_or(|said| now_secs - said >= COMPLAINT_PAUSE_SECS);
        if is_worth_saying {
            self.said_secs = Some(now_secs);
        }
        Some(OneByOne {
            datagrams,
            is_worth_saying,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buffer(datagram_bytes: usize, datagrams: u64) -> ReceiveBuffer {
        ReceiveBuffer {
            from: "192.168.99.1:6783".parse().expect("an address"),
            datagram_bytes,
            datagrams,
        }
    }

    /// What the watch finds in as many equal buffers.
    fn findings(watch: &mut MergeWatch, buffers: u64, one: ReceiveBuffer) -> Vec<OneByOne> {
        (0..buffers).filter_map(|_| watch.take(one, 0)).collect()
    }

    #[test]
    fn a_long_train_of_single_datagrams_is_noticed_and_counted() {
        let found = findings(&mut MergeWatch::new(), 4097, buffer(1472, 1));
        let expected = OneByOne {
            datagrams: 4096,
            is_worth_saying: true,
        };
        assert_eq!(found, [expected]);
    }

    #[test]
    fn merged_trains_are_as_they_should_be() {
        assert_eq!(
            findings(&mut MergeWatch::new(), 100_000, buffer(1472, 22)),
            []
        );
        assert_eq!(
            findings(&mut MergeWatch::new(), 100_000, buffer(1472, 2)),
            []
        );
    }

    #[test]
    fn what_could_not_have_been_merged_says_nothing() {
        let mut watch = MergeWatch::new();
        assert_eq!(findings(&mut watch, 100_000, buffer(200, 1)), [], "small");
        let other = ReceiveBuffer {
            from: "192.168.99.2:6783".parse().expect("an address"),
            ..buffer(1472, 1)
        };
        for _ in 0..100_000 {
            assert_eq!(watch.take(buffer(1472, 1), 0), None, "of many senders");
            assert_eq!(watch.take(other, 0), None, "of many senders");
        }
        for _ in 0..100_000 {
            assert_eq!(watch.take(buffer(1472, 1), 0), None, "with pauses");
            watch.pause();
        }
    }

    #[test]
    fn it_is_said_again_only_after_a_while_and_counted_always() {
        let mut watch = MergeWatch::new();
        let mut found = Vec::new();
        for now_secs in [0, 1, 599, 600, 601] {
            let all = (0..4097).filter_map(|_| watch.take(buffer(1472, 1), now_secs));
            found.extend(all.map(|found| found.is_worth_saying));
        }
        assert_eq!(found, [true, false, false, true, false]);
    }
}
