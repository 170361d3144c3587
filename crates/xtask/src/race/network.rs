//! The hosts of one contestant, their containers and the cables between them.
//!
//! ```text
//!   Pair   h1 ── h2                      traffic from h1 to h2
//!   Star   h1 ── switch ── h2 … h9       traffic from h2 … h9 to h1
//!   Line   h1 ── h2 ── h3                traffic from h1 to h3
//! ```

use std::process::Command;

use super::plan::Contestant;
use crate::race::meter::Meter;
use crate::stage::{Outcome, Stage, run};

/// What the kernel's VXLAN carries in packets of 1500 bytes.
const VXLAN_MTU_BYTES: &str = "1450";

/// How hosts are joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Pair,
    Star,
    Line,
}

impl Shape {
    /// The core of each host, beginning with host 1.
    pub(super) const fn cores(self) -> &'static [u8] {
        match self {
            Self::Pair => &[0, 1],
            Self::Star => &[1, 0, 0, 0, 0, 0, 0, 0, 0],
            Self::Line => &[0, 1, 0],
        }
    }

    /// Numbers of the hosts traffic comes from.
    pub(super) const fn senders(self) -> &'static [usize] {
        match self {
            Self::Pair | Self::Line => &[1],
            Self::Star => &[2, 3, 4, 5, 6, 7, 8, 9],
        }
    }

    /// Number of the host traffic goes to.
    pub(super) const fn receiver(self) -> usize {
        match self {
            Self::Pair => 2,
            Self::Star => 1,
            Self::Line => 3,
        }
    }

    /// The address a host's daemon is told at its start, if any.
    pub(super) const fn dials(self, host: usize) -> Option<&'static str> {
        match (self, host) {
            (_, 1) => None,
            (Self::Line, 3) => Some("192.168.98.2"),
            _ => Some("192.168.99.1"),
        }
    }

    /// Hosts a host can reach without help, which is how many connections it will have.
    pub(super) const fn neighbours(self, host: usize) -> usize {
        match (self, host) {
            (Self::Line, 2) => 2,
            (Self::Pair | Self::Line, _) => 1,
            (Self::Star, _) => 8,
        }
    }

    /// A host's own address on the underlay.
    fn address(self, host: usize) -> String {
        let net = if self == Self::Line && host == 3 {
            98
        } else {
            99
        };
        format!("192.168.{net}.{host}")
    }
}

/// What crosses the cables between hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Underlay {
    /// Super-packets of up to 64 KiB in one piece, as between hosts on one machine.
    Veth,
    /// Packets of the MTU's size, cut by the sender and merged by the receiver, as through network
    /// cards.
    Nic,
}

impl Underlay {
    pub(super) const ALL: [Self; 2] = [Self::Veth, Self::Nic];

    /// Its name on the command line.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Veth => "veth",
            Self::Nic => "nic",
        }
    }

    /// Modes separated by commas, in the order of the race.
    pub(super) fn read(words: &str) -> Outcome<Vec<Self>> {
        let mut modes = Vec::new();
        for word in words.split(',') {
            let mode = Self::ALL.into_iter().find(|mode| mode.word() == word);
            modes.push(mode.ok_or_else(|| {
                let known = Self::ALL.map(Self::word).join(", ");
                format!("no underlay is called {word}; there are {known}")
            })?);
        }
        modes.sort_unstable();
        modes.dedup();
        Ok(modes)
    }

    /// Settings of both ends of every cable, for `ethtool -K`.
    const fn offloads(self) -> &'static [&'static str] {
        match self {
            Self::Veth => &[],
            Self::Nic => &[
                "gso",
                "off",
                "tso",
                "off",
                "tx-udp-segmentation",
                "off",
                "gro",
                "on",
            ],
        }
    }
}

/// Where a stream begins or ends.
pub(super) struct Place {
    /// Namespace.
    pub(super) space: String,
    /// Its address on the path.
    pub(super) address: String,
    /// Core of its host.
    pub(super) core: u8,
}

impl Place {
    /// The control group of its traffic programs, apart from that of a daemon in the same namespace.
    pub(super) fn group(&self) -> String {
        format!("{}-traffic", self.space)
    }
}

