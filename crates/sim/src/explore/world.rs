//! One state of a cluster: its peers, what is in flight between them, and what may still go wrong.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::fmt::{self, Write};
use std::hash::{Hash, Hasher};
use std::rc::Rc;
use std::time::Duration;

use ipam::{Answer, Outcome};
use wire::message::Delivery;

use super::peer::{Peer, Sent};
use super::scene::{PEERS, Scene, Wish, name};

/// How a message travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Periodic gossip; a newer one may take its place.
    Neighbour,
    /// Broadcast gossip; a newer one may take its place.
    Broadcast,
    /// To one peer.
    Unicast,
    /// What only Wefts say, to one or to all.
    Weft,
}

/// A message in flight.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Message {
    /// Whose.
    pub from: usize,
    /// To whom.
    pub to: usize,
    /// How it travels.
    pub kind: Kind,
    /// What it says.
    pub payload: Vec<u8>,
}

impl Message {
    /// How the receiver is told that it comes.
    pub fn delivery(&self) -> Option<Delivery> {
        let from = name(self.from);
        match self.kind {
            Kind::Neighbour => Some(Delivery::Neighbour(from)),
            Kind::Broadcast => Some(Delivery::Broadcast(from)),
            Kind::Unicast => Some(Delivery::Unicast(from)),
            Kind::Weft => None,
        }
    }
}

/// What became of a wish.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Fate {
    /// Nobody asked yet.
    Open,
    /// It was asked and not answered.
    Waits,
    /// It was answered.
    Answered(String),
    /// It was granted: an address, or nothing to say.
    Granted(Option<ipam::address::Cidr>),
    /// The peer died before it answered.
    Lost,
}

/// Something that can happen.
#[derive(Debug, Clone)]
pub enum Action {
    /// A message arrives.
    Deliver(Rc<Message>),
    /// A message arrives and will arrive again.
    Duplicate(Rc<Message>),
    /// Somebody asks for the wish with this number.
    Ask(usize),
    /// The next timer of a peer fires, or only its periodic gossip is due.
    Timer(usize),
    /// A peer dies and goes on from its rows.
    Crash(usize),
    /// Two peers lose sight of each other.
    Cut(usize, usize),
    /// They see each other again.
    Join(usize, usize),
}

/// One state.
#[derive(Debug, Clone)]
pub struct World {
    /// Everybody.
    pub peers: [Rc<Peer>; PEERS],
    /// In flight, oldest first. The order does not bind.
    pub queue: Vec<Rc<Message>>,
    /// By wish.
    pub fates: Vec<Fate>,
    /// Who is out of sight of whom.
    pub cut: Option<(usize, usize)>,
    crashes: u8,
    duplicates: u8,
    cuts: u8,
}

impl World {
    /// The beginning of a scene.
    pub fn new(scene: &Scene) -> Result<Self, String> {
        let everybody = (0..PEERS).collect::<Vec<_>>();
        let mut sent = Vec::new();
        let mut start = |peer: usize| {
            let peer = Peer::start(
                scene,
                peer,
                BTreeMap::new(),
                0,
                Duration::ZERO,
                &everybody,
                &mut sent,
            )?;
            Ok::<_, String>(Rc::new(peer))
        };
        let peers = [start(0)?, start(1)?, start(2)?];
        let mut world = Self {
            peers,
            queue: Vec::new(),
            fates: vec![Fate::Open; scene.wishes.len()],
            cut: None,
            crashes: scene.crashes,
            duplicates: scene.duplicates,
            cuts: scene.cuts,
        };
        world.send_all(scene, sent)?;
        if scene.is_settled {
            super::heal::calm(&mut world, scene)?;
            for peer in &mut world.peers {
                Rc::make_mut(peer).timers = scene.timers;
            }
        }
        Ok(world)
    }

