//! The architecture rules of `ARCHITECTURE.md` as tests of the source tree.
//!
//! Each rule is a plain function from text to findings; a finding names file, line and rule. The rules run by
//! `cargo xtask tidy` and, as a test of this crate, by `cargo test`.

mod circles;
mod claims;
mod finding;
mod kinds;
mod manifest;
mod paths;
mod sizes;
mod source;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use finding::{Finding, crate_of};
use source::{CrateFile, Source, contains_word};

/// Crates that do no I/O, read no clock and draw no randomness. Those that do not exist yet are skipped.
const PURE: [&str; 9] = [
    "wire", "nacl", "mesh", "overlay", "ipam", "names", "policy", "node", "report",
];

/// Pure crates and whose types they are about, although that crate also does I/O.
const ABOUT_TYPES_OF: [(&str, &str); 1] = [("report", "api")];

/// Pure crates that must not know each other; `node` composes them.
const CORES: [&str; 4] = ["mesh", "ipam", "names", "policy"];

/// Crates of system calls and threads: beneath the shell, and without its runtime.
const SYNC: [&str; 2] = ["linux", "plane"];

/// What those may not link: the runtime, and what is beside or above them.
const SYNC_MAY_NOT_USE: [&str; 10] = [
    "anyhow", "api", "axum", "daemon", "hyper", "ipam", "mesh", "node", "report", "tokio",
];

/// Everything foreign a pure crate may link.
const PURE_MAY_USE: [&str; 13] = [
    "domain",
    "dryoc",
    "ipnet",
    "rand",
    "ring",
    "serde",
    "serde_json",
    "sha2",
    "thiserror",
    "tracing",
    "x25519-dalek",
    "zerocopy",
    "zeroize",
];

/// Words that reach outside, and what they reach.
const IMPURE_WORDS: [(&str, &str); 20] = [
    ("api::client", "a socket"),
    ("Instant::now", "the clock"),
    ("SystemTime", "the clock"),
    ("elapsed()", "the clock"),
    ("TcpStream", "a socket"),
    ("TcpListener", "a socket"),
    ("UdpSocket", "a socket"),
    ("ToSocketAddrs", "name resolution"),
    ("UnixStream", "a socket"),
    ("std::fs", "the file system"),
    ("std::env", "the environment"),
    ("std::process", "processes"),
    ("std::thread", "threads"),
    ("std::os", "the operating system"),
    ("println", "the terminal"),
    ("eprintln", "the terminal"),
    ("rand::rng", "global randomness"),
    ("SysRng", "global randomness"),
    ("OsRng", "global randomness"),
    ("ThreadRng", "global randomness"),
];

/// Crates that may contain `unsafe`, besides test code outside `src`.
const UNSAFE_ALLOWED: [&str; 2] = ["linux", "wait"];

const FILE_LINES_MAX: usize = 800;
const FUNCTION_LINES_MAX: usize = 70;

/// Words that say nothing about what a file or a type is for.
const EMPTY_NAMES: [&str; 5] = ["manager", "helper", "util", "common", "misc"];

/// Directories that exist only on somebody's machine.
const PRIVATE_PATHS: [&str; 2] = [concat!("/wo", "rk/"), concat!("/ho", "me/")];

/// Where a Rust file stands in the workspace.
struct Place<'a> {
    /// Path from the root of the repository.
    path: &'a Path,
    /// Directory name of its crate.
    krate: &'a str,
    /// Whether all of it is test code.
    is_test: bool,
}

/// Checks the whole workspace and prints what is wrong.
pub(crate) fn run() -> ExitCode {
    let findings = check(&workspace_root());
    for finding in &findings {
        println!("{finding}");
    }
    if findings.is_empty() {
        println!("tidy");
        return ExitCode::SUCCESS;
    }
    println!("{} rules broken", findings.len());
    ExitCode::FAILURE
}

/// The root of the repository.
pub(crate) fn workspace_root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.ancestors()
        .nth(2)
        .expect("this crate is two directories below the root")
        .to_owned()
}

fn check(root: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut sources = Vec::new();
    let files = files_below(root);
    let test_modules = test_modules(&files);
    for full_path in files {
        let Ok(text) = fs::read_to_string(&full_path) else {
            continue;
        };
        let path = full_path.strip_prefix(root).expect("found below the root");
        findings.extend(check_text(path, &text));
        let krate = crate_of(path);
        if path.ends_with("Cargo.toml") {
            findings.extend(check_manifest(path, krate, &text));
        }
        if path.extension().is_some_and(|extension| extension == "rs") {
            let is_test = is_test_file(path) || is_below(&full_path, &test_modules);
            let place = Place {
                path,
                krate,
                is_test,
            };
            let source = Source::new(&text);
            findings.extend(check_rust(&place, &source));
            if !is_test && !krate.is_empty() {
                sources.push((path.to_owned(), source));
            }
        }
    }
    findings.extend(check_crates(&sources));
    findings.extend(claims::check(root));
    findings.sort_by(|a, b| (&a.path, a.line).cmp(&(&b.path, b.line)));
    findings
}

