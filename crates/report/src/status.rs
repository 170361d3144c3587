//! The plain texts of `status` and its sub-reports (spec/cli-api.md 5), from a report.
//!
//! Scripts parse these; the only change is a blank between attributes of a connection, which the
//! original runs together.

mod allocation;

use std::fmt::Write;

pub use allocation::ipam;
use api::report::{Attrs, Connection, Report, Router};

/// States in the order the summary counts them.
const STATES: [&str; 6] = [
    "established",
    "pending",
    "retrying",
    "failed",
    "connecting",
    "waiting",
];

/// The summary: labels right-aligned to column 15.
pub fn summary(report: &Report) -> String {
    let router = &report.router;
    let mut text = String::new();
    line(
        &mut text,
        "Version",
        &format!("{} (version check update disabled)", report.version),
    );
    text.push('\n');
    line(&mut text, "Service", "router");
    line(
        &mut text,
        "Protocol",
        &format!("{} {}", router.protocol, versions(router)),
    );
    line(
        &mut text,
        "Name",
        &format!("{}({})", router.name, router.nick_name),
    );
    line(&mut text, "Encryption", switched(router.encryption));
    line(&mut text, "PeerDiscovery", switched(router.peer_discovery));
    line(&mut text, "Targets", &router.targets.len().to_string());
    line(&mut text, "Connections", &connection_counts(router));
    line(&mut text, "Peers", &peer_counts(router));
    line(&mut text, "TrustedSubnets", &list(&router.trusted_subnets));
    if let Some(ipam) = &report.ipam {
        text.push('\n');
        line(&mut text, "Service", "ipam");
        line(&mut text, "Status", &ipam.status);
        line(&mut text, "Range", &ipam.range);
        line(&mut text, "DefaultSubnet", &ipam.default_subnet);
    }
    text
}

/// `status targets`: one per line, as typed.
pub fn targets(report: &Report) -> String {
    report
        .router
        .targets
        .iter()
        .map(|target| format!("{target}\n"))
        .collect()
}

/// `status connections`: one per line.
pub fn connections(report: &Report) -> String {
    report
        .router
        .connections
        .iter()
        .map(connection_line)
        .collect()
}

/// `status peers`: each peer and, indented, its connections.
pub fn peers(report: &Report) -> String {
    let mut text = String::new();
    for peer in &report.router.peers {
        let _ = writeln!(text, "{}({})", peer.name, peer.nick_name);
        for connection in &peer.connections {
            let _ = writeln!(
                text,
                "   {} {:<21} {:<37} {}",
                arrow(connection.outbound),
                connection.address,
                format!("{}({})", connection.name, connection.nick_name),
                if connection.established {
                    "established"
                } else {
                    "pending"
                },
            );
        }
    }
    text
}

fn connection_line(connection: &Connection) -> String {
    let mut text = format!(
        "{} {:<21} {:<11} {}",
        arrow(connection.outbound),
        connection.address,
        connection.state,
        connection.info
    );
    if !connection.info.is_empty() {
        text.push(' ');
    }
    if let Some(attrs) = &connection.attrs {
        text.push_str(&attributes(attrs));
    }
    text.push('\n');
    text
}

/// Attributes other than the name, in key order.
fn attributes(attrs: &Attrs) -> String {
    let mut words = Vec::new();
    if let Some(encrypted) = attrs.encrypted {
        words.push(format!("encrypted={encrypted}"));
    }
    if let Some(mtu) = attrs.mtu {
        words.push(format!("mtu={mtu}"));
    }
    if let Some(cipher) = &attrs.cipher {
        words.push(format!("cipher={cipher}"));
    }
    if let Some(reason) = &attrs.reason {
        words.push(format!("reason={reason}"));
    }
    words.join(" ")
}

fn line(text: &mut String, label: &str, value: &str) {
    let _ = writeln!(text, "{label:>15}: {value}");
}

fn arrow(outbound: bool) -> &'static str {
    if outbound { "->" } else { "<-" }
}

fn switched(on: bool) -> &'static str {
    if on { "enabled" } else { "disabled" }
}

fn list(items: &[String]) -> String {
    if items.is_empty() {
        "none".to_owned()
    } else {
        items.join(", ")
    }
}

fn versions(router: &Router) -> String {
    let (low, high) = (router.protocol_min_version, router.protocol_max_version);
    if low == high {
        low.to_string()
    } else {
        format!("{low}..{high}")
    }
}

fn connection_counts(router: &Router) -> String {
    let counts: Vec<String> = STATES
        .iter()
        .filter_map(|state| {
            let count = router
                .connections
                .iter()
                .filter(|c| c.state == *state)
                .count();
            (count > 0).then(|| format!("{count} {state}"))
        })
        .collect();
    let total = router.connections.len();
    if counts.is_empty() {
        total.to_string()
    } else {
        format!("{total} ({})", counts.join(", "))
    }
}

fn peer_counts(router: &Router) -> String {
    let all = || router.peers.iter().flat_map(|peer| &peer.connections);
    let established = all().filter(|connection| connection.established).count();
    let pending = all().count() - established;
    let mut counts = Vec::new();
    if established > 0 {
        counts.push(format!("{established} established"));
    }
    if pending > 0 {
        counts.push(format!("{pending} pending"));
    }
    let total = router.peers.len();
    if counts.is_empty() {
        total.to_string()
    } else {
        format!("{total} (with {} connections)", counts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::sample;

    use super::*;

    #[test]
    fn summary_is_the_documented_sample_byte_for_byte() {
        let report = sample(false);
        assert_eq!(summary(&report), include_str!("../testdata/status.txt"));
    }

    #[test]
    fn connections_are_the_documented_lines() {
        let plain = connections(&sample(false));
        assert_eq!(plain, include_str!("../testdata/status-connections.txt"));
        let encrypted = connections(&sample(true));
        assert_eq!(
            encrypted,
            include_str!("../testdata/status-connections-encrypted.txt")
        );
    }

    #[test]
    fn peers_are_the_documented_lines() {
        assert_eq!(
            peers(&sample(false)),
            include_str!("../testdata/status-peers.txt")
        );
    }

    #[test]
    fn a_lonely_peer_has_no_counts_in_parentheses() {
        let mut report = sample(false);
        report.router.connections.clear();
        report.router.peers.truncate(1);
        report.router.peers[0].connections.clear();
        report.router.protocol_min_version = 2;
        let text = summary(&report);
        assert!(text.contains("    Connections: 0\n"), "{text}");
        assert!(text.contains("          Peers: 1\n"), "{text}");
        assert!(text.contains("       Protocol: weave 2\n"), "{text}");
    }
}
