//! The overlay switch of one connection: which tunnel kinds both ends have, which of them carries
//! traffic, and why.
//!
//! Rules and messages: spec/fastdp.md 1. A kind plugs in as a variant of [`Kind`] and of
//! `Machine`; negotiation, choice and reasons already cover all kinds.

use std::collections::VecDeque;
use std::time::Instant;

use tracing::{info, warn};
use wire::message::OverlayControl;

use crate::kind::{Kind, LaneEvent, LaneProbe};
use crate::sleeve::{Sleeve, SleeveConfig, SleeveOutput};

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

/// Why `choose` gave this answer: a stable word for people and scripts.
pub fn reason(kinds: &[Kind], health: &[Health], chosen: Option<usize>) -> &'static str {
    let Some(chosen) = chosen else {
        return "no-working-tunnel";
    };
    if !health[chosen].established {
        return "not-established";
    }
    match (kinds.len(), chosen) {
        (1, _) => "only-common",
        (_, 0) => "preferred",
        _ => why_not(kinds[0], health[0]),
    }
}

/// Why the preferred kind does not carry traffic.
fn why_not(kind: Kind, health: Health) -> &'static str {
    match (kind, health.working, health.on_hold) {
        (Kind::Wireguard, false, _) => "wireguard-unusable",
        (Kind::Wireguard, true, true) => "wireguard-on-hold",
        (Kind::Wireguard, true, false) => "wireguard-not-established",
        (Kind::Fastdp, false, _) => "fastdp-unusable",
        (Kind::Fastdp, true, true) => "fastdp-on-hold",
        (Kind::Fastdp, true, false) => "fastdp-not-established",
        (Kind::Sleeve, false, _) => "sleeve-unusable",
        (Kind::Sleeve, true, true) => "sleeve-on-hold",
        (Kind::Sleeve, true, false) => "sleeve-not-established",
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

/// The state machine of one tunnel.
#[derive(Debug)]
enum Machine {
    Sleeve(Box<Sleeve>),
    /// Keeps its index; its messages are dropped.
    Unusable,
}

#[derive(Debug)]
struct Entry {
    kind: Kind,
    health: Health,
    machine: Machine,
}

/// All tunnels of one connection and the choice among them.
#[derive(Debug)]
pub struct Switch {
    remote_label: String,
    /// The remote announced no list: one sleeve, no indices on the wire.
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
        config: &SleeveConfig,
    ) -> Result<Self, SwitchError> {
        let kinds = match theirs {
            Some(theirs) => common_kinds(ours, theirs)?,
            None => vec![Kind::Sleeve],
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
        self.each_sleeve(|sleeve| sleeve.confirm(now));
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
        match &mut entry.machine {
            Machine::Sleeve(sleeve) => sleeve.handle_control(control.tag, &control.body, now),
            Machine::Unusable => {}
        }
        self.drain_machines();
    }

    /// News from the data plane about the lane of its kind.
    pub fn handle_event(&mut self, event: LaneEvent, now: Instant) {
        match event {
            LaneEvent::Sleeve(event) => self.each_sleeve(|sleeve| sleeve.handle_event(event, now)),
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.each_sleeve(|sleeve| sleeve.handle_timeout(now));
    }

    /// When [`Self::handle_timeout`] wants to be called, and what for.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        if self.failed {
            return None;
        }
        let timeouts = self
            .entries
            .iter()
            .filter_map(|entry| match &entry.machine {
                Machine::Sleeve(sleeve) => sleeve.poll_timeout(),
                Machine::Unusable => None,
            });
        timeouts.min()
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<SwitchOutput> {
        self.outputs.pop_front()
    }

    /// The sleeve tunnel, if the connection has one.
    pub fn sleeve(&self) -> Option<&Sleeve> {
        self.entries.iter().find_map(|entry| match &entry.machine {
            Machine::Sleeve(sleeve) => Some(&**sleeve),
            Machine::Unusable => None,
        })
    }

    /// The kind that carries traffic, or would if routes led here.
    pub fn best(&self) -> Option<Kind> {
        self.best.map(|best| self.entries[best].kind)
    }

    /// Why that kind was chosen.
    pub fn reason(&self) -> &'static str {
        let health = self.health();
        match reason(&self.kinds(), &health, self.best) {
            "only-common" if self.compatibility => "compatibility",
            word => word,
        }
    }

    fn kinds(&self) -> Vec<Kind> {
        self.entries.iter().map(|entry| entry.kind).collect()
    }

    fn health(&self) -> Vec<Health> {
        self.entries.iter().map(|entry| entry.health).collect()
    }

    fn each_sleeve(&mut self, mut act: impl FnMut(&mut Sleeve)) {
        for entry in &mut self.entries {
            if let Machine::Sleeve(sleeve) = &mut entry.machine {
                act(sleeve);
            }
        }
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

    fn follow(&mut self, index: usize, output: SleeveOutput) {
        if self.failed {
            return;
        }
        match output {
            SleeveOutput::Control { tag, body } => {
                let index = (!self.compatibility).then(|| {
                    u8::try_from(index).expect("the common list is cut at what a byte can name")
                });
                self.outputs
                    .push_back(SwitchOutput::Control(OverlayControl { index, tag, body }));
            }
            SleeveOutput::Probe(probe) => {
                let probe = LaneProbe::Sleeve(probe);
                self.outputs.push_back(SwitchOutput::Probe(probe));
            }
            SleeveOutput::Changed => self.outputs.push_back(SwitchOutput::Changed),
            SleeveOutput::Established => {
                self.entries[index].health.established = true;
                self.choose_again();
                if !self.established {
                    self.established = true;
                    self.outputs.push_back(SwitchOutput::Established);
                }
            }
            SleeveOutput::Failed(error) => {
                let entry = &mut self.entries[index];
                entry.health.working = false;
                let peer = &self.remote_label;
                warn!(peer, overlay = entry.kind.name(), %error, "overlay failed");
                self.choose_again();
                if self.best.is_none() {
                    self.failed = true;
                    let error = if self.compatibility {
                        SwitchError::OnlyTunnel(error.to_string())
                    } else {
                        SwitchError::NoWorkingForwarder(self.remote_label.clone())
                    };
                    self.outputs.push_back(SwitchOutput::Failed(error));
                }
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
                reason = self.reason(),
                "overlay switched"
            );
        }
        self.outputs.push_back(SwitchOutput::Changed);
    }
}

impl Entry {
    fn next_output(&mut self) -> Option<SleeveOutput> {
        match &mut self.machine {
            Machine::Sleeve(sleeve) => sleeve.poll_output(),
            Machine::Unusable => None,
        }
    }
}

fn prepare(kind: Kind, config: &SleeveConfig) -> Entry {
    match kind {
        Kind::Sleeve => Entry {
            kind,
            health: Health {
                working: true,
                ..Health::default()
            },
            machine: Machine::Sleeve(Box::new(Sleeve::new(config.clone()))),
        },
        Kind::Wireguard | Kind::Fastdp => {
            let peer = &config.remote_label;
            warn!(
                peer,
                overlay = kind.name(),
                "unable to use overlay for connection"
            );
            Entry {
                kind,
                health: Health::default(),
                machine: Machine::Unusable,
            }
        }
    }
}

#[cfg(test)]
mod tests;
