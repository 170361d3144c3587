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
mod error;
pub mod id;
mod limits;
mod primitive;
mod reader;
mod rows;
mod types;
mod value;

pub use decode::Stream;
pub use encode::{
    Encoder, RecordEncoder, put_bytes_message, put_record, put_string_message, put_uint_message,
};
pub use error::GobError;
pub use limits::{
    DEFINITION_BYTES_MAX, DEFINITIONS_MAX, DEPTH_MAX, FIELDS_MAX, MESSAGE_BYTES_MAX, VALUES_MAX,
};
pub use primitive::{Reader, put_bytes, put_int, put_string, put_uint};
pub use reader::StreamReader;
pub use rows::Row;
pub use value::{Record, Value};
