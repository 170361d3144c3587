//! What containers do to each other: ping, TCP with a checksum, broadcast and multicast.
//!
//! All payload is made of [`MARKER`], so that it can be recognised on the underlay.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use super::capture::MARKER;
use super::namespace::{Namespace, run, text};
use super::patience::{LONG, wait_for};

/// How long listeners go on after the last expected datagram, to see duplicates.
const SETTLE: Duration = Duration::from_millis(700);

/// The result of one `ping` run.
#[derive(Debug)]
pub(crate) struct Pings {
    /// What `ping` printed.
    pub(crate) text: String,
    /// Answers.
    pub(crate) received: usize,
}

/// Sends `count` pings of `size_bytes` payload, extra options before the address.
pub(crate) fn ping(from: &Namespace, to: &str, count: usize, options: &[&str]) -> Pings {
    let pattern: String = MARKER.iter().map(|byte| format!("{byte:02x}")).collect();
    let output = run(from
        .command("ping")
        .args([
            "-n",
            "-i",
            "0.2",
            "-W",
            "2",
            "-c",
            &count.to_string(),
            "-p",
            &pattern,
        ])
        .args(options)
        .arg(to));
    let text = format!("{}{}", text(&output.stdout), text(&output.stderr));
    let received = text
        .split(", ")
        .find_map(|part| part.strip_suffix(" received")?.trim().parse().ok())
        .unwrap_or(0);
    Pings { text, received }
}

/// Pings until there is an answer.
pub(crate) fn wait_ping(from: &Namespace, to: &str) {
    wait_for(&format!("a ping from {} to {to}", from.name()), || {
        let pings = ping(from, to, 1, &["-W", "1"]);
        if pings.received == 1 {
            Ok(())
        } else {
            Err(pings.text)
        }
    });
}

/// Ten pings, all answered.
pub(crate) fn assert_pings(from: &Namespace, to: &str) {
    let pings = ping(from, to, 10, &[]);
    assert_eq!(
        pings.received,
        10,
        "{} to {to}: {}",
        from.name(),
        pings.text
    );
}

/// Three pings, none answered.
pub(crate) fn assert_no_pings(from: &Namespace, to: &str) {
    let pings = ping(from, to, 3, &["-W", "1"]);
    assert_eq!(pings.received, 0, "{} to {to}: {}", from.name(), pings.text);
}

/// Moves `size_bytes` by TCP and compares what arrives with what was sent.
pub(crate) fn transfer(from: &Namespace, to: &Namespace, address: &str, size_bytes: usize) {
    let sent = payload(size_bytes);
    let write = |stream: &mut TcpStream| {
        stream
            .write_all(&sent)
            .expect("the stream takes everything");
    };
    let ((), received) = connected((from, to), address, write, |stream| {
        read_all(stream, size_bytes)
    });
    assert_same(&received, &sent);
}

/// Bytes of a block of a stream.
const BLOCK_BYTES: usize = 1 << 20;

/// Moves so many blocks of 1 MiB by TCP without keeping them, and compares the checksums of both
/// ends. For volumes that memory has no room for.
pub(crate) fn stream(from: &Namespace, to: &Namespace, address: &str, blocks: usize) {
    let send = |stream: &mut TcpStream| {
        let mut block = payload(BLOCK_BYTES);
        let mut sum = 0;
        for number in 0..blocks {
            block[..8].copy_from_slice(&(number as u64).to_le_bytes());
            sum = checksum_words(sum, &block);
            stream
                .write_all(&block)
                .expect("the stream takes everything");
        }
        sum
    };
    let receive = |stream: &mut TcpStream| {
        let mut block = vec![0; BLOCK_BYTES];
        let mut sum = 0;
        for number in 0..blocks {
            if let Err(error) = stream.read_exact(&mut block) {
                panic!("block {number} of {blocks} to {address}: {error}");
            }
            sum = checksum_words(sum, &block);
        }
        let rest = stream.read(&mut block).expect("the stream ends well");
        assert_eq!(rest, 0, "bytes too many");
        sum
    };
    let (sent, received) = connected((from, to), address, send, receive);
    assert_eq!(received, sent, "checksum of {blocks} blocks received");
}

