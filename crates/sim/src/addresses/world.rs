//! The event loop of a history of addresses: virtual time, what happens, and what peers do about it.

mod asking;
mod network;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ipam::{ContainerEvent, IpamOutput};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use wire::PeerName;

use super::check::Users;
use super::peer::{Fate, Peer};
use super::plan::{Event, Plan, Setting, Weather};
use crate::Trace;
use crate::queue::Queue;
use crate::world::{Violation, set_virtual_time};
use network::Message;

/// Timer calls in a row that may leave a timer due: more is a busy loop.
const TIMER_REPEATS_MAX: usize = 8;
/// Outputs one input may cause.
const OUTPUTS_MAX: usize = 2_000;
/// How long a peer that handed its ranges over runs on.
const LEAVE_TAKES: Duration = Duration::from_millis(500);

/// What is due at some time.
enum Happening {
    /// By its position in the plan.
    Planned(usize),
    Start(usize),
    Timer {
        site: usize,
        run: u32,
    },
    Message(Message),
    /// A mesh learns the truth about some others.
    Learn {
        site: usize,
        run: u32,
        about: Vec<usize>,
    },
    /// Periodic gossip.
    Gossip {
        site: usize,
        run: u32,
    },
    /// A peer that handed its ranges over ends.
    Gone {
        site: usize,
        run: u32,
    },
    /// A peer that left comes back.
    Return(usize),
    /// One that seemed to have perished comes back.
    Revive(usize),
    TakeOver {
        at: usize,
        victim: usize,
    },
}

/// A simulated cluster of allocators.
pub struct World<'a> {
    /// What is to happen.
    pub plan: &'a Plan,
    /// All peers.
    pub peers: Vec<Peer>,
    /// Who uses which address.
    pub users: Users,
    /// Whether two peers may have taken the same ranges over: both think they own them until they hear
    /// of each other, but neither may give them out.
    pub is_disputed: bool,
    /// Inputs and timer calls so far.
    pub steps: u64,
    /// Answers by kind, to see that histories are not empty.
    pub answers: BTreeMap<&'static str, u64>,
    /// What befell peers, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    by_name: BTreeMap<PeerName, usize>,
    weather: Weather,
    queue: Queue<Happening>,
    rng: StdRng,
    now: Duration,
    trace: Option<Trace>,
}

impl<'a> World<'a> {
    /// A cluster to which the plan will happen. `trace` gets one line per remarkable event.
    pub fn new(plan: &'a Plan, setting: &Setting, trace: Option<Trace>) -> Self {
        let base = base();
        let sites = plan.sites.iter().cloned().enumerate();
        let peers: Vec<_> = sites.map(|(n, site)| Peer::new(n, site, base)).collect();
        let mut queue = Queue::new();
        for (n, site) in plan.sites.iter().enumerate() {
            queue.push(site.start_at, Happening::Start(n));
        }
        for (n, (at, _)) in plan.events.iter().enumerate() {
            queue.push(*at, Happening::Planned(n));
        }
        let names = plan.sites.iter().map(|site| site.name);
        Self {
            plan,
            by_name: names.zip(0..).collect(),
            users: Users::new(plan),
            peers,
            is_disputed: false,
            steps: 0,
            answers: BTreeMap::new(),
            faults: BTreeMap::new(),
            weather: Weather::CALM,
            queue,
            rng: StdRng::seed_from_u64(setting.seed ^ 0xadd2_e55e_5eed_0f0f),
            now: Duration::ZERO,
            trace,
        }
    }

    /// Virtual time since the start.
    pub fn now(&self) -> Duration {
        self.now
    }

    /// Lets time pass.
    ///
    /// # Errors
    ///
    /// When a rule is broken.
    pub fn run_until(&mut self, until: Duration) -> Result<(), Violation> {
        while self.queue.next_at().is_some_and(|at| at <= until) {
            let (at, happening) = self.queue.pop().expect("there is one");
            self.now = at;
            set_virtual_time(at);
            self.happen(happening)?;
        }
        self.now = until;
        Ok(())
    }

