//! Encoding: constant definitions, then values (spec/gob.md 3 and 5).

use super::id;
use super::primitive::{put_bytes, put_int, put_string, put_uint, uint_bytes};

/// Writer of one stream.
#[derive(Debug, Default)]
pub struct Encoder {
    out: Vec<u8>,
    scratch: Vec<u8>,
}

impl Encoder {
    /// A writer of a stream that starts with nothing defined.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds definition messages as they are. Each id once per stream.
    pub fn definitions(&mut self, messages: &[u8]) {
        self.out.extend_from_slice(messages);
    }

    /// Adds a struct of type `type_id`.
    pub fn record(&mut self, type_id: i64, fill: impl FnOnce(&mut RecordEncoder<'_>)) {
        self.message(type_id, |body| put_record(body, fill));
    }

    /// Adds a value that is not a struct; `fill` writes what follows the singleton byte.
    pub fn value(&mut self, type_id: i64, fill: impl FnOnce(&mut Vec<u8>)) {
        self.message(type_id, |body| {
            body.push(0);
            fill(body);
        });
    }

    /// The stream.
    pub fn finish(self) -> Vec<u8> {
        self.out
    }

    fn message(&mut self, type_id: i64, fill: impl FnOnce(&mut Vec<u8>)) {
        self.scratch.clear();
        put_int(&mut self.scratch, type_id);
        fill(&mut self.scratch);
        put_bytes(&mut self.out, &self.scratch);
    }
}

/// Writer of one struct's fields, in ascending order of their numbers. Zero values are left out.
#[derive(Debug)]
pub struct RecordEncoder<'a> {
    out: &'a mut Vec<u8>,
    next: u64,
}

impl RecordEncoder<'_> {
    /// An unsigned field.
    pub fn uint(&mut self, number: u64, value: u64) {
        if value != 0 {
            self.start(number);
            put_uint(self.out, value);
        }
    }

    /// A signed field.
    pub fn int(&mut self, number: u64, value: i64) {
        if value != 0 {
            self.start(number);
            put_int(self.out, value);
        }
    }

    /// A boolean field.
    pub fn bool(&mut self, number: u64, value: bool) {
        self.uint(number, u64::from(value));
    }

    /// A text field.
    pub fn string(&mut self, number: u64, value: &str) {
        self.bytes(number, value.as_bytes());
    }

    /// A byte slice field.
    pub fn bytes(&mut self, number: u64, value: &[u8]) {
        if !value.is_empty() {
            self.start(number);
            put_bytes(self.out, value);
        }
    }

    /// A slice field of `count` elements, which `fill` writes.
    pub fn list(&mut self, number: u64, count: usize, fill: impl FnOnce(&mut Vec<u8>)) {
        if count != 0 {
            self.map(number, count, fill);
        }
    }

    /// A map field of `count` entries, which `fill` writes. Sent even when empty: call it only for
    /// a map that is present.
    pub fn map(&mut self, number: u64, count: usize, fill: impl FnOnce(&mut Vec<u8>)) {
        self.start(number);
        put_uint(self.out, count as u64);
        fill(self.out);
    }

    /// A struct field; sent even when all of it is zero.
    pub fn record(&mut self, number: u64, fill: impl FnOnce(&mut RecordEncoder<'_>)) {
        self.start(number);
        put_record(self.out, fill);
    }

    fn start(&mut self, number: u64) {
        let delta = (number + 1)
            .checked_sub(self.next)
            .filter(|&delta| delta != 0);
        put_uint(
            self.out,
            delta.expect("fields are written in ascending order"),
        );
        self.next = number + 1;
    }
}

/// Appends a struct as it stands inside slices, maps and structs.
pub fn put_record(out: &mut Vec<u8>, fill: impl FnOnce(&mut RecordEncoder<'_>)) {
    fill(&mut RecordEncoder {
        out: &mut *out,
        next: 0,
    });
    out.push(0);
}

/// Appends a whole message holding a top-level unsigned integer.
pub fn put_uint_message(out: &mut Vec<u8>, value: u64) {
    put_header(out, id::UINT, uint_bytes(value));
    put_uint(out, value);
}

/// Appends a whole message holding a top-level string.
pub fn put_string_message(out: &mut Vec<u8>, value: &str) {
    put_header(
        out,
        id::STRING,
        uint_bytes(value.len() as u64) + value.len(),
    );
    put_string(out, value);
}

/// Appends a whole message holding a top-level byte slice.
pub fn put_bytes_message(out: &mut Vec<u8>, value: &[u8]) {
    put_header(out, id::BYTES, uint_bytes(value.len() as u64) + value.len());
    put_bytes(out, value);
}

/// The start of a message with a basic value: length, type id (one byte), singleton zero.
fn put_header(out: &mut Vec<u8>, type_id: i64, value_bytes: usize) {
    put_uint(out, value_bytes as u64 + 2);
    put_int(out, type_id);
    out.push(0);
}
