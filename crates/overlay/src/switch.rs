//! The overlay switch of one connection: which tunnel kinds both ends have, which of them carries
//! traffic, and why.
//!
//! Rules and messages: spec/fastdp.md 1. Negotiation, choice and reasons are the same for all kinds;
//! what a kind is and does is its [`Machine`]'s.

use std::collections::VecDeque;
use std::fmt;
use std::time::Instant;

use tracing::{info, warn};
use wire::message::OverlayControl;

use crate::kind::{Kind, Lane, LaneEvent, LaneProbe, Lanes};
use crate::machine::{Machine, MachineOutput};
use crate::tunnel::TunnelConfig;

/// Entries of a common list that an index byte can name.
const COMMON_LIST_MAX: usize = 256;

/// Why a connection has no tunnel (any more).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SwitchError {
    /// The lists of both ends are disjoint.
    #[error("no overlays in common with peer")]
    NothingInCommon,
    /// Every tunnel reported an error; the remote as `name(nick)`.
    #[error("no working forwarders to {0}")]
    NoWorkingForwarder(String),
    /// Compatibility mode: the error of the one tunnel itself.
    #[error("{0}")]
    OnlyTunnel(String),
}

/// What one tunnel of a connection says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Health {
    /// It has not reported an error.
    pub working: bool,
    /// It reports itself unhealthy for now.
    pub on_hold: bool,
    /// It once said that it works; never withdrawn.
    pub established: bool,
}

/// Our list filtered by what the remote announced, in our order, or an error if nothing is left.
pub fn common_kinds(ours: &[Kind], theirs: &[String]) -> Result<Vec<Kind>, SwitchError> {
    let shared = |kind: &Kind| theirs.iter().any(|name| name == kind.name());
    let common: Vec<_> = ours
        .iter()
        .copied()
        .filter(shared)
        .take(COMMON_LIST_MAX)
        .collect();
    if common.is_empty() {
        Err(SwitchError::NothingInCommon)
    } else {
        Ok(common)
    }
}

/// The index that carries traffic: the first established one that works, else the first that works.
pub fn choose(health: &[Health]) -> Option<usize> {
    let usable = |h: &Health| h.working && !h.on_hold;
    let established = health.iter().position(|h| usable(h) && h.established);
    established.or_else(|| health.iter().position(usable))
}

/// Why `choose` gave its answer. Shown as a stable word for people and scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// No tunnel can carry traffic.
    NoWorkingTunnel,
    /// No tunnel was heard to work; this one is tried.
    NotEstablished,
    /// The remote announced no list.
    Compatibility,
    /// Both ends have this kind alone in common.
    OnlyCommon,
    /// It is the first of the list.
    Preferred,
    /// The first of the list reported an error.
    Unusable(Kind),
    /// The first of the list cannot carry traffic for now.
    OnHold(Kind),
    /// The first of the list was not heard to work yet.
    Unestablished(Kind),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoWorkingTunnel => f.write_str("no-working-tunnel"),
            Self::NotEstablished => f.write_str("not-established"),
            Self::Compatibility => f.write_str("compatibility"),
            Self::OnlyCommon => f.write_str("only-common"),
            Self::Preferred => f.write_str("preferred"),
            Self::Unusable(kind) => write!(f, "{}-unusable", kind.name()),
            Self::OnHold(kind) => write!(f, "{}-on-hold", kind.name()),
            Self::Unestablished(kind) => write!(f, "{}-not-established", kind.name()),
        }
    }
}

/// Why `choose` gave this answer.
pub fn reason(kinds: &[Kind], health: &[Health], chosen: Option<usize>) -> Reason {
    let Some(chosen) = chosen else {
        return Reason::NoWorkingTunnel;
    };
    if !health[chosen].established {
        return Reason::NotEstablished;
    }
    match (kinds.len(), chosen) {
        (1, _) => Reason::OnlyCommon,
        (_, 0) => Reason::Preferred,
        _ => why_not(kinds[0], health[0]),
    }
}

