//! Structs and slices of structs decoded row by row, without building a tree.
//!
//! For payloads that are large and come often: the caller names the fields it wants once, and each
//! struct is presented as the values of those fields.

use super::decode::ValueDecoder;
use super::primitive::Reader;
use super::types::{Field, TypeDef};
use super::{DEPTH_MAX, GobError, Stream, Value};

/// One struct, reduced to the fields the caller named.
#[derive(Debug)]
pub struct Row<'a, const N: usize> {
    names: &'static [&'static str; N],
    values: [Option<Value<'a>>; N],
}

/// Each accessor takes the position of the field in the caller's list, returns zero or nothing for
/// a field that was not sent, and fails with [`GobError::WrongType`] naming the field.
impl<'a, const N: usize> Row<'a, N> {
    /// An unsigned field.
    pub fn uint(&self, at: usize) -> Result<u64, GobError> {
        self.values[at]
            .as_ref()
            .map_or(Ok(0), |value| value.as_uint(self.names[at]))
    }

    /// An unsigned field of 32 bits.
    pub fn uint32(&self, at: usize) -> Result<u32, GobError> {
        u32::try_from(self.uint(at)?).map_err(|_| GobError::OutOfRange(self.names[at]))
    }

    /// An unsigned field of 16 bits.
    pub fn uint16(&self, at: usize) -> Result<u16, GobError> {
        u16::try_from(self.uint(at)?).map_err(|_| GobError::OutOfRange(self.names[at]))
    }

    /// A signed field.
    pub fn int(&self, at: usize) -> Result<i64, GobError> {
        self.values[at]
            .as_ref()
            .map_or(Ok(0), |value| value.as_int(self.names[at]))
    }

    /// A boolean field.
    pub fn bool(&self, at: usize) -> Result<bool, GobError> {
        self.values[at]
            .as_ref()
            .map_or(Ok(false), |value| value.as_bool(self.names[at]))
    }

    /// A text field.
    pub fn str(&self, at: usize) -> Result<&str, GobError> {
        self.values[at]
            .as_ref()
            .map_or(Ok(""), |value| value.as_str(self.names[at]))
    }

    /// A byte slice field.
    pub fn bytes(&self, at: usize) -> Result<&'a [u8], GobError> {
        self.values[at]
            .as_ref()
            .map_or(Ok(&[]), |value| value.as_bytes(self.names[at]))
    }
}

impl<'a> Stream<'a> {
    /// Takes the next top-level value, which must be a struct, through `take`; `None` when the
    /// payload ends here.
    pub fn next_row<const N: usize, T>(
        &mut self,
        what: &'static str,
        names: &'static [&'static str; N],
        take: impl FnOnce(&Row<'a, N>) -> Result<T, GobError>,
    ) -> Result<Option<T>, GobError> {
        let Some((type_id, mut content)) = self.next_content()? else {
            return Ok(None);
        };
        let mut rows = Rows::new(self, type_id, what, names)?;
        rows.read(&mut content)?;
        let taken = take(&rows.row)?;
        if content.is_empty() {
            Ok(Some(taken))
        } else {
            Err(GobError::TrailingBytes)
        }
    }

    /// Takes the next top-level value, which must be there and be a slice of structs, one struct
    /// after the other through `take`.
    pub fn require_rows<const N: usize, T>(
        &mut self,
        what: &'static str,
        names: &'static [&'static str; N],
        mut take: impl FnMut(&Row<'a, N>) -> Result<T, GobError>,
    ) -> Result<Vec<T>, GobError> {
        let (type_id, mut content) = self.next_content()?.ok_or(GobError::Missing(what))?;
        let Ok(TypeDef::List { element }) = self.types.get(type_id) else {
            return Err(GobError::WrongType(what));
        };
        let mut rows = Rows::new(self, *element, what, names)?;
        let count = content.count(1)?;
        let mut taken = Vec::new();
        for _ in 0..count {
            rows.read(&mut content)?;
            taken.push(take(&rows.row)?);
        }
        if content.is_empty() {
            Ok(taken)
        } else {
            Err(GobError::TrailingBytes)
        }
    }
}

/// Reader of structs of one type.
struct Rows<'a, 't, const N: usize> {
    fields: &'t [Field],
    /// For each field of the type, its position in the caller's list.
    wanted: Vec<Option<usize>>,
    decoder: ValueDecoder<'t>,
    row: Row<'a, N>,
}

impl<'a, 't, const N: usize> Rows<'a, 't, N> {
    fn new(
        stream: &'t Stream<'a>,
        type_id: i64,
        what: &'static str,
        names: &'static [&'static str; N],
    ) -> Result<Self, GobError> {
        let Ok(TypeDef::Struct(fields)) = stream.types.get(type_id) else {
            return Err(GobError::WrongType(what));
        };
        let mut free = [true; N];
        let wanted = fields.iter().map(|field| {
            let at = names.iter().position(|name| **name == *field.name)?;
            // Of two fields with one name the first counts, as in a record.
            std::mem::take(&mut free[at]).then_some(at)
        });
        Ok(Self {
            fields,
            wanted: wanted.collect(),
            decoder: ValueDecoder::new(&stream.types),
            row: Row {
                names,
                values: [const { None }; N],
            },
        })
    }

    /// Reads the next struct into `row`.
    fn read(&mut self, reader: &mut Reader<'a>) -> Result<(), GobError> {
        self.row.values.fill_with(|| None);
        let mut next = 0_usize;
        loop {
            let delta = reader.uint()?;
            if delta == 0 {
                return Ok(());
            }
            let delta = usize::try_from(delta).map_err(|_| GobError::FieldOutOfRange)?;
            let number = next.saturating_add(delta - 1);
            let field = self.fields.get(number).ok_or(GobError::FieldOutOfRange)?;
            let value = self.decoder.value(field.type_id, reader, DEPTH_MAX)?;
            if let Some(at) = self.wanted[number] {
                self.row.values[at] = Some(value);
            }
            next = number + 1;
        }
    }
}
