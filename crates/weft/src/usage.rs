//! Words about ourselves: help texts, the name we go by, verbs that exist without their service.

use std::fmt::Write;
use std::path::Path;

use crate::flags::Flag;
use crate::{address_options, attach, daemon_options, launch, stop, verbs};

/// A verb, its words and its flags.
struct Verb {
    name: &'static str,
    words: &'static str,
    help: &'static str,
    flags: &'static [&'static [Flag]],
}

/// What follows the help of a verb that takes addresses.
const ADDRESSES: &str = "
Addresses:
  net:default, or none             any in the default subnet
  net:10.32.1.0/24                 any in this subnet
  10.32.1.5/24, ip:10.32.1.5/24    exactly this one
";
/// What must be known before a peer is removed.
const RMPEER: &str = "
The peer must not come back with its old state, and no other host may take it over at the same
time. Containers that still run on it keep addresses that may then be given out again.
";

const VERBS: &[Verb] = &[
    Verb {
        name: "launch",
        words: "[peer …]",
        help: "start the daemon on this host and connect to peers",
        flags: &[launch::FLAGS, daemon_options::FLAGS, address_options::FLAGS],
    },
    Verb {
        name: "daemon",
        words: "[peer …]",
        help: "run the daemon in the foreground",
        flags: &[daemon_options::FLAGS, address_options::FLAGS],
    },
    Verb {
        name: "stop",
        words: "",
        help: "stop the daemon; containers stay attached",
        flags: &[],
    },
    Verb {
        name: "reset",
        words: "",
        help: "stop the daemon and remove everything it made",
        flags: &[stop::RESET_FLAGS],
    },
    Verb {
        name: "connect",
        words: "peer …",
        help: "connect to more peers, or to others",
        flags: &[verbs::CONNECT_FLAGS],
    },
    Verb {
        name: "forget",
        words: "peer …",
        help: "stop trying to connect to peers",
        flags: &[],
    },
    Verb {
        name: "attach",
        words: "[address …] [container]",
        help: "join a container to the network",
        flags: &[attach::TARGET_FLAGS, attach::ATTACH_FLAGS],
    },
    Verb {
        name: "detach",
        words: "[address …] [container]",
        help: "take addresses, or all of it, away from a container",
        flags: &[attach::TARGET_FLAGS],
    },
    Verb {
        name: "claim",
        words: "address … [container]",
        help: "keep addresses for a container that has them already",
        flags: &[attach::TARGET_FLAGS, attach::CLAIM_FLAGS],
    },
    Verb {
        name: "expose",
        words: "[address …]",
        help: "give this host an address in the network",
        flags: &[attach::EXPOSE_FLAGS],
    },
    Verb {
        name: "hide",
        words: "[address …]",
        help: "take addresses of this host away",
        flags: &[attach::HIDE_FLAGS],
    },
    Verb {
        name: "ps",
        words: "[container …]",
        help: "list what is attached",
        flags: &[attach::TARGET_FLAGS],
    },
    Verb {
        name: "prime",
        words: "",
        help: "wait until addresses can be allocated",
        flags: &[],
    },
    Verb {
        name: "rmpeer",
        words: "peer …",
        help: "take over the addresses of peers that are gone for good",
        flags: &[],
    },
    Verb {
        name: "status",
        words: "[connections | ipam | peers | targets]",
        help: "show how the network is",
        flags: &[verbs::STATUS_FLAGS],
    },
    Verb {
        name: "report",
        words: "",
        help: "show everything, as JSON or by a template",
        flags: &[verbs::REPORT_FLAGS],
    },
    Verb {
        name: "version",
        words: "",
        help: "show the version",
        flags: &[],
    },
];

/// The name we go by: `weave` when called so.
pub(crate) fn program(argument_zero: Option<&str>) -> &'static str {
    let name = argument_zero.map(Path::new).and_then(Path::file_name);
    if name.is_some_and(|name| name == "weave") {
        "weave"
    } else {
        "weft"
    }
}

/// Whether there is help for a verb.
pub(crate) fn exists(verb: &str) -> bool {
    VERBS.iter().any(|known| known.name == verb)
}

/// All verbs.
pub(crate) fn overview(program: &str) -> String {
    let mut text = format!("Usage: {program} <command> [options]\n\n");
    for verb in VERBS {
        let _ = writeln!(text, "  {program} {:<8} {}", verb.name, verb.help);
    }
    let _ = writeln!(
        text,
        "\nSee '{program} <command> --help' for the options of a command."
    );
    text
}

/// One verb.
pub(crate) fn verb(program: &str, name: &str) -> String {
    let Some(verb) = VERBS.iter().find(|known| known.name == name) else {
        return overview(program);
    };
    let mut text = format!("Usage: {program} {name}");
    let flags: Vec<&Flag> = verb
        .flags
        .iter()
        .flat_map(|list| list.iter())
        .filter(|f| !f.help.is_empty())
        .collect();
    if !flags.is_empty() {
        text.push_str(" [options]");
    }
    if !verb.words.is_empty() {
        let _ = write!(text, " {}", verb.words);
    }
    let _ = writeln!(text, "\n\n{}", verb.help);
    if !flags.is_empty() {
        text.push('\n');
    }
    for flag in flags {
        let dashes = if flag.name.len() == 1 { "-" } else { "--" };
        let value = flag
            .value
            .map_or_else(String::new, |value| format!(" {value}"));
        let _ = writeln!(
            text,
            "  {:<32} {}",
            format!("{dashes}{}{value}", flag.name),
            flag.help
        );
    }
    text.push_str(match name {
        "attach" | "detach" | "expose" | "hide" => ADDRESSES,
        "rmpeer" => RMPEER,
        _ => "",
    });
    text
}

/// Verbs of the original whose service is not part of this version.
pub(crate) fn not_enabled(verb: &str) -> Option<String> {
    let missing = match verb {
        "dns-add" | "dns-remove" | "dns-lookup" | "dns-args" => "names are not enabled",
        "env" | "config" => "the Docker API proxy is not enabled",
        "setup" | "setup-cni" => "the CNI plugin is not enabled",
        "attach-bridge" | "bridge-type" | "docker-bridge-ip" => "this command is not enabled",
        "run" | "start" | "restart" | "launch-router" | "stop-router" | "launch-proxy"
        | "stop-proxy" | "launch-plugin" | "stop-plugin" => {
            return Some(format!(
                "The '{verb}' command was removed in Weave Net 2.0.\n\
                 Use 'launch', 'stop', 'attach' and 'detach' instead."
            ));
        }
        _ => return None,
    };
    Some(format!("'{verb}': {missing}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_binary_goes_by_the_name_it_is_called() {
        assert_eq!(program(Some("/usr/local/bin/weave")), "weave");
        assert_eq!(program(Some("weft")), "weft");
        assert_eq!(program(None), "weft");
    }

    #[test]
    fn help_names_every_flag_that_is_shown() {
        let text = verb("weft", "launch");
        assert!(
            text.starts_with("Usage: weft launch [options] [peer …]\n"),
            "{text}"
        );
        assert!(text.contains("  --password-file PATH "), "{text}");
        assert!(verb("weft", "report").contains("  -f TEMPLATE "));
    }
}
