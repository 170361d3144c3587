//! What routers use, and whether it grows.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::stage::Outcome;

/// A life shorter than this, after its warm-up, tells nothing, seconds.
const LIFE_SECS_MIN: f64 = 180.0;
/// A young process takes what it needs, seconds.
const WARM_UP_SECS: f64 = 120.0;
/// A life that grows by no more than this is flat: one allocation pool of the system's, KiB.
const GROWTH_KIB_MAX: f64 = 1024.0;
/// Or by no more than this share of what it had.
const GROWTH_SHARE_MAX: f64 = 0.05;

/// What a process uses at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Vitals {
    pub(super) resident_kib: u64,
    pub(super) descriptors: usize,
    pub(super) threads: usize,
    /// Network interfaces in its namespace.
    pub(super) links: usize,
}

impl Vitals {
    pub(super) fn read(pid: u32, links: usize) -> Outcome<Self> {
        let directory = Path::new("/proc").join(pid.to_string());
        let error = |error: std::io::Error| format!("process {pid}: {error}");
        let status = fs::read_to_string(directory.join("status")).map_err(error)?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse().ok()
        };
        let descriptors = fs::read_dir(directory.join("fd")).map_err(error)?.count();
        Ok(Self {
            resident_kib: field("VmRSS:").ok_or("a process without memory")?,
            descriptors,
            threads: field("Threads:").unwrap_or(0) as usize,
            links,
        })
    }

    /// Whether this is at rest no more than before. Threads and descriptors of work that was under way
    /// when the first look was taken may be fewer.
    pub(super) const fn is_no_more_than(&self, before: &Self) -> bool {
        self.descriptors <= before.descriptors
            && self.threads <= before.threads
            && self.links == before.links
    }

    /// Descriptors, threads and links.
    pub(super) const fn counts(&self) -> [usize; 3] {
        [self.descriptors, self.threads, self.links]
    }
}

/// Resident memory of one process from its start to its end.
#[derive(Debug, Default, Clone)]
pub(super) struct Life {
    /// Age in seconds and resident memory in KiB.
    samples: Vec<(f64, f64)>,
}

/// What a life has shown.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Trend {
    /// Time looked at, minutes.
    pub(super) minutes: f64,
    /// Fitted memory after warm-up, KiB.
    pub(super) first_kib: f64,
    /// Fitted growth over that time, KiB.
    pub(super) growth_kib: f64,
}

impl Trend {
    pub(super) fn is_flat(&self) -> bool {
        self.growth_kib <= GROWTH_KIB_MAX.max(self.first_kib * GROWTH_SHARE_MAX)
    }
}

impl Life {
    /// A straight line through the samples after warm-up; `None` if there are too few.
    fn trend(&self) -> Option<Trend> {
        let born = self.samples.first()?.0;
        let grown: Vec<(f64, f64)> = self
            .samples
            .iter()
            .filter(|(at, _)| *at >= born + WARM_UP_SECS)
            .copied()
            .collect();
        let (first, last) = (grown.first()?.0, grown.last()?.0);
        if last - first < LIFE_SECS_MIN {
            return None;
        }
        let count = grown.len() as f64;
        let mean = |of: fn(&(f64, f64)) -> f64| grown.iter().map(of).sum::<f64>() / count;
        let (mean_at, mean_kib) = (mean(|s| s.0), mean(|s| s.1));
        let covariance: f64 = grown
            .iter()
            .map(|(at, kib)| (at - mean_at) * (kib - mean_kib))
            .sum();
        let variance: f64 = grown.iter().map(|(at, _)| (at - mean_at).powi(2)).sum();
        let slope = covariance / variance;
        Some(Trend {
            minutes: (last - first) / 60.0,
            first_kib: mean_kib + slope * (first - mean_at),
            growth_kib: slope * (last - first),
        })
    }
}

/// All lives of all peers.
#[derive(Debug, Default)]
pub(super) struct Register(BTreeMap<(String, u32), Life>);

impl Register {
    /// Notes the memory of a process of a peer.
    pub(super) fn add(&mut self, peer: &str, pid: u32, now_secs: f64, vitals: &Vitals) {
        let life = self.0.entry((peer.to_owned(), pid)).or_default();
        life.samples.push((now_secs, vitals.resident_kib as f64));
    }

    /// The trends of all lives that were long enough, with the peer's name.
    pub(super) fn trends(&self) -> Vec<(&str, Trend)> {
        let lives = self.0.iter();
        lives
            .filter_map(|((peer, _), life)| Some((peer.as_str(), life.trend()?)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(kib_per_minute: f64) -> Life {
        let sample = |step: u32| {
            let at = f64::from(step) * 10.0;
            let young = if at < WARM_UP_SECS { 5000.0 } else { 0.0 };
            (
                at,
                20_000.0 - young + kib_per_minute * at / 60.0 + f64::from(step % 3) * 40.0,
            )
        };
        Life {
            samples: (0..60).map(sample).collect(),
        }
    }

    #[test]
    fn growth_is_found_under_noise_and_warm_up_does_not_count() {
        let leaking = life(200.0).trend().expect("long enough");
        assert!(
            (1500.0..1700.0).contains(&leaking.growth_kib),
            "{leaking:?}"
        );
        assert!(!leaking.is_flat());
        let sound = life(0.0).trend().expect("long enough");
        assert!(
            sound.is_flat() && sound.growth_kib.abs() < 50.0,
            "{sound:?}"
        );
    }

    #[test]
    fn a_short_life_tells_nothing() {
        let mut short = life(0.0);
        short.samples.truncate(25);
        assert_eq!(short.trend(), None);
        assert_eq!(Life::default().trend(), None);
    }

    #[test]
    fn this_process_is_alive() {
        let vitals = Vitals::read(std::process::id(), 1).expect("we run");
        assert!(vitals.resident_kib > 500 && vitals.descriptors >= 3 && vitals.threads >= 1);
    }
}
