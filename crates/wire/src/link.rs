//! The identity of a link, from mesh to status. It never travels; it lives here because every crate
//! that speaks of a connection knows this one.

/// Identity of one TCP connection, and of everything that hangs on it: handshake, tunnels, counters,
/// status. The core numbers those it dials, the shell those it accepts.
///
/// Invariant: never used again within a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(u64);

impl LinkId {
    /// The n-th link we dialled.
    pub const fn outbound(n: u64) -> Self {
        Self(n << 1)
    }

    /// The n-th link we accepted.
    pub const fn inbound(n: u64) -> Self {
        Self(n << 1 | 1)
    }

    /// Whether we dialled it.
    pub const fn is_outbound(self) -> bool {
        self.0 & 1 == 0
    }

    /// A number unique among all links of this process.
    pub const fn number(self) -> u64 {
        self.0
    }
}
