//! How much of everything we take.

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
