//! The traffic of a soak: a program in each container that sends to all others and answers them.
//!
//! Datagrams carry sender, number, random length and checksum; streams carry up to a megabyte whose
//! checksum the receiver sends back. What fails is counted; what arrives altered is counted apart, for
//! that must never happen.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::PEERS;
use crate::chance::Chance;
use crate::crash::probe::inside;
use crate::stage::{Outcome, Stage};

const UDP_PORT: u16 = 7791;
const TCP_PORT: u16 = 7792;
/// Pause between two datagrams of an agent.
const DATAGRAM_PAUSE: Duration = Duration::from_millis(40);
/// Longest pause between two streams of an agent.
const STREAM_PAUSE_MAX: Duration = Duration::from_millis(1200);
/// Largest datagram; it travels as several packets.
const DATAGRAM_BYTES_MAX: usize = 4000;
/// Most datagrams are smaller than this and travel as one packet.
const USUAL_BYTES_MAX: usize = 1300;
const STREAM_BYTES_MAX: u64 = 1_000_000;
/// Sender, number and checksum.
const HEADER_BYTES: usize = 8 + 8 + 8;
/// After that long a stream that does not go on has failed.
const PATIENCE: Duration = Duration::from_secs(20);
/// How many numbers back a repetition is noticed.
const WINDOW: usize = 4096;

/// Numbers that one agent counts.
const COUNTED: usize = 5 + 2 * PEERS;

/// What agents have counted, one or all of them together.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts([u64; COUNTED]);

/// Something an agent counts; peers are numbers from 0.
#[derive(Debug, Clone, Copy)]
enum Event {
    /// A datagram that came before.
    Repeated,
    StreamDone,
    StreamFailed,
    StreamByte,
    /// Something arrived other than it was sent.
    Altered,
    SentTo(usize),
    ReceivedFrom(usize),
}

impl Event {
    const fn place(self) -> usize {
        match self {
            Self::Repeated => 0,
            Self::StreamDone => 1,
            Self::StreamFailed => 2,
            Self::StreamByte => 3,
            Self::Altered => 4,
            Self::SentTo(peer) => 5 + peer,
            Self::ReceivedFrom(peer) => 5 + PEERS + peer,
        }
    }
}

impl Counts {
    fn read_line(line: &str) -> Option<Self> {
        let numbers: Vec<u64> = line
            .split(' ')
            .map_while(|word| word.parse().ok())
            .collect();
        Some(Self(numbers.try_into().ok()?))
    }

    const fn of(&self, event: Event) -> u64 {
        self.0[event.place()]
    }

    pub(super) const fn repeated(&self) -> u64 {
        self.of(Event::Repeated)
    }

    pub(super) const fn streams_done(&self) -> u64 {
        self.of(Event::StreamDone)
    }

    pub(super) const fn streams_failed(&self) -> u64 {
        self.of(Event::StreamFailed)
    }

    pub(super) const fn stream_bytes(&self) -> u64 {
        self.of(Event::StreamByte)
    }

    pub(super) const fn altered(&self) -> u64 {
        self.of(Event::Altered)
    }

    pub(super) const fn sent_to(&self, peer: usize) -> u64 {
        self.of(Event::SentTo(peer))
    }

    pub(super) const fn received_from(&self, peer: usize) -> u64 {
        self.of(Event::ReceivedFrom(peer))
    }

    pub(super) fn sent(&self) -> u64 {
        (0..PEERS).map(|peer| self.sent_to(peer)).sum()
    }

    pub(super) fn received(&self) -> u64 {
        (0..PEERS).map(|peer| self.received_from(peer)).sum()
    }

    /// Both together.
    pub(super) fn plus(&self, other: &Self) -> Self {
        Self(std::array::from_fn(|place| self.0[place] + other.0[place]))
    }

    /// What came after `earlier`.
    pub(super) fn since(&self, earlier: &Self) -> Self {
        Self(std::array::from_fn(|place| {
            self.0[place].saturating_sub(earlier.0[place])
        }))
    }

