//! What the overview and the manual page tell beside verbs: the environment, and exit statuses.

use std::fmt::Write;

use clap::Command;

use crate::variables::{self, VARIABLES};

/// A list of the overview and of the manual page.
pub(crate) struct List {
    /// Its heading.
    pub(crate) title: &'static str,
    /// Words and what they mean.
    pub(crate) entries: Vec<(String, String)>,
}

impl List {
    /// As the overview shows it.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("{}:\n", self.title);
        for (word, meaning) in &self.entries {
            let _ = writeln!(text, "  {word:<20} {meaning}");
        }
        text
    }
}

/// All of them.
pub(crate) fn lists(command: &Command) -> Vec<List> {
    vec![environment(command), exit_statuses()]
}

/// Variables that stand for flags, under the names of those, then the others.
fn environment(command: &Command) -> List {
    let launch = command.find_subcommand("launch");
    let flags = launch.into_iter().flat_map(Command::get_arguments);
    let mut entries: Vec<(String, String)> = flags
        .filter_map(|arg| {
            let name = arg.get_env()?.to_string_lossy().into_owned();
            let meaning = match name.as_str() {
                variables::HTTP_ADDR => "where the daemon is, for all commands; ".to_owned(),
                _ => String::new(),
            };
            Some((name, format!("{meaning}as --{} of launch", arg.get_long()?)))
        })
        .collect();
    let further = VARIABLES
        .iter()
        .filter(|variable| !variable.help.is_empty());
    entries.extend(further.map(|variable| (variable.name.to_owned(), variable.help.to_owned())));
    entries.sort();
    List {
        title: "Environment",
        entries,
    }
}

fn exit_statuses() -> List {
    let entries = [
        ("0", "done"),
        ("1", "refused, failed, or the words are wrong"),
        ("3", "launch: a daemon runs already"),
        ("4", "the daemon does not have what was asked for"),
        ("7", "the daemon cannot be reached"),
        ("125", "launch, daemon: a flag is wrong"),
        (
            "claim completion man",
            "1 refused or not found, 2 the words are wrong, 3 the daemon cannot be reached",
        ),
    ];
    List {
        title: "Exit status",
        entries: entries
            .map(|(code, meaning)| (code.to_owned(), meaning.to_owned()))
            .to_vec(),
    }
}
