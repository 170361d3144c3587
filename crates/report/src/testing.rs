//! The situation of the samples in spec/cli-api.md 5: two peers with one connection, and one target
//! that cannot be reached. The daemon's tests build the same reports from a node's state.

use api::report::Report;

/// The report of the samples, with or without encryption.
pub(crate) fn sample(encryption: bool) -> Report {
    let text = if encryption {
        include_str!("../testdata/report-encrypted.json")
    } else {
        include_str!("../testdata/report.json")
    };
    serde_json::from_str(text).expect("a recorded report")
}
