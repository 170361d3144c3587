//! Verbs that only ask the daemon: connect, forget, prime, rmpeer, status, report, version.

use std::io::Write;

use anyhow::Context;

use crate::client::{self, EXIT_NOT_FOUND, call, exchange, get, get_json, post_form};
use crate::flags::{self, Flag, switch, value};
use crate::{Failure, Outcome};

/// Flags of `connect`.
pub(crate) const CONNECT_FLAGS: &[Flag] =
    &[switch("replace", "forget all other peers given before")];
/// Flags of `status`.
pub(crate) const STATUS_FLAGS: &[Flag] = &[switch("json", "print JSON")];
/// Flags of `report`.
pub(crate) const REPORT_FLAGS: &[Flag] = &[
    value(
        "f",
        "TEMPLATE",
        "print by a template, for example '{{len .Router.Peers}}'",
    ),
    switch("json", "print JSON; the default"),
];

/// What a daemon answers that is about to end; nothing is worth waiting for then.
const STOPPING: &str = "the daemon is stopping";

/// Writes to standard output.
pub(crate) fn print(text: &str) -> Outcome {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(anyhow::Error::from)?;
    Ok(())
}

/// Prints a value as JSON.
pub(crate) fn print_json<T: serde::Serialize>(value: &T) -> Outcome {
    print(&format!("{}\n", api::json::pretty(value)))
}

pub(crate) fn connect(program: &str, arguments: &[String]) -> Outcome {
    let parsed = flags::parse(arguments, CONNECT_FLAGS)?;
    let replace = parsed.is_on("replace");
    if parsed.words.is_empty() && !replace {
        return Err(Failure::Usage("no peer given".to_owned()));
    }
    let mut fields: Vec<(&str, &str)> = parsed
        .words
        .iter()
        .map(|peer| ("peer", peer.as_str()))
        .collect();
    if replace {
        fields.push(("replace", "true"));
    }
    print(&post_form(program, "/connect", &fields)?)
}

pub(crate) fn forget(program: &str, arguments: &[String]) -> Outcome {
    let parsed = flags::parse(arguments, &[])?;
    if parsed.words.is_empty() {
        return Err(Failure::Usage("no peer given".to_owned()));
    }
    let fields: Vec<(&str, &str)> = parsed
        .words
        .iter()
        .map(|peer| ("peer", peer.as_str()))
        .collect();
    print(&post_form(program, "/forget", &fields)?)
}

/// Waits until there is a ring, and tells on the standard error what it waits for.
pub(crate) fn prime(program: &str, arguments: &[String]) -> Outcome {
    let parsed = flags::parse(arguments, &[])?;
    if let Some(word) = parsed.words.first() {
        return Err(Failure::Usage(format!("unexpected word {word:?}")));
    }
    let mut told = String::new();
    loop {
        // The daemon answers within five seconds.
        let answer = exchange(program, "GET", "/ring", None, None)?;
        match answer.status {
            200..=299 => return Ok(()),
            404 => return Err(Failure::exit(EXIT_NOT_FOUND, "")),
            503 if answer.body.contains(STOPPING) => return Err(Failure::exit(1, answer.body)),
            503 => {
                let reason = answer.body.trim_end();
                if reason != told {
                    eprintln!("waiting: {reason}");
                    reason.clone_into(&mut told);
                }
            }
            _ => return Err(Failure::exit(1, answer.body)),
        }
    }
}

/// Takes over the ranges of peers that are gone, one after the other; fails if one failed.
pub(crate) fn rmpeer(program: &str, arguments: &[String]) -> Outcome {
    let parsed = flags::parse(arguments, &[])?;
    if parsed.words.is_empty() {
        return Err(Failure::Usage("no peer given".to_owned()));
    }
    let mut outcome = Ok(());
    for peer in &parsed.words {
        let path = format!("/peer/{}", api::client::encode_segment(peer));
        match call(program, "DELETE", &path, None, None) {
            Ok(taken) => print(&taken)?,
            // Nobody else will answer either.
            Err(
                failure @ Failure::Exit {
                    code: client::EXIT_UNREACHABLE,
                    ..
                },
            ) => return Err(failure),
            Err(failure) => {
                let message = failure.to_string();
                if !message.is_empty() {
                    eprintln!("{}", message.trim_end());
                }
                outcome = Err(Failure::exit(1, ""));
            }
        }
    }
    outcome
}

