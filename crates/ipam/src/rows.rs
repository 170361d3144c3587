//! Durable rows: what survives a restart, as names and values the shell stores without reading.

/// One row to be written or removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Name of the row, `ipam/…`.
    pub name: String,
    /// JSON to store; `None` removes the row.
    pub value: Option<Vec<u8>>,
}