    /// Everything that can happen next.
    pub fn actions(&self, scene: &Scene) -> Vec<Action> {
        let mut actions = Vec::new();
        for message in &self.queue {
            if self.sees(message.from, message.to) {
                actions.push(Action::Deliver(Rc::clone(message)));
                if self.duplicates > 0 {
                    actions.push(Action::Duplicate(Rc::clone(message)));
                }
            }
        }
        let asks = (0..scene.wishes.len()).filter(|&wish| self.can_ask(scene, wish));
        actions.extend(asks.map(Action::Ask));
        let timers =
            (0..PEERS).filter(|&peer| self.peers[peer].timers > 0 && !self.peers[peer].is_gone());
        actions.extend(timers.map(Action::Timer));
        if self.crashes > 0 {
            let alive = (0..PEERS).filter(|&peer| !self.peers[peer].is_gone());
            actions.extend(alive.map(Action::Crash));
        }
        match self.cut {
            Some((a, b)) => actions.push(Action::Join(a, b)),
            None if self.cuts > 0 => {
                actions.extend([(0, 1), (0, 2), (1, 2)].map(|(a, b)| Action::Cut(a, b)));
            }
            None => {}
        }
        actions
    }

    /// Whether a wish may be asked now.
    pub fn can_ask(&self, scene: &Scene, wish: usize) -> bool {
        if self.fates[wish] != Fate::Open {
            return false;
        }
        match scene.wishes[wish] {
            Wish::Allocate { peer }
            | Wish::Claim { peer, .. }
            | Wish::Leave { peer }
            | Wish::Perish { peer } => !self.peers[peer].is_gone(),
            Wish::Free { wish } => {
                let peer = scene.wishes[wish].peer(scene);
                matches!(self.fates[wish], Fate::Granted(_)) && !self.peers[peer].is_gone()
            }
            Wish::TakeOver { peer, of } => !self.peers[peer].is_gone() && self.peers[of].is_gone(),
        }
    }

    /// The state after something happened.
    pub fn step(&self, scene: &Scene, action: &Action, choice: u8) -> Result<Self, String> {
        let mut next = self.clone();
        next.act(scene, action, choice)?;
        Ok(next)
    }

    /// Lets something happen.
    pub fn act(&mut self, scene: &Scene, action: &Action, choice: u8) -> Result<(), String> {
        match action {
            Action::Deliver(message) => {
                self.queue.retain(|queued| !Rc::ptr_eq(queued, message));
                self.with(scene, message.to, choice, |peer, sent| {
                    peer.hear(message, sent)
                })
            }
            Action::Duplicate(message) => {
                self.duplicates = self.duplicates.saturating_sub(1);
                self.with(scene, message.to, choice, |peer, sent| {
                    peer.hear(message, sent)
                })
            }
            Action::Ask(wish) => self.ask(scene, *wish, choice),
            Action::Timer(peer) => self.with(scene, *peer, choice, Peer::timer),
            Action::Crash(peer) => {
                self.crashes = self.crashes.saturating_sub(1);
                self.restart(scene, *peer)
            }
            Action::Cut(a, b) => {
                self.cuts = self.cuts.saturating_sub(1);
                self.cut = Some((*a, *b));
                self.tell_sight(scene, choice, *a, *b)
            }
            Action::Join(a, b) => {
                self.cut = None;
                self.tell_sight(scene, choice, *a, *b)?;
                self.meet(scene, *a, *b)
            }
        }
    }

    /// Whether two peers that are up reach each other.
    pub fn sees(&self, a: usize, b: usize) -> bool {
        let is_cut = self.cut == Some((a, b)) || self.cut == Some((b, a));
        !is_cut && !self.peers[b].is_gone()
    }

    /// Whom a peer reaches, itself included.
    pub fn sight(&self, peer: usize) -> Vec<usize> {
        (0..PEERS).filter(|&other| self.sees(peer, other)).collect()
    }

    /// Whether a peer was asked to hand everything over and go.
    pub fn has_left(&self, scene: &Scene, at: usize) -> bool {
        let mut wishes = scene.wishes.iter().zip(&self.fates);
        wishes.any(|(wish, fate)| {
            matches!(*wish, Wish::Leave { peer } if peer == at) && *fate != Fate::Open
        })
    }

