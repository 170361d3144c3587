//! A gob stream that arrives in pieces and has no end: one direction of a version 1 link.

use super::decode::decode_message;
use super::primitive::Reader;
use super::types::TypeTable;
use super::{GobError, MESSAGE_BYTES_MAX, Value};
use crate::intake::Intake;

/// Decoder of a continuous stream. Push bytes as they come, then take values until there is none.
///
/// Invariant: holds at most one unfinished message plus what was pushed since the last value was
/// taken.
#[derive(Debug, Default)]
pub struct StreamReader {
    intake: Intake,
    types: TypeTable,
}

impl StreamReader {
    /// A reader at the start of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes from the link.
    pub fn push(&mut self, bytes: &[u8]) {
        self.intake.push(bytes);
    }

    /// The next value; `None` until more bytes come. After an error the link must be closed.
    pub fn next_value(&mut self) -> Result<Option<Value<'_>>, GobError> {
        let Some(message_bytes) = self.take_definitions()? else {
            return Ok(None);
        };
        let message = Reader::new(self.intake.consume(message_bytes)).message()?;
        decode_message(message, &mut self.types)
    }

    /// Bytes held that belong to no value taken so far. While the other side is a stranger the
    /// caller keeps this small.
    pub fn buffered_bytes(&self) -> usize {
        self.intake.rest().len()
    }

    /// Decodes the definitions at the front; bytes of the value message behind them, or `None` until
    /// all of it is here.
    fn take_definitions(&mut self) -> Result<Option<usize>, GobError> {
        while let Some(message_bytes) = self.next_message()? {
            if Reader::new(self.intake.rest()).message()?.int()? >= 0 {
                return Ok(Some(message_bytes));
            }
            let definition = Reader::new(self.intake.consume(message_bytes)).message()?;
            decode_message(definition, &mut self.types)?;
        }
        Ok(None)
    }

    /// Bytes of the message at the front, its length included; `None` until all of it is here.
    fn next_message(&self) -> Result<Option<usize>, GobError> {
        let rest = self.intake.rest();
        let mut reader = Reader::new(rest);
        let length = match reader.uint() {
            Ok(length) => length,
            Err(GobError::Truncated) => return Ok(None),
            Err(error) => return Err(error),
        };
        let length_bytes = usize::try_from(length)
            .ok()
            .filter(|&length_bytes| length_bytes <= MESSAGE_BYTES_MAX)
            .ok_or(GobError::MessageTooLarge(length))?;
        let prefix_bytes = rest.len() - reader.rest().len();
        Ok((length_bytes <= reader.rest().len()).then_some(prefix_bytes + length_bytes))
    }
}
