//! Ill will: strangers who talk nonsense and forged news of the data plane.

use mesh::LinkId;
use node::Input;
use overlay::table::{SpecialKind, TunnelEvent, TunnelId};
use rand::{Rng, RngExt};

use super::{Violation, World};

/// Beginnings of what strangers say: each gets further before it turns to nonsense.
const OPENINGS: [&[u8]; 5] = [
    b"",
    b"weave",
    b"weave\x01\x01",
    b"weave\x01\x02\x00",
    b"weave\x01\x02\x00\x00\x00\x00\x40",
];

impl World {
    /// Somebody connects to a router, says something random and waits.
    pub(super) fn stranger(&mut self, site: usize) -> Result<(), Violation> {
        let host = &mut self.hosts[site];
        let link = LinkId::inbound(host.accepted);
        host.accepted += 1;
        let (run, local) = (host.run, host.listen_address());
        let remote = "203.0.113.77:4711".parse().expect("an address");
        self.input(
            site,
            run,
            Input::LinkAccepted {
                link,
                local,
                remote,
            },
        )?;
        let opening = self.rng.random_range(0..OPENINGS.len());
        let bytes = OPENINGS[opening].to_vec();
        self.input(site, run, Input::LinkBytes { link, bytes })?;
        let mut bytes = vec![0; self.rng.random_range(0..300)];
        self.rng.fill_bytes(&mut bytes);
        self.input(site, run, Input::LinkBytes { link, bytes })
    }

    /// News about a tunnel that exists, perhaps, but did not happen.
    pub(super) fn forgery(&mut self, site: usize) -> Result<(), Violation> {
        let host = &self.hosts[site];
        let run = host.run;
        let known: Vec<_> = host
            .forwarder
            .table
            .tunnels
            .values()
            .map(|t| t.id)
            .collect();
        for _ in 0..10 {
            let tunnel = match known.len() {
                0 => TunnelId(self.rng.random_range(0..4)),
                count => known[self.rng.random_range(0..count)],
            };
            let event = self.forged_event(tunnel);
            self.input(site, run, Input::Tunnel(event))?;
        }
        Ok(())
    }

    fn forged_event(&mut self, tunnel: TunnelId) -> TunnelEvent {
        let kind = match self.rng.random_range(0..5) {
            0 => {
                let path_mtu_bytes = self.rng.random_range(0..70_000);
                return TunnelEvent::TooBig {
                    tunnel,
                    path_mtu_bytes,
                };
            }
            1 => return TunnelEvent::CounterExhausted { tunnel },
            2 => SpecialKind::Heartbeat {
                connection_uid: self.rng.random(),
            },
            3 => SpecialKind::FragmentationTest,
            _ => SpecialKind::MtuTest {
                frame_bytes: self.rng.random_range(0..100_000),
            },
        };
        let from = "198.51.100.9:1".parse().expect("an address");
        TunnelEvent::Special { tunnel, from, kind }
    }
}
