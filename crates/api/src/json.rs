//! JSON text as the original writes it.

use serde::Serialize;
use serde_json::ser::PrettyFormatter;

/// Four-space indent, HTML-significant characters escaped, no newline at the end.
pub fn pretty<T: Serialize>(value: &T) -> String {
    let mut bytes = Vec::new();
    let formatter = PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
    value
        .serialize(&mut serializer)
        .expect("api types always serialize to memory");
    escape_html(&String::from_utf8(bytes).expect("serde_json writes UTF-8"))
}

/// One line, HTML-significant characters escaped.
pub fn compact<T: Serialize>(value: &T) -> String {
    escape_html(&serde_json::to_string(value).expect("api types always serialize to memory"))
}

/// Escapes the characters that would matter inside HTML. They occur in JSON only within strings.
fn escape_html(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                escaped.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            _ => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn html_characters_are_escaped_and_indent_is_four() {
        let value = serde_json::json!({"a": ["->", "&"]});
        assert_eq!(
            pretty(&value),
            "{\n    \"a\": [\n        \"-\\u003e\",\n        \"\\u0026\"\n    ]\n}"
        );
        assert_eq!(compact(&value), "{\"a\":[\"-\\u003e\",\"\\u0026\"]}");
    }
}
