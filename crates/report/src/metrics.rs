//! Metrics in Prometheus text form: the original's names and labels, and `weft_*`.
//!
//! Every metric of the daemon is in this file (spec/cli-api.md 7).

use std::collections::BTreeMap;
use std::fmt::{Display, Write};

use api::report::{Ipam, Report};

use crate::status::owners;

/// What the kernel says about this process.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Process {
    /// Processor time used, seconds.
    pub cpu_secs: f64,
    /// Memory in use, bytes.
    pub resident_bytes: u64,
    /// Open files.
    pub open_files: u64,
}

/// All metrics.
pub fn render(report: &Report, process: &Process) -> String {
    let mut text = String::new();
    let router = &report.router;
    let name = "weave_connections";
    head(
        &mut text,
        name,
        "gauge",
        "Number of peer-to-peer connections.",
    );
    for ((state, kind, encryption), count) in connections(report) {
        let labels = format!("encryption=\"{encryption}\",state=\"{state}\",type=\"{kind}\"");
        let _ = writeln!(text, "{name}{{{labels}}} {count}");
    }
    let name = "weave_connection_terminations_total";
    head(
        &mut text,
        name,
        "counter",
        "Number of peer-to-peer connections terminated.",
    );
    let _ = writeln!(text, "{name} {}", router.termination_count);
    allocation(&mut text, report);
    // Names are not managed yet, but dashboards expect this to exist.
    gauge(&mut text, "weave_dns_entries", "Number of DNS entries.", 0);
    let name = "weft_build_info";
    head(&mut text, name, "gauge", "Version of the daemon.");
    let _ = writeln!(text, "{name}{{version=\"{}\"}} 1", escape(&report.version));
    let name = "weft_peers";
    head(
        &mut text,
        name,
        "gauge",
        "Number of peers known, this one included.",
    );
    let _ = writeln!(text, "{name} {}", router.peers.len());
    let name = "weft_state_commits_total";
    head(
        &mut text,
        name,
        "counter",
        "Transactions made durable, each with one wait for the disk.",
    );
    let _ = writeln!(text, "{name} {}", router.state_commits);
    let name = "weft_datapath_events_total";
    head(
        &mut text,
        name,
        "counter",
        "Frames, packets and datagrams by what became of them.",
    );
    for (event, count) in router.capture_stats.iter().flatten() {
        let _ = writeln!(text, "{name}{{event=\"{}\"}} {count}", escape(event));
    }
    let name = "process_cpu_seconds_total";
    head(
        &mut text,
        name,
        "counter",
        "Total user and system CPU time.",
    );
    let _ = writeln!(text, "{name} {}", process.cpu_secs);
    let name = "process_resident_memory_bytes";
    head(&mut text, name, "gauge", "Resident memory size in bytes.");
    let _ = writeln!(text, "{name} {}", process.resident_bytes);
    let name = "process_open_fds";
    head(&mut text, name, "gauge", "Number of open file descriptors.");
    let _ = writeln!(text, "{name} {}", process.open_files);
    text
}

/// Those of address allocation; zero while it is off, as dashboards expect them to exist.
fn allocation(text: &mut String, report: &Report) {
    let off = Ipam::default();
    let ipam = report.ipam.as_ref().unwrap_or(&off);
    let name = "weave_ips";
    head(text, name, "gauge", "Number of IP addresses.");
    let _ = writeln!(text, "{name}{{state=\"local-used\"}} {}", ipam.active_ips);
    let owners = owners(ipam, &report.router.name);
    let unreachable = || owners.iter().filter(|owner| !owner.is_known);
    let lost: u64 = unreachable().map(|owner| owner.addresses).sum();
    let percentage = match ipam.range_num_ips {
        0 => 0.0,
        all => lost as f64 * 100.0 / all as f64,
    };
    gauge(
        text,
        "weave_max_ips",
        "Size of IP address space used by allocator.",
        ipam.range_num_ips,
    );
    gauge(
        text,
        "weave_ipam_unreachable_count",
        "Number of unreachable peers owning IP addresses.",
        unreachable().count(),
    );
    gauge(
        text,
        "weave_ipam_unreachable_percentage",
        "Percentage of addresses owned by unreachable peers.",
        percentage,
    );
    gauge(
        text,
        "weave_ipam_pending_allocates",
        "Number of pending allocates.",
        ipam.pending_allocates.as_ref().map_or(0, Vec::len),
    );
    gauge(
        text,
        "weave_ipam_pending_claims",
        "Number of pending claims.",
        ipam.pending_claims.as_ref().map_or(0, Vec::len),
    );
    own_allocation(text, ipam);
}

/// Those of address allocation that the original has not.
fn own_allocation(text: &mut String, ipam: &Ipam) {
    gauge(
        text,
        "weft_ipam_contested_ranges",
        "Ranges not used because two peers say they own them.",
        ipam.contested.len(),
    );
    gauge(
        text,
        "weft_ipam_unconfirmed_ranges",
        "Ranges not used until their former owner agrees.",
        ipam.unconfirmed.len(),
    );
    gauge(
        text,
        "weft_ipam_displaced_addresses",
        "Addresses used here whose range was taken over.",
        ipam.displaced.len(),
    );
    gauge(
        text,
        "weft_ipam_ring_entries",
        "Entries of the ring.",
        ipam.entries.as_ref().map_or(0, Vec::len),
    );
    gauge(
        text,
        "weft_peer_name_clones",
        "Whether another machine has the name of this peer.",
        u8::from(ipam.clone.is_some()),
    );
}

fn gauge(text: &mut String, name: &str, help: &str, value: impl Display) {
    head(text, name, "gauge", help);
    let _ = writeln!(text, "{name} {value}");
}

/// Counts by state, type and encryption; both encryption values for each state and type present.
fn connections(report: &Report) -> BTreeMap<(String, String, &'static str), u64> {
    let mut counts = BTreeMap::new();
    for connection in &report.router.connections {
        let attrs = connection.attrs.as_ref();
        let kind = attrs
            .map_or("unknown", |attrs| attrs.name.as_str())
            .to_owned();
        let encrypted = attrs.and_then(|attrs| attrs.encrypted).unwrap_or(false);
        for value in ["", "yes"] {
            let key = (connection.state.clone(), kind.clone(), value);
            *counts.entry(key).or_insert(0) += u64::from(encrypted == (value == "yes"));
        }
    }
    counts
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn escape(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use crate::testing::sample;

    use super::*;

    #[test]
    fn connections_are_counted_with_both_encryption_values() {
        let text = render(&sample(true), &Process::default());
        let lines: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with("weave_connections{"))
            .collect();
        assert_eq!(
            lines,
            [
                "weave_connections{encryption=\"\",state=\"established\",type=\"sleeve\"} 0",
                "weave_connections{encryption=\"yes\",state=\"established\",type=\"sleeve\"} 1",
                "weave_connections{encryption=\"\",state=\"failed\",type=\"unknown\"} 1",
                "weave_connections{encryption=\"yes\",state=\"failed\",type=\"unknown\"} 0",
            ]
        );
        assert!(text.contains("\nweave_connection_terminations_total 0\n"));
        assert!(text.contains("\nweave_ips{state=\"local-used\"} 0\n"));
    }
}
