//! The programs that run inside the namespaces of `demo` and `race`: this tool started again.
//!
//! `receive` and `send` move bytes that both ends can check; `echo` and `pingpong` measure round trips;
//! `datagrams` and `count` are many small UDP flows; `allocations` asks a daemon for addresses.

mod allocations;
mod datagrams;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use crate::stopwatch::Stopwatch;

/// The words the payload is made of, so that it can be recognised on a cable.
pub(crate) const TEXT: &[u8; 32] = b"the-quick-brown-weft-jumps-over-";

/// No peer may keep us waiting longer.
const PATIENCE: Duration = Duration::from_secs(60);

const PORT: u16 = 7777;
const ECHO_PORT: u16 = 7778;
const PING_BYTES: usize = 64;
const BLOCK_BYTES: usize = 64 * 1024;

/// Runs one of the programs; what it returns is printed for the caller to read.
pub(crate) fn run(arguments: &[&str]) -> Result<String, String> {
    let number = |text: &str| {
        text.parse::<u64>()
            .map_err(|error| format!("{text}: {error}"))
    };
    match *arguments {
        ["receive", address] => receive(address).map_err(|e| format!("receive: {e}")),
        ["send", address, megabytes] => {
            let megabytes = number(megabytes)?;
            send(address, megabytes).map_err(|e| format!("send to {address}: {e}"))
        }
        ["echo", address] => echo(address).map_err(|e| format!("echo: {e}")),
        ["pingpong", address, seconds] => {
            let time = Duration::from_secs(number(seconds)?);
            pingpong(address, time).map_err(|e| format!("pingpong with {address}: {e}"))
        }
        ["count", address] => {
            datagrams::count(address, PATIENCE).map_err(|e| format!("count: {e}"))
        }
        ["datagrams", address, flows, bytes, per_second, millis] => {
            let load = datagrams::Load {
                flows: u16::try_from(number(flows)?).map_err(|e| format!("{flows}: {e}"))?,
                bytes: number(bytes)?.min(1400) as usize,
                per_second: number(per_second)?,
                time: Duration::from_millis(number(millis)?),
            };
            datagrams::send(address, load).map_err(|e| format!("datagrams to {address}: {e}"))
        }
        ["allocations", server, clients, count] => {
            let (clients, count) = (number(clients)?.clamp(1, 256), number(count)?.max(1));
            allocations::run(server, clients, count).map_err(|e| format!("{server}: {e}"))
        }
        _ => Err("unknown traffic".to_owned()),
    }
}

/// Megabyte number `index` of the payload: the text, numbered, so that no two are equal.
fn megabyte(index: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1_000_000);
    let mut state = index.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    while bytes.len() < 1_000_000 {
        bytes.extend_from_slice(TEXT);
        for _ in 0..4 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.extend_from_slice(&state.to_le_bytes());
        }
    }
    bytes.truncate(1_000_000);
    bytes
}

/// FNV-1a over 64-bit words, cheap enough not to be what is measured.
#[derive(Default)]
struct Checksum {
    sum: u64,
    partial: Vec<u8>,
}

impl Checksum {
    fn add(&mut self, bytes: &[u8]) {
        self.partial.extend_from_slice(bytes);
        let whole = self.partial.len() / 8 * 8;
        for word in self.partial[..whole].chunks_exact(8) {
            let word = u64::from_le_bytes(word.try_into().expect("chunks of eight"));
            self.sum = (self.sum ^ word)
                .wrapping_mul(0x0000_0100_0000_01b3)
                .rotate_left(5);
        }
        self.partial.drain(..whole);
    }

    fn finish(mut self) -> u64 {
        let padding = vec![0; (8 - self.partial.len() % 8) % 8];
        self.add(&padding);
        self.sum
    }
}

fn receive(address: &str) -> std::io::Result<String> {
    let listener = TcpListener::bind((address, PORT))?;
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut checksum = Checksum::default();
    let mut total = 0;
    let mut block = vec![0; BLOCK_BYTES];
    loop {
        let length = stream.read(&mut block)?;
        if length == 0 {
            return Ok(format!("{total} {:016x}", checksum.finish()));
        }
        total += length;
        checksum.add(&block[..length]);
    }
}

fn send(address: &str, megabytes: u64) -> std::io::Result<String> {
    let mut stream = TcpStream::connect((address, PORT))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut checksum = Checksum::default();
    let mut total = 0;
    for index in 0..megabytes {
        let bytes = megabyte(index);
        stream.write_all(&bytes)?;
        checksum.add(&bytes);
        total += bytes.len();
    }
    Ok(format!("{total} {:016x}", checksum.finish()))
}

fn echo(address: &str) -> std::io::Result<String> {
    let listener = TcpListener::bind((address, ECHO_PORT))?;
    let (mut stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut ping = [0; PING_BYTES];
    let mut count = 0_u64;
    while stream.read_exact(&mut ping).is_ok() {
        stream.write_all(&ping)?;
        count += 1;
    }
    Ok(count.to_string())
}

/// Round trips one after the other; median, 99th percentile in microseconds, and their number.
fn pingpong(address: &str, time: Duration) -> std::io::Result<String> {
    let mut stream = TcpStream::connect((address, ECHO_PORT))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut ping = [7; PING_BYTES];
    let mut trips = Vec::new();
    let whole = Stopwatch::start();
    while whole.elapsed() < time {
        let trip = Stopwatch::start();
        stream.write_all(&ping)?;
        stream.read_exact(&mut ping)?;
        trips.push(trip.elapsed());
    }
    trips.sort_unstable();
    let at = |share: f64| trips[((trips.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e6;
    Ok(format!("{:.1} {:.1} {}", at(0.5), at(0.99), trips.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_does_not_depend_on_how_bytes_are_cut() {
        let bytes = megabyte(3);
        let mut whole = Checksum::default();
        whole.add(&bytes);
        let mut cut = Checksum::default();
        bytes.chunks(1001).for_each(|part| cut.add(part));
        assert_eq!(whole.finish(), cut.finish());
    }

    #[test]
    fn what_is_sent_is_what_is_received() {
        let receiver = std::thread::spawn(|| receive("127.0.0.1").expect("a sender comes"));
        let mut sent = send("127.0.0.1", 3);
        for _ in 0..500 {
            if sent.is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
            sent = send("127.0.0.1", 3);
        }
        assert_eq!(
            sent.expect("a receiver listens"),
            receiver.join().expect("no panic")
        );
    }
}
