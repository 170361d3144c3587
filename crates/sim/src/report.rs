//! `sim --churn`: measures meshes of several sizes, prints a table and keeps it in the documents.
//!
//! Each size runs in a process of its own, so that its memory can be told from that of the others.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::churn::{self, Churn, EVENT_EVERY, Outcome, Phase, STEADY, quantile};

/// Where the table is kept, from the root of the repository.
const DOCUMENT: &str = "docs/performance.md";

/// One measured mesh: the numbers of the table in their order.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Row {
    peers: f64,
    formation_mb: f64,
    whole_after_secs: f64,
    steady_bytes: f64,
    churn: Phase,
    events: f64,
    median_secs: f64,
    p99_secs: f64,
    memory_mb: f64,
    wall_secs: f64,
}

impl Row {
    /// Measures one mesh in this process. `clock` tells wall time since any moment.
    ///
    /// # Errors
    ///
    /// When a rule of the simulation is broken.
    pub fn measure(churn: Churn, clock: impl Fn() -> Duration) -> Result<Self, String> {
        let (memory, start) = (resident_bytes(), clock());
        let outcome: Outcome = churn::run(churn)?;
        let memory = resident_bytes().saturating_sub(memory) as f64;
        let times = &outcome.convergence_secs;
        Ok(Self {
            peers: churn.peers as f64,
            formation_mb: outcome.formation.mean_bytes * outcome.formation.secs / 1e6,
            whole_after_secs: outcome.whole_after_secs,
            steady_bytes: outcome.steady.mean_bytes,
            churn: outcome.churn,
            events: outcome.events as f64,
            median_secs: quantile(times, 0.5),
            p99_secs: quantile(times, 0.99),
            memory_mb: memory / churn.peers as f64 / 1e6,
            wall_secs: (clock() - start).as_secs_f64(),
        })
    }

    fn numbers(&self) -> [f64; 13] {
        let churn = &self.churn;
        [
            self.peers,
            self.formation_mb,
            self.whole_after_secs,
            self.steady_bytes,
            churn.secs,
            churn.mean_bytes,
            churn.max_bytes,
            churn.writes,
            self.events,
            self.median_secs,
            self.p99_secs,
            self.memory_mb,
            self.wall_secs,
        ]
    }

    /// The row as the line a process prints for the one that started it.
    pub fn to_line(&self) -> String {
        let texts: Vec<String> = self.numbers().iter().map(ToString::to_string).collect();
        format!("row {}", texts.join(" "))
    }

    /// Reads such a line.
    pub fn from_line(line: &str) -> Option<Self> {
        let numbers = line.trim().strip_prefix("row ")?.split(' ');
        let numbers: Vec<f64> = numbers.map(str::parse).collect::<Result<_, _>>().ok()?;
        let [
            peers,
            formation_mb,
            whole_after_secs,
            steady_bytes,
            secs,
            mean_bytes,
            max_bytes,
            rest @ ..,
        ] = numbers.as_slice()
        else {
            return None;
        };
        let [writes, events, median_secs, p99_secs, memory_mb, wall_secs] = *rest else {
            return None;
        };
        Some(Self {
            peers: *peers,
            formation_mb: *formation_mb,
            whole_after_secs: *whole_after_secs,
            steady_bytes: *steady_bytes,
            churn: Phase {
                secs: *secs,
                mean_bytes: *mean_bytes,
                max_bytes: *max_bytes,
                writes,
            },
            events,
            median_secs,
            p99_secs,
            memory_mb,
            wall_secs,
        })
    }
}

/// Measures each size in a process of its own.
///
/// # Errors
///
/// When a process cannot be started or a rule of the simulation is broken.
pub fn measure_all(sizes: &[usize], churn: Churn) -> Result<Vec<Row>, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let measure = |peers: &usize| {
        let mut command = Command::new(&program);
        command.args(["--churn", "--row", "--peers", &peers.to_string()]);
        command.args(["--seed", &churn.seed.to_string()]);
        command.args(["--seconds", &churn.churn.as_secs().to_string()]);
        command.args(["--delay-ms", &churn.delay_max.as_millis().to_string()]);
        if !churn.weft {
            command.arg("--original");
        }
        let output = command.output().map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&output.stdout);
        let row = text.lines().find_map(Row::from_line);
        row.ok_or_else(|| format!("{peers} peers: {}", text.trim()))
    };
    sizes.iter().map(measure).collect()
}

