//! Decoded values: a tree, and how callers take it apart.

use std::borrow::Cow;
use std::sync::Arc;

use super::GobError;
use super::types::Field;

/// A decoded value. Byte slices and strings borrow from the payload.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    /// `bool`; any non-zero value counts as true.
    Bool(bool),
    /// A signed integer of any width.
    Int(i64),
    /// An unsigned integer of any width.
    Uint(u64),
    /// A floating point number; no peer sends one.
    Float(f64),
    /// A byte slice, or a value in a custom encoding.
    Bytes(&'a [u8]),
    /// A string; bytes that are not UTF-8 become replacement characters.
    String(Cow<'a, str>),
    /// A slice or an array.
    List(Vec<Self>),
    /// A map in the sender's order; a key may occur twice.
    Map(Vec<(Self, Self)>),
    /// A struct.
    Record(Record<'a>),
}

/// A struct value: the fields that were sent. Absent ones are zero to the sender.
#[derive(Debug, Clone, PartialEq)]
pub struct Record<'a> {
    pub(super) fields: Arc<[Field]>,
    /// Field numbers, ascending, and their values.
    pub(super) values: Vec<(usize, Value<'a>)>,
}

impl<'a> Record<'a> {
    /// The field called `name`, or `None` when it was not sent.
    pub fn get(&self, name: &str) -> Option<&Value<'a>> {
        let found = self
            .values
            .iter()
            .find(|(number, _)| &*self.fields[*number].name == name);
        found.map(|(_, value)| value)
    }

    /// The fields that were sent, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value<'a>)> {
        self.values
            .iter()
            .map(|(number, value)| (&*self.fields[*number].name, value))
    }

    /// Whether the sender's type has a field called `name`, sent or not.
    pub fn defines(&self, name: &str) -> bool {
        self.fields.iter().any(|field| &*field.name == name)
    }

    /// An unsigned field; 0 when absent.
    pub fn uint(&self, name: &'static str) -> Result<u64, GobError> {
        self.get(name).map_or(Ok(0), |value| value.as_uint(name))
    }

    /// An unsigned field of 32 bits; 0 when absent.
    pub fn uint32(&self, name: &'static str) -> Result<u32, GobError> {
        u32::try_from(self.uint(name)?).map_err(|_| GobError::OutOfRange(name))
    }

    /// An unsigned field of 16 bits; 0 when absent.
    pub fn uint16(&self, name: &'static str) -> Result<u16, GobError> {
        u16::try_from(self.uint(name)?).map_err(|_| GobError::OutOfRange(name))
    }

    /// A signed field; 0 when absent.
    pub fn int(&self, name: &'static str) -> Result<i64, GobError> {
        self.get(name).map_or(Ok(0), |value| value.as_int(name))
    }

    /// A boolean field; false when absent.
    pub fn bool(&self, name: &'static str) -> Result<bool, GobError> {
        self.get(name)
            .map_or(Ok(false), |value| value.as_bool(name))
    }

    /// A text field; empty when absent.
    pub fn str(&self, name: &'static str) -> Result<&str, GobError> {
        self.get(name).map_or(Ok(""), |value| value.as_str(name))
    }

    /// A byte slice field; empty when absent.
    pub fn bytes(&self, name: &'static str) -> Result<&'a [u8], GobError> {
        self.get(name).map_or(Ok(&[]), |value| value.as_bytes(name))
    }

    /// A slice field; empty when absent.
    pub fn list(&self, name: &'static str) -> Result<&[Value<'a>], GobError> {
        self.get(name).map_or(Ok(&[]), |value| value.as_list(name))
    }

    /// A map field; `None` when absent, which is not the same as empty.
    pub fn map(&self, name: &'static str) -> Result<Option<&[(Value<'a>, Value<'a>)]>, GobError> {
        self.get(name).map(|value| value.as_map(name)).transpose()
    }

    /// A struct field; `None` when absent.
    pub fn record(&self, name: &'static str) -> Result<Option<&Self>, GobError> {
        self.get(name)
            .map(|value| value.as_record(name))
            .transpose()
    }
}

/// Each accessor fails with [`GobError::WrongType`] naming `what`.
impl<'a> Value<'a> {
    /// The unsigned integer.
    pub fn as_uint(&self, what: &'static str) -> Result<u64, GobError> {
        if let Self::Uint(value) = self {
            Ok(*value)
        } else {
            Err(GobError::WrongType(what))
        }
    }

    /// The signed integer.
    pub fn as_int(&self, what: &'static str) -> Result<i64, GobError> {
        if let Self::Int(value) = self {
            Ok(*value)
        } else {
            Err(GobError::WrongType(what))
        }
    }

    /// The boolean.
    pub fn as_bool(&self, what: &'static str) -> Result<bool, GobError> {
        if let Self::Bool(value) = self {
            Ok(*value)
        } else {
            Err(GobError::WrongType(what))
        }
    }

    /// The text.
    pub fn as_str(&self, what: &'static str) -> Result<&str, GobError> {
        if let Self::String(value) = self {
            Ok(value)
        } else {
            Err(GobError::WrongType(what))
        }
    }

    /// The bytes.
    pub fn as_bytes(&self, what: &'static str) -> Result<&'a [u8], GobError> {
        if let Self::Bytes(value) = self {
            Ok(value)
        } else {
            Err(GobError::WrongType(what))
        }
    }

    /// The elements of a slice.
    pub fn as_list(&self, what: &'static str) -> Result<&[Self], GobError> {
        if let Self::List(value) = self {
            Ok(value)
        } else {
            Err(GobError::WrongType(what))
        }
    }

    /// The entries of a map.
    pub fn as_map(&self, what: &'static str) -> Result<&[(Self, Self)], GobError> {
        if let Self::Map(value) = self {
            Ok(value)
        } else {
            Err(GobError::WrongType(what))
        }
    }

    /// The struct.
    pub fn as_record(&self, what: &'static str) -> Result<&Record<'a>, GobError> {
        if let Self::Record(value) = self {
            Ok(value)
        } else {
            Err(GobError::WrongType(what))
        }
    }
}
