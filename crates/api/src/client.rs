//! A blocking HTTP/1.1 client for one request per connection.
//!
//! Used by the command line towards the daemon. Only what that needs: no TLS, no redirects, no
//! keep-alive, bodies held in memory up to a limit.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

/// How long to wait for a TCP connection (the original's limit).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Largest answer accepted, bytes: a report of thousands of peers fits many times.
const BODY_BYTES_MAX: u64 = 256 << 20;
/// Largest head of an answer accepted, bytes.
const HEAD_BYTES_MAX: u64 = 64 << 10;

/// Where a daemon listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A Unix socket.
    Unix(PathBuf),
    /// `host:port`.
    Tcp(String),
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Body.
    pub body: String,
}

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Nobody listens there, or it cannot be reached.
    #[error("cannot connect to {endpoint}: {source}")]
    Connect {
        /// Where.
        endpoint: String,
        /// Why.
        source: std::io::Error,
    },
    /// The connection broke.
    #[error("talking to the daemon: {0}")]
    Io(#[from] std::io::Error),
    /// The answer is not HTTP, or too large.
    #[error("answer of the daemon is not understood: {0}")]
    Malformed(&'static str),
}

impl Endpoint {
    /// Sends a request and reads the whole answer.
    ///
    /// `body` is a content type and the bytes; `accept` becomes the `Accept` header.
    pub fn request(
        &self,
        method: &str,
        path: &str,
        accept: Option<&str>,
        body: Option<(&str, &str)>,
    ) -> Result<Response, RequestError> {
        self.exchange(method, path, accept, body, None)
    }

    /// `GET`s a path from whoever listens there, giving up when nothing comes for `patience`.
    pub fn probe(&self, path: &str, patience: Duration) -> Result<Response, RequestError> {
        self.exchange("GET", path, None, None, Some(patience))
    }

    fn exchange(
        &self,
        method: &str,
        path: &str,
        accept: Option<&str>,
        body: Option<(&str, &str)>,
        patience: Option<Duration>,
    ) -> Result<Response, RequestError> {
        let mut stream = self.connect(patience)?;
        let host = match self {
            Self::Unix(_) => "localhost",
            Self::Tcp(address) => address.as_str(),
        };
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
        if let Some(accept) = accept {
            head.push_str(&format!("Accept: {accept}\r\n"));
        }
        if let Some((kind, bytes)) = body {
            head.push_str(&format!(
                "Content-Type: {kind}\r\nContent-Length: {}\r\n",
                bytes.len()
            ));
        } else if method != "GET" {
            head.push_str("Content-Length: 0\r\n");
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes())?;
        if let Some((_, bytes)) = body {
            stream.write_all(bytes.as_bytes())?;
        }
        stream.flush()?;
        read_response(BufReader::new(stream))
    }

    fn connect(&self, patience: Option<Duration>) -> Result<Box<dyn Stream>, RequestError> {
        let failed = |source| RequestError::Connect {
            endpoint: self.to_string(),
            source,
        };
        match self {
            Self::Unix(path) => {
                let stream = UnixStream::connect(path).map_err(failed)?;
                stream.set_read_timeout(patience)?;
                Ok(Box::new(stream))
            }
            Self::Tcp(address) => {
                let mut last = std::io::Error::other("no address found");
                for candidate in address.to_socket_addrs().map_err(failed)? {
                    match TcpStream::connect_timeout(&candidate, CONNECT_TIMEOUT) {
                        Ok(stream) => {
                            stream.set_read_timeout(patience)?;
                            return Ok(Box::new(stream));
                        }
                        Err(error) => last = error,
                    }
                }
                Err(failed(last))
            }
        }
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tcp(address) => f.write_str(address),
        }
    }
}

trait Stream: Read + Write {}
impl Stream for UnixStream {}
impl Stream for TcpStream {}

