//! Decoding driven by the sender's definitions (spec/gob.md 2 and 3).

use super::primitive::Reader;
use super::types::{TypeDef, TypeTable, is_basic};
use super::{DEPTH_MAX, GobError, Record, VALUES_MAX, Value, id};

/// Decoder of one complete payload.
#[derive(Debug)]
pub struct Stream<'a> {
    input: Reader<'a>,
    pub(super) types: TypeTable,
}

impl<'a> Stream<'a> {
    /// A decoder of `payload`, which starts with no definitions.
    pub fn new(payload: &'a [u8]) -> Self {
        Self {
            input: Reader::new(payload),
            types: TypeTable::default(),
        }
    }

    /// The next top-level value; `None` when the payload ends here. After an error the stream is
    /// of no further use.
    pub fn next_value(&mut self) -> Result<Option<Value<'a>>, GobError> {
        let Some((type_id, mut content)) = self.next_content()? else {
            return Ok(None);
        };
        let value = ValueDecoder::new(&self.types).value(type_id, &mut content, DEPTH_MAX)?;
        if content.is_empty() {
            Ok(Some(value))
        } else {
            Err(GobError::TrailingBytes)
        }
    }

    /// The type and the bytes of the next top-level value.
    pub(super) fn next_content(&mut self) -> Result<Option<(i64, Reader<'a>)>, GobError> {
        while !self.input.is_empty() {
            let message = self.input.message()?;
            if let Some(content) = open_message(message, &mut self.types)? {
                return Ok(Some(content));
            }
        }
        Ok(None)
    }

    /// The next top-level value, which must be there.
    pub fn require_value(&mut self, what: &'static str) -> Result<Value<'a>, GobError> {
        self.next_value()?.ok_or(GobError::Missing(what))
    }

    /// The next top-level value, taken as a name, version or the like.
    pub fn require_uint(&mut self, what: &'static str) -> Result<u64, GobError> {
        self.require_value(what)?.as_uint(what)
    }

    /// The next top-level value, taken as bytes.
    pub fn require_bytes(&mut self, what: &'static str) -> Result<&'a [u8], GobError> {
        self.require_value(what)?.as_bytes(what)
    }

    /// The next top-level value, taken as text.
    pub fn require_string(&mut self, what: &'static str) -> Result<String, GobError> {
        match self.require_value(what)? {
            Value::String(text) => Ok(text.into_owned()),
            Value::Bool(_)
            | Value::Int(_)
            | Value::Uint(_)
            | Value::Float(_)
            | Value::Bytes(_)
            | Value::List(_)
            | Value::Map(_)
            | Value::Record(_) => Err(GobError::WrongType(what)),
        }
    }
}

/// Decodes one message; `None` when it was a definition, which is now in `types`.
pub(super) fn decode_message<'a>(
    message: Reader<'a>,
    types: &mut TypeTable,
) -> Result<Option<Value<'a>>, GobError> {
    let Some((type_id, mut content)) = open_message(message, types)? else {
        return Ok(None);
    };
    let value = ValueDecoder::new(types).value(type_id, &mut content, DEPTH_MAX)?;
    if content.is_empty() {
        Ok(Some(value))
    } else {
        Err(GobError::TrailingBytes)
    }
}

/// The type of the value in a message, and the value's bytes; `None` when the message was a
/// definition, which is now in `types`.
pub(super) fn open_message<'a>(
    mut message: Reader<'a>,
    types: &mut TypeTable,
) -> Result<Option<(i64, Reader<'a>)>, GobError> {
    let type_id = message.int()?;
    if type_id < 0 {
        let defined = type_id
            .checked_neg()
            .ok_or(GobError::UnknownType(type_id))?;
        types.define(defined, message)?;
        return Ok(None);
    }
    types.require_complete(type_id)?;
    if !matches!(types.get(type_id), Ok(TypeDef::Struct(_))) && message.uint()? != 0 {
        return Err(GobError::BadSingleton);
    }
    Ok(Some((type_id, message)))
}

pub(super) struct ValueDecoder<'t> {
    types: &'t TypeTable,
    values_left: usize,
}

impl<'t> ValueDecoder<'t> {
    pub(super) const fn new(types: &'t TypeTable) -> Self {
        Self {
            types,
            values_left: VALUES_MAX,
        }
    }

    pub(super) fn value<'a>(
        &mut self,
        type_id: i64,
        reader: &mut Reader<'a>,
        depth_left: usize,
    ) -> Result<Value<'a>, GobError> {
        self.values_left = self
            .values_left
            .checked_sub(1)
            .ok_or(GobError::TooManyValues)?;
        if is_basic(type_id) {
            return basic_value(type_id, reader);
        }
        let depth_left = depth_left.checked_sub(1).ok_or(GobError::TooDeep)?;
        match self.types.get(type_id)? {
            TypeDef::List { element } => {
                let count = reader.count(1)?;
                self.check_room(count)?;
                let elements = (0..count).map(|_| self.value(*element, reader, depth_left));
                elements.collect::<Result<_, _>>().map(Value::List)
            }
            TypeDef::Map { key, element } => {
                let count = reader.count(2)?;
                self.check_room(count.saturating_mul(2))?;
                let mut entries = Vec::with_capacity(count);
                for _ in 0..count {
                    let key = self.value(*key, reader, depth_left)?;
                    entries.push((key, self.value(*element, reader, depth_left)?));
                }
                Ok(Value::Map(entries))
            }
            TypeDef::Struct(fields) => {
                let mut values = Vec::new();
                let mut next = 0_usize;
                loop {
                    let delta = reader.uint()?;
                    if delta == 0 {
                        break;
                    }
                    let delta = usize::try_from(delta).map_err(|_| GobError::FieldOutOfRange)?;
                    let number = next.saturating_add(delta - 1);
                    let field = fields.get(number).ok_or(GobError::FieldOutOfRange)?;
                    values.push((number, self.value(field.type_id, reader, depth_left)?));
                    next = number + 1;
                }
                Ok(Value::Record(Record {
                    fields: fields.clone(),
                    values,
                }))
            }
            TypeDef::Opaque => reader.bytes().map(Value::Bytes),
        }
    }

    /// Refuses a count that could not be finished, before any room is made for it.
    fn check_room(&self, count: usize) -> Result<(), GobError> {
        if count <= self.values_left {
            Ok(())
        } else {
            Err(GobError::TooManyValues)
        }
    }
}

fn basic_value<'a>(type_id: i64, reader: &mut Reader<'a>) -> Result<Value<'a>, GobError> {
    Ok(match type_id {
        id::BOOL => Value::Bool(reader.uint()? != 0),
        id::INT => Value::Int(reader.int()?),
        id::UINT => Value::Uint(reader.uint()?),
        id::FLOAT => Value::Float(f64::from_bits(reader.uint()?.swap_bytes())),
        id::BYTES => Value::Bytes(reader.bytes()?),
        id::STRING => Value::String(String::from_utf8_lossy(reader.bytes()?)),
        _ => return Err(GobError::UnknownType(type_id)),
    })
}
