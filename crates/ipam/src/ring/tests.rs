//! The ring by itself, and the divisions on record.
