//! Log lines in the original's form (spec/cli-api.md 11): `INFO: 2026/11/21 22:00:00.123456 text`.
//!
//! Our code logs constant messages with fields. Here field `conn`, `->[address|name(nick)]`, becomes
//! the prefix with a colon, and `error` the suffix `: error`, other fields follow as `key=value`,
//! and a few messages users search for take the original's words. Characters that could forge a
//! line or drive a terminal are escaped: nicknames come from strangers.

use std::fmt::{Debug, Write as _};
use std::io::Write as _;

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry};

use crate::clock::{self, Calendar};

/// Our constant messages and the original's lines users search for; `{field}` is replaced.
const PHRASES: [(&str, &str); 6] = [
    (
        "overlay switched",
        "overlay_switch ->[{peer}] using {overlay}",
    ),
    (
        "effective MTU verified",
        "sleeve ->[{peer}]: Effective MTU verified at {mtu}",
    ),
    ("command line options", "Command line options: {options}"),
    ("our name", "Our name is {name}({nickname})"),
    (
        "listening for HTTP control messages",
        "Listening for HTTP control messages on {address}",
    ),
    (
        "re-exposing address",
        "Re-exposing {address} on bridge {bridge}",
    ),
];

/// Sends log lines to standard error. `filter` is a level (`info`) or a list as in
/// `mesh=debug,info`; called once per process.
pub fn init(filter: &str) -> Result<(), FilterError> {
    let targets = parse_filter(filter)?;
    // A second call can only come from tests of this process; the first subscriber stays.
    let _ = Registry::default()
        .with(Lines.with_filter(targets))
        .try_init();
    Ok(())
}

/// Whether `init` would take this filter.
pub fn check(filter: &str) -> Result<(), FilterError> {
    parse_filter(filter).map(drop)
}

/// Writes the line a daemon ends with.
pub fn fatal(text: &str) {
    line("FATA", &escape_lines(text));
}

/// Writes a warning outside of the daemon, where no subscriber is set.
pub fn warn_line(text: &str) {
    line("WARN", &escape_lines(text));
}

/// Keeps line ends, which texts of ours may have.
fn escape_lines(text: &str) -> String {
    text.lines().map(escape).collect::<Vec<_>>().join("\n")
}

fn line(level: &str, text: &str) {
    let stamp = Calendar::from_unix(clock::unix_time()).log_stamp();
    let line = format!("{level}: {stamp} {text}\n");
    // Nothing can be done about a standard error that is gone.
    let _ = std::io::stderr().lock().write_all(line.as_bytes());
}

/// The log level is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid log level {0:?}: use trace, debug, info, warning or error")]
pub struct FilterError(String);

fn parse_filter(text: &str) -> Result<Targets, FilterError> {
    let bad = || FilterError(text.to_owned());
    let level = |word: &str| match word {
        "trace" => Some(LevelFilter::TRACE),
        "debug" => Some(LevelFilter::DEBUG),
        "info" => Some(LevelFilter::INFO),
        "warning" | "warn" => Some(LevelFilter::WARN),
        "error" | "fatal" | "panic" => Some(LevelFilter::ERROR),
        _ => None,
    };
    let mut targets = Targets::new().with_default(LevelFilter::INFO);
    for part in text.split(',') {
        targets = match part.split_once('=') {
            Some((target, word)) => targets.with_target(target, level(word).ok_or_else(bad)?),
            None => targets.with_default(level(part).ok_or_else(bad)?),
        };
    }
    Ok(targets)
}

/// Writes each event as one line.
struct Lines;

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        line(level(*event.metadata().level()), &fields.render());
    }
}

fn level(level: Level) -> &'static str {
    match level {
        Level::ERROR => "ERRO",
        Level::WARN => "WARN",
        Level::INFO => "INFO",
        Level::DEBUG => "DEBU",
        Level::TRACE => "TRAC",
    }
}

/// The fields of one event, as text.
#[derive(Default)]
struct Fields {
    message: String,
    others: Vec<(&'static str, String)>,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.push(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.push(field.name(), value.to_owned());
    }
}

impl Fields {
    fn push(&mut self, name: &'static str, text: String) {
        let text = escape(&text);
        if name == "message" {
            self.message = text;
        } else {
            self.others.push((name, text));
        }
    }

    fn take(&mut self, name: &str) -> Option<String> {
        let at = self.others.iter().position(|(known, _)| *known == name)?;
        Some(self.others.remove(at).1)
    }

    fn render(mut self) -> String {
        let mut line = String::new();
        if let Some(conn) = self.take("conn") {
            // Before the remote is known the original leaves the colon out.
            let colon = if conn.contains('|') { ":" } else { "" };
            let arrow = if conn.starts_with("->") { "" } else { "->" };
            let _ = write!(line, "{arrow}{conn}{colon} ");
        }
        let error = self.take("error");
        let phrase = PHRASES.iter().find(|(message, _)| *message == self.message);
        match phrase {
            Some((_, words)) => {
                let mut words = (*words).to_owned();
                for (name, value) in std::mem::take(&mut self.others) {
                    let hole = format!("{{{name}}}");
                    if words.contains(&hole) {
                        words = words.replace(&hole, &value);
                    } else {
                        self.others.push((name, value));
                    }
                }
                line.push_str(&words);
            }
            None => line.push_str(&self.message),
        }
        if let Some(error) = error {
            let _ = write!(line, ": {error}");
        }
        for (name, value) in &self.others {
            let _ = write!(line, " {name}={value}");
        }
        line
    }
}

/// Replaces control characters by visible escapes.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() {
            escaped.extend(c.escape_default());
        } else {
            escaped.push(c);
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(message: &str, others: &[(&'static str, &str)]) -> Fields {
        let mut fields = Fields::default();
        fields.push("message", message.to_owned());
        for (name, value) in others {
            fields.push(name, (*value).to_owned());
        }
        fields
    }

    #[test]
    fn connection_lines_look_like_the_originals() {
        let line = fields(
            "connection fully established",
            &[("conn", "->[1.2.3.4:6783|n(h)]")],
        )
        .render();
        assert_eq!(line, "->[1.2.3.4:6783|n(h)]: connection fully established");
        let line = fields(
            "error during connection attempt",
            &[("error", "no route to host"), ("conn", "[1.2.3.4:6783]")],
        )
        .render();
        assert_eq!(
            line,
            "->[1.2.3.4:6783] error during connection attempt: no route to host"
        );
        let line = fields(
            "overlay switched",
            &[
                ("peer", "n(h)"),
                ("overlay", "sleeve"),
                ("reason", "only-common"),
            ],
        )
        .render();
        assert_eq!(
            line,
            "overlay_switch ->[n(h)] using sleeve reason=only-common"
        );
    }

    #[test]
    fn strangers_cannot_forge_lines() {
        let line = fields("peer added", &[("peer", "x\nERRO: \u{1b}[31m\u{9b}")]).render();
        assert_eq!(line, "peer added peer=x\\nERRO: \\u{1b}[31m\\u{9b}");
    }

    #[test]
    fn filters_are_levels_with_targets() {
        assert!(parse_filter("info").is_ok());
        assert!(parse_filter("mesh=debug,warning").is_ok());
        assert_eq!(parse_filter("loud"), Err(FilterError("loud".to_owned())));
    }
}
