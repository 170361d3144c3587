//! Which rate of datagrams to offer: too low shows nothing, too high shows only queues overflowing.

use super::measure::{Bench, Delivery, Flood};
use super::network::Lane;
use crate::stage::Outcome;

const FIRST_PER_SECOND: u64 = 20_000;

/// More than one core can send with a system call for each.
const LAST_PER_SECOND: u64 = 2_000_000;

/// Each trial takes this long.
const TRIAL_MILLIS: u64 = 700;

/// A path that loses more is saturated.
const SATURATED: f64 = 0.25;

/// A path that loses less carries the load.
const CARRIED: f64 = 0.01;

/// Rates to try, each half as much again as the one before.
fn ladder() -> impl Iterator<Item = u64> {
    std::iter::successors(Some(FIRST_PER_SECOND), |rate| Some(rate * 3 / 2))
        .take_while(|rate| *rate <= LAST_PER_SECOND)
}

fn trial(bench: &Bench<'_>, lane: &Lane, flood: Flood, per_second: u64) -> Outcome<Delivery> {
    let flood = Flood {
        per_second,
        millis: TRIAL_MILLIS,
        ..flood
    };
    bench.datagrams(lane, flood)
}

/// The highest rate that Weft carries if the original is saturated by it; otherwise the first that
/// saturates the original. Without an original, the highest that Weft carries.
pub(super) fn common(bench: &Bench<'_>, lanes: &[Lane], flood: Flood) -> Outcome<u64> {
    let find = |name: &str| lanes.iter().find(|lane| lane.name == name);
    let weft = find("weft sleeve encrypted").ok_or("weft is not in the race")?;
    let original = find("original encrypted");
    let mut climb = Climb::default();
    for rate in ladder() {
        let ours = trial(bench, weft, flood, rate)?;
        let theirs = original
            .map(|lane| trial(bench, lane, flood, rate))
            .transpose()?;
        if climb.step(rate, ours.lost, theirs.map(|delivery| delivery.lost)) {
            break;
        }
    }
    Ok(climb.best())
}

/// The state of the search for a common rate.
#[derive(Default)]
struct Climb {
    /// The highest rate carried by Weft.
    carried: Option<u64>,
    /// The first rate that saturated the original.
    saturating: Option<u64>,
    /// Rates in a row that Weft did not carry. One alone may be the machine's fault.
    failed: u32,
}

impl Climb {
    /// Takes the losses at a rate; whether enough is known.
    fn step(&mut self, rate: u64, ours: f64, theirs: Option<f64>) -> bool {
        if ours > CARRIED {
            self.failed += 1;
        } else {
            (self.carried, self.failed) = (Some(rate), 0);
        }
        match theirs {
            Some(lost) if lost > SATURATED => {
                self.saturating.get_or_insert(rate);
            }
            Some(_) | None => {}
        }
        self.failed >= 2 && (theirs.is_none() || self.saturating.is_some())
    }

    fn best(&self) -> u64 {
        let rates = [self.carried, self.saturating];
        rates
            .into_iter()
            .flatten()
            .max()
            .unwrap_or(FIRST_PER_SECOND)
    }
}

/// The offered rate at which most arrives, for one path.
pub(super) fn fastest(bench: &Bench<'_>, lane: &Lane, flood: Flood) -> Outcome<u64> {
    let mut peak = Peak::default();
    for rate in ladder() {
        let delivery = trial(bench, lane, flood, rate)?;
        if peak.step(rate, delivery.offered, delivery.delivered) {
            break;
        }
    }
    Ok(peak.rate)
}

/// The state of the search for the fastest rate.
#[derive(Default)]
struct Peak {
    rate: u64,
    delivered: f64,
    /// Rates in a row that brought nothing.
    worse: u32,
}

impl Peak {
    /// Takes a trial; whether going on is of no use.
    fn step(&mut self, rate: u64, offered: f64, delivered: f64) -> bool {
        if delivered > self.delivered * 1.03 {
            (self.rate, self.delivered, self.worse) = (rate, delivered, 0);
        } else {
            self.worse += 1;
        }
        let sender_is_the_limit = offered < rate as f64 * 0.8;
        self.worse == 3 || sender_is_the_limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_common_rate_is_the_highest_weft_carries_beyond_what_the_original_does() {
        let mut climb = Climb::default();
        assert!(!climb.step(100, 0.0, Some(0.0)));
        assert!(!climb.step(150, 0.2, Some(0.3)));
        assert!(!climb.step(225, 0.005, Some(0.6)));
        assert!(!climb.step(337, 0.2, Some(0.7)));
        assert!(climb.step(505, 0.2, Some(0.7)));
        assert_eq!(climb.best(), 225);
    }

    #[test]
    fn the_common_rate_saturates_the_original_even_if_weft_is_slower() {
        let mut climb = Climb::default();
        assert!(!climb.step(100, 0.05, Some(0.0)));
        assert!(!climb.step(150, 0.05, Some(0.0)));
        assert!(climb.step(225, 0.05, Some(0.3)));
        assert_eq!(climb.best(), 225);
    }

    #[test]
    fn without_the_original_the_common_rate_is_what_weft_carries() {
        let mut climb = Climb::default();
        assert!(!climb.step(100, 0.0, None));
        assert!(!climb.step(150, 0.2, None));
        assert!(climb.step(225, 0.2, None));
        assert_eq!(climb.best(), 100);
    }

    #[test]
    fn the_fastest_rate_is_found_beyond_a_dip() {
        let mut peak = Peak::default();
        assert!(!peak.step(100, 100.0, 100.0));
        assert!(!peak.step(150, 150.0, 90.0));
        assert!(!peak.step(225, 225.0, 200.0));
        assert!(!peak.step(337, 337.0, 190.0));
        assert!(!peak.step(505, 505.0, 150.0));
        assert!(peak.step(757, 757.0, 150.0));
        assert_eq!(peak.rate, 225);
    }

    #[test]
    fn a_sender_at_its_limit_ends_the_search() {
        let mut peak = Peak::default();
        assert!(peak.step(1000, 500.0, 400.0));
        assert_eq!(peak.rate, 1000);
    }
}
