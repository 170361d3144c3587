//! Type definitions received on a stream (spec/gob.md 4).

use std::sync::Arc;

use super::primitive::Reader;
use super::{DEFINITION_BYTES_MAX, DEFINITIONS_MAX, FIELDS_MAX, GobError, id};

/// One field of a struct type.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Field {
    pub(crate) name: Box<str>,
    pub(crate) type_id: i64,
}

/// A type as the sender defined it.
#[derive(Debug, Clone)]
pub(crate) enum TypeDef {
    /// Slices, and arrays, which look the same.
    List {
        element: i64,
    },
    Map {
        key: i64,
        element: i64,
    },
    Struct(Arc<[Field]>),
    /// A custom encoding: a byte slice to us.
    Opaque,
}

/// All types one stream has defined so far. There are few, so they are looked up one by one.
#[derive(Debug, Clone, Default)]
pub(crate) struct TypeTable {
    types: Vec<Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    type_id: i64,
    definition: TypeDef,
    /// Whether it is known to be defined together with everything it mentions.
    is_complete: bool,
}

impl TypeTable {
    pub(crate) fn get(&self, type_id: i64) -> Result<&TypeDef, GobError> {
        self.position(type_id).map(|at| &self.types[at].definition)
    }

    fn position(&self, type_id: i64) -> Result<usize, GobError> {
        let found = self.types.iter().position(|entry| entry.type_id == type_id);
        found.ok_or(GobError::UnknownType(type_id))
    }

    /// Reads the definition of `type_id`, which must be all there is in `reader`.
    pub(crate) fn define(&mut self, type_id: i64, mut reader: Reader<'_>) -> Result<(), GobError> {
        if type_id < id::FIRST_DEFINED || self.get(type_id).is_ok() {
            return Err(GobError::DuplicateType);
        }
        if self.types.len() >= DEFINITIONS_MAX || reader.rest().len() > DEFINITION_BYTES_MAX {
            return Err(GobError::TooManyTypes);
        }
        let definition = read_wire_type(&mut reader)?;
        if !reader.is_empty() {
            return Err(GobError::TrailingBytes);
        }
        self.types.push(Entry {
            type_id,
            definition,
            is_complete: false,
        });
        Ok(())
    }

    /// Checks that `type_id` and every type it mentions, directly or not, are defined.
    pub(crate) fn require_complete(&mut self, type_id: i64) -> Result<(), GobError> {
        if is_basic(type_id) {
            return Ok(());
        }
        let start = self.position(type_id)?;
        if self.types[start].is_complete {
            return Ok(());
        }
        let mut seen = vec![false; self.types.len()];
        seen[start] = true;
        let mut pending = vec![start];
        while let Some(at) = pending.pop() {
            let mut mention = |mentioned: i64| {
                if !is_basic(mentioned) {
                    let at = self.position(mentioned)?;
                    if !std::mem::replace(&mut seen[at], true) {
                        pending.push(at);
                    }
                }
                Ok(())
            };
            match &self.types[at].definition {
                TypeDef::List { element } => mention(*element)?,
                TypeDef::Map { key, element } => {
                    mention(*key)?;
                    mention(*element)?;
                }
                TypeDef::Struct(fields) => fields.iter().try_for_each(|f| mention(f.type_id))?,
                TypeDef::Opaque => {}
            }
        }
        for (entry, seen) in self.types.iter_mut().zip(seen) {
            entry.is_complete |= seen;
        }
        Ok(())
    }
}

pub(crate) const fn is_basic(type_id: i64) -> bool {
    matches!(type_id, id::BOOL..=id::STRING)
}

/// Walks a struct of the fixed layout definitions use, giving each field's number to `field`.
fn read_fields(
    reader: &mut Reader<'_>,
    mut field: impl FnMut(u64, &mut Reader<'_>) -> Result<(), GobError>,
) -> Result<(), GobError> {
    let mut next = 0_u64;
    loop {
        let delta = reader.uint()?;
        if delta == 0 {
            return Ok(());
        }
        let number = next
            .checked_add(delta - 1)
            .ok_or(GobError::FieldOutOfRange)?;
        field(number, reader)?;
        next = number.checked_add(1).ok_or(GobError::FieldOutOfRange)?;
    }
}

fn read_wire_type(reader: &mut Reader<'_>) -> Result<TypeDef, GobError> {
    let mut found = None;
    read_fields(reader, |number, reader| {
        let definition = match number {
            0 | 1 => read_list(reader)?,
            2 => read_struct(reader)?,
            3 => read_map(reader)?,
            4..=6 => {
                read_fields(reader, |number, reader| match number {
                    0 => skip_common(reader),
                    _ => Err(GobError::BadDefinition),
                })?;
                TypeDef::Opaque
            }
            _ => return Err(GobError::BadDefinition),
        };
        match found.replace(definition) {
            None => Ok(()),
            Some(_) => Err(GobError::BadDefinition),
        }
    })?;
    found.ok_or(GobError::BadDefinition)
}

/// CommonType: name and id, both informative.
fn skip_common(reader: &mut Reader<'_>) -> Result<(), GobError> {
    read_fields(reader, |number, reader| match number {
        0 => reader.bytes().map(drop),
        1 => reader.int().map(drop),
        _ => Err(GobError::BadDefinition),
    })
}

fn read_list(reader: &mut Reader<'_>) -> Result<TypeDef, GobError> {
    let mut element = 0;
    read_fields(reader, |number, reader| {
        match number {
            0 => skip_common(reader)?,
            1 => element = reader.int()?,
            // The length of an array; the value repeats it.
            2 => drop(reader.int()?),
            _ => return Err(GobError::BadDefinition),
        }
        Ok(())
    })?;
    Ok(TypeDef::List { element })
}

fn read_map(reader: &mut Reader<'_>) -> Result<TypeDef, GobError> {
    let (mut key, mut element) = (0, 0);
    read_fields(reader, |number, reader| {
        match number {
            0 => skip_common(reader)?,
            1 => key = reader.int()?,
            2 => element = reader.int()?,
            _ => return Err(GobError::BadDefinition),
        }
        Ok(())
    })?;
    Ok(TypeDef::Map { key, element })
}

fn read_struct(reader: &mut Reader<'_>) -> Result<TypeDef, GobError> {
    let mut fields = Vec::new();
    read_fields(reader, |number, reader| match number {
        0 => skip_common(reader),
        1 => {
            let count = reader.count(1)?;
            if count > FIELDS_MAX {
                return Err(GobError::TooManyTypes);
            }
            fields = (0..count)
                .map(|_| read_field_type(reader))
                .collect::<Result<_, _>>()?;
            Ok(())
        }
        _ => Err(GobError::BadDefinition),
    })?;
    Ok(TypeDef::Struct(fields.into()))
}

fn read_field_type(reader: &mut Reader<'_>) -> Result<Field, GobError> {
    let (mut name, mut type_id) = (Box::from(""), 0);
    read_fields(reader, |number, reader| {
        match number {
            0 => name = String::from_utf8_lossy(reader.bytes()?).into(),
            1 => type_id = reader.int()?,
            _ => return Err(GobError::BadDefinition),
        }
        Ok(())
    })?;
    Ok(Field { name, type_id })
}
