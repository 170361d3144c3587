//! One measurement of one path: TCP by iperf3, datagrams and round trips by our own traffic programs.

use std::process::{Child, Command};
use std::thread;
use std::time::Duration;

use super::meter::{CpuTime, Meter};
use super::network::{Lane, Place};
use crate::stage::{Outcome, Stage, finish_started, run, start, wait_for};

const LIMIT: Duration = Duration::from_secs(30);

/// iperf3's usual port; streams to one receiver count on from here.
const PORT: u16 = 5201;

/// Round trips are measured this long.
const TRIP_SECONDS: &str = "2";

/// Where and how to measure.
pub(super) struct Bench<'a> {
    pub(super) stage: &'a Stage,
    pub(super) meter: &'a Meter,
    pub(super) seconds: u64,
}

/// What TCP streams achieved together.
pub(super) struct Throughput {
    pub(super) gbits_per_second: f64,
    pub(super) cpu_seconds_per_gbit: f64,
    pub(super) counted: f64,
}

/// How long round trips took.
pub(super) struct RoundTrips {
    pub(super) median_micros: f64,
    /// One of a hundred took longer.
    pub(super) slow_micros: f64,
    pub(super) cpu_seconds_per_million: f64,
    pub(super) counted: f64,
}

/// Datagrams to be sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flood {
    pub(super) flows: u16,
    /// Payload of each.
    pub(super) bytes: usize,
    pub(super) per_second: u64,
    pub(super) millis: u64,
}

/// What became of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Delivery {
    /// Sent per second, which is less than asked for when the sender is slower.
    pub(super) offered: f64,
    pub(super) delivered: f64,
    pub(super) megabits_per_second: f64,
    /// Share of what was sent, 0 to 1.
    pub(super) lost: f64,
    pub(super) flows_seen: f64,
    pub(super) cpu_seconds_per_million: f64,
    pub(super) counted: f64,
}

impl Bench<'_> {
    /// TCP from the first sender, with as many parallel streams.
    pub(super) fn tcp(&self, lane: &Lane, streams: u32) -> Outcome<Throughput> {
        self.streams(lane, &lane.from[..1], streams)
    }

    /// TCP from every sender at once, a stream each.
    pub(super) fn tcp_from_all(&self, lane: &Lane) -> Outcome<Throughput> {
        self.streams(lane, &lane.from, 1)
    }

    fn streams(&self, lane: &Lane, from: &[Place], streams: u32) -> Outcome<Throughput> {
        let servers = (PORT..)
            .zip(from)
            .map(|(port, _)| {
                let words = ["iperf3", "-s", "-1", "-p", &port.to_string()];
                start(&mut self.counted(lane, &lane.to, &words))
            })
            .collect::<Outcome<Vec<Child>>>()?;
        let before = self.meter.now(lane.name);
        let said: Outcome<Vec<String>> = thread::scope(|scope| {
            let clients: Vec<_> = (PORT..)
                .zip(from)
                .map(|(port, place)| {
                    scope.spawn(move || self.iperf_client(lane, place, port, streams))
                })
                .collect();
            clients
                .into_iter()
                .map(|client| client.join().expect("a client does not panic"))
                .collect()
        });
        let used = self.meter.now(lane.name).since(before);
        for server in servers {
            end(server)?;
        }
        let mut sum = Received::default();
        for said in said? {
            let one = Received::read(&said)?;
            sum.bytes += one.bytes;
            sum.bits_per_second += one.bits_per_second;
        }
        Ok(Throughput {
            gbits_per_second: sum.bits_per_second / 1e9,
            cpu_seconds_per_gbit: used.group / (sum.bytes * 8.0 / 1e9),
            counted: share(used),
        })
    }

    fn iperf_client(&self, lane: &Lane, from: &Place, port: u16, streams: u32) -> Outcome<String> {
        let patience = (self.seconds + 10).to_string();
        let (port, seconds) = (port.to_string(), self.seconds.to_string());
        wait_for("iperf3", LIMIT, || {
            let program = ["timeout", "-k", "5", &patience, "iperf3", "-J"];
            let target = ["-c", &lane.to.address, "-p", &port];
            let load = ["-t", &seconds, "-P", &streams.to_string()];
            let words = [&program[..], &target, &load].concat();
            // With -J iperf3 ends well even when it could not connect.
            let said = run(&mut self.counted(lane, from, &words))?;
            if said.contains("\"error\":") {
                Err(said)
            } else {
                Ok(said)
            }
        })
    }

    /// Datagrams from the first sender.
    pub(super) fn datagrams(&self, lane: &Lane, flood: Flood) -> Outcome<Delivery> {
        let from = &lane.from[0];
        let own = own_path()?;
        let numbers = [
            flood.flows.to_string(),
            flood.bytes.to_string(),
            flood.per_second.to_string(),
            flood.millis.to_string(),
        ];
        let address = lane.to.address.as_str();
        let count = [own.as_str(), "traffic", "count", address];
        let mut send = vec![own.as_str(), "traffic", "datagrams", address];
        send.extend(numbers.iter().map(String::as_str));
        let mut counter = start(&mut self.counted(lane, &lane.to, &count))?;
        let before = self.meter.now(lane.name);
        let sent = match run(&mut self.counted(lane, from, &send)) {
            Ok(sent) => sent,
            Err(error) => {
                // It would wait for its first datagram.
                let _ = counter.kill();
                return Err(format!("{}: {error}", lane.name));
            }
        };
        let said = if saw_nothing(&mut counter) {
            "0 0 0 0".to_owned()
        } else {
            finish_started(counter, "the receiver of datagrams")?
        };
        let used = self.meter.now(lane.name).since(before);
        let (sent, said) = (numbers_of::<2>(&sent)?, numbers_of::<4>(&said)?);
        Ok(delivery(sent, said, used))
    }

    /// Round trips one after the other.
    pub(super) fn round_trips(&self, lane: &Lane) -> Outcome<RoundTrips> {
        let own = own_path()?;
        let address = lane.to.address.as_str();
        let echo = [own.as_str(), "traffic", "echo", address];
        let echo = start(&mut self.counted(lane, &lane.to, &echo))?;
        let mut before = self.meter.now(lane.name);
        let said = wait_for("a ping-pong", LIMIT, || {
            before = self.meter.now(lane.name);
            let words = [own.as_str(), "traffic", "pingpong", address, TRIP_SECONDS];
            run(&mut self.counted(lane, &lane.from[0], &words))
        });
        let used = self.meter.now(lane.name).since(before);
        end(echo)?;
        let [median, slow, count] = numbers_of::<3>(&said?)?;
        Ok(RoundTrips {
            median_micros: median,
            slow_micros: slow,
            cpu_seconds_per_million: used.group / (count / 1e6),
            counted: share(used),
        })
    }

    /// A command in a place, on its core, counted for the lane.
    fn counted(&self, lane: &Lane, place: &Place, words: &[&str]) -> Command {
        let mut command = self.stage.command(&place.space, "taskset");
        command.args(["-c", &place.core.to_string()]).args(words);
        self.meter.inside(lane.name, &place.group(), &command)
    }
}

