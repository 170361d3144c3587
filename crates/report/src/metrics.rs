//! Metrics in Prometheus text form: the original's names and labels, and `weft_*`.
//!
//! Every metric of the daemon is in this file (spec/cli-api.md 7).

use std::collections::BTreeMap;
use std::fmt::{Display, Write};

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

/// What is counted.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Counts {
    /// Version of the daemon.
    pub version: String,
    /// Our connections, and the targets we are not connected to.
    pub connections: Vec<Connections>,
    /// Connections that ended since start.
    pub terminations: u64,
    /// Peers known, this one included.
    pub peers: usize,
    /// Times the daemon waited for its disk.
    pub state_commits: u64,
    /// Frames, packets and datagrams by what became of them.
    pub datapath: BTreeMap<String, u64>,
    /// Address allocation; zeros while it is off.
    pub allocation: Allocation,
    /// This process.
    pub process: Process,
}

/// How many connections there are of one kind. The words are those of the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connections {
    /// `established`, `pending`, `retrying`, `failed`, `connecting` or `waiting`.
    pub state: &'static str,
    /// The overlay in use; `unknown` for targets.
    pub kind: &'static str,
    /// Whether the data plane is encrypted.
    pub encrypted: bool,
    /// How many.
    pub count: u64,
}

/// Address allocation, counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allocation {
    /// Addresses in use here.
    pub active_ips: u64,
    /// Addresses that are managed.
    pub range_num_ips: u64,
    /// Peers that own addresses and cannot be reached.
    pub unreachable_peers: usize,
    /// What they own.
    pub unreachable_ips: u64,
    /// Allocations that wait.
    pub pending_allocates: usize,
    /// Claims that wait.
    pub pending_claims: usize,
    /// Ranges not used because two peers say they own them.
    pub contested: usize,
    /// Ranges not used until their former owner agrees.
    pub unconfirmed: usize,
    /// Addresses used here whose range was taken over.
    pub displaced: usize,
    /// Entries of the ring.
    pub ring_entries: usize,
    /// Whether another machine has our name.
    pub has_clone: bool,
}

/// All metrics.
pub fn render(counts: &Counts) -> String {
    let mut text = String::new();
    connections(&mut text, &counts.connections);
    let name = "weave_connection_terminations_total";
    head(
        &mut text,
        name,
        "counter",
        "Number of peer-to-peer connections terminated.",
    );
    let _ = writeln!(text, "{name} {}", counts.terminations);
    allocation(&mut text, &counts.allocation);
    // Names are not managed yet, but dashboards expect this to exist.
    gauge(&mut text, "weave_dns_entries", "Number of DNS entries.", 0);
    let name = "weft_build_info";
    head(&mut text, name, "gauge", "Version of the daemon.");
    let _ = writeln!(text, "{name}{{version=\"{}\"}} 1", escape(&counts.version));
    gauge(
        &mut text,
        "weft_peers",
        "Number of peers known, this one included.",
        counts.peers,
    );
    let name = "weft_state_commits_total";
    head(
        &mut text,
        name,
        "counter",
        "Transactions made durable, each with one wait for the disk.",
    );
    let _ = writeln!(text, "{name} {}", counts.state_commits);
    let name = "weft_datapath_events_total";
    head(
        &mut text,
        name,
        "counter",
        "Frames, packets and datagrams by what became of them.",
    );
    for (event, count) in &counts.datapath {
        let _ = writeln!(text, "{name}{{event=\"{}\"}} {count}", escape(event));
    }
    process(&mut text, &counts.process);
    text
}

/// By state, kind and encryption; both values of encryption for each state and kind present.
fn connections(text: &mut String, connections: &[Connections]) {
    let name = "weave_connections";
    head(text, name, "gauge", "Number of peer-to-peer connections.");
    let mut counts = BTreeMap::new();
    for some in connections.iter().filter(|some| some.count > 0) {
        for value in ["", "yes"] {
            let count = counts.entry((some.state, some.kind, value)).or_insert(0);
            *count += some.count * u64::from(some.encrypted == (value == "yes"));
        }
    }
    for ((state, kind, encryption), count) in counts {
        let labels = format!("encryption=\"{encryption}\",state=\"{state}\",type=\"{kind}\"");
        let _ = writeln!(text, "{name}{{{labels}}} {count}");
    }
}

