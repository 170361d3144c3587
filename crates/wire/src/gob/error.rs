//! What can be wrong with a stream.

/// Why bytes are not a gob stream, or not the value we wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GobError {
    /// A message or a value ends early.
    #[error("gob: unexpected end of data")]
    Truncated,
    /// A count of more than eight bytes before an integer, or a length beyond any limit.
    #[error("gob: malformed integer")]
    BadInteger,
    /// A message larger than [`super::MESSAGE_BYTES_MAX`].
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
    /// Nesting beyond [`super::DEPTH_MAX`].
    #[error("gob: value nested too deeply")]
    TooDeep,
    /// More than [`super::VALUES_MAX`] values in one tree.
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
