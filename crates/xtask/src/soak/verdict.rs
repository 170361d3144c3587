//! What a soak has shown, in words and as pass or fail.

use std::fmt;
use std::time::Duration;

use super::agent::Counts;
use super::memory::{Trend, Vitals};
use super::schedule::Action;
use crate::stage::Outcome;

/// When all is well, this share of datagrams between containers of Weft peers may be lost all the same:
/// large ones are refused until the sender knows the path, and buffers of a busy machine overflow.
const CALM_LOSS_MAX: f64 = 0.01;
/// And this of those from or to an original, which refuses more and reads by packet capture.
const CALM_ORIGINAL_LOSS_MAX: f64 = 0.05;

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
    /// Traffic after the faults, by peer; the Weft peers come first.
    pub(super) calm: Vec<Counts>,
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
            calm: Vec::new(),
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
        if self.all.altered() > 0 {
            self.problem(format!("{} arrived altered", self.all.altered()));
        }
        let calm = sum(&self.calm);
        if calm.streams_failed() > 0 || calm.streams_done() == 0 {
            self.problem(format!("after the faults: {}", describe(&calm)));
        }
        for (loss, most, whose) in [
            (self.calm_loss(true), CALM_LOSS_MAX, "between Weft peers"),
            (
                self.calm_loss(false),
                CALM_ORIGINAL_LOSS_MAX,
                "with originals",
            ),
        ] {
            if loss > most {
                self.problem(format!(
                    "{:.2} % lost {whose} after the faults",
                    loss * 100.0
                ));
            }
        }
    }

    /// The share of datagrams lost after the faults between containers of Weft peers, or of all others.
    fn calm_loss(&self, among_wefts: bool) -> f64 {
        let (mut sent, mut received) = (0, 0);
        for (from, source) in self.calm.iter().enumerate() {
            for (to, target) in self.calm.iter().enumerate() {
                if (from < self.kinds.0 && to < self.kinds.0) == among_wefts && from != to {
                    sent += source.sent_to(to);
                    received += target.received_from(from);
                }
            }
        }
        share_lost(sent, received)
    }

    pub(super) fn is_good(&self) -> bool {
        self.problems.is_empty()
            && self.well.is_some()
            && self.trends.iter().all(|(_, trend)| trend.is_flat())
    }

    /// Puts the summary into the documentation.
    pub(super) fn write(&self) -> Outcome<()> {
        crate::reliability::write("soak", &format!("```text\n{self}```\n"))
    }
}

/// All of them together.
pub(super) fn sum(counts: &[Counts]) -> Counts {
    let all = counts.iter();
    all.fold(Counts::default(), |sum, counts| sum.plus(counts))
}

/// Those under way when the counting began make it no smaller than 0.
fn share_lost(sent: u64, received: u64) -> f64 {
    (sent - received.min(sent)) as f64 / sent.max(1) as f64
}

/// Traffic in words.
pub(super) fn describe(counts: &Counts) -> String {
    format!(
        "{} datagrams, {:.2} % lost, {} repeated; {} streams ({} MB), {} failed; {} altered",
        counts.sent(),
        share_lost(counts.sent(), counts.received()) * 100.0,
        counts.repeated(),
        counts.streams_done(),
        counts.stream_bytes() / 1_000_000,
        counts.streams_failed(),
        counts.altered()
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
        writeln!(f, "traffic from then on: {}", describe(&sum(&self.calm)))?;
        write!(
            f,
            "lost of that between Weft peers: {:.2} %",
            self.calm_loss(true) * 100.0
        )?;
        if self.kinds.1 > 0 {
            write!(
                f,
                ", from or to originals: {:.2} %",
                self.calm_loss(false) * 100.0
            )?;
        }
        writeln!(f)?;
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
        // Two peers that send each other a thousand datagrams.
        verdict.kinds = (2, 0);
        verdict.calm = vec![exchange(1, 998), exchange(0, 1000)];
        verdict
    }

    fn exchange(other: usize, received: u64) -> Counts {
        Counts::example(other, 1000, received)
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
        lossy.calm[0] = exchange(1, 900);
        lossy.judge_traffic();
        let mut altered = good();
        altered.all = Counts::altered_example();
        altered.judge_traffic();
        let mut never = good();
        never.well = None;
        for verdict in [growing, lossy, altered, never] {
            assert!(!verdict.is_good(), "{verdict}");
        }
    }
}
