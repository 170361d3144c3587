//! What a soak has shown, in words and as pass or fail.

use std::fmt;
use std::time::Duration;

use super::agent::Counts;
use super::memory::{Trend, Vitals};
use super::schedule::Action;
use crate::stage::Outcome;

/// When all is well, this share of datagrams may be lost all the same: socket buffers of a busy
/// machine overflow.
const CALM_LOSS_MAX: f64 = 0.02;

/// Everything that was seen.
pub(super) struct Verdict {
    seed: u64,
    length: Duration,
    /// Weft and original peers.
    kinds: (usize, usize),
    restarts: usize,
    kills: usize,
    cuts: usize,
    pulled: usize,
    /// How long it took to be well, and how long it might have.
    well: Option<(Duration, Duration)>,
    /// Traffic of the whole time.
    pub(super) all: Counts,
    /// Traffic after the faults.
    pub(super) calm: Counts,
    /// Memory of each life that was long enough.
    pub(super) trends: Vec<(String, Trend)>,
    /// What each Weft used at rest, before and after.
    pub(super) rests: Vec<(String, Vitals, Vitals)>,
    problems: Vec<String>,
}

impl Verdict {
    pub(super) fn new(seed: u64, length: Duration, kinds: (usize, usize)) -> Self {
        Self {
            seed,
            length,
            kinds,
            restarts: 0,
            kills: 0,
            cuts: 0,
            pulled: 0,
            well: None,
            all: Counts::default(),
            calm: Counts::default(),
            trends: Vec::new(),
            rests: Vec::new(),
            problems: Vec::new(),
        }
    }

    pub(super) fn count(&mut self, action: Action) {
        match action {
            Action::Restart(_) => self.restarts += 1,
            Action::Kill(_) => self.kills += 1,
            Action::Cut(..) => self.cuts += 1,
            Action::Isolate(_) => self.pulled += 1,
            Action::Heal(..) | Action::Rejoin(_) => {}
        }
    }

    pub(super) fn problem(&mut self, problem: String) {
        println!("PROBLEM {problem}");
        self.problems.push(problem);
    }

    pub(super) fn well_after(&mut self, time: Duration, limit: Duration) {
        self.well = Some((time, limit));
    }

    /// Nothing may ever arrive altered, and when all is well everything has to arrive.
    pub(super) fn judge_traffic(&mut self) {
        if self.all.altered > 0 {
            self.problem(format!("{} arrived altered", self.all.altered));
        }
        let calm = self.calm;
        if calm.streams_failed > 0 || calm.streams_done == 0 || calm.loss() > CALM_LOSS_MAX {
            self.problem(format!("after the faults: {}", describe(&calm)));
        }
    }

    pub(super) fn is_good(&self) -> bool {
        self.problems.is_empty()
            && self.well.is_some()
            && self.trends.iter().all(|(_, trend)| trend.is_flat())
    }

    /// Puts the summary into the documentation.
    pub(super) fn write(&self) -> Outcome<()> {
        super::document::write("soak", &format!("```text\n{self}```\n"))
    }
}

/// Traffic in words.
pub(super) fn describe(counts: &Counts) -> String {
    format!(
        "{} datagrams, {:.2} % lost, {} repeated; {} streams ({} MB), {} failed; {} altered",
        counts.datagrams_sent,
        counts.loss() * 100.0,
        counts.datagrams_repeated,
        counts.streams_done,
        counts.stream_bytes / 1_000_000,
        counts.streams_failed,
        counts.altered
    )
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let minutes = self.length.as_secs() / 60;
        let (wefts, originals) = self.kinds;
        writeln!(
            f,
            "{minutes} minutes, {wefts} Weft and {originals} original peers, encrypted, seed {}",
            self.seed
        )?;
        writeln!(
            f,
            "faults: {} restarts, {} kills, {} pairs cut, {} cables pulled",
            self.restarts, self.kills, self.cuts, self.pulled
        )?;
        writeln!(f, "traffic: {}", describe(&self.all))?;
        match self.well {
            Some((time, limit)) => writeln!(
                f,
                "after the last fault all connections stood and all containers reached each other \
                 in {:.0} s; limit {} s",
                time.as_secs_f64(),
                limit.as_secs()
            )?,
            None => writeln!(f, "it never was well again")?,
        }
        writeln!(f, "traffic from then on: {}", describe(&self.calm))?;
        for (peer, trend) in &self.trends {
            writeln!(
                f,
                "memory of {peer} over {:.0} minutes: {:.1} MiB {:+.0} KiB, {}",
                trend.minutes,
                trend.first_kib / 1024.0,
                trend.growth_kib,
                if trend.is_flat() { "flat" } else { "GROWING" }
            )?;
        }
        for (peer, before, after) in &self.rests {
            let [descriptors, threads, links] = before.counts();
            let after = after.counts();
            writeln!(
                f,
                "{peer} at rest, before and after: descriptors {descriptors} and {}, threads \
                 {threads} and {}, interfaces {links} and {}",
                after[0], after[1], after[2]
            )?;
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

    fn good() -> Verdict {
        let mut verdict = Verdict::new(1, Duration::from_secs(1800), (3, 3));
        verdict.well_after(Duration::from_secs(9), Duration::from_secs(180));
        verdict.calm = Counts {
            datagrams_sent: 100,
            datagrams_received: 99,
            streams_done: 5,
            ..Counts::default()
        };
        verdict
    }

    #[test]
    fn a_sound_soak_passes() {
        let mut verdict = good();
        verdict.judge_traffic();
        assert!(verdict.is_good(), "{verdict}");
    }

    #[test]
    fn growth_loss_alteration_and_never_being_well_fail_it() {
        let mut growing = good();
        let trend = Trend {
            minutes: 20.0,
            first_kib: 9000.0,
            growth_kib: 2000.0,
        };
        growing.trends.push(("w1".to_owned(), trend));
        let mut lossy = good();
        lossy.calm.datagrams_received = 90;
        lossy.judge_traffic();
        let mut altered = good();
        altered.all.altered = 1;
        altered.judge_traffic();
        let mut never = good();
        never.well = None;
        for verdict in [growing, lossy, altered, never] {
            assert!(!verdict.is_good(), "{verdict}");
        }
    }
}
