//! What the command line advises, in one place: texts that name our own verbs and flags.

use std::path::Path;

use crate::program::Program;

/// Who may open the control socket.
pub(crate) const RUN_AS_ROOT: &str = "run it as root";

/// A line of advice under an error.
pub(crate) fn line(hint: &str) -> String {
    format!("hint: {hint}")
}

/// For a word that looks like another.
pub(crate) fn did_you_mean(word: &str) -> String {
    format!("did you mean {word}?")
}

/// For a word that is none of those it could be.
pub(crate) fn one_of(words: &[String]) -> String {
    format!("use one of {}", words.join(", "))
}

/// Where to read on.
pub(crate) fn more(program: Program, verb: Option<&str>) -> String {
    match verb {
        Some(verb) => format!("See '{program} {verb} --help'."),
        None => format!("See '{program} --help'."),
    }
}

/// What to do when there is no daemon.
pub(crate) fn not_running(program: Program) -> &'static str {
    match program {
        Program::Weave => "weave container is not present. Have you launched it?",
        Program::Weft => "weft is not running. Have you launched it?",
    }
}

/// What to do when there is one already.
pub(crate) fn already_running(program: Program) -> String {
    format!("{program} is already running; you can stop it with '{program} stop'.")
}

/// Where to read why a daemon died; the original has one log, of its container.
pub(crate) fn has_died(program: Program, log_path: &Path) -> String {
    let log = log_path.display();
    match program {
        Program::Weave => format!(
            "The weave container has died. Consult the container logs for further details.\n{}",
            line(&format!("the log is {log}"))
        ),
        Program::Weft => format!("The weft daemon has died. See {log} for further details."),
    }
}

/// What to do when a reset cannot tell the others.
pub(crate) const RESET_NEEDS_FORCE: &str = "\
ERROR: weave is not running; unable to remove from cluster.
Use 'reset --force' to remove what is on this host nevertheless.";
