//! The self-describing serialisation, generic and as the topology payload.

use wire::gob::{Reader, Record, Stream, StreamReader, Value, put_bytes, put_int, put_uint};
use wire::topology;

/// A payload decodes the same whole and in pieces; integers, byte slices and topologies survive
/// being encoded again.
pub fn run(bytes: &[u8]) {
    read_primitives(bytes);
    let Some((&piece, payload)) = bytes.split_first() else {
        return;
    };
    let mut stream = Stream::new(payload);
    while let Ok(Some(value)) = stream.next_value() {
        walk(&value);
    }
    compare_pieces(payload, usize::from(piece).max(1));
    read_topology(payload);
}

fn read_primitives(bytes: &[u8]) {
    let mut reader = Reader::new(bytes);
    if let Ok(value) = reader.uint() {
        assert_same(value, |out| put_uint(out, value), |reader| reader.uint());
    }
    if let Ok(value) = reader.int() {
        assert_same(value, |out| put_int(out, value), |reader| reader.int());
    }
    if let Ok(value) = reader.bytes() {
        assert_same(
            value.to_vec(),
            |out| put_bytes(out, value),
            |reader| reader.bytes().map(<[u8]>::to_vec),
        );
    }
    let _ = reader.count(3);
    let _ = reader.message();
}

fn assert_same<T: PartialEq + std::fmt::Debug>(
    value: T,
    encode: impl FnOnce(&mut Vec<u8>),
    decode: impl FnOnce(&mut Reader<'_>) -> Result<T, wire::gob::GobError>,
) {
    let mut out = Vec::new();
    encode(&mut out);
    let mut reader = Reader::new(&out);
    assert_eq!(decode(&mut reader), Ok(value));
    assert!(reader.is_empty());
}

/// Visits every part of a value; bounded by the number of values a payload may hold.
fn walk(value: &Value<'_>) {
    match value {
        Value::Bool(_) | Value::Int(_) | Value::Uint(_) | Value::Float(_) => {}
        Value::Bytes(bytes) => assert!(bytes.len() <= wire::gob::MESSAGE_BYTES_MAX),
        Value::String(text) => assert!(text.len() <= 3 * wire::gob::MESSAGE_BYTES_MAX),
        Value::List(values) => values.iter().for_each(walk),
        Value::Map(entries) => {
            for (key, value) in entries {
                walk(key);
                walk(value);
            }
        }
        Value::Record(record) => walk_record(record),
    }
}

fn walk_record(record: &Record<'_>) {
    for (name, value) in record.iter() {
        assert!(record.defines(name) && record.get(name).is_some());
        walk(value);
    }
}

/// An endless stream in pieces gives the values of the whole payload, and ends no earlier.
fn compare_pieces(payload: &[u8], piece_bytes: usize) {
    let mut whole = Stream::new(payload);
    let mut reader = StreamReader::new();
    for piece in payload.chunks(piece_bytes) {
        reader.push(piece);
        loop {
            match reader.next_value() {
                Ok(None) => break,
                Ok(Some(value)) => assert!(is_same(whole.next_value(), &value)),
                Err(error) => {
                    assert_eq!(whole.next_value().err(), Some(error));
                    return;
                }
            }
        }
        assert!(reader.buffered_bytes() <= payload.len());
    }
}

/// Equal, except that a number that is none is not equal to itself.
fn is_same(whole: Result<Option<Value<'_>>, wire::gob::GobError>, piece: &Value<'_>) -> bool {
    whole.is_ok_and(|value| value.is_some_and(|value| format!("{value:?}") == format!("{piece:?}")))
}

fn read_topology(payload: &[u8]) {
    if let Ok(peers) = topology::decode(payload) {
        let again = topology::encode(&peers);
        assert_eq!(topology::decode(&again).as_ref(), Ok(&peers));
    }
}
