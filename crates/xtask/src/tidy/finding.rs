//! What a rule says when it is broken, and where.

use std::fmt;
use std::path::{Path, PathBuf};

/// One broken rule.
#[derive(Debug)]
pub(super) struct Finding {
    pub(super) path: PathBuf,
    /// Line, from 1.
    pub(super) line: usize,
    pub(super) rule: String,
}

impl Finding {
    pub(super) fn new(path: &Path, line: usize, rule: String) -> Self {
        Self {
            path: path.to_owned(),
            line,
            rule,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path.display(), self.line, self.rule)
    }
}

/// The crate a path of the repository lies in, empty if in none.
pub(super) fn crate_of(path: &Path) -> &str {
    let mut parts = path.iter().filter_map(|part| part.to_str());
    match (parts.next(), parts.next()) {
        (Some("crates"), Some(name)) => name,
        _ => "",
    }
}
