//! One Rust file as the rules see it: comments and literals blanked out, test code marked.
//!
//! Not a parser. It is exact about comments, strings, characters and lifetimes, and relies on rustfmt
//! for the rest.

use std::path::Path;

/// One Rust file of a crate that is not a test.
pub(super) struct CrateFile<'a> {
    /// Path from the root of the repository.
    pub(super) path: &'a Path,
    pub(super) krate: &'a str,
    pub(super) source: &'a Source,
}

/// A Rust file with its literals and comments blanked, line by line as in the original.
pub(super) struct Source {
    /// The original text.
    pub(super) raw: String,
    /// Same length in lines; comments, strings and characters replaced by spaces.
    pub(super) code: String,
    /// Likewise, but with only the comments replaced.
    pub(super) uncommented: String,
    /// For each line, whether it belongs to an item under `#[cfg(test)]`.
    test_lines: Vec<bool>,
}

/// A function with a body.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Function {
    /// Its name.
    pub(super) name: String,
    /// Line of `fn`, from 1.
    pub(super) line: usize,
    /// Lines from `fn` to the closing brace, both included.
    pub(super) lines: usize,
}

impl Source {
    pub(super) fn new(raw: &str) -> Self {
        let code = blank(raw, |_| true);
        let is_comment = |literal: &str| literal.starts_with('/');
        let test_lines = mark_test_lines(&code);
        Self {
            raw: raw.to_owned(),
            code,
            uncommented: blank(raw, is_comment),
            test_lines,
        }
    }

    /// Whether a line, from 1, is test code.
    pub(super) fn is_test(&self, line: usize) -> bool {
        self.test_lines.get(line - 1).copied().unwrap_or(false)
    }

    /// Names of the modules in files of their own that are declared for tests only.
    pub(super) fn test_modules(&self) -> Vec<&str> {
        self.code
            .lines()
            .enumerate()
            .filter(|(index, _)| self.is_test(index + 1))
            .filter_map(|(_, line)| {
                let (visibility, name) = line.trim().split_once("mod ")?;
                let is_declaration = visibility.is_empty() || visibility.starts_with("pub");
                name.strip_suffix(';').filter(|_| is_declaration)
            })
            .collect()
    }

    /// Lines of code that contain `word` not as a part of a longer identifier, from 1.
    pub(super) fn lines_with(&self, word: &str) -> Vec<usize> {
        self.code
            .lines()
            .enumerate()
            .filter(|(_, line)| contains_word(line, word))
            .map(|(index, _)| index + 1)
            .collect()
    }

    /// Every function that has a body, nested ones too.
    pub(super) fn functions(&self) -> Vec<Function> {
        let bytes = self.code.as_bytes();
        let mut found = Vec::new();
        for (at, _) in self.code.match_indices("fn ") {
            if at > 0 && is_identifier_byte(bytes[at - 1]) {
                continue;
            }
            let name: String = self.code[at + 3..]
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect();
            let Some((_, end)) = body_after(bytes, at) else {
                continue;
            };
            if name.is_empty() {
                continue;
            }
            let (line, last) = (line_of(bytes, at), line_of(bytes, end));
            found.push(Function {
                name,
                line,
                lines: last - line + 1,
            });
        }
        found
    }
}

/// Whether `text` contains `word` delimited by bytes that cannot continue an identifier.
pub(super) fn contains_word(text: &str, word: &str) -> bool {
    let bytes = text.as_bytes();
    text.match_indices(word).any(|(at, _)| {
        let before = at.checked_sub(1).map(|i| bytes[i]);
        let after = bytes.get(at + word.len()).copied();
        !before.is_some_and(is_identifier_byte) && !after.is_some_and(is_identifier_byte)
    })
}

fn is_identifier_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn line_of(bytes: &[u8], at: usize) -> usize {
    bytes[..at].iter().filter(|b| **b == b'\n').count() + 1
}

/// The first braces after `from` that are not inside parentheses or brackets, unless a `;` comes
/// before them. Returns the positions of both braces.
fn body_after(bytes: &[u8], from: usize) -> Option<(usize, usize)> {
    let mut depth = 0_i32;
    let mut at = from;
    let open = loop {
        match bytes.get(at)? {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth -= 1,
            b';' if depth == 0 => return None,
            b'{' if depth == 0 => break at,
            _ => {}
        }
        at += 1;
    };
    let mut braces = 0_i32;
    for (offset, byte) in bytes[open..].iter().enumerate() {
        match byte {
            b'{' => braces += 1,
            b'}' => braces -= 1,
            _ => {}
        }
        if braces == 0 {
            return Some((open, open + offset));
        }
    }
    None
}

fn mark_test_lines(code: &str) -> Vec<bool> {
    let bytes = code.as_bytes();
    let mut marks = vec![false; code.lines().count()];
    let attributes = ["#[cfg(test)]", "#[cfg(all(test"];
    for attribute in attributes {
        for (at, _) in code.match_indices(attribute) {
            let item = code[at..].find(']').map_or(at, |end| at + end + 1);
            let end = body_after(bytes, item).map_or_else(
                || {
                    code[item..]
                        .find(';')
                        .map_or(code.len(), |semicolon| item + semicolon)
                },
                |(_, close)| close,
            );
            let (first, last) = (line_of(bytes, at), line_of(bytes, end));
            marks
                .iter_mut()
                .take(last)
                .skip(first - 1)
                .for_each(|mark| *mark = true);
        }
    }
    marks
}

