//! What was asked for on the command line, and the parts of the race.

use std::path::PathBuf;

use super::network::{Shape, Underlay};
use super::table::{Column, Ratio};
use crate::options::Options;
use crate::stage::Outcome;

/// One kind of traffic, measured for every contestant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Tcp,
    Flows,
    Packets,
    Many,
    Relay,
    Trips,
}

/// Who takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Contestant {
    Raw,
    /// The kernel's own tunnel, without any daemon.
    Vxlan,
    /// Another binary of Weft, usually an older one.
    BeforePlain,
    BeforeEncrypted,
    WeftPlain,
    WeftEncrypted,
    /// Encrypted, with the one cipher the original knows.
    WeftSecretbox,
    OriginalPlain,
    OriginalEncrypted,
}

/// The command line.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) rounds: usize,
    pub(super) seconds: u64,
    pub(super) write: bool,
    /// Missed goals end the command with an error.
    pub(super) check: bool,
    pub(super) parts: Vec<Part>,
    pub(super) underlays: Vec<Underlay>,
    /// Share of a core beside another program, for machines that are not quiet.
    pub(super) weight: u64,
    /// A binary to measure instead of one built from these sources.
    pub(super) weft: Option<PathBuf>,
    /// Another binary to measure beside it.
    pub(super) before: Option<PathBuf>,
}

/// What version 2 of control groups can express.
pub(super) const WEIGHT_MAX: u64 = 100;

impl Plan {
    pub(super) fn read(arguments: &[&str]) -> Outcome<Self> {
        let mut plan = Self {
            rounds: 3,
            seconds: 4,
            write: false,
            check: false,
            parts: Part::ALL.to_vec(),
            underlays: Vec::new(),
            weight: 1,
            weft: None,
            before: None,
        };
        let mut options = Options::of(arguments);
        while let Some(name) = options.next_name() {
            match name {
                "--rounds" => plan.rounds = options.number()?.clamp(1, 100) as usize,
                "--seconds" => plan.seconds = options.number()?.clamp(1, 600),
                "--weight" => plan.weight = options.number()?.clamp(1, WEIGHT_MAX),
                "--write" => plan.write = true,
                "--check" => plan.check = true,
                "--only" => plan.parts = Part::read(options.value()?)?,
                "--underlay" => plan.underlays = Underlay::read(options.value()?)?,
                "--weft" => plan.weft = Some(PathBuf::from(options.value()?)),
                "--before" => plan.before = Some(PathBuf::from(options.value()?)),
                _ => return options.unknown(),
            }
        }
        if plan.underlays.is_empty() {
            // Goals have to be reached in every mode.
            let modes = if plan.check { 2 } else { 1 };
            plan.underlays = Underlay::ALL[..modes].to_vec();
        }
        Ok(plan)
    }
}

impl Part {
    pub(super) const ALL: [Self; 6] = [
        Self::Tcp,
        Self::Flows,
        Self::Packets,
        Self::Many,
        Self::Relay,
        Self::Trips,
    ];

    /// Parts separated by commas, in the order of the race.
    fn read(words: &str) -> Outcome<Vec<Self>> {
        let mut parts = Vec::new();
        for word in words.split(',') {
            let part = Self::ALL.into_iter().find(|part| part.word() == word);
            parts.push(part.ok_or_else(|| {
                let known = Self::ALL.map(Self::word).join(", ");
                format!("no part is called {word}; there are {known}")
            })?);
        }
        parts.sort_unstable();
        parts.dedup();
        Ok(parts)
    }

