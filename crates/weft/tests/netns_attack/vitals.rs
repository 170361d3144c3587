//! What a daemon uses, as its kernel counts it.

use std::fs;

/// Resources of a process at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Vitals {
    /// Resident memory, KiB.
    pub(crate) resident_kib: usize,
    /// Open descriptors.
    pub(crate) descriptors: usize,
    /// Threads.
    pub(crate) threads: usize,
    /// Processor time used so far, ticks of 10 ms.
    pub(crate) ticks: u64,
}

impl Vitals {
    /// Reads them.
    pub(crate) fn of(pid: i32) -> Self {
        let count = |what: &str| {
            fs::read_dir(format!("/proc/{pid}/{what}"))
                .expect("the process lives")
                .count()
        };
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process lives");
        let resident = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process lives");
        let after_name = stat.rsplit(") ").next().unwrap_or_default();
        let fields: Vec<&str> = after_name.split(' ').collect();
        // Fields 14 and 15 of the line, of which two are in front of the parenthesis.
        let ticks = [11, 12].map(|at| fields[at].parse::<u64>().expect("a number"));
        Self {
            resident_kib: resident.expect("the kernel tells"),
            descriptors: count("fd"),
            threads: count("task"),
            ticks: ticks.iter().sum(),
        }
    }

    /// Fails the test if much more is used now than at an earlier moment.
    pub(crate) fn assert_little_more(
        self,
        earlier: Self,
        most_kib: usize,
        most_descriptors: usize,
    ) {
        let told = format!("{earlier:?} became {self:?}");
        assert!(
            self.resident_kib <= earlier.resident_kib + most_kib,
            "{told}"
        );
        assert!(
            self.descriptors <= earlier.descriptors + most_descriptors,
            "{told}"
        );
        // The pool for blocking work may start some threads.
        assert!(self.threads <= earlier.threads + 8, "{told}");
    }
}

/// Whether a process may open as many descriptors as the system allows it to.
pub(crate) fn has_all_descriptors(pid: i32) -> bool {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("the process lives");
    let line = limits
        .lines()
        .find_map(|l| l.strip_prefix("Max open files"));
    let mut words = line.expect("the kernel tells").split_whitespace();
    words.next() == words.next()
}
