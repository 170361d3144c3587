//! Small stories as text: what is done, and what everybody logs (spec/mesh.md 14).
//!
//! Lines starting with `> ` are commands; what follows is the output expected. With
//! `WEFT_REWRITE_STORIES` set, the files are written anew.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod net;

use std::fmt::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex};

use mesh::{MeshConfig, Password};
use net::{Net, SPEAKER, config, direct, name, secs};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

#[test]
fn the_stories_are_told_as_before() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/stories");
    let rewrite = std::env::var_os("WEFT_REWRITE_STORIES").is_some();
    let mut count = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let told = tell(&text);
        if rewrite {
            std::fs::write(&path, &told).unwrap();
        } else {
            assert_eq!(told, text, "{}", path.display());
        }
        count += 1;
    }
    assert!(count >= 5);
}

/// Carries out the commands of a story and returns it with the output they gave.
fn tell(text: &str) -> String {
    let log = Log::default();
    let _guard = tracing::subscriber::set_default(log.clone());
    let mut net = Net::new(Vec::new());
    let mut told = String::new();
    for line in text.lines() {
        if let Some(command) = line.strip_prefix("> ") {
            writeln!(told, "{line}").unwrap();
            told.push_str(&obey(&mut net, command));
            let logged = std::mem::take(&mut *log.lines.lock().unwrap());
            told.push_str(&logged);
        } else if line.starts_with('#') {
            writeln!(told, "{line}").unwrap();
        }
    }
    told
}

fn obey(net: &mut Net, command: &str) -> String {
    let words: Vec<&str> = command.split(' ').collect();
    let number = |at: usize| words[at].parse::<usize>().unwrap();
    match words[0] {
        "peer" => {
            let n = net.meshes.len();
            net.add(with_options(config(n), &words[1..]));
        }
        "connect" => net.connect(number(1), number(2)),
        "dial-each-other" => {
            let (one, other) = (number(1), number(2));
            for (from, to) in [(one, other), (other, one)] {
                SPEAKER.set(from);
                net.meshes[from].connect(vec![direct(to)], false, net.now);
            }
            net.settle();
        }
        "run" => net.run(secs(number(1) as u64)),
        "restart" => {
            let n = number(1);
            net.restart(n, with_options(config(n), &words[2..]), 99);
        }
        "fail" => {
            let link = net.only_link(number(1));
            SPEAKER.set(number(1));
            net.meshes[number(1)].connection_failed(link, &words[2..].join(" "), net.now);
            net.settle();
        }
        "garbage" => {
            let link = net.accept_stranger(number(1), "10.9.9.9:50000");
            net.inject(number(1), link, words[2].as_bytes());
            SPEAKER.set(number(1));
            net.meshes[number(1)].handle_link_closed(link, "EOF", net.now);
        }
        "status" => return status(net, number(1)),
        other => panic!("unknown command {other}"),
    }
    String::new()
}

fn with_options(mut config: MeshConfig, options: &[&str]) -> MeshConfig {
    for option in options {
        match option.split_once('=').unwrap() {
            ("password", password) => config.password = Password::new(password),
            ("limit", limit) => config.conn_limit = limit.parse().unwrap(),
            ("version", version) => config.max_protocol_version = version.parse().unwrap(),
            ("named", n) => config.name = name(n.parse().unwrap()),
            ("discovery", on) => config.discovery = on == "on",
            (other, _) => panic!("unknown option {other}"),
        }
    }
    config
}

fn status(net: &Net, n: usize) -> String {
    let status = net.meshes[n].status(net.now);
    let mut out = String::new();
    for connection in &status.connections {
        let arrow = if connection.outbound { "->" } else { "<-" };
        let state = if connection.established {
            "established"
        } else {
            "pending"
        };
        let peer = format!("{}({})", connection.remote, connection.remote_nickname);
        writeln!(
            out,
            "  {arrow} {} {state} {peer}",
            connection.remote_address
        )
        .unwrap();
    }
    for target in &status.targets {
        let state = format!("{:?}", target.state);
        writeln!(out, "  -> {} {}", target.address, without_times(&state)).unwrap();
    }
    for (destination, hop) in &status.unicast_routes {
        writeln!(out, "  {destination} via {hop}").unwrap();
    }
    out
}

/// Retry times are random.
fn without_times(state: &str) -> String {
    match state.split_once("Some(") {
        Some((before, _)) => format!("{before}later }}"),
        None => state.to_owned(),
    }
}

/// Collects log lines as the daemon prints them, behind the number of the peer that spoke.
#[derive(Clone, Default)]
struct Log {
    lines: Arc<Mutex<String>>,
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        let mut lines = self.lines.lock().unwrap();
        writeln!(lines, "  {}: {}", SPEAKER.get(), line.print()).unwrap();
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[derive(Default)]
struct Line {
    conn: Option<String>,
    message: String,
    error: Option<String>,
}

impl Line {
    fn print(&self) -> String {
        let mut out = String::new();
        if let Some(conn) = &self.conn {
            let colon = if conn.contains('|') { ":" } else { "" };
            write!(out, "{conn}{colon} ").unwrap();
        }
        out.push_str(&self.message);
        if let Some(error) = &self.error {
            write!(out, ": {error}").unwrap();
        }
        out
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message = value.to_owned(),
            "conn" => self.conn = Some(value.to_owned()),
            "error" => self.error = Some(value.to_owned()),
            _ => {}
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}