    /// An exchange with one other peer, for tests.
    #[cfg(test)]
    pub(super) fn example(other: usize, sent: u64, received: u64) -> Self {
        let mut counts = Self::default();
        counts.0[Event::SentTo(other).place()] = sent;
        counts.0[Event::ReceivedFrom(other).place()] = received;
        counts.0[Event::StreamDone.place()] = 1;
        counts
    }

    /// Something that arrived altered, for tests.
    #[cfg(test)]
    pub(super) fn altered_example() -> Self {
        let mut counts = Self::default();
        counts.0[Event::Altered.place()] = 1;
        counts
    }
}

/// Counters in use by several threads.
struct Counters([AtomicU64; COUNTED]);

impl Counters {
    fn new() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }

    fn add(&self, event: Event, number: u64) {
        self.0[event.place()].fetch_add(number, Ordering::Relaxed);
    }

    fn line(&self) -> String {
        let numbers = self
            .0
            .each_ref()
            .map(|n| n.load(Ordering::Relaxed).to_string());
        numbers.join(" ")
    }
}

/// Runs in a container until its standard input is closed.
pub(crate) fn run(arguments: &[&str]) -> Result<String, String> {
    let [number, seed, others @ ..] = arguments else {
        return Err("an agent needs its number, a seed and addresses".to_owned());
    };
    let number = number
        .parse::<u64>()
        .map_err(|e| format!("{number}: {e}"))?;
    let seed = seed.parse::<u64>().map_err(|e| format!("{seed}: {e}"))?;
    let others: Result<Vec<Ipv4Addr>, _> = others.iter().map(|other| other.parse()).collect();
    let others = others.map_err(|e| format!("{arguments:?}: {e}"))?;
    serve(number, seed, others).map_err(|error| format!("agent {number}: {error}"))
}

fn serve(number: u64, seed: u64, others: Vec<Ipv4Addr>) -> std::io::Result<String> {
    let counters = Arc::new(Counters::new());
    let socket = UdpSocket::bind(("0.0.0.0", UDP_PORT))?;
    let listener = TcpListener::bind(("0.0.0.0", TCP_PORT))?;
    let (receiving, ours) = (socket.try_clone()?, Arc::clone(&counters));
    thread::spawn(move || receive_datagrams(&receiving, &ours));
    let ours = Arc::clone(&counters);
    thread::spawn(move || accept_streams(&listener, &ours));
    let (mut chance, ours, targets) = (Chance::new(seed), Arc::clone(&counters), others.clone());
    thread::spawn(move || send_datagrams(&socket, number, &targets, &mut chance, &ours));
    let (mut chance, ours) = (Chance::new(seed ^ 0x5eed), Arc::clone(&counters));
    thread::spawn(move || send_streams(&others, &mut chance, &ours));

    let (told, stop) = std::sync::mpsc::channel::<()>();
    thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        drop(told);
    });
    let mut out = std::io::stdout();
    loop {
        let word = stop.recv_timeout(Duration::from_secs(1));
        if word != Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            return Ok(counters.line());
        }
        writeln!(out, "{}", counters.line())?;
    }
}

fn send_datagrams(
    socket: &UdpSocket,
    sender: u64,
    targets: &[Ipv4Addr],
    chance: &mut Chance,
    counters: &Counters,
) {
    let mut next = vec![0_u64; targets.len()];
    loop {
        let target = chance.index(targets.len());
        let most = if chance.below(20) == 0 {
            DATAGRAM_BYTES_MAX
        } else {
            USUAL_BYTES_MAX
        };
        let length = HEADER_BYTES + chance.index(most - HEADER_BYTES);
        let datagram = datagram(sender, next[target], length);
        next[target] += 1;
        // The kernel says here what became of earlier ones; it counts as sent.
        let _ = socket.send_to(&datagram, (targets[target], UDP_PORT));
        counters.add(Event::SentTo(peer_of(targets[target])), 1);
        thread::sleep(DATAGRAM_PAUSE);
    }
}

