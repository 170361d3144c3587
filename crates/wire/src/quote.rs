//! Quoting of untrusted text the way the original's log lines and errors do (`%q`).
//!
//! Peers' names and nicknames end up in error texts users compare and scripts grep for, so the
//! form is a contract (spec/mesh.md 2.1, 3.5).

use std::fmt::Write;

/// Longest untrusted text kept inside an error, characters; the rest is cut off.
pub const QUOTED_CHARS_MAX: usize = 128;

/// `text` in double quotes, control characters and invisible ones escaped.
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x0b' => out.push_str("\\v"),
            _ if is_printable(c) => out.push(c),
            _ => push_escaped(&mut out, u32::from(c)),
        }
    }
    out.push('"');
    out
}

/// `text` without anything that could end a line, drive a terminal or reorder what it shows: such
/// characters become U+FFFD. For untrusted text that users see outside of quotes.
pub fn printable(text: &str) -> String {
    let shown = |c| {
        if is_printable(c) {
            c
        } else {
            char::REPLACEMENT_CHARACTER
        }
    };
    text.chars().map(shown).collect()
}

/// The first [`QUOTED_CHARS_MAX`] characters of `text`.
pub(crate) fn clipped(text: &str) -> String {
    text.chars().take(QUOTED_CHARS_MAX).collect()
}

fn is_printable(c: char) -> bool {
    let invisible = matches!(u32::from(c),
        0xad | 0x200b..=0x200f | 0x202a..=0x202e | 0x2060..=0x206f | 0xd800..=0xf8ff | 0xfeff
        | 0xfff0..=0xfffb | 0xe0000..=0x10_ffff);
    c == ' ' || !(c.is_control() || c.is_whitespace() || invisible)
}

fn push_escaped(out: &mut String, code: u32) {
    let written = match code {
        0..0x80 => write!(out, "\\x{code:02x}"),
        0x80..0x1_0000 => write!(out, "\\u{code:04x}"),
        _ => write!(out, "\\U{code:08x}"),
    };
    written.expect("writing to a string cannot fail");
}

#[cfg(test)]
mod tests {
    use super::{printable, quote};

    #[test]
    fn nothing_that_drives_a_terminal_is_printable() {
        let hostile = "a\u{1b}[2J\r\nb\u{202e}c\u{9b}1m\u{7f}\u{2028}\u{0}";
        assert_eq!(
            printable(hostile),
            "a\u{fffd}[2J\u{fffd}\u{fffd}b\u{fffd}c\u{fffd}1m\u{fffd}\u{fffd}\u{fffd}"
        );
        assert_eq!(printable("höst 日本-1.example"), "höst 日本-1.example");
        assert_eq!(printable("\u{fffd}"), "\u{fffd}");
    }

    #[test]
    fn quotes_and_control_characters_are_escaped() {
        assert_eq!(quote("a\"b\\c\n\0\u{1b}"), r#""a\"b\\c\n\x00\x1b""#);
        assert_eq!(
            quote("日本 語\u{200b}\u{feff}\u{85}"),
            "\"日本 語\\u200b\\ufeff\\u0085\""
        );
        assert_eq!(quote(""), "\"\"");
    }
}
