//! TCP connections the shell was asked for, and whom to ask for next.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use tracing::info;
use wire::LinkId;

use super::outputs::Outputs;
use crate::MeshOutput;
use crate::maker::{Attempt, Maker};

/// How long the shell may take over a dial. Longer than the shell's own patience, whose error says
/// more; this one is for a shell that never answers.
const DIAL_DEADLINE: Duration = Duration::from_secs(40);

/// The connection maker and what it has under way.
pub(super) struct Dials {
    pub(super) maker: Maker,
    /// Number of the next link we dial.
    next: u64,
    pending: BTreeMap<LinkId, Dial>,
    /// Whether the maker must look again.
    is_stale: bool,
}

/// A TCP connection the shell was asked for.
struct Dial {
    attempt: Attempt,
    /// When we no longer wait for an answer.
    deadline: Instant,
}

impl Dials {
    pub(super) fn new(maker: Maker) -> Self {
        Self {
            maker,
            next: 0,
            pending: BTreeMap::new(),
            is_stale: false,
        }
    }

    /// Something the maker decides by changed.
    pub(super) fn look_again(&mut self) {
        self.is_stale = true;
    }

    /// Whether the maker must look again since this was last asked.
    pub(super) fn take_stale(&mut self) -> bool {
        std::mem::take(&mut self.is_stale)
    }

    /// When the first dial is given up.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.pending.values().map(|dial| dial.deadline).min()
    }

    pub(super) fn len(&self) -> usize {
        self.pending.len()
    }

    /// Asks the shell for a connection.
    pub(super) fn start(&mut self, attempt: Attempt, now: Instant, outputs: &mut Outputs) {
        let link = LinkId::outbound(self.next);
        self.next += 1;
        let deadline = now + DIAL_DEADLINE;
        self.pending.insert(link, Dial { attempt, deadline });
        outputs.push(MeshOutput::Dial {
            link,
            remote: attempt.address,
        });
    }

    /// The shell answered: what was dialled, if anything.
    pub(super) fn take(&mut self, link: LinkId) -> Option<Attempt> {
        self.pending.remove(&link).map(|dial| dial.attempt)
    }

    /// A dial failed.
    pub(super) fn fail(&mut self, link: LinkId, error: &str, now: Instant, rng: &mut StdRng) {
        if let Some(attempt) = self.take(link) {
            self.note_failure(attempt.address, error, now, rng);
        }
    }

    /// An attempt came to nothing.
    pub(super) fn note_failure(
        &mut self,
        address: SocketAddr,
        error: &str,
        now: Instant,
        rng: &mut StdRng,
    ) {
        let conn = format!("->[{address}]");
        info!(%conn, error, "error during connection attempt");
        self.maker.attempt_failed(address, error, now, rng);
    }

    /// Gives up dials the shell never answered.
    pub(super) fn give_up(&mut self, now: Instant, rng: &mut StdRng, outputs: &mut Outputs) {
        let overdue = self.pending.iter().filter(|(_, dial)| dial.deadline <= now);
        let overdue: Vec<(LinkId, SocketAddr)> = overdue
            .map(|(id, dial)| (*id, dial.attempt.address))
            .collect();
        for (link, address) in overdue {
            let error = format!("dial tcp {address}: i/o timeout");
            self.fail(link, &error, now, rng);
            outputs.push(MeshOutput::Close { link });
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;
    use crate::testing::base;

    #[test]
    fn a_dial_the_shell_never_answers_is_given_up_and_its_link_closed() {
        let start = base();
        let mut rng = StdRng::from_seed([1; 32]);
        let mut outputs = Outputs::default();
        let mut dials = Dials::new(Maker::new(6783, true));
        for n in 1..=2 {
            let attempt = Attempt {
                address: SocketAddr::from(([10, 0, 0, n], 6783)),
                direct: true,
            };
            dials.start(attempt, start, &mut outputs);
        }
        assert!(dials.take(LinkId::outbound(0)).is_some());
        assert_eq!(dials.deadline(), Some(start + DIAL_DEADLINE));
        dials.give_up(start, &mut rng, &mut outputs);
        assert_eq!(dials.len(), 1);
        dials.give_up(start + DIAL_DEADLINE, &mut rng, &mut outputs);
        assert_eq!((dials.len(), dials.deadline()), (0, None));
        let closed = std::iter::from_fn(|| outputs.pop()).filter_map(|output| {
            let MeshOutput::Close { link } = output else {
                return None;
            };
            Some(link)
        });
        assert_eq!(closed.collect::<Vec<_>>(), [LinkId::outbound(1)]);
        assert!(
            dials.take(LinkId::outbound(1)).is_none(),
            "its answer comes too late"
        );
    }
}