/// The number from 0 of the peer a container belongs to (`Host::container_address`).
const fn peer_of(address: Ipv4Addr) -> usize {
    address.octets()[2] as usize - 1
}

/// A datagram whose bytes follow from sender, number and length.
fn datagram(sender: u64, number: u64, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length);
    bytes.extend_from_slice(&sender.to_be_bytes());
    bytes.extend_from_slice(&number.to_be_bytes());
    bytes.extend_from_slice(&[0; 8]);
    bytes.extend(filling(sender ^ number).take(length - HEADER_BYTES));
    let sum = checksum(&bytes);
    bytes[16..24].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// Sender and number, unless a byte was altered.
fn read_datagram(bytes: &mut [u8]) -> Option<(u64, u64)> {
    let field = |bytes: &[u8], at: usize| {
        let bytes = bytes.get(at..at + 8)?;
        Some(u64::from_be_bytes(bytes.try_into().ok()?))
    };
    let sum = field(bytes, 16)?;
    bytes[16..24].fill(0);
    (checksum(bytes) == sum).then_some((field(bytes, 0)?, field(bytes, 8)?))
}

fn receive_datagrams(socket: &UdpSocket, counters: &Counters) {
    let mut seen: BTreeMap<u64, Seen> = BTreeMap::new();
    let mut bytes = [0; 65_536];
    loop {
        // An error tells of a datagram sent earlier.
        let Ok((length, _)) = socket.recv_from(&mut bytes) else {
            continue;
        };
        match read_datagram(&mut bytes[..length]) {
            Some((sender, _)) if !(1..=PEERS as u64).contains(&sender) => {
                counters.add(Event::Altered, 1);
            }
            None => counters.add(Event::Altered, 1),
            Some((sender, number)) if seen.entry(sender).or_default().is_new(number) => {
                counters.add(Event::ReceivedFrom(sender as usize - 1), 1);
            }
            Some(_) => counters.add(Event::Repeated, 1),
        }
    }
}

/// The numbers seen last of one sender.
#[derive(Default)]
struct Seen(std::collections::BTreeSet<u64>);

impl Seen {
    fn is_new(&mut self, number: u64) -> bool {
        let new = self.0.insert(number);
        if self.0.len() > WINDOW {
            self.0.pop_first();
        }
        new
    }
}

fn send_streams(targets: &[Ipv4Addr], chance: &mut Chance, counters: &Counters) {
    loop {
        let target = SocketAddr::from((targets[chance.index(targets.len())], TCP_PORT));
        let length = chance.below(STREAM_BYTES_MAX) + 1;
        match send_stream(target, length) {
            Ok(true) => {
                counters.add(Event::StreamDone, 1);
                counters.add(Event::StreamByte, length);
            }
            Ok(false) => counters.add(Event::Altered, 1),
            Err(_) => counters.add(Event::StreamFailed, 1),
        }
        thread::sleep(chance.time(STREAM_PAUSE_MAX));
    }
}

/// Sends a stream; whether the receiver saw the same bytes.
fn send_stream(target: SocketAddr, length: u64) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect_timeout(&target, PATIENCE)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let bytes: Vec<u8> = filling(length).take(length as usize).collect();
    stream.write_all(&length.to_be_bytes())?;
    stream.write_all(&bytes)?;
    let mut sum = [0; 8];
    stream.read_exact(&mut sum)?;
    Ok(u64::from_be_bytes(sum) == checksum(&bytes))
}

fn accept_streams(listener: &TcpListener, counters: &Arc<Counters>) {
    for stream in listener.incoming().flatten() {
        let counters = Arc::clone(counters);
        // As many at a time as there are other agents.
        thread::spawn(move || {
            if let Ok(false) = receive_stream(stream) {
                counters.add(Event::Altered, 1);
            }
        });
    }
}

