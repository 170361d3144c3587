//! What is done to the network when; follows from the length of the soak and the seed.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use crate::chance::Chance;

/// Before it nothing is done to the network.
pub(super) const WARM_UP: Duration = Duration::from_secs(60);
/// Every peer is restarted once in so much time.
const CYCLE: Duration = Duration::from_secs(600);
/// Between the beginnings of two cuts, at least and at most, seconds.
const CUT_EVERY_SECS: (u64, u64) = (10, 25);
/// How long a cut lasts, at least and at most, seconds: peers notice after up to 60.
const CUT_SECS: (u64, u64) = (5, 100);
/// How many pairs are cut at a time, at most.
const CUTS_MAX: usize = 3;

/// Something done to the network; peers are numbers from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Stopped and launched.
    Restart(usize),
    /// Ended the hard way.
    Kill(usize),
    /// What two hosts send each other is dropped.
    Cut(usize, usize),
    Heal(usize, usize),
    /// The cable of a host is pulled.
    Isolate(usize),
    Rejoin(usize),
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Restart(peer) => write!(f, "restart {}", peer + 1),
            Self::Kill(peer) => write!(f, "kill {}", peer + 1),
            Self::Cut(a, b) => write!(f, "cut {}-{}", a + 1, b + 1),
            Self::Heal(a, b) => write!(f, "heal {}-{}", a + 1, b + 1),
            Self::Isolate(peer) => write!(f, "pull the cable of {}", peer + 1),
            Self::Rejoin(peer) => write!(f, "plug the cable of {}", peer + 1),
        }
    }
}

/// How long nothing is done at the end of a soak of that length.
pub(super) fn quiet(length: Duration) -> Duration {
    (length / 6).clamp(Duration::from_secs(60), Duration::from_secs(240))
}

/// Everything that is done, in order. The first peer is restarted in the first cycle only, so that
/// there is one long life to measure.
pub(super) fn schedule(
    length: Duration,
    peers: usize,
    chance: &mut Chance,
) -> Vec<(Duration, Action)> {
    let end = length.saturating_sub(quiet(length)).max(WARM_UP);
    let mut actions = restarts(end, peers, chance);
    actions.extend(cuts(end, peers, chance));
    actions.sort_by_key(|(at, _)| *at);
    actions
}

fn restarts(end: Duration, peers: usize, chance: &mut Chance) -> Vec<(Duration, Action)> {
    let active = end - WARM_UP;
    let cycles = (active.as_secs_f64() / CYCLE.as_secs_f64())
        .round()
        .max(1.0) as u32;
    let mut actions = Vec::new();
    for cycle in 0..cycles {
        let mut order: Vec<usize> = (0..peers).filter(|peer| cycle == 0 || *peer > 0).collect();
        chance.shuffle(&mut order);
        if cycle == 0 {
            // The long life begins early.
            order.retain(|peer| *peer > 0);
            order.insert(0, 0);
        }
        let begin = WARM_UP + active / cycles * cycle;
        let step = active / cycles / order.len() as u32;
        for (place, peer) in order.into_iter().enumerate() {
            // Every peer gets both kinds in turn.
            let action = match (peer + cycle as usize) % 2 {
                0 => Action::Kill(peer),
                _ => Action::Restart(peer),
            };
            actions.push((begin + step * place as u32 + step / 3, action));
        }
    }
    actions
}

fn cuts(end: Duration, peers: usize, chance: &mut Chance) -> Vec<(Duration, Action)> {
    let mut actions = Vec::new();
    let mut standing: Vec<(u64, Action)> = Vec::new();
    let mut now = WARM_UP.as_secs();
    while now < end.as_secs() {
        standing.retain(|(until, _)| *until > now);
        let last = end.as_secs() - now;
        let (least, most) = CUT_SECS;
        let until = now + (least + chance.below(most - least)).min(last);
        let fault = if chance.below(8) == 0 {
            Action::Isolate(chance.index(peers))
        } else {
            let first = chance.index(peers);
            let second = (first + 1 + chance.index(peers - 1)) % peers;
            Action::Cut(first.min(second), first.max(second))
        };
        let busy: BTreeSet<String> = standing.iter().map(|(_, f)| f.to_string()).collect();
        if standing.len() < CUTS_MAX && !busy.contains(&fault.to_string()) {
            actions.push((Duration::from_secs(now), fault));
            actions.push((Duration::from_secs(until), undone(fault)));
            standing.push((until, fault));
        }
        let (least, most) = CUT_EVERY_SECS;
        now += least + chance.below(most - least);
    }
    actions
}

fn undone(fault: Action) -> Action {
    match fault {
        Action::Cut(a, b) => Action::Heal(a, b),
        Action::Isolate(peer) => Action::Rejoin(peer),
        other @ (Action::Restart(_) | Action::Kill(_) | Action::Heal(..) | Action::Rejoin(_)) => {
            other
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_peer_is_restarted_in_every_cycle_and_all_cuts_are_healed_before_the_quiet() {
        for seed in 0..50 {
            let length = Duration::from_secs(1800);
            let actions = schedule(length, 6, &mut Chance::new(seed));
            let end = length - quiet(length);
            let mut open = BTreeSet::new();
            let mut restarts = [0; 6];
            for (at, action) in &actions {
                assert!((WARM_UP..=end).contains(at), "{at:?} {action}");
                match action {
                    Action::Restart(peer) | Action::Kill(peer) => restarts[*peer] += 1,
                    Action::Cut(a, b) => assert!(open.insert((*a, *b)), "cut twice"),
                    Action::Heal(a, b) => assert!(open.remove(&(*a, *b)), "healed uncut"),
                    Action::Isolate(peer) => assert!(open.insert((*peer, *peer))),
                    Action::Rejoin(peer) => assert!(open.remove(&(*peer, *peer))),
                }
            }
            assert!(open.is_empty(), "{open:?}");
            assert_eq!(restarts, [1, 3, 3, 3, 3, 3], "seed {seed}");
            assert!(actions.len() > 60, "{}", actions.len());
        }
    }

    #[test]
    fn a_short_soak_has_faults_too() {
        let actions = schedule(Duration::from_secs(180), 6, &mut Chance::new(1));
        assert!(actions.len() >= 8, "{actions:?}");
    }
}
