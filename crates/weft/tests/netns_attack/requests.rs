//! The HTTP API and the control socket: large, slow, endless and senseless requests.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

use crate::lab::Lab;
use crate::lab::host::Host;
use crate::lab::patience::{LONG, wait_for};
use crate::vitals::Vitals;

const CONTROL: &str = "127.0.0.1:6784";
const STATUS: &str = "127.0.0.1:6782";
/// Connections one listener may hold at a time, and some.
const HELD_MAX: usize = 160;

fn launched(lab: &Lab) -> (Rc<Host>, i32, Vitals) {
    let host = lab.host("a");
    host.launch(&[]);
    let pid = host.daemon_pid().expect("a daemon runs");
    // A first answer, so that everything needed for one is there.
    assert_eq!(
        code_of(&ask(
            &host,
            STATUS,
            b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n"
        )),
        "200"
    );
    (host, pid, Vitals::of(pid))
}

fn dial(host: &Host, address: &str) -> std::io::Result<TcpStream> {
    let address: SocketAddr = address.parse().expect("an address");
    let stream = host
        .namespace
        .within(|| TcpStream::connect_timeout(&address, LONG))?;
    stream.set_read_timeout(Some(LONG))?;
    stream.set_write_timeout(Some(LONG))?;
    Ok(stream)
}

/// Sends bytes and returns the beginning of what comes back, if anything does.
fn ask(host: &Host, address: &str, request: &[u8]) -> String {
    let mut stream = dial(host, address).expect("the daemon listens");
    // It may refuse before it has seen all.
    let _ = stream.write_all(request);
    beginning(&mut stream)
}

fn beginning(stream: &mut impl Read) -> String {
    let mut bytes = [0; 1024];
    let length = stream.read(&mut bytes).unwrap_or(0);
    String::from_utf8_lossy(&bytes[..length]).into_owned()
}

/// `200` of `HTTP/1.1 200 OK`.
fn code_of(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or("nothing")
}

fn post(path: &str, length: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n{length}\r\n\r\n");
    [head.as_bytes(), body].concat()
}

/// Bodies, headers and paths beyond all measure are refused, and cost little.
#[test]
fn oversized_requests_are_refused() {
    let Some(lab) = Lab::plain() else { return };
    let (host, pid, before) = launched(&lab);
    let large = vec![b'x'; 8 << 20];
    for path in [
        "/connect",
        "/forget",
        "/v1/attach",
        "/v1/detach",
        "/v1/expose",
    ] {
        let json = "Content-Type: application/json\r\n";
        let length = format!("{json}Content-Length: {}", large.len());
        let answer = ask(&host, CONTROL, &post(path, &length, &large));
        assert!(
            ["413", "nothing"].contains(&code_of(&answer)),
            "{path}: {answer}"
        );
        let chunk = [&b"100000\r\n"[..], &large[..1 << 20], b"\r\n"].concat();
        let chunked = format!("{json}Transfer-Encoding: chunked");
        let answer = ask(&host, CONTROL, &post(path, &chunked, &chunk.repeat(4)));
        assert!(
            ["413", "nothing"].contains(&code_of(&answer)),
            "{path}: {answer}"
        );
    }
    let header = [&b"GET /status HTTP/1.1\r\nX: "[..], &large, b"\r\n\r\n"].concat();
    let path = [&b"GET /"[..], &large, b" HTTP/1.1\r\n\r\n"].concat();
    let many = [
        &b"GET /status HTTP/1.1\r\n"[..],
        &b"A: b\r\n".repeat(100_000),
    ]
    .concat();
    for request in [&header, &path, &many] {
        let answer = ask(&host, STATUS, request);
        assert!(
            ["431", "414", "400", "nothing"].contains(&code_of(&answer)),
            "{answer}"
        );
    }
    Vitals::of(pid).assert_little_more(before, 32 << 10, 8);
    assert!(host.weft(&["status"]).ok().contains("Service: router"));
}

