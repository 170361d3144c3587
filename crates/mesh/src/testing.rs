//! What several tests share.

use std::time::Instant;

/// A start of virtual time.
#[expect(
    clippy::disallowed_methods,
    reason = "an Instant can be had in no other way"
)]
pub(crate) fn base() -> Instant {
    Instant::now()
}
