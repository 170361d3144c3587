//! What the tests of the data half share.

/// Bytes of lower-case hex.
pub(crate) fn unhex(hex: &str) -> Vec<u8> {
    (0..hex.len() / 2)
        .map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).expect("vectors are hex"))
        .collect()
}

/// The vectors of one kind in `sleeve.json`.
pub(crate) fn sleeve_vectors(kind: &str) -> Vec<serde_json::Value> {
    vectors(include_str!("../testdata/sleeve.json"), kind)
}

/// The vectors of one kind in a vector file.
pub(crate) fn vectors(text: &str, kind: &str) -> Vec<serde_json::Value> {
    let file: serde_json::Value = serde_json::from_str(text).expect("vectors are JSON");
    let all = file["vectors"].as_array().expect("vectors are a list");
    all.iter()
        .filter(|vector| vector["kind"] == kind)
        .cloned()
        .collect()
}