    /// Ends all faults: the network is whole, and whoever is not gone for good runs.
    ///
    /// # Errors
    ///
    /// As [`Self::run_until`].
    pub fn calm_down(&mut self) -> Result<(), Violation> {
        self.trace(|| "calm".to_owned());
        self.weather = Weather::CALM;
        for peer in &mut self.peers {
            peer.side = 0;
            peer.doomed = None;
            peer.is_to_be_wiped = false;
        }
        for n in 0..self.peers.len() {
            if self.peers[n].fate == Fate::Here && !self.peers[n].is_running() {
                self.start(n)?;
            }
        }
        self.reach_changed();
        Ok(())
    }

    fn happen(&mut self, happening: Happening) -> Result<(), Violation> {
        match happening {
            Happening::Planned(n) => {
                let event = self.plan.events[n].1.clone();
                self.planned(n, event)
            }
            Happening::Start(n) => self.start(n),
            Happening::Timer { site, run } => self.timer(site, run),
            Happening::Message(message) => self.deliver(message),
            Happening::Learn { site, run, about } if self.peers[site].run == run => {
                self.learn(site, &about)
            }
            Happening::Gossip { site, run } if self.peers[site].run == run => self.gossip(site),
            Happening::Gone { site, run } if self.peers[site].run == run => {
                self.trace(|| format!("{site} is gone"));
                self.stop(site);
                self.peers[site].rows.clear();
                Ok(())
            }
            Happening::Return(n) => self.return_blank(n),
            Happening::Revive(n) => self.revive(n),
            Happening::TakeOver { at, victim } => self.take_over(at, victim, true).map(|_| ()),
            Happening::Learn { .. } | Happening::Gossip { .. } | Happening::Gone { .. } => Ok(()),
        }
    }

    fn planned(&mut self, position: usize, event: Event) -> Result<(), Violation> {
        self.trace(|| format!("[{position}] {event:?}"));
        match event {
            Event::Ask(site, asks) => return self.ask_all(site, asks),
            Event::HangUp(site) => return self.hang_up(site),
            Event::Container(site, number, event) => {
                return self.container_event(site, &format!("c{site}-{number}"), event);
            }
            Event::Split(sides) => {
                *self.faults.entry("split").or_default() += 1;
                for (peer, side) in self.peers.iter_mut().zip(sides) {
                    peer.side = side;
                }
                self.reach_changed();
            }
            Event::Heal => {
                self.peers.iter_mut().for_each(|peer| peer.side = 0);
                self.reach_changed();
            }
            Event::Weather(weather) => self.weather = weather,
            Event::Crash(site, 0) => self.crash(site),
            Event::Crash(site, outputs) => self.peers[site].doomed = Some(outputs),
            Event::Restart(site) => return self.start(site),
            Event::Wipe(site) => self.peers[site].is_to_be_wiped = true,
            Event::Leave(site, back) => return self.leave(site, back),
            Event::Perish(site, back) => self.perish(site, back),
            Event::TakeOver {
                at,
                also_at,
                victim,
            } => {
                if !self.take_over(at, victim, false)? {
                    return Ok(());
                }
                if let Some(at) = also_at.filter(|also_at| self.reaches(at, *also_at)) {
                    let after = self.now + Duration::from_millis(self.rng.random_range(0..3_000));
                    self.queue.push(after, Happening::TakeOver { at, victim });
                }
            }
        }
        Ok(())
    }

