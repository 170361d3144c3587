//! What the kernel says about this process, for metrics.

use report::metrics::Process;

/// Reads `/proc/self`; what cannot be read is zero.
pub fn read() -> Process {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let open_files = std::fs::read_dir("/proc/self/fd").map_or(0, |files| files.count() as u64);
    parse(&stat, &statm, open_files)
}

/// proc(5): fields 14 and 15 of stat are clock ticks, field 2 of statm is pages.
fn parse(stat: &str, statm: &str, open_files: u64) -> Process {
    let ticks_per_sec = rustix::param::clock_ticks_per_second() as f64;
    let page_bytes = rustix::param::page_size() as u64;
    let after_name = stat.rsplit(") ").next().unwrap_or_default();
    let fields: Vec<&str> = after_name.split(' ').collect();
    let number = |index: usize| fields.get(index).and_then(|f| f.parse::<u64>().ok());
    let ticks = number(11).unwrap_or(0) + number(12).unwrap_or(0);
    let pages = statm
        .split(' ')
        .nth(1)
        .and_then(|f| f.parse::<u64>().ok())
        .unwrap_or(0);
    Process {
        cpu_secs: ticks as f64 / ticks_per_sec,
        resident_bytes: pages * page_bytes,
        open_files,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_figures_come_from_proc() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 0 0 0 0 0 150 50 0 0 20 0 1 0 1 1 1";
        let process = parse(stat, "900 10 5 1 0 20 0", 3);
        assert_eq!(
            process.resident_bytes,
            10 * rustix::param::page_size() as u64
        );
        assert!((process.cpu_secs - 2.0).abs() < 1.9, "{}", process.cpu_secs);
        assert!(read().resident_bytes > 0);
    }
}