/// The rules that look at a crate as a whole, without its tests.
fn check_crates(sources: &[(PathBuf, Source)]) -> Vec<Finding> {
    let files: Vec<CrateFile<'_>> = sources
        .iter()
        .map(|(path, source)| CrateFile {
            path,
            krate: crate_of(path),
            source,
        })
        .collect();
    let rules = [circles::check, kinds::check, sizes::check];
    rules.iter().flat_map(|rule| rule(&files)).collect()
}

/// Whether a file is one of some modules or of their children.
fn is_below(path: &Path, modules: &[PathBuf]) -> bool {
    let is_part = |module: &PathBuf| path == module || path.starts_with(module.with_extension(""));
    modules.iter().any(is_part)
}

/// All files of the repository, without build results and history, in a fixed order.
fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut pending = vec![directory.to_owned()];
    while let Some(directory) = pending.pop() {
        let Ok(entries) = fs::read_dir(&directory) else {
            continue;
        };
        for entry in entries.flatten() {
            let path = entry.path();
            let name = entry.file_name();
            if name == "target" || name == ".git" || name == "testdata" || name == "corpus" {
                continue;
            }
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => pending.push(path),
                Ok(kind) if kind.is_file() => found.push(path),
                _ => {}
            }
        }
    }
    found.sort();
    found
}

/// Files of modules that their parent declares under `#[cfg(test)]`.
fn test_modules(files: &[PathBuf]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for file in files
        .iter()
        .filter(|file| file.extension().is_some_and(|e| e == "rs"))
    {
        let Ok(text) = fs::read_to_string(file) else {
            continue;
        };
        let is_root = ["lib.rs", "main.rs", "mod.rs"]
            .iter()
            .any(|name| file.ends_with(name));
        let directory = if is_root {
            file.with_file_name("")
        } else {
            file.with_extension("")
        };
        for module in Source::new(&text).test_modules() {
            found.push(directory.join(module).with_extension("rs"));
        }
    }
    found
}

/// Integration tests and benches, and tests in files called so.
fn is_test_file(path: &Path) -> bool {
    let stem = path
        .file_stem()
        .and_then(|stem| stem.to_str())
        .unwrap_or_default();
    let below = |name: &str| path.iter().any(|part| part == name);
    stem == "tests" || stem.ends_with("_tests") || below("tests") || below("benches")
}

fn check_text(path: &Path, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for private in PRIVATE_PATHS {
            if line.contains(private) {
                let rule = format!("{private} is a directory of one machine");
                findings.push(Finding::new(path, index + 1, rule));
            }
        }
    }
    findings
}

fn check_manifest(path: &Path, krate: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut add = |line: usize, rule: String| {
        findings.push(Finding::new(path, line, rule));
    };
    for dependency in manifest::dependencies(text, "workspace.dependencies") {
        if !dependency.text.contains("path = ") && !dependency.text.contains(" # ") {
            add(
                dependency.line,
                format!("{} has no reason (`# …` on its line)", dependency.name),
            );
        }
    }
    for dependency in manifest::dependencies(text, "dependencies") {
        let name = dependency.name.as_str();
        let is_pure = PURE.contains(&name) || PURE_MAY_USE.contains(&name);
        if PURE.contains(&krate) && !is_pure && !ABOUT_TYPES_OF.contains(&(krate, name)) {
            add(
                dependency.line,
                format!("the pure crate {krate} may not depend on {name}"),
            );
        }
        if SYNC.contains(&krate) && SYNC_MAY_NOT_USE.contains(&name) {
            add(
                dependency.line,
                format!(
                    "{krate}, which knows no runtime and no control plane, may not depend on {name}"
                ),
            );
        }
        if CORES.contains(&krate) && CORES.contains(&name) {
            add(
                dependency.line,
                format!("{krate} and {name} may not know each other"),
            );
        }
        if !krate.is_empty() && krate != "fuzz" && !dependency.text.contains("workspace = true") {
            add(
                dependency.line,
                format!("{name} is not taken from the workspace"),
            );
        }
    }
    findings
}

fn check_rust(place: &Place<'_>, source: &Source) -> Vec<Finding> {
    let mut rules: Vec<(usize, String)> = Vec::new();
    rules.extend(check_shape(place, source));
    rules.extend(check_names(place, source));
    rules.extend(check_unsafe(place, source));
    if PURE.contains(&place.krate) {
        rules.extend(check_purity(place, source));
    }
    for placeholder in ["todo!", "unimplemented!", "dbg!"] {
        for line in source
            .code
            .lines()
            .enumerate()
            .filter(|(_, line)| line.contains(placeholder))
        {
            rules.push((line.0 + 1, format!("{placeholder} is left over")));
        }
    }
    let path = place.path;
    rules
        .into_iter()
        .map(|(line, rule)| Finding::new(path, line, rule))
        .collect()
}