    /// Starts a peer from its disk.
    fn start(&mut self, n: usize) -> Result<(), Violation> {
        if self.peers[n].is_running() || self.peers[n].fate != Fate::Here {
            return Ok(());
        }
        let was_blank = self.peers[n].rows.is_empty();
        if std::mem::take(&mut self.peers[n].is_to_be_wiped) && self.is_settled(n) {
            self.befell("blank", || format!("{n} lost its disk"));
            self.peers[n].rows.clear();
            self.peers[n].promises.clear();
        }
        self.trace(|| format!("{n} starts as run {}", self.peers[n].run + 1));
        let is_blank = self.peers[n].rows.is_empty() && !was_blank;
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut seed);
        let now = self.now;
        let peer = &mut self.peers[n];
        if is_blank {
            peer.forget();
        }
        peer.start(self.plan, seed, now)
            .map_err(|error| format!("{n} does not start: {error}"))?;
        let containers = peer.containers.clone();
        let is_running = |ident: &str| containers.get(ident).copied().unwrap_or(false);
        peer.promises.restart(is_running);
        let running = containers.iter().filter(|(_, runs)| **runs);
        let running = running.map(|(ident, _)| ident.clone()).collect();
        let local = peer.local(now);
        let known = BTreeMap::from([(peer.site.name, super::peer::nickname(n))]);
        let ipam = peer.ipam.as_mut().expect("it was just started");
        ipam.handle_targets(peer.site.targets);
        ipam.handle_peers(known, local);
        ipam.handle_running(running, local);
        peer.owned = super::check::owned(peer);
        peer.is_touched = true;
        self.after_input(n)?;
        self.reach_changed();
        let run = self.peers[n].run;
        let first = self.now + Duration::from_millis(self.rng.random_range(0..30_000));
        self.queue.push(first, Happening::Gossip { site: n, run });
        Ok(())
    }

    /// The process dies: what was not durable is lost.
    fn crash(&mut self, n: usize) {
        if self.peers[n].is_running() {
            self.befell("crash", || format!("{n} crashes"));
            self.stop(n);
            let promised = self.peers[n].promises.iter();
            let promised: Vec<u32> = promised.map(|(_, address)| address).collect();
            self.users.replace(n, &promised);
        }
    }

    fn stop(&mut self, n: usize) {
        self.peers[n].stop();
        self.reach_changed();
    }

    /// The host burns down, or is cut off so that everybody thinks so.
    fn perish(&mut self, n: usize, back: Option<Duration>) {
        let others = self.peers.iter().filter(|peer| peer.fate == Fate::Here);
        if self.peers[n].fate != Fate::Here || others.count() <= 2 {
            return;
        }
        self.befell("perish", || format!("{n} perishes"));
        self.stop(n);
        let peer = &mut self.peers[n];
        peer.fate = Fate::Perished;
        peer.promises.clear();
        self.users.replace(n, &[]);
        if let Some(back) = back {
            self.queue.push(self.now + back, Happening::Revive(n));
        }
    }

    /// A peer everybody gave up comes back with all it had.
    fn revive(&mut self, n: usize) -> Result<(), Violation> {
        let peer = &mut self.peers[n];
        if peer.fate != Fate::Perished {
            return Ok(());
        }
        peer.fate = Fate::Here;
        peer.is_outlaw |= peer.is_taken_over;
        self.befell("revive", || format!("{n} was not dead after all"));
        self.start(n)
    }

    fn timer(&mut self, n: usize, run: u32) -> Result<(), Violation> {
        let (now, peer) = (self.now, &mut self.peers[n]);
        if peer.run != run || peer.armed != Some(now) {
            return Ok(());
        }
        peer.armed = None;
        for _ in 0..TIMER_REPEATS_MAX {
            let peer = &mut self.peers[n];
            let local = peer.local(now);
            let Some(ipam) = &mut peer.ipam else {
                return Ok(());
            };
            if ipam.poll_timeout().is_none_or(|at| at > local) {
                return self.settle(n);
            }
            ipam.handle_timeout(local);
            self.steps += 1;
            self.drain(n)?;
        }
        Err(format!("{n} spins on its timer"))
    }

    /// What follows each input: outputs, checks, the timer.
    fn after_input(&mut self, n: usize) -> Result<(), Violation> {
        self.steps += 1;
        self.drain(n)?;
        self.settle(n)
    }

    fn settle(&mut self, n: usize) -> Result<(), Violation> {
        self.check_peer(n)?;
        let now = self.now;
        let peer = &mut self.peers[n];
        let Some(at) = peer.ipam.as_ref().and_then(|ipam| ipam.poll_timeout()) else {
            return Ok(());
        };
        let (at, run) = (peer.virtual_time(at).max(now), peer.run);
        if peer.armed.is_none_or(|armed| armed > at || armed < now) {
            peer.armed = Some(at);
            self.queue.push(at, Happening::Timer { site: n, run });
        }
        Ok(())
    }

    /// Carries all outputs out, or dies meanwhile.
    fn drain(&mut self, n: usize) -> Result<(), Violation> {
        let mut count = 0;
        loop {
            let Some(ipam) = &mut self.peers[n].ipam else {
                return Ok(());
            };
            let mut outputs: Vec<_> = std::iter::from_fn(|| ipam.poll_output()).collect();
            if outputs.is_empty() {
                return Ok(());
            }
            count += outputs.len();
            if count > OUTPUTS_MAX {
                return Err(format!(
                    "{n} has more than {OUTPUTS_MAX} outputs for one input"
                ));
            }
            if self.peers[n].site.is_batched {
                outputs.sort_by_key(|output| !matches!(output, IpamOutput::Persist(_)));
            }
            self.carry_out(n, outputs)?;
        }
    }

    fn carry_out(&mut self, n: usize, outputs: Vec<IpamOutput>) -> Result<(), Violation> {
        let (mut failures, mut is_broadcast) = (Vec::new(), false);
        for output in outputs {
            match &mut self.peers[n].doomed {
                Some(0) => {
                    self.befell("crash among outputs", || format!("{n} is doomed"));
                    self.crash(n);
                    return Ok(());
                }
                Some(outputs) => *outputs -= 1,
                None => {}
            }
            match output {
                IpamOutput::Persist(changes) => {
                    self.peers[n].is_touched = true;
                    self.peers[n].persist(changes);
                }
                IpamOutput::Unicast { to, payload } => {
                    if let Err(error) = self.unicast(n, to, payload) {
                        failures.push((to, error));
                    }
                }
                IpamOutput::Broadcast => is_broadcast = true,
                IpamOutput::WeftUnicast { to, payload } => self.weft_unicast(n, to, payload),
                IpamOutput::WeftBroadcast(payload) => self.weft_broadcast(n, payload),
                IpamOutput::Answer { ticket, outcome } => self.answered(n, ticket, outcome)?,
                IpamOutput::RangesChanged(ranges) => {
                    self.peers[n].owned = ranges;
                    self.check_owned(n)?;
                }
            }
        }
        // The state is told as it is when all outputs are done.
        if is_broadcast {
            self.broadcast(n);
        }
        let local = self.peers[n].local(self.now);
        for (to, error) in failures {
            let ipam = self.peers[n].ipam.as_mut().expect("it did not crash");
            ipam.handle_unicast_failed(to, error, local);
        }
        Ok(())
    }

    /// Something happens to a container, whether its peer runs or not.
    fn container_event(
        &mut self,
        n: usize,
        ident: &str,
        event: ContainerEvent,
    ) -> Result<(), Violation> {
        let now = self.now;
        let peer = &mut self.peers[n];
        let local = peer.local(now);
        let is_cancelled = event != ContainerEvent::Started;
        peer.containers.insert(ident.to_owned(), !is_cancelled);
        match event {
            ContainerEvent::Started => peer.promises.started(ident),
            ContainerEvent::Died => peer.promises.died(ident, local),
            ContainerEvent::Destroyed => {
                peer.promises.delete(ident);
                peer.void(ident);
            }
        }
        let asked_by = |waiting: &super::peer::Waiting| waiting.is_by(ident);
        for waiting in peer.waiting.values_mut().filter(|w| asked_by(w)) {
            waiting.may_be_cancelled |= is_cancelled;
        }
        let Some(ipam) = &mut peer.ipam else {
            return Ok(());
        };
        ipam.handle_container(ident, event, local);
        self.after_input(n)
    }

    /// Whether everybody who is not gone runs, reaches everybody, and has the same ring, so that
    /// nothing is lost with one disk that nobody else knows.
    fn is_settled(&self, except: usize) -> bool {
        let here = self.peers.iter().filter(|peer| peer.fate == Fate::Here);
        let others: Vec<&Peer> = here.filter(|peer| peer.number != except).collect();
        let is_whole = others
            .iter()
            .all(|peer| peer.is_running() && peer.side == others[0].side);
        is_whole && self.rings_agree(&others).is_ok() && others.iter().all(|p| p.has_ring())
    }

    fn befell(&mut self, what: &'static str, line: impl FnOnce() -> String) {
        *self.faults.entry(what).or_default() += 1;
        self.trace(line);
    }

    fn trace(&self, line: impl FnOnce() -> String) {
        if let Some(trace) = self.trace {
            trace(self.now, &line());
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "base of virtual time; its value has no effect"
)]
fn base() -> Instant {
    Instant::now()
}
