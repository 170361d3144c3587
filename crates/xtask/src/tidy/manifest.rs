//! What the rules need of a `Cargo.toml`: sections and dependency lines. Not a TOML parser.

/// One dependency line of a manifest.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Dependency {
    /// Name of the crate as written.
    pub(super) name: String,
    /// Line, from 1.
    pub(super) line: usize,
    /// The whole line.
    pub(super) text: String,
}

/// The dependencies under the table `section`, such as `dependencies` or `workspace.dependencies`,
/// target-specific ones included.
pub(super) fn dependencies(manifest: &str, section: &str) -> Vec<Dependency> {
    let mut current = String::new();
    let mut found = Vec::new();
    for (index, text) in manifest.lines().enumerate() {
        let line = text.trim();
        if let Some(header) = line.strip_prefix('[') {
            current = header.split(']').next().unwrap_or_default().to_owned();
            let nested = current
                .strip_prefix(&format!("{section}."))
                .map(str::to_owned);
            if let Some(name) = nested {
                found.push(Dependency {
                    name,
                    line: index + 1,
                    text: line.to_owned(),
                });
            }
            continue;
        }
        let here = current == section
            || current.ends_with(&format!(".{section}")) && current.starts_with("target");
        if !here || line.is_empty() || line.starts_with('#') {
            continue;
        }
        let name: String = line
            .chars()
            .take_while(|c| c.is_alphanumeric() || *c == '-' || *c == '_')
            .collect();
        if !name.is_empty() {
            found.push(Dependency {
                name,
                line: index + 1,
                text: line.to_owned(),
            });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_read_by_section() {
        let manifest = "[package]\nname = \"x\"\n[dependencies]\n# ours\nwire.workspace = true\n\n[target.'cfg(unix)'.dependencies]\nlibc = \"1\"\n[dev-dependencies]\nproptest.workspace = true\n";
        let names = |section| -> Vec<String> {
            dependencies(manifest, section)
                .into_iter()
                .map(|d| d.name)
                .collect()
        };
        assert_eq!(names("dependencies"), ["wire", "libc"]);
        assert_eq!(names("dev-dependencies"), ["proptest"]);
        assert_eq!(dependencies(manifest, "dependencies")[0].line, 5);
    }
}
