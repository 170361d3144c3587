//! The event loop: virtual time, what is under way, and the routers it happens to.

mod hostile;
pub mod requests;
mod tcp;
mod udp;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use ipam::address::Subnet;
use node::{Command, Connect, Forget, Input, Output, Record};
use overlay::kind::TunnelEvent;
use overlay::table::ForwardingTable;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tracing::{Span, info_span};
use wire::LinkId;
use wire::PeerName;
use wire::ethernet::MacAddr;

use crate::forwarder::Datagram;
use crate::host::{Host, Power, direct_peer};
use crate::network::{Network, StreamId, Streams};
use crate::plan::{Fault, Plan, Setting, Weather};
use crate::queue::Queue;
use hostile::Liar;
use requests::Answered;

/// Timer calls in a row that may leave a timer due: more is a busy loop.
const TIMER_REPEATS_MAX: usize = 8;
/// Outputs one input may cause, beyond so many per peer.
const OUTPUTS_MAX: usize = 64;
/// Outputs per peer one input may cause.
const OUTPUTS_PER_PEER_MAX: usize = 16;

/// Something the checkers do not accept.
pub type Violation = String;

enum Event {
    Timer {
        site: usize,
        run: u32,
    },
    Syn {
        stream: StreamId,
    },
    SynAck {
        stream: StreamId,
        site: usize,
        run: u32,
        link: LinkId,
    },
    DialFailed {
        site: usize,
        run: u32,
        link: LinkId,
        error: &'static str,
    },
    Segment {
        stream: StreamId,
        end: usize,
    },
    Reset {
        stream: StreamId,
        end: usize,
    },
    Datagram {
        from: SocketAddr,
        datagram: Box<Datagram>,
        site: usize,
    },
    News {
        site: usize,
        run: u32,
        event: TunnelEvent,
    },
    Fault(Fault),
    Start(usize),
}

/// What one site handed over for its links.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sent {
    /// Bytes.
    pub bytes: u64,
    /// Writes.
    pub writes: u64,
}

/// A simulated cluster.
pub struct World {
    /// All machines.
    pub hosts: Vec<Host>,
    /// The underlay.
    pub network: Network,
    /// Test frames delivered: (number, site) to count.
    pub delivered: BTreeMap<(u64, usize), u32>,
    /// Inputs and timer calls so far.
    pub steps: u64,
    /// Bytes handed over for links so far.
    pub link_bytes: u64,
    /// The same by site, with the number of writes.
    pub sent: Vec<Sent>,
    /// Answers to requests for addresses.
    pub answers: Vec<Answered>,
    /// Which site uses an address.
    users: BTreeMap<u32, usize>,
    /// The addresses all sites share, if they allocate any.
    universe: Option<Subnet>,
    streams: Streams,
    sites_by_ip: BTreeMap<IpAddr, usize>,
    /// The first site of each name.
    sites_by_name: BTreeMap<PeerName, usize>,
    queue: Queue<Event>,
    rng: StdRng,
    base: Instant,
    now: Duration,
    hostile: bool,
    liars: Vec<Liar>,
    trace: Option<fn(Duration, &str)>,
}

impl World {
    /// A cluster to which the plan will happen. `trace` gets one line per remarkable event.
    pub fn new(plan: &Plan, setting: Setting, trace: Option<fn(Duration, &str)>) -> Self {
        let hosts: Vec<_> = plan.sites.iter().cloned().map(Host::new).collect();
        let ips = hosts.iter().enumerate().map(|(n, host)| (host.site.ip, n));
        let mut world = Self {
            sites_by_ip: ips.collect(),
            hosts,
            network: Network::new(plan.delay_max),
            delivered: BTreeMap::new(),
            steps: 0,
            link_bytes: 0,
            sent: vec![Sent::default(); plan.sites.len()],
            answers: Vec::new(),
            users: BTreeMap::new(),
            universe: plan.universe,
            sites_by_name: by_name(plan),
            streams: Streams::default(),
            queue: Queue::new(),
            rng: StdRng::seed_from_u64(setting.seed ^ 0x5eed_0f0f_5eed_0f0f),
            base: base(),
            now: Duration::ZERO,
            hostile: setting.hostile,
            liars: Vec::new(),
            trace,
        };
        for (site, host) in plan.sites.iter().enumerate() {
            if host.start_at < Duration::MAX {
                world.queue.push(host.start_at, Event::Start(site));
            }
        }
        for (at, fault) in &plan.faults {
            world.queue.push(*at, Event::Fault(fault.clone()));
        }
        world
    }

    /// Has something befall the cluster now.
    ///
    /// # Errors
    ///
    /// As [`Self::run_until`].
    pub fn befall(&mut self, fault: &Fault) -> Result<(), Violation> {
        self.fault(fault)
    }

