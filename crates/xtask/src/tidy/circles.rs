//! No circles: what stands on what is an order, not a knot.
//!
//! A *room* is a crate or a first-level module of a crate; the root file of a crate (`lib.rs`,
//! `main.rs`) is a room of its own. The rule:
//!
//! - **Across rooms there is no circle.** Rooms that use each other, directly or round several
//!   corners, are a finding, whichever files of theirs do. Between crates cargo sees to it.
//! - **Inside a room a circle has at most three files.** A parent and two children that lean on each
//!   other are one thought; more than that is a knot.
//!
//! What counts as using:
//!
//! - One file uses another when code outside of tests names a path that ends in it: in a `use` item,
//!   nested groups and `pub use` included, or written out (`crate::a::f()`, `super::T`, `child::f()`).
//! - The declaration `mod child;` is not a use, and neither are `pub(in path)` and documentation.
//! - A path leads to where the thing is: if the file it names only imported that name, the path leads
//!   on to where it came from. So a face (`pub use table::PeerTable` in the parent) stands on the
//!   files it shows, and who goes through it stands on the same file and not on the face. What a file
//!   itself declares ends in that file.
//! - Calls of methods name no path. Two files that give one type its methods are held apart by what
//!   they have to import for it, and otherwise by review.
//!
//! `KNOWN` lists the circles that stand, room by room, to be shortened and never to grow: a circle
//! that is not within a line of it is a finding, and so is a line that is of no more use.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::finding::Finding;
use super::paths::{Mention, mentions};
use super::source::CrateFile;

/// Most files of one room in a circle.
const FILES_MAX: usize = 3;
/// How often a name that was imported is followed to where it came from.
const STEPS_MAX: usize = 16;

/// A circle that stands.
struct Known {
    /// The crate.
    krate: &'static str,
    /// All that may be in it: rooms, or files of one room from `src` on.
    members: &'static [&'static str],
}

const KNOWN: &[Known] = &[
    Known {
        krate: "ipam",
        members: &[
            "allocator",
            "allocator/establish",
            "allocator/reclaim",
            "allocator/takeback",
        ],
    },
    Known {
        krate: "sim",
        members: &[
            "lib",
            "addresses",
            "check",
            "host",
            "network",
            "plan",
            "world",
        ],
    },
    Known {
        krate: "sim",
        members: &[
            "explore",
            "explore/check",
            "explore/heal",
            "explore/peer",
            "explore/world",
        ],
    },
];

