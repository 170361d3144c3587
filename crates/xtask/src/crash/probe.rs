//! Numbered datagrams that come back: whether and when containers reach each other.
//!
//! `echo` and `ping` are this tool started again inside a container; [`Probe`] reads what `ping` says.
//! Times are seconds since the machine started, which all processes have in common, to 10 ms.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::stage::{Outcome, Stage};

const PORT: u16 = 7790;
/// What a datagram carries behind its number.
const FILLING: [u8; 56] = [0x77; 56];
/// A datagram that has not come back by then is lost, seconds.
const LOST_AFTER_SECS: f64 = 2.0;
/// How many answers are remembered.
const REMEMBERED: usize = 20_000;
/// How long an answer over HTTP may take.
const HTTP_PATIENCE: Duration = Duration::from_secs(10);

/// Runs one of the programs that belong inside a namespace.
pub(crate) fn run(arguments: &[&str]) -> Result<String, String> {
    match *arguments {
        ["echo"] => echo().map_err(|error| format!("echo: {error}")),
        ["ping", target, every_ms] => {
            let every = every_ms.parse().map_err(|e| format!("{every_ms}: {e}"))?;
            ping(target, Duration::from_millis(every)).map_err(|e| format!("ping {target}: {e}"))
        }
        ["get", address, path] => get(address, path),
        _ => Err("unknown probe".to_owned()),
    }
}

/// Seconds since the machine started.
pub(crate) fn uptime_secs() -> f64 {
    let text = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds = text.split(' ').next().and_then(|word| word.parse().ok());
    seconds.expect("every Linux has this file")
}

fn echo() -> std::io::Result<String> {
    let socket = UdpSocket::bind(("0.0.0.0", PORT))?;
    let mut bytes = [0; 2048];
    loop {
        let (length, from) = socket.recv_from(&mut bytes)?;
        // The way back may be broken, that is what this is about.
        let _ = socket.send_to(&bytes[..length], from);
    }
}

/// Sends until its standard input is closed, and says what came of each datagram.
fn ping(target: &str, every: Duration) -> std::io::Result<String> {
    let socket = UdpSocket::bind(("0.0.0.0", 0))?;
    socket.connect((target, PORT))?;
    let (told, stop) = std::sync::mpsc::channel::<()>();
    thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        drop(told);
    });
    let mut out = std::io::stdout();
    let mut waiting = Waiting::default();
    let mut next_secs = uptime_secs();
    let mut sent = 0_u64;
    let mut stopped_secs = None;
    loop {
        let now = uptime_secs();
        let over = matches!(
            stop.try_recv(),
            Err(std::sync::mpsc::TryRecvError::Disconnected)
        );
        if over && stopped_secs.is_none() {
            stopped_secs = Some(now);
        }
        if stopped_secs.is_some_and(|at| now > at + LOST_AFTER_SECS + 0.1) {
            return Ok(format!("end {sent} {} {}", waiting.returned, waiting.lost));
        }
        if stopped_secs.is_none() && now >= next_secs {
            // The kernel reports an earlier refusal here; the datagram counts as sent.
            let _ = socket.send(&[&sent.to_be_bytes()[..], &FILLING].concat());
            waiting.sent(sent, now);
            sent += 1;
            // A process that did not get to run does not send what it missed.
            next_secs = (next_secs + every.as_secs_f64()).max(now - every.as_secs_f64());
        }
        let pause = (next_secs - uptime_secs()).clamp(0.002, 0.05);
        socket.set_read_timeout(Some(Duration::from_secs_f64(pause)))?;
        let mut bytes = [0; 2048];
        if let Ok(length) = socket.recv(&mut bytes)
            && let Some(number) = bytes[..length].first_chunk()
            && waiting.came_back(u64::from_be_bytes(*number))
        {
            writeln!(out, "r {:.2}", uptime_secs())?;
        }
        for sent_secs in waiting.give_up(uptime_secs()) {
            writeln!(out, "l {sent_secs:.2}")?;
        }
    }
}

/// Datagrams that have not come back yet.
#[derive(Default)]
struct Waiting {
    sent_secs: BTreeMap<u64, f64>,
    returned: u64,
    lost: u64,
}

impl Waiting {
    fn sent(&mut self, number: u64, now_secs: f64) {
        self.sent_secs.insert(number, now_secs);
    }

    /// Whether it was waited for.
    fn came_back(&mut self, number: u64) -> bool {
        let known = self.sent_secs.remove(&number).is_some();
        self.returned += u64::from(known);
        known
    }

    /// When those were sent that are lost now.
    fn give_up(&mut self, now_secs: f64) -> Vec<f64> {
        let mut lost = Vec::new();
        while let Some(first) = self.sent_secs.first_entry()
            && *first.get() + LOST_AFTER_SECS < now_secs
        {
            lost.push(first.remove());
        }
        self.lost += lost.len() as u64;
        lost
    }
}

/// A page over HTTP, for what runs in a namespace of its own.
fn get(address: &str, path: &str) -> Result<String, String> {
    let exchange = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(HTTP_PATIENCE))?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(crate::stage::text(&answer))
    };
    let answer = exchange().map_err(|error| format!("{address}{path}: {error}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no body")?;
    if head.split(' ').nth(1) == Some("200") {
        Ok(body.to_owned())
    } else {
        Err(answer)
    }
}