    /// What is the same for states that cannot be told apart by what happens next.
    pub fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for peer in &self.peers {
            peer.digest().hash(&mut hasher);
        }
        let mut flying: Vec<u64> = self
            .queue
            .iter()
            .map(|message| hash_of(&**message))
            .collect();
        flying.sort_unstable();
        flying.hash(&mut hasher);
        (
            &self.fates,
            self.cut,
            self.crashes,
            self.duplicates,
            self.cuts,
        )
            .hash(&mut hasher);
        hasher.finish()
    }

    /// For people.
    pub fn describe(&self, action: &Action) -> String {
        let message = |message: &Message| {
            let Message {
                from,
                to,
                kind,
                payload,
            } = message;
            let first = payload.first().filter(|_| *kind == Kind::Unicast);
            let what = match first {
                Some(0) => "space request",
                Some(1) => "ring",
                Some(2) => "denial",
                _ => "state",
            };
            format!("{kind:?} {what} from {from} to {to}")
        };
        match action {
            Action::Deliver(it) => format!("deliver {}", message(it)),
            Action::Duplicate(it) => format!("deliver and keep {}", message(it)),
            Action::Ask(_)
            | Action::Timer(_)
            | Action::Crash(_)
            | Action::Cut(..)
            | Action::Join(..) => {
                format!("{action:?}")
            }
        }
    }

    fn ask(&mut self, scene: &Scene, wish: usize, choice: u8) -> Result<(), String> {
        self.fates[wish] = Fate::Waits;
        let peer = scene.wishes[wish].peer(scene);
        if matches!(scene.wishes[wish], Wish::Perish { .. }) {
            return self.perish(scene, wish, peer, choice);
        }
        if let Wish::TakeOver { of, .. } = scene.wishes[wish] {
            // Nobody takes over from a peer of which something may still arrive.
            self.queue.retain(|message| message.from != of);
        }
        self.with(scene, peer, choice, |peer, sent| {
            peer.ask(scene, wish, sent)
        })
    }

    /// A peer is gone for good, and everybody notices.
    fn perish(
        &mut self,
        scene: &Scene,
        wish: usize,
        gone: usize,
        choice: u8,
    ) -> Result<(), String> {
        self.fates[wish] = Fate::Granted(None);
        self.lose_wishes(scene, gone);
        Rc::make_mut(&mut self.peers[gone]).perish();
        self.queue.retain(|message| message.to != gone);
        for other in (0..PEERS).filter(|&other| other != gone) {
            let sight = self.sight(other);
            self.with(scene, other, choice, |peer, sent| peer.sight(&sight, sent))?;
        }
        Ok(())
    }

    /// A peer dies and goes on from its rows; links end and begin.
    fn restart(&mut self, scene: &Scene, at: usize) -> Result<(), String> {
        self.lose_wishes(scene, at);
        let sight = self.sight(at);
        let old = &self.peers[at];
        let mut sent = Vec::new();
        let rows = old.rows.clone();
        let mut peer = Peer::start(scene, at, rows, old.runs + 1, old.now, &sight, &mut sent)?;
        peer.timers = old.timers;
        self.peers[at] = Rc::new(peer);
        self.send_all(scene, sent)?;
        for other in sight.into_iter().filter(|&other| other != at) {
            self.meet(scene, at, other)?;
        }
        Ok(())
    }

    fn lose_wishes(&mut self, scene: &Scene, at: usize) {
        for (wish, fate) in self.fates.iter_mut().enumerate() {
            if *fate == Fate::Waits && scene.wishes[wish].peer(scene) == at {
                *fate = Fate::Lost;
            }
        }
    }

    /// Two peers learn whom they reach now.
    fn tell_sight(&mut self, scene: &Scene, choice: u8, a: usize, b: usize) -> Result<(), String> {
        for at in [a, b] {
            let sight = self.sight(at);
            self.with(scene, at, choice, |peer, sent| peer.sight(&sight, sent))?;
        }
        Ok(())
    }

    /// A new link begins with the state of both ends.
    fn meet(&mut self, scene: &Scene, a: usize, b: usize) -> Result<(), String> {
        for (from, to) in [(a, b), (b, a)] {
            if let Some(payload) = self.peers[from].state() {
                let sent = Sent::Message {
                    to: Some(to),
                    kind: Kind::Neighbour,
                    payload,
                };
                self.send_all(scene, vec![(from, sent)])?;
            }
        }
        Ok(())
    }

    /// Lets something happen at one peer, with everything that comes of it at once.
    pub fn with(
        &mut self,
        scene: &Scene,
        at: usize,
        choice: u8,
        act: impl FnOnce(&mut Peer, &mut Vec<(usize, Sent)>) -> Result<(), String>,
    ) -> Result<(), String> {
        let mut sent = Vec::new();
        let mut peer = self.peers[at].fork(choice);
        act(&mut peer, &mut sent)?;
        self.peers[at] = Rc::new(peer);
        self.send_all(scene, sent)
    }

    /// Puts what was sent in flight, and takes answers.
    fn send_all(&mut self, scene: &Scene, sent: Vec<(usize, Sent)>) -> Result<(), String> {
        for (from, sent) in sent {
            match sent {
                Sent::Answer { wish, outcome } => self.answered(wish, outcome)?,
                Sent::Message {
                    to: Some(to),
                    kind,
                    payload,
                } => {
                    self.send(scene, from, to, kind, payload)?;
                }
                Sent::Message {
                    to: None,
                    kind,
                    payload,
                } => {
                    for to in self.sight(from).into_iter().filter(|&to| to != from) {
                        self.send(scene, from, to, kind, payload.clone())?;
                    }
                }
            }
        }
        Ok(())
    }

    fn send(
        &mut self,
        scene: &Scene,
        from: usize,
        to: usize,
        kind: Kind,
        payload: Vec<u8>,
    ) -> Result<(), String> {
        if !self.sees(from, to) {
            if kind == Kind::Unicast {
                return self.with(scene, from, 0, |peer, sent| peer.unicast_failed(to, sent));
            }
            return Ok(());
        }
        let message = Message {
            from,
            to,
            kind,
            payload,
        };
        if self.queue.iter().any(|queued| **queued == message) {
            return Ok(());
        }
        if matches!(kind, Kind::Neighbour | Kind::Broadcast) {
            let is_alike = |queued: &Rc<Message>| {
                queued.from == from
                    && queued.to == to
                    && matches!(queued.kind, Kind::Neighbour | Kind::Broadcast)
            };
            if self.queue.iter().filter(|queued| is_alike(queued)).count() >= scene.gossips
                && let Some(oldest) = self.queue.iter().position(is_alike)
            {
                self.queue.remove(oldest);
            }
        }
        self.queue.push(Rc::new(message));
        Ok(())
    }

    fn answered(&mut self, wish: usize, outcome: Outcome) -> Result<(), String> {
        let Some(fate) = self.fates.get_mut(wish) else {
            return Ok(());
        };
        if *fate != Fate::Waits {
            return Err(format!(
                "wish {wish} was answered {outcome:?} but is {fate:?}"
            ));
        }
        *fate = match outcome {
            Ok(Answer::Address(cidr)) => Fate::Granted(Some(cidr)),
            Ok(Answer::Done | Answer::TakenOver(_)) => Fate::Granted(None),
            Ok(Answer::Addresses(_) | Answer::List(_)) | Err(_) => {
                Fate::Answered(format!("{outcome:?}"))
            }
        };
        Ok(())
    }
}

/// Hashes what is printed.
pub struct Printed<H>(pub H);

impl<H: Hasher> Write for Printed<H> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

fn hash_of(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}
