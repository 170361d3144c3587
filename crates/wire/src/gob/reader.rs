//! A gob stream that arrives in pieces and has no end: one direction of a version 1 link.

use super::decode::decode_message;
use super::primitive::Reader;
use super::types::TypeTable;
use super::{GobError, MESSAGE_BYTES_MAX, Value};

/// Decoder of a continuous stream. Push bytes as they come, then take values until there is none.
///
/// Invariant: holds at most one unfinished message plus what was pushed since the last value was
/// taken.
#[derive(Debug, Default)]
pub struct StreamReader {
    buffer: Vec<u8>,
    /// Bytes at the front of `buffer` that have been decoded.
    consumed: usize,
    types: TypeTable,
}

impl StreamReader {
    /// A reader at the start of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes from the link.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.consumed);
        self.consumed = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next value; `None` until more bytes come. After an error the link must be closed.
    pub fn next_value(&mut self) -> Result<Option<Value<'_>>, GobError> {
        loop {
            let rest = &self.buffer[self.consumed..];
            let Some(end) = message_end(rest)? else {
                return Ok(None);
            };
            if rest.len() < end {
                return Ok(None);
            }
            let start = self.consumed;
            self.consumed += end;
            // Split in two because a value must not be borrowed while the loop goes on.
            if is_definition(&self.buffer[start..self.consumed])? {
                let message = Reader::new(&self.buffer[start..self.consumed]).message()?;
                decode_message(message, &mut self.types)?;
                continue;
            }
            let message = Reader::new(&self.buffer[start..self.consumed]).message()?;
            return decode_message(message, &mut self.types);
        }
    }

    /// Bytes held that belong to no value taken so far.
    pub fn buffered_bytes(&self) -> usize {
        self.buffer.len() - self.consumed
    }
}

/// Bytes of the message at the front, its length included; `None` when the length is not all here.
fn message_end(bytes: &[u8]) -> Result<Option<usize>, GobError> {
    let mut reader = Reader::new(bytes);
    let length = match reader.uint() {
        Ok(length) => length,
        Err(GobError::Truncated) => return Ok(None),
        Err(error) => return Err(error),
    };
    match usize::try_from(length) {
        Ok(length_bytes) if length_bytes <= MESSAGE_BYTES_MAX => {
            Ok(Some(bytes.len() - reader.rest().len() + length_bytes))
        }
        _ => Err(GobError::MessageTooLarge(length)),
    }
}

fn is_definition(bytes: &[u8]) -> Result<bool, GobError> {
    Ok(Reader::new(bytes).message()?.int()? < 0)
}