    /// Has something befall the cluster later.
    pub fn schedule(&mut self, after: Duration, fault: Fault) {
        self.queue.push(self.now + after, Event::Fault(fault));
    }

    /// Virtual time since the start.
    pub fn now(&self) -> Duration {
        self.now
    }

    /// Virtual time as the routers see it.
    pub fn instant(&self) -> Instant {
        self.base + self.now
    }

    /// Site and link at the other end of a link, if both ends are open.
    pub fn far_end(&self, site: usize, link: LinkId) -> Option<(usize, LinkId)> {
        let (stream, end) = self.streams.find(site, self.hosts[site].run, link)?;
        let ends = &self.streams.get(stream)?.ends;
        let far = &ends[1 - end];
        (ends[end].is_open && far.is_open).then_some((far.site, far.link))
    }

    /// Lets everything happen that is due until `until`.
    ///
    /// # Errors
    ///
    /// When a router breaks a rule that holds after every step.
    pub fn run_until(&mut self, until: Duration) -> Result<(), Violation> {
        while self.queue.next_at().is_some_and(|at| at <= until) {
            let (at, event) = self.queue.pop().expect("looked at just now");
            self.now = at;
            VIRTUAL_TIME.set(at);
            self.happen(event)?;
        }
        self.now = until;
        Ok(())
    }

    /// Takes all faults back: from now on everything passes, and everybody who did not leave runs.
    ///
    /// # Errors
    ///
    /// As [`Self::run_until`].
    pub fn calm_down(&mut self) -> Result<(), Violation> {
        self.network.weather = Weather::CALM;
        for site in 0..self.hosts.len() {
            for other in 0..site {
                while !self.network.hears(site, other) || !self.network.hears(other, site) {
                    self.network.mend(site, other);
                    self.network.undeafen(site, other);
                    self.network.undeafen(other, site);
                }
            }
            if !self.hosts[site].has_left && self.hosts[site].power != Power::Running {
                self.start(site)?;
            }
        }
        Ok(())
    }

    /// A container at `site` sends a test frame.
    pub fn send_frame(&mut self, site: usize, destination: MacAddr, number: u64) {
        let copies = self.hosts[site]
            .forwarder
            .capture(mac(site), destination, number);
        self.transmit_all(site, copies);
    }

    fn happen(&mut self, event: Event) -> Result<(), Violation> {
        match event {
            Event::Timer { site, run } => self.timer(site, run),
            Event::Syn { stream } => self.syn(stream),
            Event::SynAck {
                stream,
                site,
                run,
                link,
            } => self.syn_ack(stream, site, run, link),
            Event::DialFailed {
                site,
                run,
                link,
                error,
            } => {
                let error = error.to_owned();
                self.input(site, run, Input::DialFailed { link, error })
            }
            Event::Segment { stream, end } => self.segment(stream, end),
            Event::Reset { stream, end } => self.reset(stream, end),
            Event::Datagram {
                from,
                datagram,
                site,
            } => self.datagram(from, *datagram, site),
            Event::News { site, run, event } => self.input(site, run, Input::Tunnel(event)),
            Event::Fault(fault) => self.fault(&fault),
            Event::Start(site) => self.start(site),
        }
    }

    fn fault(&mut self, fault: &Fault) -> Result<(), Violation> {
        self.trace(|| format!("fault {fault:?}"));
        match *fault {
            Fault::Kill(site) => self.stop(site, Power::Stopped),
            Fault::PowerOff(site) => self.stop(site, Power::Off),
            Fault::Leave(site) => {
                self.hosts[site].has_left = true;
                self.stop(site, Power::Stopped);
            }
            Fault::Restart(site) => return self.start(site),
            Fault::Cut(one, two) => self.network.cut(one, two),
            Fault::Mend(one, two) => self.network.mend(one, two),
            Fault::Deafen(from, to) => self.network.deafen(from, to),
            Fault::Undeafen(from, to) => self.network.undeafen(from, to),
            Fault::BreakLinks(one, two) => {
                for stream in self.streams.between(one, two) {
                    self.queue.push(self.now, Event::Reset { stream, end: 0 });
                    self.queue.push(self.now, Event::Reset { stream, end: 1 });
                }
            }
            Fault::Connect { at, to, replace } => {
                let peers = vec![direct_peer(&self.hosts[to].site)];
                return self.command(at, Command::Connect(Connect { peers, replace }));
            }
            Fault::Forget { at, to } => {
                let peers = vec![direct_peer(&self.hosts[to].site).text];
                return self.command(at, Command::Forget(Forget { peers }));
            }
            Fault::RebindNat(site) => {
                let host = &mut self.hosts[site];
                host.udp_port += u16::from(host.site.hidden);
            }
            Fault::ShrinkPath(one, two, mtu) => self.network.set_path_mtu(one, two, mtu),
            Fault::Weather(weather) => self.network.weather = weather,
            Fault::Garble(one, two) => self.network.garble(one, two),
            Fault::Ungarble(one, two) => self.network.ungarble(one, two),
            Fault::Stranger(site) => return self.stranger(site),
            Fault::Forgery(site) => return self.forgery(site),
            Fault::Lie(site) => return self.lie(site),
            Fault::LiarsLeave => return self.liars_leave(),
            Fault::Ask(site, ref ask) => return self.ask_as_planned(site, ask),
        }
        Ok(())
    }

