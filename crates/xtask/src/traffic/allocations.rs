//! Clients of the address allocation of a daemon: each asks for one address after the other over a
//! connection it keeps, as the original's HTTP interface has it (spec/ipam.md 11).

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::PATIENCE;
use crate::stopwatch::Stopwatch;

/// Longest body of an answer that is read.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// Asks for `count` addresses by `clients` at once, then gives them back. Returns addresses per second and
/// the median and 99th percentile of the time to an answer in microseconds; giving back is not measured.
pub(super) fn run(server: &str, clients: u64, count: u64) -> std::io::Result<String> {
    Client::connect(server)?.ask("GET", "/ring")?;
    let next = AtomicU64::new(0);
    let whole = Stopwatch::start();
    let outcomes: Vec<std::io::Result<Vec<Duration>>> = std::thread::scope(|scope| {
        let client = || {
            let mut client = Client::connect(server)?;
            let mut times = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return Ok(times);
                }
                let time = Stopwatch::start();
                client.ask("POST", &path(number))?;
                times.push(time.elapsed());
            }
        };
        let running: Vec<_> = (0..clients).map(|_| scope.spawn(client)).collect();
        let ended = running.into_iter().map(|thread| thread.join());
        ended.map(|end| end.expect("no panic")).collect()
    });
    let seconds = whole.elapsed().as_secs_f64();
    let times: std::io::Result<Vec<_>> = outcomes.into_iter().collect();
    let mut times: Vec<Duration> = times?.into_iter().flatten().collect();
    times.sort_unstable();
    let mut client = Client::connect(server)?;
    for number in 0..count {
        client.ask("DELETE", &path(number))?;
    }
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e6;
    let rate = times.len() as f64 / seconds;
    Ok(format!("{rate:.1} {:.1} {:.1}", at(0.5), at(0.99)))
}

/// Where a container asks; its id is as long as Docker's.
fn path(number: u64) -> String {
    format!("/ip/{number:064x}")
}

/// A connection that stays open.
struct Client {
    stream: BufReader<TcpStream>,
    server: String,
}

impl Client {
    fn connect(server: &str) -> std::io::Result<Self> {
        let stream = TcpStream::connect(server)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream: BufReader::new(stream),
            server: server.to_owned(),
        })
    }

    /// The body of the answer, which must be a success.
    fn ask(&mut self, method: &str, path: &str) -> std::io::Result<String> {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\n\r\n",
            self.server
        );
        self.stream.get_mut().write_all(request.as_bytes())?;
        let status = self.line()?;
        let mut length = 0;
        loop {
            let line = self.line()?;
            if line.is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().map_err(std::io::Error::other)?;
            }
        }
        if length > BODY_BYTES_MAX {
            return Err(std::io::Error::other("the answer is too long"));
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        let body = String::from_utf8_lossy(&body).into_owned();
        if status.starts_with("HTTP/1.1 2") {
            Ok(body)
        } else {
            Err(std::io::Error::other(format!(
                "{method} {path}: {status}: {body}"
            )))
        }
    }

    fn line(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_client_reads_answers_with_and_without_a_body() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let server = listener.local_addr().expect("bound").to_string();
        let daemon = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client comes");
            let mut reader = BufReader::new(stream.try_clone().expect("cloned"));
            for answer in [
                "HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n10.32.0.1/12",
                "HTTP/1.1 204 No Content\r\n\r\n",
                "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nfull",
            ] {
                let mut line = String::from("x");
                while !line.trim().is_empty() {
                    line.clear();
                    reader.read_line(&mut line).expect("a request");
                }
                stream.write_all(answer.as_bytes()).expect("sent");
            }
        });
        let mut client = Client::connect(&server).expect("connected");
        assert_eq!(
            client.ask("POST", "/ip/x").expect("an address"),
            "10.32.0.1/12"
        );
        assert_eq!(client.ask("DELETE", "/ip/x").expect("nothing"), "");
        let error = client.ask("POST", "/ip/y").expect_err("refused");
        assert!(error.to_string().contains("full"), "{error}");
        daemon.join().expect("no panic");
    }
}
