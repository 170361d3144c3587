//! Data on standard output.

use std::io::Write;

use crate::failure::Outcome;

/// Writes to standard output.
pub(crate) fn print(text: &str) -> Outcome {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(anyhow::Error::from)?;
    Ok(())
}

/// Prints a value as JSON.
pub(crate) fn print_json<T: serde::Serialize>(value: &T) -> Outcome {
    print(&format!("{}\n", api::json::pretty(value)))
}
