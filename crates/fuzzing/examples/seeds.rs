//! Writes the seeds of each fuzz target: `cargo run -p fuzzing --example seeds -- DIRECTORY`.
//!
//! Seeds are the byte strings and texts of the golden vectors, in the form each target reads.
#![allow(clippy::print_stdout, reason = "a command line tool talks to its user")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;

/// Longer ones only slow a fuzzer down.
const SEED_BYTES_MAX: usize = 4096;
/// Crates with vectors.
const CRATES: [&str; 4] = ["wire", "nacl", "mesh", "overlay"];

/// What tools of the operator say.
const REQUESTS: [&str; 12] = [
    "10.32.1.5/12",
    "fd00::1/64",
    "[fe80::1]:7000",
    "host1:6783",
    "02:00:00:00:0a:01",
    "weave=debug,info",
    r#"{"target":{"container":"a"},"addresses":["10.32.1.5/12"],"multicast":true}"#,
    r#"{"target":{"netns":"/run/netns/a"},"addresses":[]}"#,
    r#"{"target":{"pid":17},"addresses":[]}"#,
    r#"{"addresses":["10.32.0.1/12"],"masquerade":true}"#,
    r#"{"id":"a","name":null}"#,
    r#"[{"id":"weave:expose","mac":"","addresses":[]}]"#,
];

fn main() -> std::io::Result<()> {
    let directory = std::env::args().nth(1).map(PathBuf::from);
    let directory = directory.expect("usage: seeds DIRECTORY");
    let (strings, mut texts) = strings();
    texts.extend(REQUESTS.map(|text| text.as_bytes().to_vec()));
    texts.extend(templates());
    for (target, _) in fuzzing::TARGETS {
        let words = texts.iter().filter(|_| reads_text(target)).cloned();
        let seeds: BTreeSet<Vec<u8>> = strings
            .iter()
            .flat_map(|bytes| seeds_of(target, bytes))
            .chain(words)
            .filter(|seed| seed.len() <= SEED_BYTES_MAX)
            .collect();
        let directory = directory.join(target);
        fs::create_dir_all(&directory)?;
        for (number, seed) in seeds.iter().enumerate() {
            fs::write(directory.join(format!("seed-{number:04}")), seed)?;
        }
        println!("{target}: {} seeds", seeds.len());
    }
    Ok(())
}

/// How a target reads a byte string of the vectors: some expect a few bytes in front.
fn seeds_of(target: &str, bytes: &[u8]) -> Vec<Vec<u8>> {
    let prefixed = |prefix: &[u8]| [prefix, bytes].concat();
    match target {
        "gob" | "message" => vec![bytes.to_vec(), prefixed(&[1]), prefixed(&[200])],
        "headers" => vec![bytes.to_vec(), prefixed(&[2, 0x40])],
        "requests" => Vec::new(),
        // Flags, cut, and one sealed message; or what a stranger says.
        "link" => [0, 1, 2, 7]
            .map(|flags| prefixed(&[flags, 0, 0x7f]))
            .into_iter()
            .chain([8, 9].map(|flags| prefixed(&[flags, 5])))
            .collect(),
        _ => vec![bytes.to_vec()],
    }
}

/// Templates in the tests of the daemon.
fn templates() -> impl Iterator<Item = Vec<u8>> {
    const TESTS: &str = include_str!("../../report/src/template/tests.rs");
    TESTS
        .lines()
        .filter(|line| line.contains("{{"))
        .map(|line| {
            let from = line.find('"').map_or(0, |at| at + 1);
            let template = line[from..].split("\", \"").next().unwrap_or_default();
            let template = template.trim_end_matches(['"', ',', ')']);
            template.replace("\\\"", "\"").into_bytes()
        })
}

/// Whether the texts of the vectors mean anything to a target.
fn reads_text(target: &str) -> bool {
    matches!(target, "introduction" | "requests")
}

/// Byte strings, and texts.
type Strings = (BTreeSet<Vec<u8>>, BTreeSet<Vec<u8>>);

/// Every byte string and every text in the vectors.
fn strings() -> Strings {
    let mut found = Strings::default();
    let crates = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("this crate lies among the others");
    for name in CRATES {
        let files = fs::read_dir(crates.join(name).join("testdata")).expect("vectors");
        for file in files.filter_map(Result::ok) {
            if let Ok(text) = fs::read_to_string(file.path())
                && let Ok(json) = serde_json::from_str::<Json>(&text)
            {
                collect(&json["vectors"], &mut found);
            }
        }
    }
    found
}

fn collect(json: &Json, found: &mut Strings) {
    match json {
        Json::String(text) => {
            match unhex(text) {
                Some(bytes) => found.0.insert(bytes),
                None => found.1.insert(text.clone().into_bytes()),
            };
        }
        Json::Array(values) => values.iter().for_each(|value| collect(value, found)),
        Json::Object(fields) => fields.values().for_each(|value| collect(value, found)),
        Json::Null | Json::Bool(_) | Json::Number(_) => {}
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let is_hex = !text.is_empty() && text.len().is_multiple_of(2);
    let digits = text.as_bytes().chunks(2).map(|pair| {
        let pair = std::str::from_utf8(pair).ok()?;
        u8::from_str_radix(pair, 16).ok()
    });
    is_hex.then(|| digits.collect()).flatten()
}
