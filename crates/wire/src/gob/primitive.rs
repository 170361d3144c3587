//! Integers, strings and byte slices (spec/gob.md 1).

use super::GobError;

/// Largest integer that is its own single byte.
const SINGLE_BYTE_MAX: u64 = 0x7f;

/// Appends an unsigned integer.
pub fn put_uint(out: &mut Vec<u8>, value: u64) {
    if value <= SINGLE_BYTE_MAX {
        out.push(value.to_le_bytes()[0]);
        return;
    }
    let bytes = value.to_be_bytes();
    let skipped = value.leading_zeros() as usize / 8;
    let count = u8::try_from(bytes.len() - skipped).expect("an integer has at most eight bytes");
    out.push(count.wrapping_neg());
    out.extend_from_slice(&bytes[skipped..]);
}

/// Bytes [`put_uint`] appends for `value`.
pub(crate) fn uint_bytes(value: u64) -> usize {
    if value <= SINGLE_BYTE_MAX {
        1
    } else {
        9 - value.leading_zeros() as usize / 8
    }
}

/// Appends a signed integer.
pub fn put_int(out: &mut Vec<u8>, value: i64) {
    put_uint(out, zigzag(value));
}

/// Appends a byte slice: its length, then the bytes.
pub fn put_bytes(out: &mut Vec<u8>, value: &[u8]) {
    put_uint(out, value.len() as u64);
    out.extend_from_slice(value);
}

/// Appends a string: its length in bytes, then the text.
pub fn put_string(out: &mut Vec<u8>, value: &str) {
    put_bytes(out, value.as_bytes());
}

/// The unsigned form of a signed integer.
pub(crate) fn zigzag(value: i64) -> u64 {
    let doubled = value.cast_unsigned() << 1;
    if value < 0 { !doubled } else { doubled }
}

fn unzigzag(value: u64) -> i64 {
    let half = (value >> 1).cast_signed();
    if value & 1 == 1 { !half } else { half }
}

/// Takes primitives off the front of a byte slice.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader of all of `bytes`.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What has not been read yet.
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Whether everything has been read.
    pub const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next `count` bytes.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], GobError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or(GobError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    /// An unsigned integer; forms with leading zero bytes are tolerated.
    #[inline]
    pub fn uint(&mut self) -> Result<u64, GobError> {
        let (&first, rest) = self.rest.split_first().ok_or(GobError::Truncated)?;
        self.rest = rest;
        if u64::from(first) <= SINGLE_BYTE_MAX {
            return Ok(u64::from(first));
        }
        let count = usize::from(first.wrapping_neg());
        if count > size_of::<u64>() {
            return Err(GobError::BadInteger);
        }
        let bytes = self.take(count)?;
        Ok(bytes
            .iter()
            .fold(0, |value, &byte| value << 8 | u64::from(byte)))
    }

    /// A signed integer.
    pub fn int(&mut self) -> Result<i64, GobError> {
        self.uint().map(unzigzag)
    }

    /// A byte slice: a length and that many bytes.
    pub fn bytes(&mut self) -> Result<&'a [u8], GobError> {
        let length = self.uint()?;
        self.take(usize::try_from(length).map_err(|_| GobError::Truncated)?)
    }

    /// A count of things that each take at least `bytes_each` of what is left.
    pub fn count(&mut self, bytes_each: usize) -> Result<usize, GobError> {
        let count = self.uint()?;
        let most = self.rest.len() / bytes_each.max(1);
        usize::try_from(count)
            .ok()
            .filter(|&count| count <= most)
            .ok_or(GobError::CountTooLarge)
    }

    /// The next message: a length and that many bytes.
    pub fn message(&mut self) -> Result<Self, GobError> {
        let length = self.uint()?;
        let length = usize::try_from(length)
            .ok()
            .filter(|&length| length <= super::MESSAGE_BYTES_MAX)
            .ok_or(GobError::MessageTooLarge(length))?;
        self.take(length).map(Self::new)
    }
}
