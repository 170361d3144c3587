//! What Wefts say on [`crate::WEFT_CHANNEL`]: votes about peers that are gone.
//!
//! ```text
//! version 1 | kind 1 | victim 6 | epoch 4 | round 8 | by kind
//! promise:   0, or 1 | round 8 | proposer 6 | heir 6    what was accepted before
//! accept:    heir 6
//! decided:   heir 6
//! ```
//! Numbers are big-endian. Anything longer, shorter or of another version is no message.

use wire::PeerName;

/// Version of the format.
const VERSION: u8 = 1;
/// Highest round that is believed, so that nobody can make the next one impossible.
const ROUND_MAX: u64 = 1 << 48;

/// A ballot. Ordered by round, then by proposer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Ballot {
    pub(super) round: u64,
    pub(super) proposer: PeerName,
}

/// What was said about a victim; the proposer of a ballot is its sender or its receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) victim: PeerName,
    /// How often this victim was decided about before.
    pub(super) epoch: u32,
    pub(super) round: u64,
    pub(super) body: Body,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Body {
    /// Promise to take part in no ballot below this one?
    Prepare,
    /// Promised, and this was accepted before.
    Promise(Option<(Ballot, PeerName)>),
    /// Accept this heir?
    Accept(PeerName),
    /// Accepted.
    Accepted,
    /// No: epoch and round are the highest the sender knows.
    Refused,
    /// This heir was chosen.
    Decided(PeerName),
}

impl Message {
    pub(super) fn encode(self) -> Vec<u8> {
        let kind = match self.body {
            Body::Prepare => 0,
            Body::Promise(_) => 1,
            Body::Accept(_) => 2,
            Body::Accepted => 3,
            Body::Refused => 4,
            Body::Decided(_) => 5,
        };
        let mut bytes = vec![VERSION, kind];
        bytes.extend(self.victim.to_bytes());
        bytes.extend(self.epoch.to_be_bytes());
        bytes.extend(self.round.to_be_bytes());
        match self.body {
            Body::Prepare | Body::Accepted | Body::Refused => {}
            Body::Promise(None) => bytes.push(0),
            Body::Promise(Some((ballot, heir))) => {
                bytes.push(1);
                bytes.extend(ballot.round.to_be_bytes());
                bytes.extend(ballot.proposer.to_bytes());
                bytes.extend(heir.to_bytes());
            }
            Body::Accept(heir) | Body::Decided(heir) => bytes.extend(heir.to_bytes()),
        }
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        let [version, kind] = take(&mut rest)?;
        let victim = PeerName::from_bytes(take(&mut rest)?);
        let epoch = u32::from_be_bytes(take(&mut rest)?);
        let round = take_round(&mut rest)?;
        let body = match kind {
            0 => Body::Prepare,
            1 => Body::Promise(take_accepted(&mut rest)?),
            2 => Body::Accept(PeerName::from_bytes(take(&mut rest)?)),
            3 => Body::Accepted,
            4 => Body::Refused,
            5 => Body::Decided(PeerName::from_bytes(take(&mut rest)?)),
            _ => return None,
        };
        let message = Self {
            victim,
            epoch,
            round,
            body,
        };
        (version == VERSION && rest.is_empty()).then_some(message)
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(*head)
}

fn take_round(rest: &mut &[u8]) -> Option<u64> {
    let round = u64::from_be_bytes(take(rest)?);
    (round <= ROUND_MAX).then_some(round)
}

fn take_accepted(rest: &mut &[u8]) -> Option<Option<(Ballot, PeerName)>> {
    match take(rest)? {
        [0] => Some(None),
        [1] => {
            let round = take_round(rest)?;
            let proposer = PeerName::from_bytes(take(rest)?);
            let heir = PeerName::from_bytes(take(rest)?);
            Some(Some((Ballot { round, proposer }, heir)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_kinds() -> Vec<Message> {
        let name = |n| PeerName::from_bytes([2, 0, 0, 0, 0, n]);
        let ballot = Ballot {
            round: 9,
            proposer: name(3),
        };
        let bodies = [
            Body::Prepare,
            Body::Promise(None),
            Body::Promise(Some((ballot, name(4)))),
            Body::Accept(name(5)),
            Body::Accepted,
            Body::Refused,
            Body::Decided(name(6)),
        ];
        let message = |body| Message {
            victim: name(1),
            epoch: 7,
            round: 8,
            body,
        };
        bodies.into_iter().map(message).collect()
    }

    #[test]
    fn every_message_is_read_as_it_was_written() {
        for message in all_kinds() {
            assert_eq!(Message::decode(&message.encode()), Some(message));
        }
    }

    #[test]
    fn nothing_longer_or_shorter_is_a_message() {
        for message in all_kinds() {
            let mut bytes = message.encode();
            for length in 0..bytes.len() {
                assert_eq!(Message::decode(&bytes[..length]), None);
            }
            bytes.push(0);
            assert_eq!(Message::decode(&bytes), None);
        }
    }

    #[test]
    fn rounds_out_of_all_proportion_are_no_message() {
        let mut message = all_kinds()[0];
        message.round = ROUND_MAX + 1;
        assert_eq!(Message::decode(&message.encode()), None);
    }
}
