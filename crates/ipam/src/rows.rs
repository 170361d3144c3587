//! Durable rows: what survives a restart, as names and values the shell stores without reading.

/// One row to be written or removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowWrite {
    /// Name of the row, `ipam/…`.
    pub name: String,
    /// JSON to store; `None` removes the row.
    pub value: Option<Vec<u8>>,
}

/// The stored rows cannot be used. Nothing was discarded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("stored address data is damaged: row {row}: {reason}")]
pub struct RestoreError {
    /// Name of the first row that is damaged.
    pub row: String,
    /// What is wrong with it.
    pub reason: String,
}
