//! TCP connections: opening, ordered bytes cut anywhere, resets.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use node::Input;
use rand::RngExt;
use wire::LinkId;

use super::{Event, Violation, World};
use crate::host::Power;
use crate::network::{End, Stream, StreamId};
use crate::plan::PORT;

/// How long a kernel keeps trying to connect to somebody who does not answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Most a router may hand over for one link that does not take it.
const QUEUED_MAX_BYTES: usize = 32 << 20;
/// How soon TCP tries a cut path again.
const RETRANSMIT: Duration = Duration::from_millis(500);

impl World {
    pub(super) fn dial(&mut self, site: usize, link: LinkId, remote: SocketAddr) {
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
        let accepted = self.next_inbound(to);
        let acceptor_run = self.hosts[to].run;
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
            end(to, acceptor_run, accepted, remote),
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

    pub(super) fn syn(&mut self, id: StreamId) -> Result<(), Violation> {
        let Some(stream) = self.streams.get_mut(id) else {
            return Ok(());
        };
        let [dialler, acceptor] = &mut stream.ends;
        let (link, local, remote) = (acceptor.link, acceptor.address, dialler.address);
        let (site, run) = (acceptor.site, acceptor.run);
        acceptor.is_open = self.hosts[site].run == run && self.hosts[site].node.is_some();
        self.accepted((site, run), link, (local, remote))
    }

    /// The link a router accepts next.
    pub(super) fn next_inbound(&mut self, site: usize) -> LinkId {
        let host = &mut self.hosts[site];
        host.accepted += 1;
        LinkId::inbound(host.accepted - 1)
    }

    /// A router accepts a link with these addresses, its own first.
    pub(super) fn accepted(
        &mut self,
        (site, run): (usize, u32),
        link: LinkId,
        (local, remote): (SocketAddr, SocketAddr),
    ) -> Result<(), Violation> {
        let accepted = Input::LinkAccepted {
            link,
            local,
            remote,
        };
        self.input(site, run, accepted)
    }

    pub(super) fn syn_ack(
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

    pub(super) fn send(
        &mut self,
        site: usize,
        link: LinkId,
        bytes: &[u8],
    ) -> Result<(), Violation> {
        let run = self.hosts[site].run;
        self.link_bytes += bytes.len() as u64;
        self.sent[site].bytes += bytes.len() as u64;
        self.sent[site].writes += 1;
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
        if receiver.incoming.len() > QUEUED_MAX_BYTES {
            return Err(format!(
                "site {site} queues without bound for a link that is stuck"
            ));
        }
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
    pub(super) fn segment(&mut self, id: StreamId, end: usize) -> Result<(), Violation> {
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
            let bytes = self
                .network
                .arriving(&mut self.rng, (site, sender_site), bytes);
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
    pub(super) fn close_end(&mut self, id: StreamId, end: usize) {
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
    pub(super) fn reset(&mut self, id: StreamId, end: usize) -> Result<(), Violation> {
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
}
