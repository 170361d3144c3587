//! What several tests share.

use std::time::Instant;

use serde_json::Value;
use wire::PeerName;
use wire::topology::ConnectionSummary;

/// A start of virtual time.
#[expect(
    clippy::disallowed_methods,
    reason = "an Instant can be had in no other way"
)]
pub(crate) fn base() -> Instant {
    Instant::now()
}

/// The golden vectors of one file that are of one kind.
pub(crate) fn vectors(file: &str, kind: &str) -> Vec<Value> {
    let path = format!("{}/testdata/{file}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    let mut file: Value = serde_json::from_str(&text).unwrap();
    let Value::Array(mut all) = file["vectors"].take() else {
        panic!("vectors are a list")
    };
    all.retain(|vector| vector["kind"] == kind);
    assert!(!all.is_empty(), "no vectors of kind {kind}");
    all
}

/// Bytes of a hex string.
pub(crate) fn hex(text: &Value) -> Vec<u8> {
    let text = text.as_str().unwrap();
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

/// A peer name in text form.
pub(crate) fn name(text: &Value) -> PeerName {
    text.as_str().unwrap().parse().unwrap()
}

/// A list of peer names.
pub(crate) fn names(list: &Value) -> Vec<PeerName> {
    list.as_array().unwrap().iter().map(name).collect()
}

/// A decimal number in a string, as the vectors write large ones, or a plain one.
pub(crate) fn number(value: &Value) -> u64 {
    value
        .as_u64()
        .unwrap_or_else(|| value.as_str().unwrap().parse().unwrap())
}

/// What a peer with many connections says about them.
pub(crate) fn connections(from: u64, count: u64) -> Vec<ConnectionSummary> {
    let remotes = from..from + count;
    remotes
        .map(|n| ConnectionSummary {
            remote: PeerName::from_u64(n),
            remote_address: format!("10.0.0.1:{}", n % 60_000),
            outbound: true,
            established: true,
        })
        .collect()
}