fn receive_stream(mut stream: TcpStream) -> std::io::Result<bool> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut length = [0; 8];
    stream.read_exact(&mut length)?;
    let length = u64::from_be_bytes(length);
    if length > STREAM_BYTES_MAX {
        return Ok(false);
    }
    let mut bytes = vec![0; length as usize];
    stream.read_exact(&mut bytes)?;
    stream.write_all(&checksum(&bytes).to_be_bytes())?;
    Ok(true)
}

/// Bytes without end that follow from a seed.
fn filling(seed: u64) -> impl Iterator<Item = u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .flatten()
}

/// FNV-1a over words of eight bytes; it notices words that change places.
fn checksum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let mix = |sum: u64, word: u64| {
        (sum ^ word)
            .wrapping_mul(0x0000_0100_0000_01b3)
            .rotate_left(5)
    };
    let sum = words.iter().fold(0xcbf2_9ce4_8422_2325, |sum, word| {
        mix(sum, u64::from_le_bytes(*word))
    });
    rest.iter()
        .fold(sum, |sum, byte| mix(sum, u64::from(*byte)))
}

/// An agent as seen from outside.
pub(super) struct Agent {
    child: Child,
    input: Option<ChildStdin>,
    counts: Arc<Mutex<Counts>>,
    reader: Option<JoinHandle<()>>,
}

const NO_PANIC: &str = "nobody panics while holding it";

impl Agent {
    /// Starts traffic from a container to all these addresses.
    pub(super) fn start(
        stage: &Stage,
        container: &str,
        (number, seed): (usize, u64),
        others: &[String],
    ) -> Outcome<Self> {
        let (number, seed) = (number.to_string(), seed.to_string());
        let mut command = inside(stage, container, &["agent", &number, &seed])?;
        let mut child = command
            .args(others)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("an agent in {container}: {error}"))?;
        let input = child.stdin.take();
        let output = child.stdout.take().ok_or("an agent without output")?;
        let counts = Arc::new(Mutex::new(Counts::default()));
        let shared = Arc::clone(&counts);
        let reader = thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Some(counts) = Counts::read_line(&line) {
                    *shared.lock().expect(NO_PANIC) = counts;
                }
            }
        });
        Ok(Self {
            child,
            input,
            counts,
            reader: Some(reader),
        })
    }

    /// What it has counted so far.
    pub(super) fn counts(&self) -> Counts {
        *self.counts.lock().expect(NO_PANIC)
    }

    /// Whether it still runs, as it should.
    pub(super) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Ends the traffic; returns everything it counted.
    pub(super) fn finish(&mut self) -> Counts {
        self.input = None;
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the reader does not panic");
        }
        self.counts()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It has usually ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_altered_datagram_is_noticed() {
        let sound = datagram(3, 99, 700);
        assert_eq!(read_datagram(&mut sound.clone()), Some((3, 99)));
        for place in [0, 9, 17, 30, 699] {
            let mut altered = sound.clone();
            altered[place] ^= 1;
            assert_eq!(read_datagram(&mut altered), None, "{place}");
        }
        assert_eq!(read_datagram(&mut sound[..699].to_vec()), None);
        assert_eq!(read_datagram(&mut [0; 10]), None);
    }

    #[test]
    fn counts_survive_being_printed() {
        let counters = Counters::new();
        counters.add(Event::SentTo(5), 10);
        counters.add(Event::ReceivedFrom(0), 9);
        counters.add(Event::Altered, 1);
        let counts = Counts::read_line(&counters.line()).expect("all numbers");
        assert_eq!(
            (counts.sent(), counts.received(), counts.altered()),
            (10, 9, 1)
        );
        assert_eq!((counts.sent_to(5), counts.received_from(0)), (10, 9));
        assert_eq!(counts.plus(&counts).since(&counts), counts);
        assert_eq!(Counts::read_line("1 2"), None);
    }

    #[test]
    fn a_container_address_tells_its_peer() {
        assert_eq!(peer_of("10.32.6.1".parse().expect("an address")), 5);
    }

    #[test]
    fn a_repeated_number_is_not_new() {
        let mut seen = Seen::default();
        assert!(seen.is_new(5) && seen.is_new(4) && !seen.is_new(5));
    }
}