/// Module documentation and sizes.
fn check_shape(place: &Place<'_>, source: &Source) -> Vec<(usize, String)> {
    let mut rules = Vec::new();
    let first = source
        .raw
        .lines()
        .map(str::trim)
        .find(|line| !line.is_empty() && !line.starts_with("#!["));
    let is_generated = place.path.iter().any(|part| part == "fuzz");
    if !is_generated && !first.is_some_and(|line| line.starts_with("//!")) {
        rules.push((1, "the module does not open with `//!`".to_owned()));
    }
    let lines = source.raw.lines().count();
    if lines > FILE_LINES_MAX {
        rules.push((
            lines,
            format!("the file has {lines} lines, at most {FILE_LINES_MAX}"),
        ));
    }
    for function in source.functions() {
        if function.lines > FUNCTION_LINES_MAX {
            rules.push((
                function.line,
                format!(
                    "fn {} has {} lines, at most {FUNCTION_LINES_MAX}",
                    function.name, function.lines
                ),
            ));
        }
    }
    rules
}

/// File and type names that say what a thing is.
fn check_names(place: &Place<'_>, source: &Source) -> Vec<(usize, String)> {
    let mut rules = Vec::new();
    let stem = place
        .path
        .file_stem()
        .and_then(|stem| stem.to_str())
        .unwrap_or_default();
    for word in EMPTY_NAMES {
        if stem
            .split('_')
            .any(|part| part == word || part == format!("{word}s"))
        {
            rules.push((1, format!("the file name says only `{word}`")));
        }
        let camel = format!("{}{}", word[..1].to_uppercase(), &word[1..]);
        for (index, line) in source.code.lines().enumerate() {
            let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
            let declared = words
                .by_ref()
                .find(|word| ["struct", "enum", "trait"].contains(word))
                .and_then(|_| words.next());
            if declared.is_some_and(|name| name.contains(&camel)) {
                rules.push((index + 1, format!("the type name says only `{word}`")));
            }
        }
    }
    rules
}

fn check_unsafe(place: &Place<'_>, source: &Source) -> Vec<(usize, String)> {
    let outside_src = place
        .path
        .iter()
        .any(|part| part == "tests" || part == "benches");
    let allowed = UNSAFE_ALLOWED.contains(&place.krate) || outside_src;
    let mut rules = Vec::new();
    for line in source.lines_with("unsafe") {
        if !allowed {
            rules.push((
                line,
                format!("unsafe outside of crates/{}", UNSAFE_ALLOWED[0]),
            ));
        } else if !has_safety_comment(&source.raw, line) {
            rules.push((line, "unsafe without a `SAFETY:` line above it".to_owned()));
        }
    }
    rules
}

/// Whether the comment on the line or right above its statement says why the code is sound. A
/// statement may have begun up to three lines earlier.
fn has_safety_comment(text: &str, line: usize) -> bool {
    let lines: Vec<&str> = text.lines().map(str::trim).take(line).collect();
    let says = |line: &str| line.contains("SAFETY:") || line.contains("# Safety");
    let Some((own, above)) = lines.split_last() else {
        return false;
    };
    if says(own) {
        return true;
    }
    let mut code_lines = 0;
    for line in above.iter().rev() {
        let comment = line.starts_with("//");
        if comment && says(line) {
            return true;
        }
        if !comment && !line.starts_with("#[") {
            code_lines += 1;
        }
        if code_lines > 3 || line.ends_with(';') && !comment || line.ends_with('}') && !comment {
            return false;
        }
    }
    false
}