fn process(text: &mut String, process: &Process) {
    let name = "process_cpu_seconds_total";
    head(text, name, "counter", "Total user and system CPU time.");
    let _ = writeln!(text, "{name} {}", process.cpu_secs);
    gauge(
        text,
        "process_resident_memory_bytes",
        "Resident memory size in bytes.",
        process.resident_bytes,
    );
    gauge(
        text,
        "process_open_fds",
        "Number of open file descriptors.",
        process.open_files,
    );
}

/// Those of address allocation; zero while it is off, as dashboards expect them to exist.
fn allocation(text: &mut String, counts: &Allocation) {
    let name = "weave_ips";
    head(text, name, "gauge", "Number of IP addresses.");
    let _ = writeln!(text, "{name}{{state=\"local-used\"}} {}", counts.active_ips);
    let percentage = match counts.range_num_ips {
        0 => 0.0,
        all => counts.unreachable_ips as f64 * 100.0 / all as f64,
    };
    gauge(
        text,
        "weave_max_ips",
        "Size of IP address space used by allocator.",
        counts.range_num_ips,
    );
    gauge(
        text,
        "weave_ipam_unreachable_count",
        "Number of unreachable peers owning IP addresses.",
        counts.unreachable_peers,
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
        counts.pending_allocates,
    );
    gauge(
        text,
        "weave_ipam_pending_claims",
        "Number of pending claims.",
        counts.pending_claims,
    );
    own_allocation(text, counts);
}

/// Those of address allocation that the original has not.
fn own_allocation(text: &mut String, counts: &Allocation) {
    gauge(
        text,
        "weft_ipam_contested_ranges",
        "Ranges not used because two peers say they own them.",
        counts.contested,
    );
    gauge(
        text,
        "weft_ipam_unconfirmed_ranges",
        "Ranges not used until their former owner agrees.",
        counts.unconfirmed,
    );
    gauge(
        text,
        "weft_ipam_displaced_addresses",
        "Addresses used here whose range was taken over.",
        counts.displaced,
    );
    gauge(
        text,
        "weft_ipam_ring_entries",
        "Entries of the ring.",
        counts.ring_entries,
    );
    gauge(
        text,
        "weft_peer_name_clones",
        "Whether another machine has the name of this peer.",
        u8::from(counts.has_clone),
    );
}

fn gauge(text: &mut String, name: &str, help: &str, value: impl Display) {
    head(text, name, "gauge", help);
    let _ = writeln!(text, "{name} {value}");
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
    use super::*;

    fn sample() -> Counts {
        let connections = |state, kind, encrypted, count| Connections {
            state,
            kind,
            encrypted,
            count,
        };
        Counts {
            version: "2.8.1".to_owned(),
            connections: vec![
                connections("pending", "sleeve", true, 0),
                connections("established", "sleeve", true, 1),
                connections("failed", "unknown", false, 1),
            ],
            peers: 2,
            datapath: BTreeMap::from([("frames_in".to_owned(), 7)]),
            ..Counts::default()
        }
    }

    #[test]
    fn connections_are_counted_with_both_encryption_values() {
        let text = render(&sample());
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

    #[test]
    fn metrics_are_the_recorded_text_byte_for_byte() {
        let mut counts = sample();
        counts.allocation = Allocation {
            active_ips: 3,
            range_num_ips: 4096,
            unreachable_peers: 1,
            unreachable_ips: 1024,
            ring_entries: 4,
            ..Allocation::default()
        };
        assert_eq!(render(&counts), include_str!("../testdata/metrics.txt"));
    }
}
