//! Bytes of a link that wait until they are complete.

/// Room kept once everything was taken; more is given back, so that one large message does not
/// cost its memory for the life of the link.
const IDLE_BYTES_MAX: usize = 64 * 1024;

/// A queue of bytes: pushed at the back, looked at and consumed at the front.
#[derive(Debug, Default)]
pub(crate) struct Intake {
    bytes: Vec<u8>,
    /// Bytes at the front that were consumed. They stay until the next push, so what was handed
    /// out can borrow them.
    consumed: usize,
}

impl Intake {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.consumed);
        self.consumed = 0;
        if self.bytes.is_empty() {
            self.bytes.shrink_to(IDLE_BYTES_MAX);
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// What was not consumed yet.
    pub(crate) fn rest(&self) -> &[u8] {
        &self.bytes[self.consumed..]
    }

    /// Consumes the first `count` bytes of the rest and returns them.
    pub(crate) fn consume(&mut self, count: usize) -> &mut [u8] {
        let start = self.consumed;
        self.consumed += count;
        &mut self.bytes[start..start + count]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_a_large_message_is_given_back() {
        let mut intake = Intake::default();
        intake.push(&vec![1; 1 << 20]);
        intake.push(&[2; 3]);
        assert_eq!(intake.consume(1 << 20).len(), 1 << 20);
        assert_eq!(intake.consume(2), [2, 2]);
        intake.push(&[3]);
        assert_eq!(intake.rest(), [2, 3]);
        intake.consume(2);
        intake.push(&[4]);
        assert_eq!(intake.rest(), [4]);
        assert!(intake.bytes.capacity() <= IDLE_BYTES_MAX);
    }
}