/// Connects two containers by TCP, lets each do its part, and returns what came of both.
fn connected<S: Send, R: Send>(
    (from, to): (&Namespace, &Namespace),
    address: &str,
    send: impl FnOnce(&mut TcpStream) -> S + Send,
    receive: impl FnOnce(&mut TcpStream) -> R + Send,
) -> (S, R) {
    let address: IpAddr = address.parse().expect("an address");
    let listener = to.within(|| TcpListener::bind((address, 0)).expect("the address is there"));
    let target = SocketAddr::new(address, listener.local_addr().expect("bound").port());
    std::thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            let mut stream = accept(&listener);
            stream.set_read_timeout(Some(LONG)).expect("a valid time");
            receive(&mut stream)
        });
        let sent = from.within(|| {
            let mut stream = match TcpStream::connect_timeout(&target, LONG) {
                Ok(stream) => stream,
                Err(error) => panic!("{} to {target}: {error}", from.name()),
            };
            stream.set_write_timeout(Some(LONG)).expect("a valid time");
            send(&mut stream)
        });
        (sent, receiver.join().expect("the receiver saw no error"))
    })
}

/// Everything that comes until the other end is done.
fn read_all(stream: &mut TcpStream, size_bytes: usize) -> Vec<u8> {
    let mut received = Vec::with_capacity(size_bytes);
    stream
        .read_to_end(&mut received)
        .expect("the stream ends well");
    received
}

/// Nothing is missing and nothing altered.
fn assert_same(received: &[u8], sent: &[u8]) {
    assert_eq!(received.len(), sent.len(), "bytes received");
    assert_eq!(
        checksum(received),
        checksum(sent),
        "checksum of the bytes received"
    );
}

/// Like `checksum`, by words of eight bytes.
fn checksum_words(sum: u64, block: &[u8]) -> u64 {
    let (words, _) = block.as_chunks::<8>();
    words.iter().fold(sum, |sum, word| {
        let mixed = (sum ^ u64::from_le_bytes(*word)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed.rotate_left(29)
    })
}

/// Accepts one connection, and gives up at some time where `accept` would wait for ever.
fn accept(listener: &TcpListener) -> TcpStream {
    listener
        .set_nonblocking(true)
        .expect("an option of every socket");
    let (stream, _) = wait_for("a connection", || {
        listener.accept().map_err(|error| error.to_string())
    });
    stream
        .set_nonblocking(false)
        .expect("an option of every socket");
    stream
}

/// Marker, running number, and bytes that follow from the number.
fn payload(size_bytes: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size_bytes + 64);
    let mut number = 0x9e37_79b9_7f4a_7c15_u64;
    while bytes.len() < size_bytes {
        bytes.extend_from_slice(MARKER);
        for _ in 0..6 {
            number ^= number << 13;
            number ^= number >> 7;
            number ^= number << 17;
            bytes.extend_from_slice(&number.to_le_bytes());
        }
    }
    bytes.truncate(size_bytes);
    bytes
}

/// FNV-1a, which notices bytes that change places.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// A container that listens to one group or broadcast address.
pub(crate) struct Listener {
    socket: UdpSocket,
}

impl Listener {
    /// Listens inside `namespace`, joining `group` on the interface with `own` if it is multicast.
    pub(crate) fn new(namespace: &Namespace, group: Ipv4Addr, own: Ipv4Addr, port: u16) -> Self {
        let socket = namespace.within(|| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).expect("the port is free");
            if group.is_multicast() {
                socket
                    .join_multicast_v4(&group, &own)
                    .expect("the interface takes part");
            }
            socket
        });
        socket.set_read_timeout(Some(SETTLE)).expect("a valid time");
        Self { socket }
    }

    /// Copies of each numbered datagram, counted until nothing comes for a while.
    fn copies(&self, count: usize) -> Vec<usize> {
        let mut copies = vec![0; count];
        let mut bytes = [0; 64];
        while let Ok((length, _)) = self.socket.recv_from(&mut bytes) {
            let number = bytes[..length]
                .strip_prefix(MARKER.as_slice())
                .map(<[u8]>::first);
            if let Some(copy) = number
                .flatten()
                .and_then(|n| copies.get_mut(usize::from(*n)))
            {
                *copy += 1;
            }
        }
        copies
    }
}

