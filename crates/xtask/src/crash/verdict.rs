//! What a crash loop has shown, in words and as pass or fail.

use std::fmt::{self, Write as _};
use std::time::Duration;

use super::faults::Recovery;
use super::probe::Heard;
use crate::stage::Outcome;

/// Containers of different hosts have to talk again so soon after the start of the daemon, seconds.
const BACK_WITHIN_SECS: f64 = 5.0;

/// Everything that was seen.
pub(super) struct Verdict {
    seed: u64,
    pub(super) kills: usize,
    /// How often each kind of fault was made.
    kinds: Vec<(&'static str, usize)>,
    /// From the start of a daemon to the first packet across, seconds.
    back_secs: Vec<f64>,
    /// From its end to the first packet across, seconds.
    outage_secs: Vec<f64>,
    problems: Vec<String>,
    pub(super) same_host: Vec<(String, Heard)>,
    pub(super) cross: Vec<(String, Heard)>,
    pub(super) left_over: Vec<String>,
    pub(super) took: Duration,
}

impl Verdict {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            seed,
            kills: 0,
            kinds: Vec::new(),
            back_secs: Vec::new(),
            outage_secs: Vec::new(),
            problems: Vec::new(),
            same_host: Vec::new(),
            cross: Vec::new(),
            left_over: Vec::new(),
            took: Duration::ZERO,
        }
    }

    pub(super) fn add(&mut self, recovery: &Recovery) {
        match self
            .kinds
            .iter_mut()
            .find(|(kind, _)| *kind == recovery.kind)
        {
            Some((_, count)) => *count += 1,
            None => self.kinds.push((recovery.kind, 1)),
        }
        self.back_secs.push(recovery.back_secs);
        self.outage_secs.push(recovery.outage_secs);
        if recovery.back_secs > BACK_WITHIN_SECS {
            self.problems.push(format!("too late: {recovery}"));
        }
        self.problems.extend(recovery.problems.iter().cloned());
    }

    pub(super) fn is_good(&self) -> bool {
        let lossless = |(_, heard): &(String, Heard)| {
            heard.lost_secs.is_empty() && heard.sent == Some(heard.answered)
        };
        self.problems.is_empty()
            && self.left_over.is_empty()
            && self.same_host.iter().all(lossless)
            && !self.back_secs.is_empty()
    }

    /// Puts the summary into the documentation.
    pub(super) fn write(&self) -> Outcome<()> {
        crate::reliability::write("crash", &format!("```text\n{self}```\n"))
    }
}

/// Median and maximum.
fn middle_and_most(values: &[f64]) -> (f64, f64) {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let middle = sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN);
    (middle, sorted.last().copied().unwrap_or(f64::NAN))
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let minutes = self.took.as_secs_f64() / 60.0;
        writeln!(
            f,
            "{} kills in {minutes:.1} minutes, seed {}",
            self.kills, self.seed
        )?;
        let mut kinds = String::new();
        for (kind, count) in &self.kinds {
            let comma = if kinds.is_empty() { "" } else { ", " };
            write!(kinds, "{comma}{count} {kind}")?;
        }
        writeln!(f, "faults: {kinds}")?;
        for (name, heard) in &self.same_host {
            writeln!(
                f,
                "same host, {name}: {} datagrams and answers, {} lost, longest gap {:.2} s",
                heard.sent.unwrap_or(0),
                heard.sent.unwrap_or(0).saturating_sub(heard.answered),
                heard.longest_gap_secs
            )?;
        }
        let (middle, most) = middle_and_most(&self.back_secs);
        writeln!(
            f,
            "between hosts: first packet {middle:.2} s (median), {most:.2} s (longest) after the \
             daemon's start; limit {BACK_WITHIN_SECS:.0} s"
        )?;
        let (middle, most) = middle_and_most(&self.outage_secs);
        writeln!(
            f,
            "between hosts: interrupted for {middle:.2} s (median), {most:.2} s (longest)"
        )?;
        match self.left_over.as_slice() {
            [] => writeln!(f, "left over after reset: nothing")?,
            things => writeln!(f, "left over after reset:\n  {}", things.join("\n  "))?,
        }
        for problem in &self.problems {
            writeln!(f, "PROBLEM {problem}")?;
        }
        writeln!(f, "{}", if self.is_good() { "passed" } else { "FAILED" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_return_and_a_leftover_fail_the_loop() {
        let recovery = |back_secs| Recovery {
            kind: "killed",
            what: "a killed".to_owned(),
            back_secs,
            outage_secs: back_secs + 0.2,
            problems: Vec::new(),
        };
        let mut verdict = Verdict::new(1);
        verdict.add(&recovery(1.0));
        assert!(verdict.is_good(), "{verdict}");
        verdict.left_over.push("a: ip weave".to_owned());
        assert!(!verdict.is_good());
        verdict.left_over.clear();
        verdict.add(&recovery(5.1));
        assert!(!verdict.is_good());
        assert!(verdict.to_string().contains("2 killed"));
    }

    #[test]
    fn the_median_of_nothing_is_no_number() {
        assert!(middle_and_most(&[]).0.is_nan());
        assert_eq!(middle_and_most(&[3.0, 1.0, 2.0]), (2.0, 3.0));
    }
}
