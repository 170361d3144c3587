//! The event loop: virtual time, what is under way, and the routers it happens to.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use mesh::LinkId;
use node::{Command, Input, Output, Record};
use overlay::table::{ForwardingTable, TunnelEvent};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use wire::ethernet::MacAddr;

use crate::forwarder::{Arrival, Datagram};
use crate::host::{Host, Power, direct_peer};
use crate::network::{End, Network, Stream, StreamId, Streams};
use crate::plan::{Fault, INTERFACE_MTU_BYTES, PORT, PathMtu, Plan, Weather};
use crate::queue::Queue;

/// How long a kernel keeps trying to connect to somebody who does not answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How soon TCP tries a cut path again.
const RETRANSMIT: Duration = Duration::from_millis(500);
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
    streams: Streams,
    sites_by_ip: BTreeMap<IpAddr, usize>,
    queue: Queue<Event>,
    rng: StdRng,
    base: Instant,
    now: Duration,
    trace: Option<fn(Duration, &str)>,
}

impl World {
    /// A cluster to which the plan will happen. `trace` gets one line per remarkable event.
    pub fn new(plan: &Plan, seed: u64, trace: Option<fn(Duration, &str)>) -> Self {
        let hosts: Vec<_> = plan.sites.iter().cloned().map(Host::new).collect();
        let ips = hosts.iter().enumerate().map(|(n, host)| (host.site.ip, n));
        let mut world = Self {
            sites_by_ip: ips.collect(),
            hosts,
            network: Network::new(plan.delay_max),
            delivered: BTreeMap::new(),
            steps: 0,
            streams: Streams::default(),
            queue: Queue::new(),
            rng: StdRng::seed_from_u64(seed ^ 0x5eed_0f0f_5eed_0f0f),
            base: base(),
            now: Duration::ZERO,
            trace,
        };
        for (site, host) in plan.sites.iter().enumerate() {
            world.queue.push(host.start_at, Event::Start(site));
        }
        for (at, fault) in &plan.faults {
            world.queue.push(*at, Event::Fault(fault.clone()));
        }
        world
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
                return self.command(at, Command::Connect { peers, replace });
            }
            Fault::Forget { at, to } => {
                let peers = vec![direct_peer(&self.hosts[to].site).text];
                return self.command(at, Command::Forget { peers });
            }
            Fault::RebindNat(site) => {
                let host = &mut self.hosts[site];
                host.udp_port += u16::from(host.site.hidden);
            }
            Fault::ShrinkPath(one, two, mtu) => self.network.set_path_mtu(one, two, mtu),
            Fault::Weather(weather) => self.network.weather = weather,
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
        self.hosts[site].start(seed, now);
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
            Command::Connect {
                peers,
                replace: false,
            },
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
        let host = &mut self.hosts[site];
        let Some(node) = host.node.as_mut().filter(|_| host.run == run) else {
            return Ok(());
        };
        node.handle_input(input, now);
        self.steps += 1;
        self.drain(site)?;
        self.arm(site);
        Ok(())
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
        for _ in 0..limit {
            let node = self.hosts[site].node.as_mut();
            let Some(output) = node.and_then(node::Node::poll_output) else {
                return Ok(());
            };
            self.output(site, output)?;
        }
        Err(format!(
            "site {site} has more than {limit} outputs for one input"
        ))
    }

    fn output(&mut self, site: usize, output: Output) -> Result<(), Violation> {
        match output {
            Output::Persist(Record::DirectPeers(texts)) => {
                self.hosts[site].persisted = Some(texts);
            }
            Output::Dial { link, remote } => self.dial(site, link, remote),
            Output::Send { link, bytes } => self.send(site, link, &bytes)?,
            Output::Close { link } => {
                let run = self.hosts[site].run;
                let (stream, end) = self.streams.find(site, run, link).unwrap_or((u64::MAX, 0));
                self.close_end(stream, end);
            }
            Output::Program(table) => {
                self.check_table(site, &table)?;
                self.hosts[site].forwarder.program(table);
            }
            Output::Probe(probe) => {
                let datagram = self.hosts[site].forwarder.probe(&probe);
                let datagram = datagram.map_err(|text| format!("site {site}: {text}"))?;
                self.transmit_all(site, vec![datagram]);
            }
            Output::Reply { id, .. } => {
                if !self.hosts[site].unanswered.remove(&id) {
                    return Err(format!("site {site} answers a command twice"));
                }
            }
        }
        Ok(())
    }

    /// The plaintext tripwire: a tunnel that should be encrypted has a key, at any moment.
    fn check_table(&self, site: usize, table: &ForwardingTable) -> Result<(), Violation> {
        let us = &self.hosts[site].site;
        for (remote, tunnel) in &table.tunnels {
            let them = self
                .hosts
                .iter()
                .map(|host| &host.site)
                .find(|s| s.name == *remote);
            let them = them.ok_or_else(|| format!("site {site} has a tunnel to nobody"))?;
            if tunnel.key.is_some() != us.encrypts(them) {
                let has = if tunnel.key.is_some() { "a" } else { "no" };
                return Err(format!(
                    "site {site} has {has} key for the tunnel to {}",
                    them.ip
                ));
            }
        }
        Ok(())
    }

    // TCP.

    fn dial(&mut self, site: usize, link: LinkId, remote: SocketAddr) {
        self.trace(|| format!("site {site} dials {remote}"));
        let run = self.hosts[site].run;
        let mut fail = |error, after| {
            let event = Event::DialFailed {
                site,
                run,
                link,
                error,
            };
            self.queue.push(self.now + after, event);
        };
        let Some(&to) = self.sites_by_ip.get(&remote.ip()) else {
            return fail("connection timed out", CONNECT_TIMEOUT);
        };
        let is_filtered = self.hosts[to].site.hidden && to != site;
        if is_filtered || !self.network.passes(site, to) || self.hosts[to].power == Power::Off {
            return fail("connection timed out", CONNECT_TIMEOUT);
        }
        let delay = self.network.delay(site, to);
        if remote.port() != PORT || self.hosts[to].power == Power::Stopped {
            return fail("connection refused", 2 * delay);
        }
        let local = self.hosts[site].ephemeral_address();
        let host = &mut self.hosts[to];
        let accepted = LinkId::inbound(host.accepted);
        host.accepted += 1;
        let end = |site, run, link, address| End {
            site,
            run,
            link,
            address,
            is_open: false,
            is_done: false,
            incoming: VecDeque::new(),
            is_scheduled: false,
        };
        let ends = [
            end(site, run, link, local),
            end(to, host.run, accepted, remote),
        ];
        let stream = self.streams.add(Stream { ends });
        self.trace(|| format!("stream {stream} from {site} to {to}"));
        let answer = Event::SynAck {
            stream,
            site,
            run,
            link,
        };
        self.queue.push(self.now + delay, Event::Syn { stream });
        self.queue.push(self.now + 2 * delay, answer);
    }

    fn syn(&mut self, id: StreamId) -> Result<(), Violation> {
        let Some(stream) = self.streams.get_mut(id) else {
            return Ok(());
        };
        let [dialler, acceptor] = &mut stream.ends;
        let (link, local, remote) = (acceptor.link, acceptor.address, dialler.address);
        let (site, run) = (acceptor.site, acceptor.run);
        acceptor.is_open = self.hosts[site].run == run && self.hosts[site].node.is_some();
        self.input(
            site,
            run,
            Input::LinkAccepted {
                link,
                local,
                remote,
            },
        )
    }

    fn syn_ack(
        &mut self,
        id: StreamId,
        site: usize,
        run: u32,
        link: LinkId,
    ) -> Result<(), Violation> {
        let Some(stream) = self.streams.get_mut(id) else {
            let error = "connection refused".to_owned();
            return self.input(site, run, Input::DialFailed { link, error });
        };
        let [dialler, acceptor] = &mut stream.ends;
        let (local, remote) = (dialler.address, acceptor.address);
        let is_running = self.hosts[site].run == run && self.hosts[site].node.is_some();
        dialler.is_open = is_running && !dialler.is_done;
        if !dialler.is_open {
            return self.reset(id, 1);
        }
        let connected = Input::LinkConnected {
            link,
            local,
            remote,
        };
        self.input(site, run, connected)
    }

    fn send(&mut self, site: usize, link: LinkId, bytes: &[u8]) -> Result<(), Violation> {
        let run = self.hosts[site].run;
        let found = self.streams.find(site, run, link);
        // The other end may be gone already: the kernel would say so in its own time.
        let Some((id, end)) = found else {
            return Ok(());
        };
        let stream = self.streams.get_mut(id).expect("found just now");
        if !stream.ends[end].is_open {
            return Err(format!("site {site} writes to a link it does not have"));
        }
        let sites = (stream.ends[end].site, stream.ends[1 - end].site);
        let receiver = &mut stream.ends[1 - end];
        receiver.incoming.extend(bytes);
        if !std::mem::replace(&mut receiver.is_scheduled, true) {
            let delay = self.network.delay(sites.0, sites.1);
            self.queue.push(
                self.now + delay,
                Event::Segment {
                    stream: id,
                    end: 1 - end,
                },
            );
        }
        Ok(())
    }

    /// Bytes arrive, cut anywhere.
    fn segment(&mut self, id: StreamId, end: usize) -> Result<(), Violation> {
        let Some(stream) = self.streams.get_mut(id) else {
            return Ok(());
        };
        let (from, to) = (&stream.ends[1 - end], &stream.ends[end]);
        let (site, run, link) = (to.site, to.run, to.link);
        let (sender_site, sender_run, sender_link) = (from.site, from.run, from.link);
        if !self.network.passes(site, sender_site) || self.hosts[site].power == Power::Off {
            self.queue
                .push(self.now + RETRANSMIT, Event::Segment { stream: id, end });
            return Ok(());
        }
        if !to.is_open {
            return self.reset(id, 1 - end);
        }
        let receiver = &mut stream.ends[end];
        let waiting = receiver.incoming.len();
        let is_cut = waiting > 1 && self.rng.random_bool(0.2);
        let count = if is_cut {
            self.rng.random_range(1..waiting)
        } else {
            waiting
        };
        let bytes: Vec<u8> = receiver.incoming.drain(..count).collect();
        receiver.is_scheduled = count < waiting;
        if count < waiting {
            let at = self.now + Duration::from_micros(self.rng.random_range(0..2000));
            self.queue.push(at, Event::Segment { stream: id, end });
        }
        if count > 0 {
            self.input(site, run, Input::LinkBytes { link, bytes })?;
        }
        if count == waiting {
            self.flushed(id, sender_site, sender_run, sender_link)?;
        }
        Ok(())
    }

    fn flushed(
        &mut self,
        id: StreamId,
        site: usize,
        run: u32,
        link: LinkId,
    ) -> Result<(), Violation> {
        let Some(stream) = self.streams.get_mut(id) else {
            return Ok(());
        };
        let own = stream
            .ends
            .iter()
            .position(|end| (end.site, end.run, end.link) == (site, run, link));
        let own = own.expect("the end belongs to the stream");
        if stream.ends[own].is_open && stream.ends[1 - own].incoming.is_empty() {
            return self.input(site, run, Input::LinkFlushed { link });
        }
        Ok(())
    }

    /// A router closes its end, or its kernel does: what is unsent may be lost, the other end gets
    /// a reset if that passes.
    fn close_end(&mut self, id: StreamId, end: usize) {
        self.trace(|| format!("stream {id} closed at end {end}"));
        let Some(stream) = self.streams.get_mut(id) else {
            return;
        };
        stream.ends[end].is_open = false;
        stream.ends[end].is_done = true;
        stream.ends[end].incoming.clear();
        let other = &mut stream.ends[1 - end];
        if self.rng.random_bool(0.5) {
            other.incoming.clear();
        }
        let sites = (stream.ends[0].site, stream.ends[1].site);
        let at = self.now + self.network.delay(sites.0, sites.1);
        self.queue.push(
            at,
            Event::Reset {
                stream: id,
                end: 1 - end,
            },
        );
    }

    /// A reset arrives at an end.
    fn reset(&mut self, id: StreamId, end: usize) -> Result<(), Violation> {
        self.trace(|| format!("stream {id} resets end {end}"));
        let Some(stream) = self.streams.get_mut(id) else {
            return Ok(());
        };
        if !self
            .network
            .passes(stream.ends[0].site, stream.ends[1].site)
        {
            return Ok(());
        }
        let hit = &mut stream.ends[end];
        let (site, run, link) = (hit.site, hit.run, hit.link);
        let was_open = std::mem::replace(&mut hit.is_open, false);
        if stream.ends.iter().all(|end| !end.is_open) {
            self.streams.remove(id);
        }
        if was_open {
            let error = "connection reset by peer".to_owned();
            return self.input(site, run, Input::LinkClosed { link, error });
        }
        Ok(())
    }

    // UDP.

    fn transmit_all(&mut self, site: usize, datagrams: Vec<Datagram>) {
        for datagram in datagrams {
            self.transmit(site, datagram);
        }
    }

    fn transmit(&mut self, site: usize, datagram: Datagram) {
        let Some(&to) = self.sites_by_ip.get(&datagram.to.ip()) else {
            return;
        };
        let host = &self.hosts[site];
        let known = host
            .learned_mtus
            .get(&to)
            .copied()
            .unwrap_or(INTERFACE_MTU_BYTES);
        if datagram.df && datagram.packet_bytes > known {
            let tunnel = datagram.tunnel;
            let event = TunnelEvent::TooBig {
                tunnel,
                path_mtu_bytes: known,
            };
            let event = Event::News {
                site,
                run: host.run,
                event,
            };
            return self.queue.push(self.now, event);
        }
        let path: PathMtu = self.network.path_mtu(site, to);
        if datagram.df && datagram.packet_bytes > path.bytes {
            if path.truthful && self.network.passes(site, to) {
                self.hosts[site].learned_mtus.insert(to, path.bytes);
            }
            return;
        }
        let from = SocketAddr::new(host.site.ip, host.udp_port);
        for delay in self.network.copies(&mut self.rng, site, to) {
            let datagram = Box::new(datagram.clone());
            let event = Event::Datagram {
                from,
                datagram,
                site: to,
            };
            self.queue.push(self.now + delay, event);
        }
    }

    fn datagram(
        &mut self,
        from: SocketAddr,
        datagram: Datagram,
        site: usize,
    ) -> Result<(), Violation> {
        let host = &mut self.hosts[site];
        if host.power != Power::Running || datagram.to.port() != host.udp_port {
            return Ok(());
        }
        match host.forwarder.receive(datagram, from) {
            Arrival::Dropped => Ok(()),
            Arrival::Event(event) => {
                let run = host.run;
                self.input(site, run, Input::Tunnel(event))
            }
            Arrival::Frame { delivered, copies } => {
                if let Some(number) = delivered {
                    *self.delivered.entry((number, site)).or_default() += 1;
                }
                self.transmit_all(site, copies);
                Ok(())
            }
        }
    }

    fn trace(&self, line: impl FnOnce() -> String) {
        if let Some(trace) = self.trace {
            trace(self.now, &line());
        }
    }
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