/// Whether a counter still waits for its first datagram some time after the last was sent; it is then ended.
fn saw_nothing(counter: &mut Child) -> bool {
    for _ in 0..100 {
        match counter.try_wait() {
            Ok(None) => thread::sleep(Duration::from_millis(100)),
            _ => return false,
        }
    }
    // It may end by itself at this very moment, which is as good.
    let _ = counter.kill();
    true
}

fn delivery(sent: [f64; 2], said: [f64; 4], used: CpuTime) -> Delivery {
    let ([sent, sent_micros], [received, bytes, micros, flows_seen]) = (sent, said);
    // What stood in queues may take longer to arrive than to send, and one burst may arrive in no time.
    let seconds = f64::max(sent_micros, micros) / 1e6;
    Delivery {
        offered: sent / (sent_micros / 1e6),
        delivered: received / seconds,
        megabits_per_second: bytes * 8.0 / 1e6 / seconds,
        lost: 1.0 - received / sent,
        flows_seen,
        cpu_seconds_per_million: used.group / (received / 1e6),
        counted: share(used),
    }
}

fn share(used: CpuTime) -> f64 {
    used.group / used.machine
}

fn own_path() -> Outcome<String> {
    let own = std::env::current_exe().map_err(|error| format!("this program: {error}"))?;
    Ok(own.to_string_lossy().into_owned())
}

/// The numbers one of our traffic programs printed.
fn numbers_of<const N: usize>(said: &str) -> Outcome<[f64; N]> {
    let numbers: Vec<f64> = said
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    numbers
        .try_into()
        .map_err(|_| format!("the traffic program said {said}"))
}

/// Ends a server whose client is done. One that waits for another client would wait for ever.
fn end(mut server: Child) -> Outcome<()> {
    // It may have ended by itself, which is as good.
    let _ = server.kill();
    server
        .wait()
        .map(drop)
        .map_err(|error| format!("a server: {error}"))
}

/// What iperf3's receiver counted.
#[derive(Default)]
struct Received {
    bytes: f64,
    bits_per_second: f64,
}

impl Received {
    /// From iperf3's JSON.
    fn read(said: &str) -> Outcome<Self> {
        let sum = said
            .split("\"sum_received\"")
            .nth(1)
            .ok_or("iperf3 reported no sum")?;
        let number = |key: &str| -> Outcome<f64> {
            let value = sum.split(&format!("\"{key}\":")).nth(1);
            let value = value
                .and_then(|rest| rest.split([',', '}']).next())
                .map(str::trim);
            value
                .and_then(|v| v.parse().ok())
                .ok_or_else(|| format!("iperf3 reported no {key}"))
        };
        Ok(Self {
            bytes: number("bytes")?,
            bits_per_second: number("bits_per_second")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_receivers_sum_is_read_from_iperf3() {
        let said = r#"{"end":{"sum_sent":{"bytes":9,"bits_per_second":9.5},
            "sum_received":{"start":0,"bytes":	1000,"bits_per_second":2.5e3}}}"#;
        let received = Received::read(said).unwrap();
        assert_eq!((received.bytes, received.bits_per_second), (1000.0, 2500.0));
        assert!(Received::read("{}").is_err());
    }

    #[test]
    fn a_delivery_is_measured_over_the_longer_of_sending_and_receiving() {
        let used = CpuTime {
            group: 2.0,
            machine: 4.0,
        };
        let slow = delivery([1000.0, 1e6], [500.0, 100_000.0, 2e6, 10.0], used);
        assert_eq!(
            (slow.offered, slow.delivered, slow.lost),
            (1000.0, 250.0, 0.5)
        );
        assert_eq!(slow.megabits_per_second, 0.4);
        assert_eq!(slow.cpu_seconds_per_million, 4000.0);
        assert_eq!(slow.counted, 0.5);
        let burst = delivery([1000.0, 1e6], [1000.0, 100_000.0, 1.0, 10.0], used);
        assert_eq!((burst.delivered, burst.lost), (1000.0, 0.0));
    }

    #[test]
    fn what_a_traffic_program_prints_must_have_all_numbers() {
        assert_eq!(numbers_of::<2>("10 20.5\n").unwrap(), [10.0, 20.5]);
        assert!(numbers_of::<3>("10 20.5").is_err());
    }
}