fn read_response(mut reader: impl BufRead) -> Result<Response, RequestError> {
    let mut head = (&mut reader).take(HEAD_BYTES_MAX);
    let mut line = String::new();
    head.read_line(&mut line)?;
    let status = line
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.split(' ').nth(1))
        .and_then(|code| code.trim().parse().ok())
        .ok_or(RequestError::Malformed("status line"))?;
    let mut length = None;
    let mut chunked = false;
    loop {
        line.clear();
        if head.read_line(&mut line)? == 0 {
            return Err(RequestError::Malformed("headers end early"));
        }
        let trimmed = line.trim_end();
        if trimmed.is_empty() {
            break;
        }
        let Some((name, value)) = trimmed.split_once(':') else {
            return Err(RequestError::Malformed("header line"));
        };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse::<u64>().ok();
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            chunked = value.trim().eq_ignore_ascii_case("chunked");
        }
    }
    let bytes = if chunked {
        read_chunks(&mut reader)?
    } else {
        let limit = length.unwrap_or(BODY_BYTES_MAX);
        if limit > BODY_BYTES_MAX {
            return Err(RequestError::Malformed("body too large"));
        }
        let mut bytes = Vec::new();
        (&mut reader).take(limit).read_to_end(&mut bytes)?;
        if length.is_some_and(|expected| bytes.len() as u64 != expected) {
            return Err(RequestError::Malformed("body ends early"));
        }
        bytes
    };
    let body = String::from_utf8(bytes).map_err(|_| RequestError::Malformed("body is not text"))?;
    Ok(Response { status, body })
}

fn read_chunks(reader: &mut impl BufRead) -> Result<Vec<u8>, RequestError> {
    let mut bytes = Vec::new();
    loop {
        let mut line = String::new();
        reader.take(64).read_line(&mut line)?;
        let size = line.trim_end().split(';').next().unwrap_or_default();
        let size = u64::from_str_radix(size, 16).map_err(|_| RequestError::Malformed("chunk"))?;
        if size == 0 {
            return Ok(bytes);
        }
        if bytes.len() as u64 + size > BODY_BYTES_MAX {
            return Err(RequestError::Malformed("body too large"));
        }
        if reader.take(size).read_to_end(&mut bytes)? as u64 != size {
            return Err(RequestError::Malformed("chunk ends early"));
        }
        let mut end = [0; 2];
        reader.read_exact(&mut end)?;
    }
}

/// Encodes form fields for `application/x-www-form-urlencoded` bodies and query strings.
pub fn encode_form<'a>(fields: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut encoded = String::new();
    for (name, value) in fields {
        if !encoded.is_empty() {
            encoded.push('&');
        }
        encode_component(name, &mut encoded);
        encoded.push('=');
        encode_component(value, &mut encoded);
    }
    encoded
}

/// Encodes one segment of a path.
pub fn encode_segment(text: &str) -> String {
    let mut encoded = String::new();
    encode_component(text, &mut encoded);
    encoded
}

fn encode_component(text: &str, into: &mut String) {
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                into.push(char::from(byte));
            }
            _ => into.push_str(&format!("%{byte:02X}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_with_a_length_are_read_exactly() {
        let text = "HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nabcd";
        let response = read_response(text.as_bytes()).expect("valid");
        assert_eq!(
            response,
            Response {
                status: 404,
                body: "abc".into()
            }
        );
    }

    #[test]
    fn chunked_answers_are_joined() {
        let text =
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n";
        assert_eq!(read_response(text.as_bytes()).expect("valid").body, "abcd");
    }

    #[test]
    fn truncated_answers_are_errors() {
        for text in [
            "",
            "HTTP/1.1 200 OK\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc",
            "SSH-2.0\r\n",
        ] {
            assert!(read_response(text.as_bytes()).is_err(), "{text:?}");
        }
    }

    #[test]
    fn form_fields_are_percent_encoded() {
        let form = encode_form([("peer", "a b:1"), ("replace", "true")]);
        assert_eq!(form, "peer=a%20b%3A1&replace=true");
        assert_eq!(encode_segment("::1/a"), "%3A%3A1%2Fa");
    }
}