    /// Its name on the command line.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Flows => "flows",
            Self::Packets => "packets",
            Self::Many => "many",
            Self::Relay => "relay",
            Self::Trips => "trips",
        }
    }

    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::Tcp => "TCP between two hosts",
            Self::Flows => "1,000 small UDP flows",
            Self::Packets => "64-byte packets",
            Self::Many => "Many to one: eight peers send to a ninth",
            Self::Relay => "A relay in the middle",
            Self::Trips => "Round trips",
        }
    }

    pub(super) const fn shape(self) -> Shape {
        match self {
            Self::Tcp | Self::Flows | Self::Packets | Self::Trips => Shape::Pair,
            Self::Many => Shape::Star,
            Self::Relay => Shape::Line,
        }
    }

    /// Whether what stands for this part serves the other too.
    pub(super) fn shares_stage_with(self, other: Self) -> bool {
        self.shape() == other.shape() && self.contestants() == other.contestants()
    }

    /// Ciphers are told apart where streams keep a core busy with them. Nine plain daemons beside nine
    /// encrypted ones would take the measurement's own time.
    pub(super) const fn contestants(self) -> &'static [Contestant] {
        match self {
            Self::Tcp | Self::Relay => &[
                Contestant::Raw,
                Contestant::BeforePlain,
                Contestant::WeftPlain,
                Contestant::BeforeEncrypted,
                Contestant::WeftEncrypted,
                Contestant::WeftSecretbox,
                Contestant::OriginalPlain,
                Contestant::OriginalEncrypted,
            ],
            Self::Flows | Self::Packets => &[
                Contestant::Raw,
                Contestant::BeforePlain,
                Contestant::WeftPlain,
                Contestant::BeforeEncrypted,
                Contestant::WeftEncrypted,
                Contestant::OriginalPlain,
                Contestant::OriginalEncrypted,
            ],
            Self::Many => &[
                Contestant::Raw,
                Contestant::BeforeEncrypted,
                Contestant::WeftEncrypted,
                Contestant::WeftSecretbox,
                Contestant::OriginalEncrypted,
            ],
            Self::Trips => &[
                Contestant::Raw,
                Contestant::Vxlan,
                Contestant::BeforeEncrypted,
                Contestant::WeftEncrypted,
                Contestant::OriginalEncrypted,
            ],
        }
    }

    pub(super) const fn columns(self) -> &'static [Column] {
        match self {
            Self::Tcp => &[
                ONE_STREAM,
                FOUR_STREAMS,
                CPU_PER_GBIT,
                CPU_FOUR,
                TRIP,
                COUNTED,
            ],
            Self::Flows => &[DELIVERED, GOODPUT, LOST, FLOWS, CPU_PER_MILLION, COUNTED],
            Self::Packets => &[DELIVERED, OFFERED, LOST, CPU_PER_MILLION, COUNTED],
            Self::Many => &[EIGHT_STREAMS, CPU_PER_GBIT, COUNTED],
            Self::Relay => &[ONE_STREAM, CPU_PER_GBIT, TRIP, COUNTED],
            Self::Trips => &[TRIP, SLOW_TRIP, CPU_PER_TRIP, COUNTED],
        }
    }

    /// What is done, for the reader of the table.
    pub(super) const fn about(self) -> &'static str {
        match self {
            Self::Tcp => {
                "One TCP stream, then four at once, from a container on one host to a container on \
                 the other. Round trips are those of 64 bytes over TCP, one after the other; the \
                 median of two seconds."
            }
            Self::Flows => {
                "1,000 source ports send 200 bytes in turn, at a rate that is the same for all, found before \
                 the first round by raising it: the highest at which Weft loses less than 1 %, or the \
                 first at which the original loses more than 25 % (both encrypted), whichever is higher."
            }
            Self::Packets => {
                "One UDP flow with 64 bytes in each datagram, for each path at the offered rate at \
                 which most arrives, found before the first round by raising it. The sender shares its \
                 host's core with the daemon and uses one system call per datagram, so the raw row is \
                 the limit of the sender and the receiver."
            }
            Self::Many => {
                "Eight hosts on one switch send one TCP stream each, all at once, to one container on \
                 a ninth. The eight share a core; the ninth has one of its own."
            }
            Self::Relay => {
                "A and C have no path between them but through B, which does not forward IP (in the \
                 raw row it does): one TCP stream from a container on A to one on C. B has a core of \
                 its own; A and C share the other."
            }
            Self::Trips => {
                "64 bytes over TCP to a container on the other host and back, one after the other, for \
                 two seconds in each round. Each end, its daemon and its interrupts have a core: the two \
                 ends wait for each other, so what counts is how often a core falls asleep and a program \
                 has to be woken, not how much work there is."
            }
        }
    }
}

