//! The name we go by, and the exit statuses that go with a verb.

use std::fmt;
use std::path::Path;

/// The name the binary was called by: it speaks of itself by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    /// Our own; texts are ours.
    Weft,
    /// The original's; texts are the original's wherever spec/cli-api.md quotes one.
    Weave,
}

impl Program {
    /// The program called by this first word of the command line.
    pub(crate) fn called(argument_zero: Option<&str>) -> Self {
        let name = argument_zero.map(Path::new).and_then(Path::file_name);
        if name.is_some_and(|name| name == "weave") {
            Self::Weave
        } else {
            Self::Weft
        }
    }

    /// The name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Weft => "weft",
            Self::Weave => "weave",
        }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Exit statuses of a verb; whatever else fails is 1, what is done is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Codes {
    /// The words are wrong.
    pub(crate) usage: u8,
    /// The daemon does not have what was asked for.
    pub(crate) not_found: u8,
    /// The daemon cannot be reached.
    pub(crate) unreachable: u8,
}

/// The original's (spec/cli-api.md 2); its status for an unreachable daemon is curl's.
pub(crate) const ORIGINAL: Codes = Codes {
    usage: 1,
    not_found: 4,
    unreachable: 7,
};
/// Those of verbs that only Weft has.
const OURS: Codes = Codes {
    usage: 2,
    not_found: 1,
    unreachable: 3,
};
/// Those of verbs that take the flags of the daemon, whose mistakes have a status of their own
/// (spec/cli-api.md 3).
pub(crate) const DAEMON: Codes = Codes {
    usage: 125,
    ..ORIGINAL
};

/// The exit statuses of a verb, known or not.
pub(crate) fn codes(verb: Option<&str>) -> Codes {
    match verb {
        Some("claim" | "completion" | "man") => OURS,
        Some("launch" | "daemon" | "supervise") => DAEMON,
        _ => ORIGINAL,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_binary_goes_by_the_name_it_is_called() {
        assert_eq!(
            Program::called(Some("/usr/local/bin/weave")),
            Program::Weave
        );
        assert_eq!(Program::called(Some("weft")), Program::Weft);
        assert_eq!(Program::called(None), Program::Weft);
    }
}