/// One contestant, ready to run.
pub(super) struct Lane {
    pub(super) name: &'static str,
    pub(super) from: Vec<Place>,
    pub(super) to: Place,
}

/// Hosts before anything runs on them.
pub(super) struct Network<'a> {
    pub(super) stage: &'a Stage,
    pub(super) meter: &'a Meter,
    pub(super) contestant: Contestant,
    pub(super) shape: Shape,
    pub(super) underlay: Underlay,
}

impl Network<'_> {
    pub(super) fn hosts(&self) -> std::ops::RangeInclusive<usize> {
        1..=self.shape.cores().len()
    }

    fn core(&self, host: usize) -> u8 {
        self.shape.cores()[host - 1]
    }

    /// The namespace of a host.
    pub(super) fn host(&self, host: usize) -> String {
        format!("{}-h{host}", self.contestant.tag())
    }

    /// The namespace of the container on a host.
    pub(super) fn container(&self, host: usize) -> String {
        format!("{}-c{host}", self.contestant.tag())
    }

    /// Makes the hosts and their cables; what arrives at a host is processed by its core.
    pub(super) fn lay(&self) -> Outcome<()> {
        for host in self.hosts() {
            self.stage.add(&self.host(host))?;
            self.stage.add(&self.container(host))?;
        }
        let end = |host: usize| (self.host(host), format!("192.168.99.{host}/24"));
        let ((one, one_address), (two, two_address)) = (end(1), end(2));
        match self.shape {
            Shape::Pair => self
                .stage
                .cable((&one, "eth0", &one_address), (&two, "eth0", &two_address))?,
            Shape::Star => self.lay_star()?,
            Shape::Line => {
                self.stage
                    .cable((&one, "eth0", &one_address), (&two, "eth0", &two_address))?;
                self.stage.cable(
                    (&two, "eth1", "192.168.98.2/24"),
                    (&self.host(3), "eth0", "192.168.98.3/24"),
                )?;
            }
        }
        for host in self.hosts() {
            for device in self.devices(host) {
                self.set_offloads(&self.host(host), device)?;
            }
            let mask = 1 << self.core(host);
            self.shell(
                host,
                &format!(
                    "for q in /sys/class/net/eth*/queues/rx-0/rps_cpus; do echo {mask} > $q; done"
                ),
            )?;
        }
        Ok(())
    }

    fn lay_star(&self) -> Outcome<()> {
        let switch = format!("{}-sw", self.contestant.tag());
        self.stage.add(&switch)?;
        self.stage
            .ip(&switch, &["link", "add", "br0", "type", "bridge"])?;
        self.stage.ip(&switch, &["link", "set", "br0", "up"])?;
        for number in self.hosts() {
            let (host, port) = (self.host(number), format!("p{number}"));
            let address = format!("{}/24", self.shape.address(number));
            self.stage.plug((&switch, &port), (&host, "eth0"))?;
            self.stage
                .ip(&switch, &["link", "set", &port, "master", "br0"])?;
            self.stage
                .ip(&host, &["addr", "add", &address, "dev", "eth0"])?;
            self.set_offloads(&switch, &port)?;
        }
        Ok(())
    }

    /// The ends of cables on a host.
    const fn devices(&self, host: usize) -> &'static [&'static str] {
        match (self.shape, host) {
            (Shape::Line, 2) => &["eth0", "eth1"],
            (Shape::Pair | Shape::Star | Shape::Line, _) => &["eth0"],
        }
    }

    fn set_offloads(&self, space: &str, device: &str) -> Outcome<()> {
        let offloads = self.underlay.offloads();
        if offloads.is_empty() {
            return Ok(());
        }
        let mut ethtool = self.stage.command(space, "ethtool");
        run(ethtool.args(["-K", device]).args(offloads)).map(drop)
    }

    /// A bridge with a container and a VXLAN device of the kernel on each host of a pair.
    pub(super) fn lay_vxlan(&self) -> Outcome<()> {
        for (host, other) in [(1, 2), (2, 1)] {
            let name = self.host(host);
            let (local, remote) = (self.shape.address(host), self.shape.address(other));
            let far = self.stage.full(&self.container(host));
            let ends = ["local", &local, "remote", &remote, "dstport", "4789"];
            let vxlan = ["link", "add", "vx0", "type", "vxlan", "id", "7"];
            let mtu = ["mtu", VXLAN_MTU_BYTES];
            let veth = ["type", "veth", "peer", "name", "ethwe"];
            let place = ["netns", far.as_str()];
            for words in [
                &["link", "add", "weave", "type", "bridge"][..],
                &["link", "set", "weave", "up"],
                &[&vxlan[..], &ends].concat(),
                &["link", "set", "vx0", "master", "weave", "up"],
                &[&["link", "add", "ctr"][..], &mtu, &veth, &mtu, &place].concat(),
                &["link", "set", "ctr", "master", "weave", "up"],
            ] {
                self.stage.ip(&name, words)?;
            }
            let (container, address) = (self.container(host), container_address(host));
            let address = format!("{address}/24");
            self.stage
                .ip(&container, &["addr", "add", &address, "dev", "ethwe"])?;
            self.stage.ip(&container, &["link", "set", "ethwe", "up"])?;
        }
        Ok(())
    }

    /// Lets IP pass through the host in the middle, for the path without any overlay.
    pub(super) fn forward(&self) -> Outcome<()> {
        if self.shape != Shape::Line {
            return Ok(());
        }
        self.shell(2, "echo 1 > /proc/sys/net/ipv4/ip_forward")?;
        let route = |host: usize, net: &str, via: &str| {
            let words = ["route", "add", net, "via", via];
            self.stage.ip(&self.host(host), &words)
        };
        route(1, "192.168.98.0/24", "192.168.99.2")?;
        route(3, "192.168.99.0/24", "192.168.98.2")
    }

    fn shell(&self, host: usize, script: &str) -> Outcome<()> {
        let mut shell = self.stage.command(&self.host(host), "sh");
        run(shell.args(["-c", script])).map(drop)
    }

    /// The lane between the hosts themselves.
    pub(super) fn host_lane(&self) -> Lane {
        self.lane(|host| (self.host(host), self.shape.address(host)))
    }

    /// The lane between the containers, whose addresses are 10.32.0.1 and so on.
    pub(super) fn container_lane(&self) -> Lane {
        self.lane(|host| (self.container(host), container_address(host)))
    }

    fn lane(&self, place: impl Fn(usize) -> (String, String)) -> Lane {
        let place = |host: usize| {
            let (space, address) = place(host);
            Place {
                space,
                address,
                core: self.core(host),
            }
        };
        Lane {
            name: self.contestant.name(),
            from: self
                .shape
                .senders()
                .iter()
                .map(|&host| place(host))
                .collect(),
            to: place(self.shape.receiver()),
        }
    }

    /// A command on the core of a host, counted for this contestant.
    pub(super) fn pinned(&self, host: usize, command: &Command) -> Command {
        let mut pinned = Command::new("taskset");
        pinned.args(["-c", &self.core(host).to_string()]);
        pinned.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            if let Some(value) = value {
                pinned.env(name, value);
            }
        }
        self.meter
            .inside(self.contestant.name(), &self.host(host), &pinned)
    }
}

/// The address of the container on a host.
pub(super) fn container_address(host: usize) -> String {
    format!("10.32.0.{host}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_sender_shares_a_core_with_the_receiver_unless_a_relay_has_the_other() {
        for shape in [Shape::Pair, Shape::Star] {
            let core = |host: usize| shape.cores()[host - 1];
            for sender in shape.senders() {
                assert_ne!(core(*sender), core(shape.receiver()), "{shape:?}");
            }
        }
        assert_ne!(Shape::Line.cores()[0], Shape::Line.cores()[1]);
    }

    #[test]
    fn the_ends_of_a_line_have_no_network_in_common() {
        assert_eq!(Shape::Line.address(1), "192.168.99.1");
        assert_eq!(Shape::Line.address(3), "192.168.98.3");
        assert_eq!(Shape::Line.dials(3), Some("192.168.98.2"));
        assert_eq!(Shape::Star.address(9), "192.168.99.9");
    }
}