impl Contestant {
    #[cfg(test)]
    const ALL: [Self; 9] = [
        Self::Raw,
        Self::Vxlan,
        Self::BeforePlain,
        Self::BeforeEncrypted,
        Self::WeftPlain,
        Self::WeftEncrypted,
        Self::WeftSecretbox,
        Self::OriginalPlain,
        Self::OriginalEncrypted,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw veth",
            Self::Vxlan => "kernel VXLAN",
            Self::BeforePlain => "weft before plain",
            Self::BeforeEncrypted => "weft before encrypted",
            Self::WeftPlain => "weft sleeve plain",
            Self::WeftEncrypted => "weft sleeve encrypted",
            Self::WeftSecretbox => "weft sleeve secretbox",
            Self::OriginalPlain => "original plain",
            Self::OriginalEncrypted => "original encrypted",
        }
    }

    /// What the names of its namespaces begin with.
    pub(super) const fn tag(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Vxlan => "vx",
            Self::BeforePlain => "bp",
            Self::BeforeEncrypted => "be",
            Self::WeftPlain => "wp",
            Self::WeftEncrypted => "we",
            Self::WeftSecretbox => "ws",
            Self::OriginalPlain => "op",
            Self::OriginalEncrypted => "oe",
        }
    }

    pub(super) const fn is_original(self) -> bool {
        matches!(self, Self::OriginalPlain | Self::OriginalEncrypted)
    }

    pub(super) const fn is_encrypted(self) -> bool {
        matches!(
            self,
            Self::BeforeEncrypted
                | Self::WeftEncrypted
                | Self::WeftSecretbox
                | Self::OriginalEncrypted
        )
    }

    /// The ciphers its daemons are told to offer, whatever the user's own environment says.
    pub(super) const fn sleeve_cipher(self) -> Option<&'static str> {
        match self {
            Self::BeforeEncrypted | Self::WeftEncrypted => Some("auto"),
            Self::WeftSecretbox => Some("secretbox"),
            Self::Raw
            | Self::Vxlan
            | Self::BeforePlain
            | Self::WeftPlain
            | Self::OriginalPlain
            | Self::OriginalEncrypted => None,
        }
    }
}

/// A row of Weft and the row it stands beside.
#[derive(Debug, Clone, Copy)]
pub(super) struct Comparison {
    /// What is compared, for the reader.
    pub(super) words: &'static str,
    pub(super) weft: Contestant,
    pub(super) other: Contestant,
}

impl Comparison {
    pub(super) const ALL: [Self; 6] = [
        Self::PLAIN,
        Self::ENCRYPTED,
        Self::SECRETBOX,
        Self::BEFORE_PLAIN,
        Self::BEFORE,
        Self::VXLAN,
    ];

    pub(super) const PLAIN: Self = Self {
        words: "Weft's sleeve to the original's, plain",
        weft: Contestant::WeftPlain,
        other: Contestant::OriginalPlain,
    };

    pub(super) const ENCRYPTED: Self = Self {
        words: "Weft's sleeve to the original's, encrypted",
        weft: Contestant::WeftEncrypted,
        other: Contestant::OriginalEncrypted,
    };

    pub(super) const SECRETBOX: Self = Self {
        words: "Weft's sleeve to the original's, encrypted, with the original's cipher",
        weft: Contestant::WeftSecretbox,
        other: Contestant::OriginalEncrypted,
    };

    pub(super) const BEFORE_PLAIN: Self = Self {
        words: "Weft to the Weft before, plain",
        weft: Contestant::WeftPlain,
        other: Contestant::BeforePlain,
    };

    pub(super) const BEFORE: Self = Self {
        words: "Weft to the Weft before, encrypted",
        weft: Contestant::WeftEncrypted,
        other: Contestant::BeforeEncrypted,
    };

    pub(super) const VXLAN: Self = Self {
        words: "Weft's sleeve, encrypted, to the kernel's VXLAN in clear",
        weft: Contestant::WeftEncrypted,
        other: Contestant::Vxlan,
    };
}

/// Of `tcp` and `relay`; the goals name them.
pub(super) const ONE_STREAM: Column = Column::new("1 stream, Gbit/s", 2)
    .of_raw()
    .ratio(Ratio::Times("the throughput with one stream"));
pub(super) const CPU_PER_GBIT: Column =
    Column::new("CPU-s per Gbit", 3).ratio(Ratio::Of("the CPU time per gigabit"));
pub(super) const TRIP: Column = Column::new("round trip, µs", 0).ratio(Ratio::Of("the round trip"));

/// Of `trips` alone.
const SLOW_TRIP: Column = Column::new("99th percentile, µs", 0);
const CPU_PER_TRIP: Column =
    Column::new("CPU-s per million trips", 0).ratio(Ratio::Of("the CPU time per trip"));

/// Of `tcp` alone; the goals name them.
pub(super) const FOUR_STREAMS: Column = Column::new("4 streams, Gbit/s", 2)
    .of_raw()
    .ratio(Ratio::Times("the throughput with four"));
pub(super) const CPU_FOUR: Column = Column::new("CPU-s per Gbit, 4 streams", 3)
    .ratio(Ratio::Of("the CPU time per gigabit with four"));

const EIGHT_STREAMS: Column = Column::new("8 streams, Gbit/s", 2)
    .of_raw()
    .ratio(Ratio::Times("the throughput"));
const DELIVERED: Column =
    Column::new("delivered, 1,000/s", 1).ratio(Ratio::Times("the packets delivered"));