/// What a stream of datagrams has shown so far.
#[derive(Debug, Default, Clone)]
pub(crate) struct Heard {
    /// When answers came, oldest first.
    answers_secs: VecDeque<f64>,
    /// When the lost ones were sent.
    pub(crate) lost_secs: Vec<f64>,
    /// Number of answers.
    pub(crate) answered: u64,
    /// Longest time between two answers, seconds.
    pub(crate) longest_gap_secs: f64,
    /// Number of datagrams; known at the end.
    pub(crate) sent: Option<u64>,
}

impl Heard {
    fn read_line(&mut self, line: &str) {
        let mut words = line.split(' ');
        let word = words.next();
        let numbers: Vec<f64> = words.filter_map(|word| word.parse().ok()).collect();
        match (word, numbers.as_slice()) {
            (Some("r"), [at]) => {
                if let Some(before) = self.answers_secs.back() {
                    self.longest_gap_secs = self.longest_gap_secs.max(at - before);
                }
                self.answers_secs.push_back(*at);
                self.answered += 1;
                if self.answers_secs.len() > REMEMBERED {
                    self.answers_secs.pop_front();
                }
            }
            (Some("l"), [at]) => self.lost_secs.push(*at),
            (Some("end"), [sent, ..]) => self.sent = Some(*sent as u64),
            _ => {}
        }
    }

    /// When the first answer came after that time.
    pub(crate) fn first_after(&self, secs: f64) -> Option<f64> {
        let place = self.answers_secs.partition_point(|at| *at <= secs);
        self.answers_secs.get(place).copied()
    }
}

/// A stream of datagrams from one container to another and back.
pub(crate) struct Probe {
    /// Where from and where to.
    pub(crate) name: String,
    child: Child,
    input: Option<ChildStdin>,
    heard: Arc<Mutex<Heard>>,
    reader: Option<JoinHandle<()>>,
}

impl Probe {
    /// Starts sending every so often.
    pub(crate) fn start(
        stage: &Stage,
        (from, to): (&str, &str),
        address: &str,
        every: Duration,
    ) -> Outcome<Self> {
        let every = every.as_millis().to_string();
        let mut command = inside(stage, from, &["ping", address, &every])?;
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("a probe in {from}: {error}"))?;
        let input = child.stdin.take();
        let heard = Arc::new(Mutex::new(Heard::default()));
        let shared = Arc::clone(&heard);
        let output = child.stdout.take().ok_or("a probe without output")?;
        let reader = thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                shared.lock().expect(NO_PANIC).read_line(&line);
            }
        });
        let name = format!("{from} to {to}");
        Ok(Self {
            name,
            child,
            input,
            heard,
            reader: Some(reader),
        })
    }

    /// What it has heard so far.
    pub(crate) fn heard<T>(&self, look: impl FnOnce(&Heard) -> T) -> T {
        look(&self.heard.lock().expect(NO_PANIC))
    }

    /// Stops sending and waits for what is under way.
    pub(crate) fn finish(mut self) -> Heard {
        self.input = None;
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the reader does not panic");
        }
        self.heard(Heard::clone)
    }
}

const NO_PANIC: &str = "nobody panics while holding it";

impl Drop for Probe {
    fn drop(&mut self) {
        // It has usually ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A child that is ended when dropped.
pub(crate) struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts answering in a container.
pub(crate) fn start_echo(stage: &Stage, container: &str) -> Outcome<Ended> {
    inside(stage, container, &["echo"])?
        .spawn()
        .map(Ended)
        .map_err(|error| format!("an echo in {container}: {error}"))
}

/// One of the programs of this file, to be run in a namespace.
pub(crate) fn inside(
    stage: &Stage,
    space: &str,
    arguments: &[&str],
) -> Outcome<std::process::Command> {
    let own = std::env::current_exe().map_err(|error| format!("this program: {error}"))?;
    let mut command = stage.command(space, own);
    command.arg("probe").args(arguments);
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_come_back_in_time_is_lost_and_later_unknown() {
        let mut waiting = Waiting::default();
        waiting.sent(0, 10.0);
        waiting.sent(1, 10.5);
        assert!(waiting.came_back(1));
        assert!(!waiting.came_back(1));
        assert!(waiting.give_up(11.9).is_empty());
        assert_eq!(waiting.give_up(12.1), [10.0]);
        assert!(!waiting.came_back(0));
        assert_eq!((waiting.returned, waiting.lost), (1, 1));
    }

    #[test]
    fn the_first_answer_after_a_moment_is_found() {
        let mut heard = Heard::default();
        for line in ["r 1.00", "r 1.05", "l 1.10", "r 3.00", "end 4 3 1"] {
            heard.read_line(line);
        }
        assert_eq!(heard.first_after(1.02), Some(1.05));
        assert_eq!(heard.first_after(1.05), Some(3.0));
        assert_eq!(heard.first_after(3.0), None);
        assert_eq!((heard.answered, heard.sent), (3, Some(4)));
        assert!((heard.longest_gap_secs - 1.95).abs() < 1e-9);
    }
}