    fn start(&mut self, site: usize) -> Result<(), Violation> {
        let host = &self.hosts[site];
        if host.power == Power::Running || host.has_left {
            return Ok(());
        }
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut seed);
        let now = self.instant();
        self.trace(|| format!("start {site}"));
        self.hosts[site].start(self.universe, seed, now)?;
        self.drain(site)?;
        let texts = self.hosts[site].persisted.clone();
        let launch = &self.hosts[site].site.launch_peers;
        let is_wanted = |n: usize, ip: IpAddr| match &texts {
            Some(texts) => texts.contains(&ip.to_string()),
            None => launch.contains(&n),
        };
        let sites = self
            .hosts
            .iter()
            .enumerate()
            .map(|(n, host)| (n, &host.site));
        let wanted = sites.filter(|(n, site)| is_wanted(*n, site.ip));
        let peers = wanted.map(|(_, site)| direct_peer(site)).collect();
        self.command(
            site,
            Command::Connect(Connect {
                peers,
                replace: false,
            }),
        )
    }

    fn command(&mut self, site: usize, command: Command) -> Result<(), Violation> {
        if self.hosts[site].power != Power::Running {
            return Ok(());
        }
        let run = self.hosts[site].run;
        let input = self.hosts[site].command(command);
        self.input(site, run, input)?;
        if self.hosts[site].unanswered.is_empty() {
            Ok(())
        } else {
            Err(format!("site {site} did not answer a command"))
        }
    }

    /// Ends a router. If its machine lives on, its kernel resets the connections.
    fn stop(&mut self, site: usize, power: Power) {
        let run = self.hosts[site].run;
        for (stream, end) in self.streams.open_ends(site, run) {
            if power == Power::Stopped {
                self.close_end(stream, end);
            } else if let Some(stream) = self.streams.get_mut(stream) {
                stream.ends[end].is_open = false;
            }
        }
        self.hosts[site].stop(power);
    }

    fn timer(&mut self, site: usize, run: u32) -> Result<(), Violation> {
        let now = self.instant();
        let host = &mut self.hosts[site];
        if host.run != run || host.armed != Some(self.now) {
            return Ok(());
        }
        host.armed = None;
        let _span = self.span(site).entered();
        for _ in 0..TIMER_REPEATS_MAX {
            let Some(node) = &mut self.hosts[site].node else {
                return Ok(());
            };
            if node.poll_timeout().is_none_or(|(at, _)| at > now) {
                self.arm(site);
                return Ok(());
            }
            node.handle_timeout(now);
            self.steps += 1;
            self.drain(site)?;
        }
        let node = self.hosts[site].node.as_ref().expect("it ran just now");
        Err(format!(
            "site {site} spins on timer {:?}",
            node.poll_timeout().map(|(_, what)| what)
        ))
    }

    fn input(&mut self, site: usize, run: u32, input: Input) -> Result<(), Violation> {
        let now = self.instant();
        let _span = self.span(site).entered();
        let host = &mut self.hosts[site];
        let Some(node) = host.node.as_mut().filter(|_| host.run == run) else {
            return Ok(());
        };
        node.handle_input(input, now);
        self.steps += 1;
        self.drain(site)?;
        self.arm(site);
        self.check_bounds(site)
    }

    /// Whatever happens to it, what a router keeps is bounded.
    fn check_bounds(&self, site: usize) -> Result<(), Violation> {
        let node = self.hosts[site].node.as_ref().filter(|_| self.hostile);
        match node.and_then(node::Node::excess) {
            None => Ok(()),
            Some((what, count, limit)) => Err(format!(
                "site {site} keeps {count} {what}, at most {limit} are allowed"
            )),
        }
    }

    fn arm(&mut self, site: usize) {
        let host = &mut self.hosts[site];
        let timeout = host.node.as_ref().and_then(|node| node.poll_timeout());
        let Some((at, _)) = timeout else {
            return;
        };
        let at = at.saturating_duration_since(self.base).max(self.now);
        if host.armed.is_none_or(|armed| armed > at) {
            host.armed = Some(at);
            self.queue.push(
                at,
                Event::Timer {
                    site,
                    run: host.run,
                },
            );
        }
    }

    fn drain(&mut self, site: usize) -> Result<(), Violation> {
        let limit = OUTPUTS_MAX + OUTPUTS_PER_PEER_MAX * self.hosts.len();
        let mut done = 0;
        // What is done may make the node say more.
        while let Some(node) = self.hosts[site].node.as_mut() {
            let turn = node.take_turn();
            if turn.is_empty() {
                return Ok(());
            }
            for output in turn.durable(|records| self.keep(site, records))? {
                done += 1;
                if done > limit {
                    return Err(format!(
                        "site {site} has more than {limit} outputs for one input"
                    ));
                }
                self.output(site, output)?;
            }
        }
        Ok(())
    }

    /// Makes durable what a node wants kept.
    fn keep(&mut self, site: usize, records: Vec<Record>) -> Result<(), Violation> {
        let host = &mut self.hosts[site];
        for record in records {
            match record {
                Record::DirectPeers(texts) => host.persisted = Some(texts),
                Record::Rows(writes) => host.store(writes),
            }
        }
        Ok(())
    }

    fn output(&mut self, site: usize, output: Output) -> Result<(), Violation> {
        match output {
            Output::Dial { link, remote } => self.dial(site, link, remote),
            Output::Send { link, bytes } => {
                if !self.tell_liar(site, link, &bytes) {
                    self.send(site, link, &bytes)?;
                }
            }
            Output::Close { link } if self.close_on_liar(site, link) => {}
            Output::Close { link } => {
                let run = self.hosts[site].run;
                let (stream, end) = self.streams.find(site, run, link).unwrap_or((u64::MAX, 0));
                self.close_end(stream, end);
            }
            Output::Program(table) => {
                self.check_table(site, &table)?;
                self.hosts[site].forwarder.program(table);
            }
            Output::Correct(correction) => self.hosts[site].forwarder.correct(&correction),
            Output::Probe(probe) => {
                let datagram = self.hosts[site].forwarder.probe(&probe);
                let datagram = datagram.map_err(|text| format!("site {site}: {text}"))?;
                self.transmit_all(site, vec![datagram]);
            }
            Output::Reply { id, reply } => return self.replied(site, id, reply),
        }
        Ok(())
    }

    /// The plaintext tripwire: a tunnel that should be encrypted has a key, at any moment.
    fn check_table(&self, site: usize, table: &ForwardingTable) -> Result<(), Violation> {
        let us = &self.hosts[site].site;
        let lanes = table
            .neighbours
            .iter()
            .flat_map(|(remote, neighbour)| neighbour.lanes.iter().map(move |lane| (remote, lane)));
        for (remote, lane) in lanes {
            let has_key = lane.is_sealed();
            if self.hostile {
                // The other end may be anybody.
                if us.password.is_some() && us.trusted.is_empty() && !has_key {
                    return Err(format!("site {site} has no key for {remote}"));
                }
                continue;
            }
            let them = self.sites_by_name.get(remote);
            let them = them.ok_or_else(|| format!("site {site} has a tunnel to nobody"))?;
            let them = &self.hosts[*them].site;
            if has_key != us.encrypts(them) {
                return Err(format!("site {site} has a wrong key state for {}", them.ip));
            }
        }
        Ok(())
    }

    fn span(&self, site: usize) -> Span {
        info_span!("peer", name = %self.hosts[site].site.name)
    }

    fn trace(&self, line: impl FnOnce() -> String) {
        if let Some(trace) = self.trace {
            trace(self.now, &line());
        }
    }
}

fn by_name(plan: &Plan) -> BTreeMap<PeerName, usize> {
    let names = plan.sites.iter().map(|site| site.name);
    // Of two with one name the first counts: it is inserted last.
    names
        .zip(0..)
        .collect::<Vec<_>>()
        .into_iter()
        .rev()
        .collect()
}

thread_local! {
    static VIRTUAL_TIME: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// Virtual time of the history this thread is running, for log lines.
pub fn virtual_time() -> Duration {
    VIRTUAL_TIME.get()
}

/// Has log lines of this thread show a virtual time.
pub(crate) fn set_virtual_time(now: Duration) {
    VIRTUAL_TIME.set(now);
}

/// The address of the container at a site.
pub fn mac(site: usize) -> MacAddr {
    let site = u8::try_from(site).expect("at most 250 sites");
    MacAddr([0x3a, 0, 0, 0, 0, site])
}

#[expect(
    clippy::disallowed_methods,
    reason = "base of virtual time; its value has no effect"
)]
fn base() -> Instant {
    Instant::now()
}