/// Replaces the unwanted of comments and literals by spaces; keeps newlines, so lines stay lines.
fn blank(text: &str, is_unwanted: impl Fn(&str) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skip = literal_length(rest, out.as_bytes().last().copied());
        if skip == 0 {
            out.push(if c.is_ascii() { c } else { ' ' });
            rest = &rest[c.len_utf8()..];
        } else if !is_unwanted(&rest[..skip]) {
            out.push_str(&rest[..skip]);
            rest = &rest[skip..];
        } else {
            out.extend(
                rest[..skip]
                    .chars()
                    .map(|c| if c == '\n' { '\n' } else { ' ' }),
            );
            rest = &rest[skip..];
        }
    }
    out
}

/// Length in bytes of the comment or literal that `text` starts with, or 0.
fn literal_length(text: &str, previous: Option<u8>) -> usize {
    let in_word = previous.is_some_and(is_identifier_byte);
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    if text.starts_with("/*") {
        return block_comment_length(text);
    }
    if !in_word {
        for prefix in ["br", "cr", "r"] {
            if let Some(after) = text.strip_prefix(prefix) {
                let hashes = after.len() - after.trim_start_matches('#').len();
                if after[hashes..].starts_with('"') {
                    let close = format!("\"{}", "#".repeat(hashes));
                    let start = prefix.len() + hashes + 1;
                    return text[start..]
                        .find(&close)
                        .map_or(text.len(), |end| start + end + close.len());
                }
            }
        }
    }
    match text.as_bytes()[0] {
        b'"' => string_length(text),
        b'\'' => character_length(text),
        _ => 0,
    }
}

fn block_comment_length(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut depth = 0;
    let mut at = 0;
    while at + 1 < bytes.len() {
        match &bytes[at..at + 2] {
            b"/*" => depth += 1,
            b"*/" => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

fn string_length(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut at = 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    text.len()
}

/// A character literal, or 0 for a lifetime or a label.
fn character_length(text: &str) -> usize {
    let mut inside = text[1..].char_indices();
    match inside.next() {
        Some((_, '\\')) => text[2..]
            .char_indices()
            .skip(1)
            .find(|(_, c)| *c == '\'')
            .map_or(0, |(at, _)| at + 3),
        Some((_, _)) => match inside.next() {
            Some((at, '\'')) => at + 2,
            _ => 0,
        },
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_and_comments_are_blanked_and_lines_stay() {
        let text = "let a = \"un{safe\"; // unsafe {\nlet b = '{'; /* { /* } */\n */ let c = r#\"\"{\"#;\n";
        let source = Source::new(text);
        assert!(!source.code.contains('{'), "{}", source.code);
        assert_eq!(source.code.lines().count(), 3);
        assert!(source.code.contains("let c ="));
        assert_eq!(source.lines_with("unsafe"), Vec::<usize>::new());
    }

    #[test]
    fn literals_can_be_read_without_the_comments() {
        let source = Source::new("let a = \"x // y\"; // z\n/* w */ b(\"\\\"v\")\n");
        assert_eq!(
            source
                .uncommented
                .lines()
                .map(str::trim)
                .collect::<Vec<_>>(),
            ["let a = \"x // y\";", "b(\"\\\"v\")"]
        );
    }

    #[test]
    fn lifetimes_are_not_characters() {
        let source =
            Source::new("fn f<'a>(x: &'a str) -> &'a str {\n    x\n}\n'\\'' '\\u{1F}' b'}'");
        let expected = Function {
            name: "f".to_owned(),
            line: 1,
            lines: 3,
        };
        assert_eq!(source.functions(), [expected]);
        assert!(!source.code.contains("1F"));
    }

    #[test]
    fn functions_are_measured_from_fn_to_the_closing_brace() {
        let text = "trait T {\n    fn declared(&self);\n    fn given(&self) -> [u8; 2]\n    where\n        Self: Sized,\n    {\n        [1, 2]\n    }\n}\n";
        let functions = Source::new(text).functions();
        assert_eq!(
            functions,
            [Function {
                name: "given".to_owned(),
                line: 3,
                lines: 6
            }]
        );
    }

    #[test]
    fn code_under_cfg_test_is_test_code() {
        let text = "fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\nfn c() {}\n#[cfg(test)]\npub(crate) mod more;\nfn d() {}\n";
        let source = Source::new(text);
        assert_eq!(source.test_modules(), ["more"]);
        let marks: Vec<bool> = (1..=9).map(|line| source.is_test(line)).collect();
        assert_eq!(
            marks,
            [false, true, true, true, true, false, true, true, false]
        );
    }

    #[test]
    fn statements_of_tests_declare_no_modules() {
        let text = "#[cfg(test)]\nmod tests {\n    fn a() {\n        host.kill();\n    }\n}\n";
        assert_eq!(Source::new(text).test_modules(), [""; 0]);
    }

    #[test]
    fn words_are_whole_identifiers() {
        assert!(contains_word("x = unsafe { y }", "unsafe"));
        assert!(!contains_word("#![forbid(unsafe_code)]", "unsafe"));
        assert!(!contains_word("not_unsafe()", "unsafe"));
    }
}
