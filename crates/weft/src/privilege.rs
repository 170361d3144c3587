//! Who may do what changes this host.

use anyhow::Context;

use crate::failure::{Failure, Outcome};

/// Fails unless we are root.
pub(crate) fn need_root() -> Outcome {
    let uid = std::fs::metadata("/proc/self").context("looking at /proc/self")?;
    if std::os::unix::fs::MetadataExt::uid(&uid) == 0 {
        Ok(())
    } else {
        // The original says so by this name.
        Err(Failure::exit(
            1,
            "weave must be run as 'root' when run locally",
        ))
    }
}