fn check_purity(place: &Place<'_>, source: &Source) -> Vec<(usize, String)> {
    let mut rules = Vec::new();
    let root = Path::new("crates").join(place.krate).join("src/lib.rs");
    if place.path == root && !source.code.contains("#![forbid(unsafe_code)]") {
        rules.push((1, "the pure crate lacks #![forbid(unsafe_code)]".to_owned()));
    }
    if place.is_test {
        return rules;
    }
    for (index, line) in source.code.lines().enumerate() {
        for (word, what) in IMPURE_WORDS {
            if contains_word(line, word) && !source.is_test(index + 1) {
                rules.push((index + 1, format!("{word} in a pure crate reaches {what}")));
            }
        }
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workspace_is_tidy() {
        let findings = check(&workspace_root());
        let text: Vec<String> = findings.iter().map(Finding::to_string).collect();
        assert!(findings.is_empty(), "\n{}", text.join("\n"));
    }

    #[test]
    fn a_pure_crate_may_not_reach_outside() {
        let text = "//! x\nuse std::net::UdpSocket;\nfn f() { let t = Instant::now(); }\n";
        assert_eq!(
            rust("crates/mesh/src/a.rs", text),
            ["2: a socket", "3: the clock"]
        );
        assert!(rust("crates/daemon/src/a.rs", text).is_empty());
        let tests = "//! x\n#[cfg(test)]\nmod tests {\n    fn f() { Instant::now(); }\n}\n";
        assert!(rust("crates/mesh/src/a.rs", tests).is_empty());
    }

    #[test]
    fn a_pure_crate_forbids_unsafe_at_its_root() {
        assert_eq!(rust("crates/wire/src/lib.rs", "//! x\n").len(), 1);
        assert!(rust("crates/wire/src/lib.rs", "//! x\n#![forbid(unsafe_code)]\n").is_empty());
    }

    #[test]
    fn crates_link_only_what_is_beneath_them() {
        let found = |krate: &str, line: &str| {
            let path = format!("crates/{krate}/Cargo.toml");
            check_manifest(
                Path::new(&path),
                krate,
                &format!("[dependencies]\n{line}\n"),
            )
            .len()
        };
        assert_eq!(found("overlay", "tokio.workspace = true"), 1);
        assert_eq!(found("overlay", "wire.workspace = true"), 0);
        assert_eq!(found("overlay", "api.workspace = true"), 1);
        assert_eq!(found("report", "api.workspace = true"), 0);
        assert_eq!(found("ipam", "mesh.workspace = true"), 1);
        assert_eq!(found("node", "mesh.workspace = true"), 0);
        assert_eq!(found("daemon", "tokio = \"1\""), 1);
        assert_eq!(found("plane", "overlay.workspace = true"), 0);
        for name in ["tokio", "node"] {
            assert_eq!(found("plane", &format!("{name}.workspace = true")), 1);
        }
    }

    #[test]
    fn a_dependency_needs_a_reason() {
        let text = "[workspace.dependencies]\nwire = { path = \"x\" }\nlibc = \"1\"\nrand = \"1\" # seeds\n";
        let found = check_manifest(Path::new("Cargo.toml"), "", text);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].line, 3);
    }

    #[test]
    fn unsafe_needs_its_place_and_its_reason() {
        let bare = "//! x\nfn f() {\n    unsafe { g() }\n}\n";
        let said = "//! x\nfn f() {\n    // SAFETY: g has no conditions.\n    unsafe { g() }\n}\n";
        assert_eq!(rust("crates/daemon/src/a.rs", said).len(), 1);
        assert_eq!(rust("crates/linux/src/a.rs", bare).len(), 1);
        assert!(rust("crates/linux/src/a.rs", said).is_empty());
        let far = "//! x\n// SAFETY: of another.\nlet a = 1;\nlet b = unsafe { g() };\n";
        assert_eq!(rust("crates/linux/src/a.rs", far).len(), 1);
    }

    #[test]
    fn sizes_and_module_documentation_are_checked() {
        assert_eq!(rust("crates/sim/src/a.rs", "fn f() {}\n").len(), 1);
        let long = format!(
            "//! x\nfn f() {{\n{}}}\n",
            "    g();\n".repeat(FUNCTION_LINES_MAX)
        );
        assert_eq!(rust("crates/sim/src/a.rs", &long).len(), 1);
        let huge = format!("//! x\n{}", "// y\n".repeat(FILE_LINES_MAX));
        assert_eq!(rust("crates/sim/src/a.rs", &huge).len(), 1);
    }

    #[test]
    fn empty_names_and_leftovers_are_found() {
        assert_eq!(rust("crates/sim/src/util.rs", "//! x\n").len(), 1);
        assert_eq!(
            rust("crates/sim/src/a.rs", "//! x\nstruct LinkManager;\n").len(),
            1
        );
        let leftover = concat!("//! x\nfn f() { to", "do!() }\n");
        assert_eq!(rust("crates/sim/src/a.rs", leftover).len(), 1);
    }

    #[test]
    fn paths_of_one_machine_are_found() {
        let text = format!("see {}x", PRIVATE_PATHS[0]);
        assert_eq!(check_text(Path::new("README.md"), &text).len(), 1);
    }

    /// Findings for a Rust file as `line: what`, with the rule cut to its last words.
    fn rust(path: &str, text: &str) -> Vec<String> {
        let path = Path::new(path);
        let place = Place {
            path,
            krate: crate_of(path),
            is_test: is_test_file(path),
        };
        check_rust(&place, &Source::new(text))
            .iter()
            .map(|f| {
                format!(
                    "{}: {}",
                    f.line,
                    f.rule.rsplit("reaches ").next().unwrap_or("")
                )
            })
            .collect()
    }
}
