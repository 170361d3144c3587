//! Datagrams: path MTUs, weather, arrival at the data plane.

use std::net::SocketAddr;

use node::Input;
use overlay::kind::LaneEvent;
use overlay::tunnel::Signal;

use super::{Event, Violation, World};
use crate::forwarder::{Arrival, Datagram};
use crate::host::Power;
use crate::plan::{INTERFACE_MTU_BYTES, PathMtu};

impl World {
    pub(super) fn transmit_all(&mut self, site: usize, datagrams: Vec<Datagram>) {
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
            let refusal = Signal::TooBig {
                path_mtu_bytes: known,
            };
            let Some(event) = LaneEvent::of(datagram.kind, refusal, datagram.to) else {
                return;
            };
            let event = Event::News {
                site,
                run: host.run,
                event: event.on(datagram.link),
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

    pub(super) fn datagram(
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
                let learned = host.forwarder.take_learned();
                let run = host.run;
                self.transmit_all(site, copies);
                if learned.is_empty() {
                    return Ok(());
                }
                self.input(site, run, Input::Learned(learned))
            }
        }
    }
}