/// Paths, queries, forms and templates that make no sense get an answer of the 400s, or 500 with a
/// reason; nothing ends or grows.
#[test]
fn senseless_requests_get_an_answer() {
    let Some(lab) = Lab::plain() else { return };
    let (host, pid, before) = launched(&lab);
    let deep = format!("/report?format={}", "%7B%7Bif%20.Ready%7D%7D".repeat(2000));
    let nested = format!(
        "/report?format=%7B%7B{}1{}%7D%7D",
        "(".repeat(5000),
        ")".repeat(5000)
    );
    let paths = [
        "/expose/%00/%ff",
        "/expose/..%2f..%2fetc/passwd",
        "/expose/10.0.0.1/24/../../..",
        "/../../etc/passwd",
        "//status",
        "/status/%2e%2e/report",
        "/report?format=%ff%fe",
        "/report?format=%7B%7Brange%20.%7D%7D",
        "/report?format=%7B%7Bprintf%20%22%25999999999d%22%201%7D%7D",
        "/v1/ps?pid=99999999999999999999&netns=..%2f..&container=%0d%0aX",
        "*",
        &deep,
        &nested,
    ];
    for path in paths {
        for method in ["GET", "POST", "DELETE", "BREW"] {
            let request =
                format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n");
            let answer = ask(&host, CONTROL, request.as_bytes());
            let code = code_of(&answer);
            assert!(
                ["200", "400", "404", "405", "415", "500", "501", "502"].contains(&code),
                "{method} {path}: {answer}"
            );
        }
    }
    for garbage in [
        &b"\x16\x03\x01\x02\x00\x01"[..],
        &[0; 4096],
        b"\r\n\r\n\r\n",
        b"GET\n\n",
    ] {
        let answer = ask(&host, STATUS, &[garbage, b"\r\n\r\n"].concat());
        assert!(["400", "nothing"].contains(&code_of(&answer)), "{answer}");
    }
    assert_eq!(host.daemon_pid(), Some(pid), "it is still the same daemon");
    Vitals::of(pid).assert_little_more(before, 32 << 10, 8);
}

/// Clients that say nothing, or a byte at a time, or never read, hold a bounded number of connections for a
/// bounded time, and the operator is answered all the while.
#[test]
fn slow_clients_are_bounded_and_let_go() {
    let Some(lab) = Lab::plain() else { return };
    let (host, pid, before) = launched(&lab);
    let mut slow = Vec::new();
    for number in 0..140 {
        let Ok(mut stream) = dial(&host, STATUS) else {
            break;
        };
        let said = match number % 3 {
            0 => &b""[..],
            1 => b"GET /status HT",
            _ => b"GET /status HTTP/1.1\r\nHost: loc",
        };
        stream.write_all(said).expect("the kernel takes it");
        slow.push(stream);
    }
    let socket = host.path("run").join(api::SOCKET_NAME);
    let unix: Vec<UnixStream> = (0..20)
        .map(|_| {
            let mut stream = UnixStream::connect(&socket).expect("the daemon listens");
            stream
                .write_all(b"POST /connect HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\npeer=")
                .expect("the kernel takes it");
            stream
        })
        .collect();
    for _ in 0..20 {
        for stream in slow.iter_mut().step_by(7) {
            // Those it let go of already fail.
            let _ = stream.write_all(b"a");
        }
        std::thread::sleep(Duration::from_millis(100));
        let held = Vitals::of(pid).descriptors - before.descriptors;
        assert!(held <= HELD_MAX + unix.len(), "{held} connections are held");
    }
    assert!(host.weft(&["status"]).ok().contains("Service: router"));
    // The first are let go though they stay where they are; the last had to wait for a place.
    let wait_held = |most: usize| {
        wait_for("slow clients to be let go", || {
            let now = Vitals::of(pid);
            if now.descriptors <= before.descriptors + most {
                Ok(())
            } else {
                Err(format!("{now:?}"))
            }
        });
    };
    wait_held(20);
    drop(slow);
    wait_held(4);
    let answer = ask(
        &host,
        STATUS,
        b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n",
    );
    assert_eq!(code_of(&answer), "200", "{answer}");
    Vitals::of(pid).assert_little_more(before, 16 << 10, 4);
}
