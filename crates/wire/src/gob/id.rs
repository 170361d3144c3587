//! Type ids of the basic types.

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