/// Sends numbered datagrams to `target` from the address `own` inside `namespace`.
fn shout(namespace: &Namespace, own: Ipv4Addr, target: Ipv4Addr, port: u16, count: u8) {
    namespace.within(|| {
        let socket = UdpSocket::bind((own, 0)).expect("the address is there");
        socket.set_broadcast(true).expect("a socket may broadcast");
        socket
            .set_multicast_loop_v4(false)
            .expect("an option of every socket");
        for number in 0..count {
            let datagram = [MARKER.as_slice(), &[number]].concat();
            socket
                .send_to(&datagram, (target, port))
                .expect("there is a route");
            std::thread::sleep(Duration::from_millis(5));
        }
    });
}

/// Shouts from one container until all listeners hear it, then shouts twenty times and asserts that
/// every listener got exactly one copy of each.
pub(crate) fn assert_heard_once(
    from: &Namespace,
    own: Ipv4Addr,
    target: Ipv4Addr,
    port: u16,
    listeners: &[Listener],
) {
    wait_for(&format!("a shout to {target} to be heard by all"), || {
        shout(from, own, target, port, 1);
        let heard: Vec<Vec<usize>> = listeners.iter().map(|l| l.copies(1)).collect();
        if heard.iter().all(|copies| copies[0] > 0) {
            Ok(())
        } else {
            Err(format!("{heard:?}"))
        }
    });
    shout(from, own, target, port, 20);
    for (index, listener) in listeners.iter().enumerate() {
        assert_eq!(listener.copies(20), [1; 20], "copies at listener {index}");
    }
}

/// How fast data is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// As fast as it goes.
    Fast,
    /// A piece every few milliseconds, so that something can happen meanwhile.
    Slow,
}

/// Bytes written at once at the slow pace, and the pause between two writes.
const PIECE: (usize, Duration) = (32 << 10, Duration::from_millis(50));

/// Moves `size_bytes` by TCP at a pace and compares the checksums of both ends.
pub(crate) fn paced(
    from: &Namespace,
    to: &Namespace,
    address: &str,
    size_bytes: usize,
    pace: Pace,
) {
    if pace == Pace::Fast {
        return transfer(from, to, address, size_bytes);
    }
    let sent = payload(size_bytes);
    let write = |stream: &mut TcpStream| {
        for piece in sent.chunks(PIECE.0) {
            stream
                .write_all(piece)
                .expect("the stream takes everything");
            std::thread::sleep(PIECE.1);
        }
    };
    let ((), received) = connected((from, to), address, write, |stream| {
        read_all(stream, size_bytes)
    });
    assert_same(&received, &sent);
}

/// Payload of each datagram, bytes: some fit any path, some none, which containers then cut.
const DATAGRAM_BYTES: [usize; 4] = [400, 1200, 4000, 8000];
/// Datagrams under way at a time: a burst that socket buffers hold.
const DATAGRAM_WINDOW: usize = 8;
/// How long an acknowledgement is waited for before a datagram is sent again.
const DATAGRAM_WAIT: Duration = Duration::from_millis(100);

/// Moves `size_bytes` in numbered UDP datagrams of several sizes, each sent until it is
/// acknowledged, and compares the checksums of both ends.
pub(crate) fn datagrams(from: &Namespace, to: &Namespace, address: &str, size_bytes: usize) {
    let address: IpAddr = address.parse().expect("an address");
    let receiver = to.within(|| UdpSocket::bind((address, 0)).expect("the address is there"));
    let target = receiver.local_addr().expect("bound");
    let sent = payload(size_bytes);
    let mut pieces = Vec::new();
    let mut start = 0;
    while start < sent.len() {
        let size = DATAGRAM_BYTES[pieces.len() % DATAGRAM_BYTES.len()];
        let end = (start + size).min(sent.len());
        pieces.push(start..end);
        start = end;
    }
    let received = std::thread::scope(|scope| {
        let count = pieces.len();
        let receiver = scope.spawn(move || collect(&receiver, count));
        from.within(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("any port");
            socket.connect(target).expect("a way there");
            for (index, window) in pieces.chunks(DATAGRAM_WINDOW).enumerate() {
                let numbered = (index * DATAGRAM_WINDOW..).zip(window);
                let window: Vec<_> = numbered
                    .map(|(number, range)| numbered_datagram(number, &sent[range.clone()]))
                    .collect();
                deliver(&socket, index * DATAGRAM_WINDOW, &window);
            }
        });
        receiver.join().expect("the receiver saw no error")
    });
    assert_same(&received, &sent);
}

