//! Type definitions received on a stream (spec/gob.md 4).

use std::collections::{BTreeMap, BTreeSet};
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

/// All types one stream has defined so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct TypeTable {
    types: BTreeMap<i64, TypeDef>,
    /// Types known to be defined together with everything they mention.
    complete: BTreeSet<i64>,
}

impl TypeTable {
    pub(crate) fn get(&self, type_id: i64) -> Result<&TypeDef, GobError> {
        self.types
            .get(&type_id)
            .ok_or(GobError::UnknownType(type_id))
    }

    /// Reads the definition of `type_id`, which must be all there is in `reader`.
    pub(crate) fn define(&mut self, type_id: i64, mut reader: Reader<'_>) -> Result<(), GobError> {
        if type_id < id::FIRST_DEFINED || self.types.contains_key(&type_id) {
            return Err(GobError::DuplicateType);
        }
        if self.types.len() >= DEFINITIONS_MAX || reader.rest().len() > DEFINITION_BYTES_MAX {
            return Err(GobError::TooManyTypes);
        }
        let definition = read_wire_type(&mut reader)?;
        if !reader.is_empty() {
            return Err(GobError::TrailingBytes);
        }
        self.types.insert(type_id, definition);
        Ok(())
    }

    /// Checks that `type_id` and every type it mentions, directly or not, are defined.
    pub(crate) fn require_complete(&mut self, type_id: i64) -> Result<(), GobError> {
        if is_basic(type_id) || self.complete.contains(&type_id) {
            return Ok(());
        }
        let mut seen = BTreeSet::from([type_id]);
        let mut pending = vec![type_id];
        while let Some(next) = pending.pop() {
            let mut mention = |mentioned: i64| {
                if !is_basic(mentioned) && seen.insert(mentioned) {
                    pending.push(mentioned);
                }
            };
            match self.get(next)? {
                TypeDef::List { element } => mention(*element),
                TypeDef::Map { key, element } => {
                    mention(*key);
                    mention(*element);
                }
                TypeDef::Struct(fields) => fields.iter().for_each(|f| mention(f.type_id)),
                TypeDef::Opaque => {}
            }
        }
        self.complete.append(&mut seen);
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