const OFFERED: Column = Column::new("offered, 1,000/s", 1);
const GOODPUT: Column = Column::new("goodput, Mbit/s", 1);
const LOST: Column = Column::new("lost, %", 1);
const FLOWS: Column = Column::new("flows seen", 0);
const CPU_PER_MILLION: Column =
    Column::new("CPU-s per million delivered", 2).ratio(Ratio::Of("the CPU time per packet"));
const COUNTED: Column = Column::new("counted CPU of all", 2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_read_in_the_order_of_the_race() {
        let plan = Plan::read(&["--only", "relay,tcp,relay", "--rounds", "1"]).unwrap();
        assert_eq!(plan.parts, [Part::Tcp, Part::Relay]);
        assert_eq!((plan.rounds, plan.weight), (1, 1));
        assert!(!plan.check && !plan.write);
    }

    #[test]
    fn the_originals_cipher_has_a_row_beside_the_encrypted_weft_where_streams_are_measured() {
        for part in Part::ALL {
            let rows = part.contestants();
            let at = |row| rows.iter().position(|&contestant| contestant == row);
            let expected = match part {
                Part::Tcp | Part::Many | Part::Relay => {
                    at(Contestant::WeftEncrypted).map(|encrypted| encrypted + 1)
                }
                Part::Flows | Part::Packets | Part::Trips => None,
            };
            assert_eq!(at(Contestant::WeftSecretbox), expected, "{part:?}");
        }
    }

    #[test]
    fn only_parts_with_the_same_rows_share_a_stage() {
        let stages: Vec<&[Part]> = Part::ALL.chunk_by(|a, b| a.shares_stage_with(*b)).collect();
        let expected: [&[Part]; 5] = [
            &[Part::Tcp],
            &[Part::Flows, Part::Packets],
            &[Part::Many],
            &[Part::Relay],
            &[Part::Trips],
        ];
        assert_eq!(stages, expected);
    }

    #[test]
    fn the_encrypted_rows_of_weft_differ_in_the_cipher_alone() {
        let (auto, secretbox) = (Contestant::WeftEncrypted, Contestant::WeftSecretbox);
        assert!(auto.is_encrypted() && secretbox.is_encrypted());
        assert!(!auto.is_original() && !secretbox.is_original());
        assert_eq!(auto.sleeve_cipher(), Some("auto"));
        assert_eq!(secretbox.sleeve_cipher(), Some("secretbox"));
    }

    #[test]
    fn no_two_contestants_share_a_name_or_namespaces() {
        for (at, one) in Contestant::ALL.iter().enumerate() {
            for other in &Contestant::ALL[at + 1..] {
                assert_ne!(one.name(), other.name());
                assert_ne!(one.tag(), other.tag());
            }
        }
    }

    #[test]
    fn a_binary_from_before_stands_right_above_the_row_it_is_compared_with() {
        let plan = Plan::read(&["--before", "/opt/old/weft"]).unwrap();
        assert_eq!(plan.before, Some(PathBuf::from("/opt/old/weft")));
        for part in Part::ALL {
            let rows = part.contestants();
            let at = |row| rows.iter().position(|&contestant| contestant == row);
            for rows in [Comparison::BEFORE_PLAIN, Comparison::BEFORE] {
                let before = at(rows.other).map(|at| at + 1);
                assert_eq!(
                    before,
                    at(rows.weft).filter(|_| before.is_some()),
                    "{part:?}"
                );
            }
            assert!(at(Contestant::BeforeEncrypted).is_some(), "{part:?}");
        }
    }

    #[test]
    fn goals_are_checked_in_every_mode_unless_one_is_named() {
        let modes = |arguments: &[&str]| Plan::read(arguments).unwrap().underlays;
        assert_eq!(modes(&[]), [Underlay::Veth]);
        assert_eq!(modes(&["--check"]), Underlay::ALL);
        assert_eq!(modes(&["--check", "--underlay", "nic"]), [Underlay::Nic]);
        assert_eq!(modes(&["--underlay", "nic,veth"]), Underlay::ALL);
        let unknown = Plan::read(&["--underlay", "wifi"]).unwrap_err();
        assert!(
            unknown.contains("wifi") && unknown.contains("nic"),
            "{unknown}"
        );
    }

    #[test]
    fn mistakes_on_the_command_line_are_named() {
        let unknown = Plan::read(&["--only", "udp"]).unwrap_err();
        assert!(
            unknown.contains("udp") && unknown.contains("flows"),
            "{unknown}"
        );
        assert!(Plan::read(&["--rounds"]).unwrap_err().contains("--rounds"));
        assert!(Plan::read(&["--seconds", "x"]).is_err());
        assert!(Plan::read(&["--fast"]).is_err());
    }
}