fn numbered_datagram(number: usize, bytes: &[u8]) -> Vec<u8> {
    [&(number as u64).to_le_bytes()[..], bytes].concat()
}

fn number_of(datagram: &[u8]) -> Option<usize> {
    let number = u64::from_le_bytes(*datagram.first_chunk()?);
    usize::try_from(number).ok()
}

/// Sends these datagrams, the first of which has number `first`, until each is acknowledged.
fn deliver(socket: &UdpSocket, first: usize, datagrams: &[Vec<u8>]) {
    socket
        .set_read_timeout(Some(DATAGRAM_WAIT))
        .expect("a valid time");
    let mut open: Vec<bool> = vec![true; datagrams.len()];
    wait_for("datagrams to be acknowledged", || {
        let unacknowledged = datagrams.iter().zip(&open).filter(|(_, open)| **open);
        for (datagram, _) in unacknowledged {
            // An error tells of an earlier one that was too big; the kernel cuts the next.
            let _ = socket.send(datagram);
        }
        let mut answer = [0; 16];
        while open.contains(&true) {
            match socket.recv(&mut answer) {
                Ok(length) => {
                    let index = number_of(&answer[..length]).and_then(|n| n.checked_sub(first));
                    if let Some(open) = index.and_then(|index| open.get_mut(index)) {
                        *open = false;
                    }
                }
                Err(error) if is_timeout(&error) => break,
                Err(_) => {}
            }
        }
        let missing = open.iter().filter(|open| **open).count();
        if missing == 0 {
            Ok(())
        } else {
            Err(format!("{missing} from number {first} on"))
        }
    });
}

fn is_timeout(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{TimedOut, WouldBlock};
    matches!(error.kind(), TimedOut | WouldBlock)
}

/// Receives and acknowledges `count` numbered datagrams; returns their bytes in order.
fn collect(socket: &UdpSocket, count: usize) -> Vec<u8> {
    socket.set_read_timeout(Some(LONG)).expect("a valid time");
    let mut pieces: Vec<Option<Vec<u8>>> = vec![None; count];
    let mut missing = count;
    let mut bytes = vec![0; 1 << 16];
    let settle = |missing: usize| if missing == 0 { SETTLE } else { LONG };
    loop {
        let (length, from) = match socket.recv_from(&mut bytes) {
            Ok(got) => got,
            Err(error) if missing == 0 && is_timeout(&error) => break,
            Err(error) => panic!("{missing} of {count} datagrams are missing: {error}"),
        };
        let number = number_of(&bytes[..length]).expect("a number");
        if pieces[number].is_none() {
            pieces[number] = Some(bytes[8..length].to_vec());
            missing -= 1;
            socket
                .set_read_timeout(Some(settle(missing)))
                .expect("a valid time");
        }
        socket.send_to(&bytes[..8], from).expect("a way back");
    }
    pieces.into_iter().flatten().flatten().collect()
}

/// The segment size both ends of a new connection hold the other to, bytes.
pub(crate) fn offered_segment(from: &Namespace, to: &Namespace, address: &str) -> [usize; 2] {
    let address: IpAddr = address.parse().expect("an address");
    let listener = to.within(|| TcpListener::bind((address, 0)).expect("the address is there"));
    let target = SocketAddr::new(address, listener.local_addr().expect("bound").port());
    let client = from.within(|| TcpStream::connect_timeout(&target, LONG).expect("a way there"));
    let server = accept(&listener);
    let sizes = [from, to].map(|namespace| {
        let port = format!(":{}", target.port());
        let filter = ["( dport = ", &port, " or sport = ", &port, " )"].concat();
        let told = namespace.run("ss", &["-tinH", "state", "established", &filter]);
        let size = told.split_whitespace().find_map(|word| {
            let size = word.strip_prefix("mss:")?;
            size.parse().ok()
        });
        size.unwrap_or_else(|| panic!("no segment size in: {told}"))
    });
    drop((client, server));
    sizes
}
