//! What becomes of containers.

use std::time::Duration;

/// How long the addresses of a container that died are kept for it.
pub const GRACE: Duration = Duration::from_secs(30);

/// What happened to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerEvent {
    /// It runs.
    Started,
    /// It stopped; it may be started again.
    Died,
    /// It is gone for good.
    Destroyed,
}
