//! Reading golden vectors, and comparing decoded gob values with their JSON form.

use serde_json::Value as Json;
use wire::gob::Value;

/// All vectors of a file under `testdata`, or those of one kind.
pub(crate) fn load(file: &str, kind: Option<&str>) -> Vec<Json> {
    let path = format!("{}/testdata/{file}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let mut json: Json = serde_json::from_str(&text).unwrap();
    let Json::Array(mut vectors) = json["vectors"].take() else {
        panic!("{path}: no vectors")
    };
    vectors.retain(|vector| kind.is_none_or(|kind| vector["kind"] == kind));
    assert!(!vectors.is_empty(), "{path}: no vectors of kind {kind:?}");
    vectors
}

/// The id of a vector, for messages.
pub(crate) fn id(vector: &Json) -> &str {
    vector["id"].as_str().unwrap()
}

/// Bytes from hex in a JSON string.
pub(crate) fn bytes(json: &Json) -> Vec<u8> {
    unhex(json.as_str().unwrap())
}

pub(crate) fn unhex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2), "odd number of hex digits");
    let digit = |b: u8| u8::try_from(char::from(b).to_digit(16).unwrap()).unwrap();
    text.as_bytes()
        .chunks(2)
        .map(|pair| digit(pair[0]) << 4 | digit(pair[1]))
        .collect()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An integer given as a JSON number or as decimal text.
pub(crate) fn uint(json: &Json) -> u64 {
    json.as_u64()
        .unwrap_or_else(|| json.as_str().unwrap().parse().unwrap())
}

/// Whether a decoded value is what the vector says. Absent struct fields are zero on both sides.
pub(crate) fn matches(value: &Value<'_>, json: &Json) -> bool {
    match value {
        Value::Bool(value) => json == value,
        Value::Int(value) => text_or_number(json) == value.to_string(),
        Value::Uint(value) => text_or_number(json) == value.to_string(),
        Value::Float(_) => false,
        Value::Bytes(value) => json.as_str() == Some(&hex(value)),
        Value::String(value) => json.as_str() == Some(value),
        Value::List(values) => json.as_array().is_some_and(|list| {
            list.len() == values.len() && values.iter().zip(list).all(|(v, j)| matches(v, j))
        }),
        Value::Map(entries) => json["map"].as_array().is_some_and(|list| {
            list.len() == entries.len()
                && entries
                    .iter()
                    .zip(list)
                    .all(|((k, v), j)| matches(k, &j[0]) && matches(v, &j[1]))
        }),
        Value::Record(record) => json.as_object().is_some_and(|fields| {
            let sent = record.iter().all(|(name, value)| match fields.get(name) {
                Some(json) => matches(value, json),
                None => is_zero(value),
            });
            sent && fields
                .iter()
                .all(|(name, json)| record.get(name).is_some() || zero_json(json))
        }),
    }
}

fn text_or_number(json: &Json) -> String {
    json.as_str()
        .map_or_else(|| json.to_string(), str::to_owned)
}

fn is_zero(value: &Value<'_>) -> bool {
    match value {
        Value::Bool(value) => !value,
        Value::Int(value) => *value == 0,
        Value::Uint(value) => *value == 0,
        Value::Float(value) => *value == 0.0,
        Value::Bytes(value) => value.is_empty(),
        Value::String(value) => value.is_empty(),
        Value::List(values) => values.is_empty(),
        Value::Map(entries) => entries.is_empty(),
        Value::Record(record) => record.iter().all(|(_, value)| is_zero(value)),
    }
}

fn zero_json(json: &Json) -> bool {
    match json {
        Json::Null => true,
        Json::Bool(value) => !value,
        Json::Number(value) => value.as_u64() == Some(0),
        Json::String(value) => value.is_empty() || value == "0",
        Json::Array(values) => values.is_empty(),
        Json::Object(fields) => fields.values().all(zero_json),
    }
}
