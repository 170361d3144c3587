//! Samples to medians, and medians to a table.

use std::fmt::Write as _;
use std::fs;

/// One round of one path.
#[derive(Clone, Copy)]
pub(super) struct Sample {
    pub(super) one_gbits: f64,
    pub(super) four_gbits: f64,
    pub(super) cpu_seconds_per_gbit: f64,
    pub(super) trip_micros: f64,
}

/// All rounds of one path.
pub(super) struct Row {
    name: &'static str,
    samples: Vec<Sample>,
}

impl Row {
    pub(super) fn new(name: &'static str) -> Self {
        Self {
            name,
            samples: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, sample: Sample) {
        self.samples.push(sample);
    }

    fn summary(&self, value: fn(&Sample) -> f64) -> Summary {
        let mut values: Vec<f64> = self.samples.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            f64::midpoint(values[middle - 1], values[middle])
        };
        Summary {
            median,
            low: values[0],
            high: values[values.len() - 1],
        }
    }
}

#[derive(Debug, PartialEq)]
struct Summary {
    median: f64,
    low: f64,
    high: f64,
}

impl Summary {
    fn cell(&self, digits: usize) -> String {
        if self.median.is_nan() {
            return "-".to_owned();
        }
        format!(
            "{:.digits$} ({:.digits$}–{:.digits$})",
            self.median, self.low, self.high
        )
    }
}

/// The table in Markdown. Ratios are to the first row, which is the raw network.
pub(super) fn render(rows: &[Row], rounds: usize, seconds: u64) -> String {
    let mut text = format!(
        "Medians of {rounds} interleaved rounds (lowest–highest), TCP streams of {seconds} s, one core per host.\n\n\
         | path | 1 stream, Gbit/s | of raw | 4 streams, Gbit/s | of raw | CPU-s per Gbit | round trip, µs |\n\
         |---|---|---|---|---|---|---|\n"
    );
    let raw = rows
        .first()
        .map(|row| (row.summary(|s| s.one_gbits), row.summary(|s| s.four_gbits)));
    for row in rows {
        let (one, four) = (row.summary(|s| s.one_gbits), row.summary(|s| s.four_gbits));
        let of = |value: &Summary, base: Option<&Summary>| {
            base.map_or(String::new(), |base| {
                format!("{:.2}", value.median / base.median)
            })
        };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} |",
            row.name,
            one.cell(2),
            of(&one, raw.as_ref().map(|raw| &raw.0)),
            four.cell(2),
            of(&four, raw.as_ref().map(|raw| &raw.1)),
            row.summary(|s| s.cpu_seconds_per_gbit).cell(3),
            row.summary(|s| s.trip_micros).cell(0),
        );
    }
    for kind in ["plain", "encrypted"] {
        let find = |who: &str| rows.iter().find(|row| row.name == format!("{who} {kind}"));
        if let (Some(ours), Some(theirs)) = (find("weft sleeve"), find("original")) {
            let ratio = |value: fn(&Sample) -> f64| {
                ours.summary(value).median / theirs.summary(value).median
            };
            let _ = write!(
                text,
                "\nWeft's sleeve to the original's, {kind}: {:.1} times the throughput with one stream, \
                 {:.1} with four, {:.2} of the CPU time, {:.2} of the round trip.\n",
                ratio(|s| s.one_gbits),
                ratio(|s| s.four_gbits),
                ratio(|s| s.cpu_seconds_per_gbit),
                ratio(|s| s.trip_micros),
            );
        }
    }
    text
}

/// The whole of `docs/performance.md`.
pub(super) fn document(table: &str) -> String {
    let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    let release = read("/proc/sys/kernel/osrelease");
    let kernel: Vec<&str> = release.trim().split(['.', '-']).take(2).collect();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!(
        "# Performance\n\n\
         Written by `cargo xtask race --write`. Machine: {cores} cores of {}, Linux {}.\n\n\
         Hosts are pairs of network namespaces joined by a veth with an MTU of 1500; containers are \
         further namespaces. Mode \"one core per host\": packets, daemons and programs of a host run on \
         one core. CPU time is that of all processes of both hosts, from a control group. Round trips are \
         those of 64 bytes over TCP, one after the other. Only ratios within one run mean something; \
         differences below 15 % do not.\n\n{table}",
        model.unwrap_or("an unnamed processor"),
        kernel.join("."),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_spread_are_those_of_the_rounds() {
        let mut row = Row::new("raw veth");
        for value in [3.0, 1.0, 2.0] {
            let trip_micros = value * 10.0;
            row.add(Sample {
                one_gbits: value,
                four_gbits: value,
                cpu_seconds_per_gbit: f64::NAN,
                trip_micros,
            });
        }
        assert_eq!(
            row.summary(|s| s.one_gbits),
            Summary {
                median: 2.0,
                low: 1.0,
                high: 3.0
            }
        );
        let text = render(&[row], 3, 4);
        assert!(
            text.contains("| raw veth | 2.00 (1.00–3.00) | 1.00 |"),
            "{text}"
        );
        assert!(text.contains("| - | 20 (10–30) |"), "{text}");
    }
}