pub(crate) fn status(program: &str, arguments: &[String]) -> Outcome {
    let parsed = flags::parse(arguments, STATUS_FLAGS)?;
    let json = parsed.is_on("json");
    let what = match parsed.words.as_slice() {
        [] => None,
        [what] => Some(what.as_str()),
        [_, extra, ..] => return Err(Failure::Usage(format!("unexpected word {extra:?}"))),
    };
    let (section, name) = match what {
        None => ("/status", None),
        Some("targets") => ("/status/targets", Some("targets")),
        Some("connections") => ("/status/connections", Some("connections")),
        Some("peers") => ("/status/peers", Some("peers")),
        Some("ipam") => ("/status/ipam", Some("ipam")),
        Some("dns") => return Err(Failure::exit(4, "names are not enabled")),
        Some(other) => {
            return Err(Failure::Usage(format!(
                "Invalid '{program} status' sub-command: {other}"
            )));
        }
    };
    if json {
        let status: api::v1::Status = get_json(program, "/v1/status")?;
        return match name {
            None => print_json(&status),
            Some("targets") => print_json(&status.targets),
            Some("connections") => print_json(&status.connections),
            Some("ipam") => match &status.ipam {
                Some(ipam) => print_json(ipam),
                None => Err(Failure::exit(EXIT_NOT_FOUND, "")),
            },
            Some(_) => print_json(&status.peers),
        };
    }
    let text = get(program, section)?;
    if name.is_none() {
        print(&format!("\n{text}\n"))
    } else {
        print(&text)
    }
}

pub(crate) fn report(program: &str, arguments: &[String]) -> Outcome {
    let parsed = flags::parse(arguments, REPORT_FLAGS)?;
    if let Some(word) = parsed.words.first() {
        return Err(Failure::Usage(format!("unexpected word {word:?}")));
    }
    let text = match parsed.last("f") {
        Some(template) => {
            let query = api::client::encode_form([("format", template)]);
            get(program, &format!("/report?{query}"))?
        }
        None => call(program, "GET", "/report", Some("application/json"), None)?,
    };
    print(&text)
}

/// The version of the daemon, or of this program when none runs.
pub(crate) fn version(program: &str, arguments: &[String]) -> Outcome {
    let parsed = flags::parse(arguments, &[switch("json", "")])?;
    let own = env!("CARGO_PKG_VERSION");
    let running = get(program, "/report?format=%7B%7B.Version%7D%7D").ok();
    if parsed.is_on("json") {
        let value = serde_json::json!({ "program": own, "daemon": running });
        return print_json(&value);
    }
    match running {
        Some(version) if version != own => print(&format!(
            "{program} command line {own}\n{program} {version}\n"
        )),
        _ => print(&format!("{program} {own}\n")),
    }
}

/// Fails unless we are root.
pub(crate) fn need_root() -> Outcome {
    let uid = std::fs::metadata("/proc/self").context("looking at /proc/self")?;
    if std::os::unix::fs::MetadataExt::uid(&uid) == 0 {
        Ok(())
    } else {
        // The original says so by this name.
        Err(Failure::exit(
            1,
            "weave must be run as 'root' when run locally",
        ))
    }
}

/// The control address clients and daemons use unless told otherwise.
pub(crate) fn control_address() -> String {
    client::environment("WEAVE_HTTP_ADDR").unwrap_or_else(|| api::DEFAULT_HTTP_ADDR.to_owned())
}