/// The table, with what it was measured with.
pub fn table(rows: &[Row], churn: Churn) -> String {
    let mut text = format!(
        "Seed {}, full mesh in clear, one-way delays up to {} ms without limits of bandwidth, {} s without events, then {} s \
         with one event every {} s.\n\n\
         | peers | joining: MB sent per peer | whole after, s | steady: B/s per peer | churn: B/s per peer \
         (the busiest) | writes/s per peer | convergence median / p99, s | memory per peer, MB | wall time, s |\n\
         |---|---|---|---|---|---|---|---|---|\n",
        churn.seed,
        churn.delay_max.as_millis(),
        STEADY.as_secs(),
        churn.churn.as_secs(),
        EVENT_EVERY.as_secs(),
    );
    for row in rows {
        text += &format!(
            "| {} | {:.2} | {:.1} | {:.0} | {:.0} ({:.0}) | {:.1} | {:.1} / {:.1} | {:.1} | {:.0} |\n",
            row.peers,
            row.formation_mb,
            row.whole_after_secs,
            row.steady_bytes,
            row.churn.mean_bytes,
            row.churn.max_bytes,
            row.churn.writes,
            row.median_secs,
            row.p99_secs,
            row.memory_mb,
            row.wall_secs,
        );
    }
    if let [first, .., last] = rows {
        let power = |number: fn(&Row) -> f64| {
            (number(last) / number(first)).ln() / (last.peers / first.peers).ln()
        };
        text += &format!(
            "\nGrowth from {} to {} peers, as the power of the number of peers: joining {:.1}, steady {:.1}, churn {:.1}, \
             memory {:.1}.\n",
            first.peers,
            last.peers,
            power(|row| row.formation_mb),
            power(|row| row.steady_bytes),
            power(|row| row.churn.mean_bytes),
            power(|row| row.memory_mb),
        );
    }
    text
}

/// Puts a text between the markers of the document that bear a name.
///
/// # Errors
///
/// When the document cannot be read or written, or has no markers.
pub fn write(name: &str, text: &str) -> Result<(), String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(DOCUMENT);
    let document =
        std::fs::read_to_string(&path).map_err(|error| format!("{DOCUMENT}: {error}"))?;
    let document = replaced(&document, name, text)
        .ok_or_else(|| format!("{DOCUMENT} has no markers of {name}"))?;
    std::fs::write(&path, document).map_err(|error| format!("{DOCUMENT}: {error}"))
}

fn replaced(document: &str, name: &str, text: &str) -> Option<String> {
    let (begin, end) = (
        format!("<!-- {name}:begin -->"),
        format!("<!-- {name}:end -->"),
    );
    let (head, rest) = document.split_once(&begin)?;
    let (_, tail) = rest.split_once(&end)?;
    Some(format!("{head}{begin}\n{text}{end}{tail}"))
}

/// Memory of this process that is in RAM, bytes; 0 where the system does not tell.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok());
    pages.unwrap_or(0) * 4096
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        let line = "row 25 1.5 2 3 4 5 6 7 8 9 10 11 12.25";
        Row::from_line(line).unwrap()
    }

    #[test]
    fn a_row_survives_the_way_to_the_other_process() {
        let row = row();
        assert_eq!(row.wall_secs, 12.25);
        assert_eq!(Row::from_line(&row.to_line()), Some(row));
        assert_eq!(Row::from_line("row 1 2 3"), None);
        assert_eq!(Row::from_line("ok"), None);
    }

    #[test]
    fn growth_is_told_as_a_power() {
        let four = Row {
            peers: 100.0,
            formation_mb: row().formation_mb * 16.0,
            ..row()
        };
        let churn = Churn {
            seed: 1,
            peers: 0,
            churn: Duration::from_secs(60),
            weft: true,
            delay_max: Duration::from_millis(50),
        };
        assert!(table(&[row(), four], churn).contains("joining 2.0, steady 0.0"));
    }

    #[test]
    fn only_what_is_between_the_markers_is_replaced() {
        let document = "a\n<!-- x:begin -->\nold\n<!-- x:end -->\nb\n";
        let expected = "a\n<!-- x:begin -->\nnew\n<!-- x:end -->\nb\n";
        assert_eq!(replaced(document, "x", "new\n"), Some(expected.to_owned()));
        assert_eq!(replaced(document, "y", "new\n"), None);
    }
}
