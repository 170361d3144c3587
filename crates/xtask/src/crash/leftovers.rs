//! What is on a host and in its containers, to be compared before and after.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use super::host::Host;
use crate::stage::{Outcome, Stage, run};

/// Everything Weft could leave behind, one thing per line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Inventory(BTreeSet<String>);

impl Inventory {
    /// Looks at hosts and at namespaces of containers.
    pub(crate) fn take(stage: &Stage, hosts: &[Host<'_>], containers: &[String]) -> Outcome<Self> {
        let mut found = BTreeSet::new();
        for host in hosts {
            look_inside(stage, &host.name, &mut found)?;
            for process in host.processes() {
                found.insert(format!("{}: process {process:?}", host.name));
            }
            for (_, directory) in stage.environment(&host.name) {
                list_files(&directory, &mut found);
            }
        }
        for container in containers {
            look_inside(stage, container, &mut found)?;
        }
        let named = run(Command::new("ip").args(["netns", "list"]))?;
        let prefix = stage.full("");
        for name in named.lines().filter_map(|line| line.split(' ').next()) {
            if name.starts_with(&prefix) {
                found.insert(format!("namespace {name}"));
            }
        }
        let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
        let directory = stage.directory().display().to_string();
        for mount in mounts.lines().filter(|line| line.contains(&directory)) {
            found.insert(format!("mount {mount}"));
        }
        Ok(Self(found))
    }

    /// What is there now and was not before.
    pub(crate) fn beyond(&self, before: &Self) -> Vec<String> {
        self.0.difference(&before.0).cloned().collect()
    }
}

/// Links, addresses, routes, rules and firewall of a namespace.
fn look_inside(stage: &Stage, space: &str, found: &mut BTreeSet<String>) -> Outcome<()> {
    let questions: [(&str, &[&str]); 5] = [
        ("ip", &["-o", "link"]),
        ("ip", &["-o", "addr"]),
        ("ip", &["route", "show", "table", "all"]),
        ("ip", &["rule"]),
        ("nft", &["list", "ruleset"]),
    ];
    for (program, arguments) in questions {
        let said = run(stage.command(space, program).args(arguments))?;
        for line in said.lines().filter(|line| !line.trim().is_empty()) {
            // Flags and counters behind names and addresses change by themselves.
            let words: Vec<&str> = match arguments {
                ["-o", _] => line.split_whitespace().skip(1).take(3).collect(),
                _ => line.split_whitespace().collect(),
            };
            let words = match arguments {
                ["-o", "link"] => words[..1].join(" "),
                _ => words.join(" "),
            };
            found.insert(format!("{space}: {program} {words}"));
        }
    }
    Ok(())
}

fn list_files(directory: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        found.insert(format!("file {}", entry.path().display()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_new_is_beyond() {
        let set = |lines: &[&str]| Inventory(lines.iter().map(|line| (*line).to_owned()).collect());
        let before = set(&["a: ip lo", "a: ip eth0"]);
        assert_eq!(set(&["a: ip lo"]).beyond(&before), Vec::<String>::new());
        assert_eq!(
            set(&["a: ip lo", "a: ip weave"]).beyond(&before),
            ["a: ip weave"]
        );
    }
}
