//! The closed list of control machines: one per kind of tunnel. Everything here only leads on to the
//! machine of the kind; the switch asks this and knows no kind.

use std::time::Instant;

use crate::kind::{Kind, Lane, LaneEvent, LaneProbe};
use crate::sleeve::Sleeve;
#[cfg(any(test, feature = "trial"))]
use crate::trial::Trial;
use crate::tunnel::{TunnelConfig, TunnelOutput, Unusable};

/// What a machine wants done or known, whichever its kind.
pub type MachineOutput = TunnelOutput<LaneProbe>;

/// The control machine of one tunnel.
#[derive(Debug)]
pub enum Machine {
    /// Of sleeve.
    Sleeve(Box<Sleeve>),
    /// Of the kind that only tests have.
    #[cfg(any(test, feature = "trial"))]
    Trial(Box<Trial>),
}

impl Machine {
    /// Prepares a tunnel; nothing is sent before [`Self::confirm`].
    pub fn prepare(kind: Kind, config: &TunnelConfig) -> Result<Self, Unusable> {
        match kind {
            #[cfg(any(test, feature = "trial"))]
            Kind::Trial => Ok(Self::Trial(Box::new(Trial::new(config.clone())?))),
            Kind::Wireguard | Kind::Fastdp => Err(Unusable::NotBuilt),
            Kind::Sleeve => Ok(Self::Sleeve(Box::new(Sleeve::new(config.clone())))),
        }
    }

    /// The connection is registered: it starts to work.
    pub fn confirm(&mut self, now: Instant) {
        match self {
            Self::Sleeve(sleeve) => sleeve.confirm(now),
            #[cfg(any(test, feature = "trial"))]
            Self::Trial(trial) => trial.confirm(now),
        }
    }

    /// A control message of the other end's machine.
    pub fn handle_control(&mut self, tag: u8, body: &[u8], now: Instant) {
        match self {
            Self::Sleeve(sleeve) => sleeve.handle_control(tag, body, now),
            #[cfg(any(test, feature = "trial"))]
            Self::Trial(trial) => trial.handle_control(tag, now),
        }
    }

    /// News of its lane from the data plane; that of another kind's lane is none of its business.
    pub fn handle_event(&mut self, event: LaneEvent, now: Instant) {
        match (self, event) {
            (Self::Sleeve(sleeve), LaneEvent::Sleeve(event)) => sleeve.handle_event(event, now),
            #[cfg(any(test, feature = "trial"))]
            (Self::Trial(trial), LaneEvent::Trial(event)) => trial.handle_event(event, now),
            #[cfg(any(test, feature = "trial"))]
            (Self::Sleeve(_), LaneEvent::Trial(_)) | (Self::Trial(_), LaneEvent::Sleeve(_)) => {}
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        match self {
            Self::Sleeve(sleeve) => sleeve.handle_timeout(now),
            #[cfg(any(test, feature = "trial"))]
            Self::Trial(trial) => trial.handle_timeout(now),
        }
    }

    /// When [`Self::handle_timeout`] wants to be called, and what for.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        match self {
            Self::Sleeve(sleeve) => sleeve.poll_timeout(),
            #[cfg(any(test, feature = "trial"))]
            Self::Trial(trial) => trial.poll_timeout(),
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<MachineOutput> {
        match self {
            Self::Sleeve(sleeve) => {
                let output = sleeve.poll_output()?;
                Some(output.map_probe(LaneProbe::Sleeve))
            }
            #[cfg(any(test, feature = "trial"))]
            Self::Trial(trial) => {
                let output = trial.poll_output()?;
                Some(output.map_probe(LaneProbe::Trial))
            }
        }
    }

    /// What the data plane needs to know.
    pub fn lane(&self) -> Lane {
        match self {
            Self::Sleeve(sleeve) => Lane::Sleeve(sleeve.lane()),
            #[cfg(any(test, feature = "trial"))]
            Self::Trial(trial) => Lane::Trial(trial.lane()),
        }
    }
}
