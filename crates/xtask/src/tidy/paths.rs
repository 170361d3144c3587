//! The paths a Rust file names: its `use` items, taken apart, and paths written out in its code.
//!
//! Reads blanked code without test code. Knows braces, `mod`, `use` and `::`, and nothing else of the
//! language.

use super::source::Source;

/// A path as written, without what follows generics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mention {
    /// Its segments. A glob ends before its star.
    pub(super) segments: Vec<String>,
    /// Inline modules of the file around it, outermost first.
    pub(super) inside: Vec<String>,
    /// Line, from 1.
    pub(super) line: usize,
    /// The name a `use` item at the top level of the file binds to it.
    pub(super) binds: Option<String>,
}

/// All paths of a file outside of test code, in order.
pub(super) fn mentions(source: &Source) -> Vec<Mention> {
    let mut reader = Reader {
        tokens: tokens(source),
        at: 0,
        braces: Vec::new(),
        found: Vec::new(),
    };
    reader.read();
    reader.found
}

struct Token<'a> {
    text: &'a str,
    line: usize,
}

/// Identifiers, `::` and single other characters.
fn tokens(source: &Source) -> Vec<Token<'_>> {
    let mut found = Vec::new();
    for (index, text) in source.code.lines().enumerate() {
        let line = index + 1;
        if source.is_test(line) {
            continue;
        }
        let mut rest = text.trim_start();
        while let Some(first) = rest.chars().next() {
            let word = rest.find(|c: char| !is_identifier(c)).unwrap_or(rest.len());
            let length = match word {
                0 if rest.starts_with("::") => 2,
                0 => first.len_utf8(),
                word => word,
            };
            let (text, after) = rest.split_at(length);
            found.push(Token { text, line });
            rest = after.trim_start();
        }
    }
    found
}

fn is_identifier(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

struct Reader<'a> {
    tokens: Vec<Token<'a>>,
    at: usize,
    /// Open braces; those of inline modules with their name.
    braces: Vec<Option<String>>,
    found: Vec<Mention>,
}

impl Reader<'_> {
    fn read(&mut self) {
        while let Some(text) = self.text(0) {
            match text {
                "mod" if self.text(2) == Some("{") => {
                    self.braces.push(self.text(1).map(str::to_owned));
                    self.at += 3;
                }
                "{" => {
                    self.braces.push(None);
                    self.at += 1;
                }
                "}" => {
                    self.braces.pop();
                    self.at += 1;
                }
                // `use<'a>` in the bounds of a type is no import.
                "use" if self.text(1) != Some("<") => {
                    self.at += 1;
                    self.read_tree(&mut Vec::new());
                }
                _ if self.starts_path() => self.read_path(),
                _ => self.at += 1,
            }
        }
    }

    fn text(&self, ahead: usize) -> Option<&str> {
        self.tokens.get(self.at + ahead).map(|token| token.text)
    }

    fn back(&self, behind: usize) -> Option<&str> {
        let at = self.at.checked_sub(behind)?;
        Some(self.tokens[at].text)
    }

    /// Whether a path of several segments starts here that is no visibility.
    fn starts_path(&self) -> bool {
        let is_word = self
            .text(0)
            .is_some_and(|text| text.starts_with(is_identifier));
        let is_visibility = self.back(1) == Some("in") && self.back(2) == Some("(");
        is_word && self.text(1) == Some("::") && self.back(1) != Some("::") && !is_visibility
    }

    fn read_path(&mut self) {
        let line = self.tokens[self.at].line;
        let mut segments = vec![self.take()];
        while self.text(0) == Some("::")
            && self
                .text(1)
                .is_some_and(|text| text.starts_with(is_identifier))
        {
            self.at += 1;
            segments.push(self.take());
        }
        self.add(segments, line, None);
    }

    /// One branch of the tree of a `use` item, `prefix` being what it hangs on.
    fn read_tree(&mut self, prefix: &mut Vec<String>) {
        let depth = prefix.len();
        while let Some(text) = self.text(0) {
            match text {
                "{" => {
                    self.at += 1;
                    while self.text(0).is_some_and(|text| text != "}") {
                        self.read_tree(prefix);
                        if self.text(0) == Some(",") {
                            self.at += 1;
                        }
                    }
                    self.at += 1;
                    break;
                }
                "*" => {
                    let line = self.tokens[self.at].line;
                    self.at += 1;
                    self.add(prefix.clone(), line, None);
                    break;
                }
                "::" => self.at += 1,
                _ if text.starts_with(is_identifier) => {
                    let line = self.tokens[self.at].line;
                    let segment = self.take();
                    prefix.push(segment);
                    if self.text(0) != Some("::") {
                        self.bind(prefix, line);
                        break;
                    }
                }
                _ => break,
            }
        }
        prefix.truncate(depth);
    }

    /// A leaf of the tree: `a::b`, `a::b as c` or `a::{self}`.
    fn bind(&mut self, path: &[String], line: usize) {
        let mut path = path.to_vec();
        if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
            path.pop();
        }
        let mut name = path.last().cloned();
        if self.text(0) == Some("as") {
            self.at += 1;
            name = Some(self.take());
        }
        let is_top = self.braces.is_empty();
        self.add(path, line, name.filter(|_| is_top));
    }

    fn take(&mut self) -> String {
        let text = self.tokens[self.at].text.to_owned();
        self.at += 1;
        text
    }

    fn add(&mut self, segments: Vec<String>, line: usize, binds: Option<String>) {
        self.found.push(Mention {
            segments,
            inside: self.braces.iter().flatten().cloned().collect(),
            line,
            binds,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(text: &str) -> Vec<String> {
        let found = mentions(&Source::new(text));
        found.iter().map(|m| m.segments.join("::")).collect()
    }

    #[test]
    fn nested_groups_of_use_items_are_taken_apart() {
        let text = "pub(crate) use crate::a::{self, b::{C, D as E}, f::*};\nuse super::g;\n";
        let found = mentions(&Source::new(text));
        assert_eq!(
            paths(text),
            [
                "crate::a",
                "crate::a::b::C",
                "crate::a::b::D",
                "crate::a::f",
                "super::g"
            ]
        );
        let names: Vec<Option<&str>> = found.iter().map(|m| m.binds.as_deref()).collect();
        assert_eq!(names, [Some("a"), Some("C"), Some("E"), None, Some("g")]);
        assert_eq!(found[4].line, 2);
    }

    #[test]
    fn paths_in_code_are_found_and_visibilities_are_not() {
        let text =
            "pub(in crate::x) fn f(a: super::A<self::B>) -> c::D {\n    E::f::<crate::g::H>()\n}\n";
        assert_eq!(
            paths(text),
            ["super::A", "self::B", "c::D", "E::f", "crate::g::H"]
        );
    }

    #[test]
    fn a_path_knows_the_inline_modules_around_it() {
        let text = "mod a {\n    mod b {\n        use super::c;\n    }\n}\nfn f() { use d::e; }\n";
        let found = mentions(&Source::new(text));
        assert_eq!(found[0].inside, ["a", "b"]);
        assert_eq!(
            found[0].binds, None,
            "bound inside of the inline module alone"
        );
        assert_eq!((found[1].inside.len(), &found[1].binds), (0, &None));
    }

    #[test]
    fn paths_of_tests_and_comments_are_left_out() {
        let text =
            "// crate::a::b\n#[cfg(test)]\nmod tests {\n    use super::*;\n    use crate::c;\n}\n";
        assert_eq!(paths(text), [""; 0]);
    }
}