/// Why the preferred kind does not carry traffic.
const fn why_not(kind: Kind, health: Health) -> Reason {
    match (health.working, health.on_hold) {
        (false, _) => Reason::Unusable(kind),
        (true, true) => Reason::OnHold(kind),
        (true, false) => Reason::Unestablished(kind),
    }
}

/// What a switch wants done or known, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SwitchOutput {
    /// Send on the link.
    Control(OverlayControl),
    /// Send this over the lane of its kind.
    Probe(LaneProbe),
    /// The first tunnel works; said once.
    Established,
    /// What is published about this connection changed.
    Changed,
    /// No tunnel is left; nothing follows.
    Failed(SwitchError),
}

/// One kind of the common list.
#[derive(Debug)]
struct Entry {
    kind: Kind,
    health: Health,
    /// `None`: could not be prepared. It keeps its index, and its messages are dropped.
    machine: Option<Machine>,
}

/// All tunnels of one connection and the choice among them.
#[derive(Debug)]
pub struct Switch {
    remote_label: String,
    /// The remote announced no list: one tunnel, no indices on the wire.
    compatibility: bool,
    entries: Vec<Entry>,
    best: Option<usize>,
    established: bool,
    failed: bool,
    outputs: VecDeque<SwitchOutput>,
}

impl Switch {
    /// Negotiates and prepares the tunnels of a connection. `theirs` is what the remote announced,
    /// `None` for compatibility mode.
    pub fn new(
        ours: &[Kind],
        theirs: Option<&[String]>,
        config: &TunnelConfig,
    ) -> Result<Self, SwitchError> {
        let kinds = match theirs {
            Some(theirs) => common_kinds(ours, theirs)?,
            None => vec![Kind::COMPATIBLE],
        };
        let mut switch = Self {
            remote_label: config.remote_label.clone(),
            compatibility: theirs.is_none(),
            entries: kinds
                .into_iter()
                .map(|kind| prepare(kind, config))
                .collect(),
            best: None,
            established: false,
            failed: false,
            outputs: VecDeque::new(),
        };
        switch.choose_again();
        Ok(switch)
    }

    /// The connection is registered: all usable tunnels start to work.
    pub fn confirm(&mut self, now: Instant) {
        self.each_machine(|machine| machine.confirm(now));
        if self.best.is_none() && !self.failed {
            self.choose_or_fail(None);
        }
    }

    /// A control message arrived on the link. Anything the peer should not have sent is ignored.
    pub fn handle_control(&mut self, control: &OverlayControl, now: Instant) {
        let peer = &self.remote_label;
        let index = match (self.compatibility, control.index) {
            (true, None) => 0,
            (false, Some(index)) => usize::from(index),
            (true, Some(_)) | (false, None) => {
                warn!(
                    peer,
                    tag = control.tag,
                    "ignoring overlay control of the other mode"
                );
                return;
            }
        };
        let Some(entry) = self.entries.get_mut(index) else {
            warn!(
                peer,
                index, "ignoring overlay control beyond the common list"
            );
            return;
        };
        if let Some(machine) = &mut entry.machine {
            machine.handle_control(control.tag, &control.body, now);
        }
        self.drain_machines();
    }

    /// News from the data plane about the lane of its kind.
    pub fn handle_event(&mut self, event: LaneEvent, now: Instant) {
        self.each_machine(|machine| machine.handle_event(event, now));
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.each_machine(|machine| machine.handle_timeout(now));
    }

