//! Gob, the self-describing serialisation peers exchange (spec/gob.md).
//!
//! Only the part that occurs between peers: no interfaces, no complex numbers. [`Stream`] decodes a
//! complete payload, [`StreamReader`] a connection that never ends (version 1 links); both are
//! driven by the type definitions the sender gives and produce a tree, [`Value`], from which
//! callers take fields by name. Encoding goes the other way: [`Encoder`] writes the constant
//! definitions of [`definitions`] and values in the same layout.

mod decode;
pub mod definitions;
mod encode;
mod primitive;
mod reader;
mod rows;
mod types;
mod value;

pub use decode::Stream;
pub use encode::{
    Encoder, RecordEncoder, put_bytes_message, put_record, put_string_message, put_uint_message,
};
pub use primitive::{Reader, put_bytes, put_int, put_string, put_uint};
pub use reader::StreamReader;
pub use rows::Row;
pub use value::{Record, Value};

/// Type ids of the basic types.
pub mod id {
    /// `bool`.
    pub const BOOL: i64 = 1;
    /// Every signed integer.
    pub const INT: i64 = 2;
    /// Every unsigned integer.
    pub const UINT: i64 = 3;
    /// Floating point; never sent by peers of today, skipped when met.
    pub const FLOAT: i64 = 4;
    /// Byte slice.
    pub const BYTES: i64 = 5;
    /// String.
    pub const STRING: i64 = 6;
    /// First id a sender may give to a type of its own.
    pub const FIRST_DEFINED: i64 = 65;
}

/// Longest message of a stream, bytes: that of the frame around it (spec/mesh.md 1).
pub const MESSAGE_BYTES_MAX: usize = 10 * 1024 * 1024;
/// Deepest nesting of a value. What peers send today nests seven deep (a Paxos claim).
pub const DEPTH_MAX: usize = 16;
/// Most types one stream may define. Peers define twelve at most.
pub const DEFINITIONS_MAX: usize = 256;
/// Most fields of one struct type. Peers define six at most.
pub const FIELDS_MAX: usize = 256;
/// Longest type definition, bytes. Those of peers are below 100.
pub const DEFINITION_BYTES_MAX: usize = 8 * 1024;
/// Most values in the tree of one top-level value; bounds what a hostile frame costs in memory.
/// A 10 MiB payload of names or ring entries stays below it.
pub const VALUES_MAX: usize = 1024 * 1024;

/// Why bytes are not a gob stream, or not the value we wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GobError {
    /// A message or a value ends early.
    #[error("gob: unexpected end of data")]
    Truncated,
    /// A count of more than eight bytes before an integer, or a length beyond any limit.
    #[error("gob: malformed integer")]
    BadInteger,
    /// A message larger than [`MESSAGE_BYTES_MAX`].
    #[error("gob: message of {0} bytes is too large")]
    MessageTooLarge(u64),
    /// A type id nobody defined.
    #[error("gob: unknown type id {0}")]
    UnknownType(i64),
    /// A type was defined twice, or a reserved id was defined.
    #[error("gob: duplicate type received")]
    DuplicateType,
    /// More or larger definitions than anybody needs.
    #[error("gob: too many type definitions")]
    TooManyTypes,
    /// A definition that is neither slice, map, struct, array nor custom-encoded.
    #[error("gob: malformed type definition")]
    BadDefinition,
    /// A field number beyond the struct's definition.
    #[error("gob: field number out of range")]
    FieldOutOfRange,
    /// The byte in front of a value that is not a struct was not zero.
    #[error("gob: corrupted data: non-zero delta for singleton")]
    BadSingleton,
    /// Bytes were left over in a message.
    #[error("gob: extra data in buffer")]
    TrailingBytes,
    /// A count above the bytes that are left.
    #[error("gob: element count exceeds the data")]
    CountTooLarge,
    /// Nesting beyond [`DEPTH_MAX`].
    #[error("gob: value nested too deeply")]
    TooDeep,
    /// More than [`VALUES_MAX`] values in one tree.
    #[error("gob: too many values")]
    TooManyValues,
    /// The value is of another type than the reader expects.
    #[error("gob: wrong type for received {0}")]
    WrongType(&'static str),
    /// An integer does not fit where it belongs.
    #[error("gob: value for {0} out of range")]
    OutOfRange(&'static str),
    /// A value the reader needs is missing.
    #[error("gob: {0} is missing")]
    Missing(&'static str),
}