/// Checks all crates.
pub(super) fn check(files: &[CrateFile<'_>]) -> Vec<Finding> {
    let mut crates: BTreeMap<&str, Vec<&CrateFile<'_>>> = BTreeMap::new();
    for file in files {
        crates.entry(file.krate).or_default().push(file);
    }
    let mut findings = Vec::new();
    let mut used = BTreeSet::new();
    for (krate, files) in crates {
        for circle in Tree::new(&files).circles() {
            let known = KNOWN.iter().position(|known| {
                let is_member = |member: &String| known.members.contains(&member.as_str());
                known.krate == krate && circle.members.iter().all(is_member)
            });
            match known {
                Some(index) => _ = used.insert(index),
                None => findings.push(circle.finding),
            }
        }
    }
    for (index, known) in KNOWN.iter().enumerate() {
        if !used.contains(&index) {
            let (krate, members) = (known.krate, known.members.join(", "));
            let rule = format!("the known circle of {krate} ({members}) is gone: remove its line");
            findings.push(Finding::new(Path::new(file!()), 1, rule));
        }
    }
    findings
}

/// A circle that breaks the rule.
struct Circle {
    members: Vec<String>,
    finding: Finding,
}

/// The modules of one crate that have files of their own.
struct Tree {
    modules: BTreeMap<Vec<String>, Module>,
}

struct Module {
    path: PathBuf,
    mentions: Vec<Mention>,
}

impl Module {
    /// Where a name was imported from at the top level, if it was.
    fn import(&self, name: &str) -> Option<&Mention> {
        let mut mentions = self.mentions.iter();
        mentions.find(|mention| mention.binds.as_deref() == Some(name))
    }
}

/// Which module uses which, and the line that says so first.
type Uses = BTreeMap<(Vec<String>, Vec<String>), usize>;

impl Tree {
    fn new(files: &[&CrateFile<'_>]) -> Self {
        let has_library = files.iter().any(|file| file.path.ends_with("src/lib.rs"));
        let mut modules = BTreeMap::new();
        for file in files {
            let Some(name) = module_name(file.path, has_library) else {
                continue;
            };
            let module = Module {
                path: file.path.to_owned(),
                mentions: mentions(file.source),
            };
            modules.insert(name, module);
        }
        Self { modules }
    }

    /// The module a path leads to, seen from another one; `None` if out of the crate.
    fn resolve(&self, from: &[String], mention: &Mention, steps: usize) -> Option<Vec<String>> {
        let around = [from, &mention.inside].concat();
        self.lead(from, &around, &mention.segments, steps)
    }

    fn lead(
        &self,
        from: &[String],
        around: &[String],
        segments: &[String],
        steps: usize,
    ) -> Option<Vec<String>> {
        let (first, rest) = segments.split_first()?;
        let path = match first.as_str() {
            "crate" => rest.to_vec(),
            "self" => [around, rest].concat(),
            "super" => {
                let supers = segments.iter().take_while(|s| *s == "super").count();
                let above = &around[..around.len().checked_sub(supers)?];
                [above, &segments[supers..]].concat()
            }
            _ => {
                let child = [around, segments].concat();
                if !self.modules.contains_key(&child[..=around.len()]) {
                    let import = self.modules.get(from)?.import(first)?;
                    let on = [&import.segments, rest].concat();
                    return self.lead(from, from, &on, steps.checked_sub(1)?);
                }
                child
            }
        };
        let found = (0..=path.len())
            .rev()
            .find(|length| self.modules.contains_key(&path[..*length]))?;
        let (module, rest) = path.split_at(found);
        let import = rest
            .first()
            .and_then(|name| self.modules[module].import(name));
        match import {
            Some(import) if steps > 0 && module != from => {
                let on = [&import.segments, &rest[1..]].concat();
                self.lead(module, module, &on, steps - 1)
            }
            _ => Some(module.to_vec()),
        }
    }

    fn uses(&self) -> Uses {
        let mut uses = Uses::new();
        for (name, module) in &self.modules {
            for mention in &module.mentions {
                if let Some(used) = self.resolve(name, mention, STEPS_MAX)
                    && used != *name
                {
                    uses.entry((name.clone(), used)).or_insert(mention.line);
                }
            }
        }
        uses
    }

    /// All circles that break the rule.
    fn circles(&self) -> Vec<Circle> {
        let uses = self.uses();
        let by_file = uses.keys().filter(|(a, b)| room(a) == room(b)).cloned();
        let by_room = uses
            .keys()
            .map(|(a, b)| (room(a).to_vec(), room(b).to_vec()));
        let by_room = by_room.filter(|(a, b)| a != b);
        let rooms = knots(by_room.collect()).into_iter();
        let rooms = rooms.map(|knot| {
            let title = format!("{} rooms in a circle", knot.len());
            self.circle(&uses, &title, &knot, |name| room(name).to_vec())
        });
        let files = knots(by_file.collect()).into_iter();
        let files = files.filter(|knot| knot.len() > FILES_MAX).map(|knot| {
            let title = format!("{} files in a circle, at most {FILES_MAX}", knot.len());
            self.circle(&uses, &title, &knot, <[String]>::to_vec)
        });
        rooms.chain(files).collect()
    }

    /// A circle with one example of every use in it.
    fn circle(
        &self,
        uses: &Uses,
        title: &str,
        knot: &BTreeSet<Vec<String>>,
        member: impl Fn(&[String]) -> Vec<String>,
    ) -> Circle {
        let mut examples: BTreeMap<(Vec<String>, Vec<String>), (PathBuf, usize)> = BTreeMap::new();
        for ((from, to), line) in uses {
            let pair = (member(from), member(to));
            if pair.0 != pair.1 && knot.contains(&pair.0) && knot.contains(&pair.1) {
                let example = (self.modules[from].path.clone(), *line);
                examples.entry(pair).or_insert(example);
            }
        }
        let members: Vec<String> = knot.iter().map(|name| self.shown(name)).collect();
        let listed: Vec<String> = examples
            .iter()
            .map(|((_, to), (path, line))| {
                format!("\n    {}:{line} uses {}", path.display(), self.shown(to))
            })
            .collect();
        let rule = format!("{title}: {}{}", members.join(", "), listed.concat());
        let first = examples.values().next().expect("a circle has uses");
        Circle {
            members,
            finding: Finding::new(&first.0, first.1, rule),
        }
    }

    /// How a room or a module of several segments is called in findings and in `KNOWN`.
    fn shown(&self, name: &[String]) -> String {
        if name.is_empty() {
            let root = self
                .modules
                .get(name)
                .and_then(|root| root.path.file_stem());
            return root
                .and_then(|stem| stem.to_str())
                .unwrap_or_default()
                .to_owned();
        }
        name.join("/")
    }
}

/// The path of modules that leads to a file, empty for the root.
fn module_name(path: &Path, has_library: bool) -> Option<Vec<String>> {
    let parts: Vec<&str> = path.iter().filter_map(|part| part.to_str()).collect();
    let [_, _, "src", inside @ ..] = parts.as_slice() else {
        return None;
    };
    let inside = inside.join("/");
    let name = inside.strip_suffix(".rs")?;
    let name = name.strip_suffix("/mod").unwrap_or(name);
    match name {
        "lib" => Some(Vec::new()),
        "main" if !has_library => Some(Vec::new()),
        // Another crate as far as the compiler is concerned, with nothing behind it.
        "main" => None,
        name => Some(name.split('/').map(str::to_owned).collect()),
    }
}

fn room(module: &[String]) -> &[String] {
    &module[..module.len().min(1)]
}

/// The sets of more than one node in which each leads to each.
fn knots<N: Ord + Clone>(edges: BTreeSet<(N, N)>) -> Vec<BTreeSet<N>> {
    let mut next: BTreeMap<&N, Vec<&N>> = BTreeMap::new();
    for (from, to) in &edges {
        next.entry(from).or_default().push(to);
    }
    let reached = |start: &N| {
        let mut reached = BTreeSet::new();
        let mut open = vec![start.clone()];
        while let Some(node) = open.pop() {
            for to in next.get(&node).into_iter().flatten() {
                if reached.insert((*to).clone()) {
                    open.push((*to).clone());
                }
            }
        }
        reached
    };
    let reach: BTreeMap<&N, BTreeSet<N>> = next.keys().map(|node| (*node, reached(node))).collect();
    let mut found: Vec<BTreeSet<N>> = Vec::new();
    for (node, ahead) in &reach {
        let is_mutual = |other: &&N| reach.get(other).is_some_and(|back| back.contains(*node));
        let knot: BTreeSet<N> = ahead.iter().filter(is_mutual).cloned().collect();
        if knot.len() > 1 && !found.contains(&knot) {
            found.push(knot);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::source::Source;

    /// Members of all circles of a crate given as files below `src` and their text.
    fn circles(files: &[(&str, &str)]) -> Vec<String> {
        let paths: Vec<PathBuf> = files
            .iter()
            .map(|(name, _)| Path::new("crates/x/src").join(name))
            .collect();
        let sources: Vec<Source> = files.iter().map(|(_, text)| Source::new(text)).collect();
        let files: Vec<CrateFile<'_>> = paths
            .iter()
            .zip(&sources)
            .map(|(path, source)| CrateFile {
                path,
                krate: "x",
                source,
            })
            .collect();
        let tree = Tree::new(&files.iter().collect::<Vec<_>>());
        let circles = tree.circles().into_iter();
        circles.map(|circle| circle.members.join(" ")).collect()
    }

    #[test]
    fn rooms_that_use_each_other_are_a_circle_whichever_files_do() {
        let files = [
            ("lib.rs", "mod a;\nmod b;\n"),
            ("a.rs", "mod inner;\nuse crate::b::B;\n"),
            ("a/inner.rs", "pub struct Inner;\n"),
            ("b.rs", "fn f(x: crate::a::inner::Inner) {}\n"),
        ];
        assert_eq!(circles(&files), ["a b"]);
        assert!(circles(&files[..3]).is_empty());
    }

    #[test]
    fn a_declaration_is_no_use_and_a_re_export_is() {
        let child = ("a.rs", "use crate::Shared;\npub struct A;\n");
        let declares = ("lib.rs", "mod a;\npub struct Shared;\n");
        let shows = ("lib.rs", "mod a;\npub use a::A;\npub struct Shared;\n");
        assert!(circles(&[declares, child]).is_empty());
        assert_eq!(circles(&[shows, child]), ["lib a"]);
    }

    #[test]
    fn a_path_through_a_face_leads_to_where_the_thing_is() {
        let files = [
            (
                "lib.rs",
                "mod a;\nmod b;\npub use a::A as Shown;\npub use b::B;\n",
            ),
            ("a.rs", "mod deep;\npub use deep::A;\n"),
            ("a/deep.rs", "pub struct A;\n"),
            ("b.rs", "use crate::Shown;\npub struct B;\n"),
        ];
        assert!(circles(&files).is_empty());
        let back = [
            files[0],
            files[1],
            ("a/deep.rs", "use crate::b::B;\n"),
            files[3],
        ];
        assert_eq!(circles(&back), ["a b"]);
    }

    #[test]
    fn three_files_of_a_room_may_lean_on_each_other_and_four_may_not() {
        let parent = "mod b;\nmod c;\nmod d;\nfn f() { b::g(); c::g(); d::g(); }\n";
        let child = "use super::f;\n";
        let files = [
            ("lib.rs", "mod a;\n"),
            ("a.rs", parent),
            ("a/b.rs", child),
            ("a/c.rs", child),
            ("a/d.rs", child),
        ];
        assert_eq!(circles(&files), ["a a/b a/c a/d"]);
        assert!(circles(&files[..4]).is_empty());
    }

    #[test]
    fn super_counts_from_the_inline_module_it_stands_in() {
        let files = [
            ("main.rs", "mod a;\nfn f() { a::f() }\n"),
            (
                "a.rs",
                "mod inline {\n    use super::f;\n}\npub fn f() {}\n",
            ),
        ];
        assert!(circles(&files).is_empty());
        let out = ("a.rs", "mod inline {\n    use super::super::f;\n}\n");
        assert_eq!(circles(&[files[0], out]), ["main a"]);
    }

    #[test]
    fn two_knots_are_two_findings() {
        let edges = [(1, 2), (2, 1), (2, 3), (3, 4), (4, 3), (5, 5)];
        let found = knots(BTreeSet::from(edges));
        assert_eq!(found, [BTreeSet::from([1, 2]), BTreeSet::from([3, 4])]);
    }
}
