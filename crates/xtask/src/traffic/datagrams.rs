//! Many small UDP flows at a given rate, and the far end that counts them.
//!
//! `datagrams` opens one socket per flow, each with a source port of its own, and sends from them in
//! turn. `count` receives all of them on one port. One system call per datagram at both ends.
//!
//! ```text
//!   a datagram: number of the flow, u16 big-endian | filling
//!   a greeting: one byte, sent back by the far end; nothing is counted before it came back
//! ```

use std::io::{Error, ErrorKind, Result};
use std::net::UdpSocket;
use std::thread;
use std::time::Duration;

use crate::stopwatch::Stopwatch;

const PORT: u16 = 7779;

/// Longer than any queue on the way stays full.
const SILENCE: Duration = Duration::from_millis(500);

/// Datagrams leave in bursts this far apart, as many as the rate wants by then.
const TICK: Duration = Duration::from_micros(250);

const GREETING: &[u8] = b"g";
const GREETING_PAUSE: Duration = Duration::from_millis(100);
const GREETINGS_MAX: u32 = 200;

/// A flow's number takes the first two bytes.
const BYTES_MIN: usize = 2;

/// What to send.
#[derive(Clone, Copy)]
pub(super) struct Load {
    pub(super) flows: u16,
    pub(super) bytes: usize,
    pub(super) per_second: u64,
    pub(super) time: Duration,
}

/// Sends until the time is over; number of datagrams sent and the microseconds it took.
pub(super) fn send(address: &str, load: Load) -> Result<String> {
    if load.flows == 0 || load.bytes < BYTES_MIN || load.per_second == 0 {
        return Err(Error::new(ErrorKind::InvalidInput, "nothing to send"));
    }
    let sockets: Vec<UdpSocket> = (0..load.flows)
        .map(|_| {
            let socket = UdpSocket::bind(("0.0.0.0", 0))?;
            socket.connect((address, PORT))?;
            Ok(socket)
        })
        .collect::<Result<_>>()?;
    greet(&sockets[0])?;
    let mut datagram = vec![0x5a; load.bytes];
    let mut turn = (0..load.flows).cycle();
    let mut sent = 0_u64;
    let watch = Stopwatch::start();
    loop {
        let elapsed = watch.elapsed();
        if elapsed >= load.time {
            return Ok(format!("{sent} {}", elapsed.as_micros()));
        }
        let due = (elapsed.as_secs_f64() * load.per_second as f64) as u64;
        let burst = due.saturating_sub(sent);
        for _ in 0..burst {
            let flow = turn.next().expect("a cycle does not end");
            datagram[..2].copy_from_slice(&flow.to_be_bytes());
            match sockets[usize::from(flow)].send(&datagram) {
                Ok(_) => sent += 1,
                Err(error) if is_passing(&error) => {}
                Err(error) => return Err(error),
            }
            if watch.elapsed() >= load.time {
                break;
            }
        }
        thread::sleep(TICK);
    }
}

/// A queue was full or a path was just learned; the next datagram may pass.
fn is_passing(error: &Error) -> bool {
    const NO_BUFFERS: i32 = 105;
    const TOO_BIG: i32 = 90;
    error.kind() == ErrorKind::WouldBlock
        || matches!(error.raw_os_error(), Some(NO_BUFFERS | TOO_BIG))
}

/// Waits for the far end, so that what is counted finds every table filled.
fn greet(socket: &UdpSocket) -> Result<()> {
    socket.set_read_timeout(Some(GREETING_PAUSE))?;
    let mut answer = [0; 16];
    for _ in 0..GREETINGS_MAX {
        // Refused while nobody listens yet.
        let answered = socket
            .send(GREETING)
            .and_then(|_| socket.recv(&mut answer))
            .is_ok_and(|length| answer[..length] == *GREETING);
        if answered {
            return Ok(());
        }
        thread::sleep(GREETING_PAUSE);
    }
    Err(Error::new(ErrorKind::TimedOut, "no answer to greetings"))
}

/// Counts until it falls silent: datagrams, their bytes, microseconds from the first to the last,
/// and the number of flows seen.
pub(super) fn count(address: &str, patience: Duration) -> Result<String> {
    let socket = UdpSocket::bind((address, PORT))?;
    socket.set_read_timeout(Some(patience))?;
    let mut block = vec![0; 64 * 1024];
    let mut seen = vec![false; usize::from(u16::MAX) + 1];
    let (mut datagrams, mut bytes) = (0_u64, 0_u64);
    let mut since: Option<(Stopwatch, Duration)> = None;
    loop {
        match socket.recv_from(&mut block) {
            Ok((length, from)) if length < BYTES_MIN => {
                socket.send_to(&block[..length], from)?;
            }
            Ok((length, _)) => {
                datagrams += 1;
                bytes += length as u64;
                seen[usize::from(u16::from_be_bytes([block[0], block[1]]))] = true;
                match &mut since {
                    Some((watch, last)) => *last = watch.elapsed(),
                    None => {
                        socket.set_read_timeout(Some(SILENCE))?;
                        since = Some((Stopwatch::start(), Duration::ZERO));
                    }
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let micros = since.map_or(0, |(_, last)| last.as_micros());
    let flows = seen.iter().filter(|seen| **seen).count();
    Ok(format!("{datagrams} {bytes} {micros} {flows}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_arrives_is_counted_by_flow() {
        let far = thread::spawn(|| count("127.0.0.1", Duration::from_secs(60)));
        let load = Load {
            flows: 20,
            bytes: 64,
            per_second: 2000,
            time: Duration::from_millis(200),
        };
        let sent = send("127.0.0.1", load).expect("the far end answers");
        let sent: u64 = sent.split(' ').next().unwrap().parse().unwrap();
        let said = far.join().unwrap().expect("datagrams arrive");
        let numbers: Vec<u64> = said.split(' ').map(|n| n.parse().unwrap()).collect();
        assert!(numbers[0] > 0 && numbers[0] <= sent, "{said} of {sent}");
        assert_eq!(numbers[1], numbers[0] * 64);
        assert!(numbers[3] <= 20 && numbers[3] > 0, "{said}");
    }

    #[test]
    fn a_load_without_datagrams_is_refused() {
        let load = Load {
            flows: 1,
            bytes: 1,
            per_second: 1,
            time: Duration::ZERO,
        };
        assert!(send("127.0.0.1", load).is_err());
    }
}
