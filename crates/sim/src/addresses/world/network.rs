//! The mesh of a history of addresses, without its cost: who reaches whom, who knows that, and what
//! becomes of messages.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use wire::PeerName;
use wire::message::Delivery;

use super::super::peer::nickname;
use super::{Happening, World};
use crate::world::Violation;

/// How often each peer tells some others its state.
const GOSSIP_INTERVAL: Duration = Duration::from_secs(30);
/// Most others it tells.
const GOSSIP_TO_MAX: usize = 4;
/// To so many of those it just met a peer tells its state.
const GREETED_MAX: usize = 2;
/// Longest way of a message that straggles.
const STRAGGLE_MAX_MS: u64 = 20_000;

/// One message under way.
#[derive(Clone)]
pub(super) struct Message {
    from: usize,
    to: usize,
    /// Which run of the receiver it was meant for.
    run: u32,
    body: Body,
    /// Who gets the receiver's own state after it got this: the broadcast is passed on.
    relay: Vec<usize>,
}

#[derive(Clone)]
enum Body {
    Allocation(Delivery, Arc<[u8]>),
    Weft(PeerName, Arc<[u8]>),
}

impl World<'_> {
    pub(super) fn reaches(&self, one: usize, two: usize) -> bool {
        let (one, two) = (&self.peers[one], &self.peers[two]);
        one.is_running() && two.is_running() && one.side == two.side
    }

    /// Somebody came, went, or the network changed: all meshes will know, sooner or later.
    pub(super) fn reach_changed(&mut self) {
        self.note_absence();
        for site in 0..self.peers.len() {
            if !self.peers[site].is_running() {
                continue;
            }
            let (mut new, mut gone) = (Vec::new(), Vec::new());
            for other in (0..self.peers.len()).filter(|other| *other != site) {
                let knows = self.peers[site].known.contains(&other);
                match (knows, self.reaches(site, other)) {
                    (false, true) => new.push(other),
                    (true, false) => gone.push(other),
                    _ => {}
                }
            }
            let soon = self.rng.random_range(20..2_000);
            // A link whose path was cut is missed after a minute.
            let late = if self.rng.random_bool(0.3) {
                60_000
            } else {
                3_000
            };
            let late = self.rng.random_range(20..late);
            let run = self.peers[site].run;
            for (about, after) in [(new, soon), (gone, late)] {
                if !about.is_empty() {
                    let at = self.now + Duration::from_millis(after);
                    self.queue.push(at, Happening::Learn { site, run, about });
                }
            }
        }
    }

    /// Notes who is cut off, or down, and for whom that lasted so long that a vote may have taken its
    /// ranges.
    pub(in crate::addresses) fn note_absence(&mut self) {
        let here = self.peers.iter().filter(|peer| peer.is_running());
        let counts = here.fold([0, 0], |mut counts: [usize; 2], peer| {
            counts[usize::from(peer.side)] += 1;
            counts
        });
        let Some(patience) = self.plan.reclaim_after else {
            return;
        };
        for peer in &mut self.peers {
            let (ours, theirs) = match peer.side {
                0 => (counts[0], counts[1]),
                _ => (counts[1], counts[0]),
            };
            let is_absent = !peer.is_running() || theirs >= ours;
            // Clocks may run a quarter too fast.
            let is_long = |since: Duration| self.now >= since + patience * 7 / 10;
            peer.is_outlaw |= peer.absent_since.is_some_and(is_long);
            peer.absent_since = is_absent.then(|| peer.absent_since.unwrap_or(self.now));
        }
    }

    pub(super) fn learn(&mut self, n: usize, about: &[usize]) -> Result<(), Violation> {
        let mut met = Vec::new();
        for &other in about {
            if !self.reaches(n, other) {
                self.peers[n].known.remove(&other);
            } else if self.peers[n].known.insert(other) {
                met.push(other);
            }
        }
        let everybody = self.peers[n].known.iter().chain([&n]);
        let known = everybody.map(|other| (self.peers[*other].site.name, nickname(*other)));
        let known: BTreeMap<_, _> = known.collect();
        self.trace(|| format!("{n} knows {:?}", self.peers[n].known));
        let local = self.peers[n].local(self.now);
        let Some(ipam) = &mut self.peers[n].ipam else {
            return Ok(());
        };
        ipam.handle_peers(known, local);
        self.after_input(n)?;
        met.shuffle(&mut self.rng);
        met.truncate(GREETED_MAX);
        self.tell(n, &met);
        Ok(())
    }

    pub(super) fn gossip(&mut self, n: usize) -> Result<(), Violation> {
        let mut some: Vec<usize> = self.peers[n].known.iter().copied().collect();
        some.shuffle(&mut self.rng);
        some.truncate(GOSSIP_TO_MAX);
        self.tell(n, &some);
        let (site, run) = (n, self.peers[n].run);
        self.queue
            .push(self.now + GOSSIP_INTERVAL, Happening::Gossip { site, run });
        Ok(())
    }

    /// Tells some others our state, as neighbours do.
    fn tell(&mut self, n: usize, others: &[usize]) {
        let delivery = Delivery::Neighbour(self.peers[n].site.name);
        if let Some(state) = self.state(n) {
            for &to in others {
                let body = Body::Allocation(delivery, Arc::clone(&state));
                self.send(n, to, &body, &[]);
            }
        }
    }

    fn state(&self, n: usize) -> Option<Arc<[u8]>> {
        let ipam = self.peers[n].ipam.as_ref()?;
        ipam.gossip_state().map(Into::into)
    }

    pub(super) fn unicast(
        &mut self,
        n: usize,
        to: PeerName,
        payload: Vec<u8>,
    ) -> Result<(), &'static str> {
        let to = self.by_name.get(&to).copied();
        let to = to.filter(|to| self.peers[n].known.contains(to));
        let Some(to) = to else {
            return Err("unknown relay destination");
        };
        if !self.reaches(n, to) && self.rng.random() {
            return Err("link to relay peer is congested");
        }
        self.trace(|| {
            let what = match payload.first() {
                Some(0) => "space request",
                Some(1) => "ring",
                Some(2) => "denial",
                _ => "something",
            };
            format!("{n} -> {to} {what}")
        });
        let delivery = Delivery::Unicast(self.peers[n].site.name);
        self.send(n, to, &Body::Allocation(delivery, payload.into()), &[]);
        Ok(())
    }

    pub(super) fn weft_unicast(&mut self, n: usize, to: PeerName, payload: Vec<u8>) {
        let to = self.by_name.get(&to).copied();
        if let Some(to) = to.filter(|to| self.peers[n].known.contains(to)) {
            self.trace(|| format!("{n} -> {to} weft"));
            let body = Body::Weft(self.peers[n].site.name, payload.into());
            self.send(n, to, &body, &[]);
        }
    }

    pub(super) fn weft_broadcast(&mut self, n: usize, payload: Vec<u8>) {
        self.trace(|| format!("{n} -> all weft"));
        let body = Body::Weft(self.peers[n].site.name, payload.into());
        for to in self.peers[n].known.clone() {
            self.send(n, to, &body, &[]);
        }
    }

    /// Sends our state to everybody; some get that of another peer that passed it on.
    pub(super) fn broadcast(&mut self, n: usize) {
        let Some(state) = self.state(n) else {
            return;
        };
        self.trace(|| format!("{n} -> all {}", describe(&state)));
        let mut others: Vec<usize> = self.peers[n].known.iter().copied().collect();
        others.shuffle(&mut self.rng);
        let direct = others.len() - others.len() * self.rng.random_range(0..3) / 4;
        let (direct, relayed) = others.split_at(direct);
        let delivery = Delivery::Broadcast(self.peers[n].site.name);
        let body = Body::Allocation(delivery, state);
        for (position, &to) in direct.iter().enumerate() {
            let relay = relayed.iter().skip(position).step_by(direct.len());
            let relay: Vec<usize> = relay.copied().collect();
            self.send(n, to, &body, &relay);
        }
    }

    fn send(&mut self, from: usize, to: usize, body: &Body, relay: &[usize]) {
        let weather = self.weather;
        let happens = |rng: &mut StdRng, share: f64| share > 0.0 && rng.random_bool(share);
        if happens(&mut self.rng, weather.loss) {
            return;
        }
        let copies = 1 + u32::from(happens(&mut self.rng, weather.duplication));
        for _ in 0..copies {
            let delay_max = u64::try_from(self.plan.delay_max.as_micros()).expect("short");
            let mut micros = self.rng.random_range(100..=delay_max);
            if happens(&mut self.rng, weather.straggling) {
                micros += 1000 * self.rng.random_range(0..STRAGGLE_MAX_MS);
            }
            let message = Message {
                from,
                to,
                run: self.peers[to].run,
                body: body.clone(),
                relay: relay.to_vec(),
            };
            let at = self.now + Duration::from_micros(micros);
            self.queue.push(at, Happening::Message(message));
        }
    }

    pub(super) fn deliver(&mut self, message: Message) -> Result<(), Violation> {
        let Message { from, to, .. } = message;
        let peer = &self.peers[to];
        // Whatever was meant for an earlier run rarely reaches the next, and never one without memory.
        if peer.run != message.run && (message.run < peer.blank_run || self.rng.random()) {
            return Ok(());
        }
        if peer.side != self.peers[from].side {
            // Kept by the sender's kernel until the path is whole again, if it still connects.
            if self.rng.random_bool(0.3) {
                let later = Duration::from_millis(self.rng.random_range(1_000..20_000));
                self.queue
                    .push(self.now + later, Happening::Message(message));
            }
            return Ok(());
        }
        let local = peer.local(self.now);
        let Some(ipam) = &mut self.peers[to].ipam else {
            return Ok(());
        };
        match &message.body {
            Body::Allocation(delivery, payload) => ipam.handle_gossip(*delivery, payload, local),
            Body::Weft(from, payload) => ipam.handle_weft(*from, payload, local),
        }
        self.after_input(to)?;
        if let (Body::Allocation(delivery, _), Some(state)) = (&message.body, self.state(to)) {
            let body = Body::Allocation(*delivery, state);
            for &next in &message.relay {
                self.send(to, next, &body, &[]);
            }
        }
        Ok(())
    }
}

/// A state, for people.
fn describe(state: &[u8]) -> String {
    match wire::ipam::decode_state(state) {
        Err(error) => format!("nonsense: {error}"),
        Ok(state) => match (state.ring, state.paxos) {
            (Some(ring), _) => {
                let entries = ring.entries.iter().map(|entry| {
                    let token = std::net::Ipv4Addr::from(entry.token);
                    let peer = entry.peer.to_u64() & 0xff;
                    format!(" {token}=:{peer:02x} v{}", entry.version)
                });
                format!("ring{}", entries.collect::<String>())
            }
            (None, Some(claims)) => format!("claims of {}", claims.len()),
            (None, None) => "a question".to_owned(),
        },
    }
}