    /// When [`Self::handle_timeout`] wants to be called, and what for.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        if self.failed {
            return None;
        }
        self.machines().filter_map(Machine::poll_timeout).min()
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<SwitchOutput> {
        self.outputs.pop_front()
    }

    /// The lanes of all tunnels, whether or not they work.
    pub fn lanes(&self) -> Lanes {
        self.machines().map(Machine::lane).collect()
    }

    /// The lane that carries traffic, or would if routes led here.
    pub fn carrier(&self) -> Option<Lane> {
        let machine = self.entries[self.best?].machine.as_ref();
        machine.map(Machine::lane)
    }

    /// The kind that carries traffic, or would if routes led here.
    pub fn best(&self) -> Option<Kind> {
        self.best.map(|best| self.entries[best].kind)
    }

    /// Why that kind was chosen.
    pub fn reason(&self) -> Reason {
        let reason = reason(&self.kinds(), &self.health(), self.best);
        if self.compatibility && reason == Reason::OnlyCommon {
            Reason::Compatibility
        } else {
            reason
        }
    }

    fn kinds(&self) -> Vec<Kind> {
        self.entries.iter().map(|entry| entry.kind).collect()
    }

    fn health(&self) -> Vec<Health> {
        self.entries.iter().map(|entry| entry.health).collect()
    }

    fn machines(&self) -> impl Iterator<Item = &Machine> {
        self.entries
            .iter()
            .filter_map(|entry| entry.machine.as_ref())
    }

    fn each_machine(&mut self, act: impl FnMut(&mut Machine)) {
        self.entries
            .iter_mut()
            .filter_map(|entry| entry.machine.as_mut())
            .for_each(act);
        self.drain_machines();
    }

    /// Turns what the machines say into outputs and, if their health changed, a new choice.
    fn drain_machines(&mut self) {
        for index in 0..self.entries.len() {
            while let Some(output) = self.entries[index].next_output() {
                self.follow(index, output);
            }
        }
    }

    fn follow(&mut self, index: usize, output: MachineOutput) {
        if self.failed {
            return;
        }
        match output {
            MachineOutput::Control { tag, body } => {
                let index = (!self.compatibility).then(|| {
                    u8::try_from(index).expect("the common list is cut at what a byte can name")
                });
                self.outputs
                    .push_back(SwitchOutput::Control(OverlayControl { index, tag, body }));
            }
            MachineOutput::Probe(probe) => self.outputs.push_back(SwitchOutput::Probe(probe)),
            MachineOutput::Changed => self.outputs.push_back(SwitchOutput::Changed),
            MachineOutput::Established => {
                self.entries[index].health.established = true;
                self.choose_again();
                if !self.established {
                    self.established = true;
                    self.outputs.push_back(SwitchOutput::Established);
                }
            }
            MachineOutput::OnHold => {
                self.entries[index].health.on_hold = true;
                self.choose_or_fail(None);
            }
            MachineOutput::Released => {
                self.entries[index].health.on_hold = false;
                self.choose_again();
            }
            MachineOutput::Failed(why) => {
                let entry = &mut self.entries[index];
                entry.health.working = false;
                let peer = &self.remote_label;
                warn!(
                    peer,
                    overlay = entry.kind.name(),
                    error = why,
                    "overlay failed"
                );
                self.choose_or_fail(Some(why));
            }
        }
    }

    fn choose_again(&mut self) {
        let best = choose(&self.health());
        if best == self.best {
            return;
        }
        self.best = best;
        if let Some(kind) = self.best() {
            let peer = &self.remote_label;
            info!(
                peer,
                overlay = kind.name(),
                reason = %self.reason(),
                "overlay switched"
            );
        }
        self.outputs.push_back(SwitchOutput::Changed);
    }

    /// Chooses after a tunnel was lost; `why` if it is lost for good.
    fn choose_or_fail(&mut self, why: Option<String>) {
        self.choose_again();
        if self.best.is_some() {
            return;
        }
        self.failed = true;
        let error = match why.filter(|_| self.compatibility) {
            Some(why) => SwitchError::OnlyTunnel(why),
            None => SwitchError::NoWorkingForwarder(self.remote_label.clone()),
        };
        self.outputs.push_back(SwitchOutput::Failed(error));
    }
}

impl Entry {
    fn next_output(&mut self) -> Option<MachineOutput> {
        self.machine.as_mut()?.poll_output()
    }
}

fn prepare(kind: Kind, config: &TunnelConfig) -> Entry {
    let machine = Machine::prepare(kind, config);
    let machine = machine.inspect_err(|error| {
        let peer = &config.remote_label;
        let overlay = kind.name();
        warn!(peer, overlay, %error, "unable to use overlay for connection");
    });
    Entry {
        kind,
        health: Health {
            working: machine.is_ok(),
            ..Health::default()
        },
        machine: machine.ok(),
    }
}

#[cfg(test)]
mod tests;
