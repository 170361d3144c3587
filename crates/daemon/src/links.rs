//! Links as TCP connections: listening, dialling, reading, writing (spec/mesh.md 3, 11).
//!
//! The driver owns `Links` and receives `LinkEvent`s over one bounded channel, so a driver that is
//! busy slows the readers and through them the peers. Closing discards what is queued: every socket
//! has linger 0 and is dropped whole.

mod lobby;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};
use wire::LinkId;

use mesh::TokenBucket;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;

use crate::clock;
use crate::task::{Task, Tasks, wait_to_be_stopped};
use lobby::Lobby;

/// Events waiting for the driver; with `READ_BYTES` each, 4 MiB at most.
const EVENTS_MAX: usize = 256;
/// Largest piece read at once, bytes.
const READ_BYTES: usize = 16 << 10;
/// Messages waiting on one link. The node coalesces gossip until a link is flushed, so a link that
/// is this far behind does not read.
const QUEUE_MESSAGES_MAX: usize = 1024;
/// Bytes waiting on one link.
const QUEUE_BYTES_MAX: usize = 64 << 20;
/// How long a dial may take; the system's own limit is two minutes.
const DIAL_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause after a connection could not be accepted.
const ACCEPT_RETRY: Duration = Duration::from_millis(50);
/// Segment sizes of links, bytes: they fit any path (576 for IPv4, 1280 for IPv6, less 64 and 80 of
/// headers and options), so that no link stalls where larger packets vanish. The answers to path MTU
/// tests come by link.
const SEGMENT_BYTES: (u32, u32) = (512, 1200);
/// Connections the kernel holds for us before we accept them.
const BACKLOG: i32 = 1024;

/// What happens to links.
#[derive(Debug)]
pub enum LinkEvent {
    /// A listener accepted a connection; hand it to `Links::adopt`.
    Accepted(TcpStream, SocketAddr),
    /// A dial ended.
    Dialled(LinkId, Result<TcpStream, String>),
    /// Bytes arrived.
    Bytes(LinkId, Vec<u8>),
    /// So many queued messages were written.
    Written(LinkId, usize),
    /// The link ended.
    Ended(LinkId, String),
}

/// All links of this peer.
#[derive(Debug)]
pub struct Links {
    events: mpsc::Sender<LinkEvent>,
    entries: BTreeMap<LinkId, Entry>,
    bind: Option<IpAddr>,
    tasks: Tasks,
    accepted: u64,
}

/// One link: being dialled while it has no queue.
#[derive(Debug)]
struct Entry {
    queue: Option<mpsc::Sender<Vec<u8>>>,
    queued_messages: usize,
    queued_bytes: usize,
    sizes: std::collections::VecDeque<usize>,
    _tasks: Vec<Task>,
}

/// The link cannot take more.
#[derive(Debug, thiserror::Error)]
#[error("peer does not read: send queue full")]
pub struct QueueFull;

impl Links {
    /// No links yet. Dials leave from `bind` if given.
    pub fn new(bind: Option<IpAddr>, tasks: Tasks) -> (Self, mpsc::Receiver<LinkEvent>) {
        let (events, receiver) = mpsc::channel(EVENTS_MAX);
        (
            Self {
                events,
                entries: BTreeMap::new(),
                bind,
                tasks,
                accepted: 0,
            },
            receiver,
        )
    }

    /// Where listeners send what they accept.
    pub fn events(&self) -> mpsc::Sender<LinkEvent> {
        self.events.clone()
    }

    /// Starts dialling.
    pub fn dial(&mut self, link: LinkId, remote: SocketAddr) {
        let events = self.events.clone();
        let bind = self.bind;
        let task = self.tasks.spawn("dial", async move {
            let result = dial(remote, bind).await;
            let _ = events.send(LinkEvent::Dialled(link, result)).await;
        });
        self.entries.insert(link, Entry::dialling(task));
    }

    /// Whether a link is still wanted; events of others are to be ignored.
    pub fn contains(&self, link: LinkId) -> bool {
        self.entries.contains_key(&link)
    }

    /// Starts reading and writing an accepted connection and numbers it.
    pub fn adopt(&mut self, stream: TcpStream) -> LinkId {
        let link = LinkId::inbound(self.accepted);
        self.accepted += 1;
        self.run(link, stream);
        link
    }

    /// Starts reading and writing a link.
    pub fn run(&mut self, link: LinkId, stream: TcpStream) {
        let stream = Arc::new(stream);
        let (queue, receiver) = mpsc::channel(QUEUE_MESSAGES_MAX);
        let reader = self.tasks.spawn(
            "link reader",
            read(link, stream.clone(), self.events.clone()),
        );
        let writer = self.tasks.spawn(
            "link writer",
            write(link, stream, receiver, self.events.clone()),
        );
        let entry = Entry {
            queue: Some(queue),
            queued_messages: 0,
            queued_bytes: 0,
            sizes: std::collections::VecDeque::new(),
            _tasks: vec![reader, writer],
        };
        self.entries.insert(link, entry);
    }

    /// Queues bytes. On an error the caller must treat the link as ended.
    pub fn send(&mut self, link: LinkId, bytes: Vec<u8>) -> Result<(), QueueFull> {
        let Some(entry) = self.entries.get_mut(&link) else {
            return Ok(());
        };
        let Some(queue) = &entry.queue else {
            return Ok(());
        };
        let size = bytes.len();
        if entry.queued_bytes + size > QUEUE_BYTES_MAX || queue.try_send(bytes).is_err() {
            return Err(QueueFull);
        }
        entry.queued_messages += 1;
        entry.queued_bytes += size;
        entry.sizes.push_back(size);
        Ok(())
    }

    /// Notes that messages were written. Whether nothing is queued any more.
    pub fn written(&mut self, link: LinkId, messages: usize) -> bool {
        let Some(entry) = self.entries.get_mut(&link) else {
            return false;
        };
        for _ in 0..messages {
            entry.queued_bytes -= entry.sizes.pop_front().unwrap_or(0);
            entry.queued_messages -= 1;
        }
        entry.queued_messages == 0
    }

    /// Ends a link at once.
    pub fn close(&mut self, link: LinkId) {
        self.entries.remove(&link);
    }
}

impl Entry {
    fn dialling(task: Task) -> Self {
        Self {
            queue: None,
            queued_messages: 0,
            queued_bytes: 0,
            sizes: std::collections::VecDeque::new(),
            _tasks: vec![task],
        }
    }
}

async fn dial(remote: SocketAddr, bind: Option<IpAddr>) -> Result<TcpStream, String> {
    let connect = async {
        let socket = if remote.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        SockRef::from(&socket).set_tcp_mss(segment_bytes(remote))?;
        if let Some(ip) = bind.filter(|ip| ip.is_ipv4() == remote.is_ipv4()) {
            socket.bind(SocketAddr::new(ip, 0))?;
        }
        let stream = socket.connect(remote).await?;
        configure(&stream)?;
        Ok::<_, io::Error>(stream)
    };
    let from = bind.map_or_else(String::new, |ip| ip.to_string());
    match tokio::time::timeout(DIAL_TIMEOUT, connect).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(format!(
            "dial tcp {from}:0->{remote}: connect: {}",
            words(&error)
        )),
        Err(_) => Err(format!("dial tcp {from}:0->{remote}: i/o timeout")),
    }
}

/// The system's words for an error, as the original prints them: lower case, without the number.
pub fn words(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => String::new(),
    }
}

const fn segment_bytes(address: SocketAddr) -> u32 {
    if address.is_ipv4() {
        SEGMENT_BYTES.0
    } else {
        SEGMENT_BYTES.1
    }
}

fn configure(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    SockRef::from(stream).set_linger(Some(Duration::ZERO))
}

async fn read(link: LinkId, stream: Arc<TcpStream>, events: mpsc::Sender<LinkEvent>) {
    let ends = Ends::of(&stream);
    let error = loop {
        if let Err(error) = stream.readable().await {
            break ends.describe("read", &error);
        }
        let mut bytes = vec![0; READ_BYTES];
        match stream.try_read(&mut bytes) {
            Ok(0) => break "EOF".to_owned(),
            Ok(length) => {
                bytes.truncate(length);
                bytes.shrink_to_fit();
                if events.send(LinkEvent::Bytes(link, bytes)).await.is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => break ends.describe("read", &error),
        }
    };
    let _ = events.send(LinkEvent::Ended(link, error)).await;
}

async fn write(
    link: LinkId,
    stream: Arc<TcpStream>,
    mut queue: mpsc::Receiver<Vec<u8>>,
    events: mpsc::Sender<LinkEvent>,
) {
    let ends = Ends::of(&stream);
    while let Some(message) = queue.recv().await {
        if let Err(error) = write_all(&stream, &message).await {
            let error = ends.describe("write", &error);
            let _ = events.send(LinkEvent::Ended(link, error)).await;
            return;
        }
        if events.send(LinkEvent::Written(link, 1)).await.is_err() {
            return;
        }
    }
}

async fn write_all(stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.writable().await?;
        match stream.try_write(bytes) {
            Ok(length) => bytes = &bytes[length..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Both ends of a connection as text, taken while they are known.
struct Ends(String);

impl Ends {
    fn of(stream: &TcpStream) -> Self {
        match (stream.local_addr(), stream.peer_addr()) {
            (Ok(local), Ok(peer)) => Self(format!(" {local}->{peer}")),
            _ => Self(String::new()),
        }
    }

    /// `read tcp 10.0.0.1:6783->10.0.0.2:4000: read: connection reset by peer`.
    fn describe(&self, verb: &str, error: &io::Error) -> String {
        format!("{verb} tcp{}: {verb}: {}", self.0, words(error))
    }
}

/// Opens the listening sockets: on one address, or on all of IPv4 and, where it exists, IPv6.
pub fn listen(host: Option<IpAddr>, port: u16) -> io::Result<Vec<TcpListener>> {
    match host {
        Some(ip) => Ok(vec![open_listener(SocketAddr::new(ip, port))?]),
        None => {
            let mut listeners = vec![open_listener((Ipv4Addr::UNSPECIFIED, port).into())?];
            match open_listener((Ipv6Addr::UNSPECIFIED, port).into()) {
                Ok(listener) => listeners.push(listener),
                Err(error) => tracing::debug!(%error, "not listening on IPv6"),
            }
            Ok(listeners)
        }
    }
}

fn open_listener(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_mss(segment_bytes(address))?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Accepts for ever and lets connections in at the limiter's pace, their sources in turn.
pub fn accept(listeners: Vec<TcpListener>, events: mpsc::Sender<LinkEvent>, tasks: &Tasks) -> Task {
    tasks.keep("accept", let_in(listeners, events))
}

async fn let_in(
    listeners: Vec<TcpListener>,
    events: mpsc::Sender<LinkEvent>,
) -> Result<(), Infallible> {
    let mut bucket = TokenBucket::new(clock::now());
    let mut lobby = Lobby::new();
    let mut turned_away = 0_u64;
    let mut rounds = 0;
    loop {
        let next_token = if lobby.is_empty() {
            None
        } else if let Err(at) = bucket.take(clock::now()) {
            Some(at)
        } else {
            let (stream, remote) = lobby.leave().expect("somebody waits");
            if events
                .send(LinkEvent::Accepted(stream, remote))
                .await
                .is_err()
            {
                return wait_to_be_stopped().await;
            }
            continue;
        };
        rounds += 1;
        tokio::select! {
            accepted = accept_any(&listeners, rounds) => {
                if receive(&mut lobby, accepted).await {
                    turned_away += 1;
                    note_turned_away(turned_away);
                }
            }
            () = sleep_until(next_token) => {}
        }
    }
}

/// Tells the operator, ever more rarely.
fn note_turned_away(count: u64) {
    if count.is_power_of_two() {
        tracing::info!(count, "connections turned away: too many are waiting");
    }
}

/// Lets a new connection wait. Whether one had to be turned away.
async fn receive(
    lobby: &mut Lobby<(TcpStream, SocketAddr)>,
    accepted: io::Result<(TcpStream, SocketAddr)>,
) -> bool {
    let (stream, remote) = match accepted {
        Ok(accepted) => accepted,
        Err(error) => {
            tracing::error!(%error, "accepting connections");
            // It may be descriptors that are missing, which takes time to change.
            tokio::time::sleep(ACCEPT_RETRY).await;
            return false;
        }
    };
    if let Err(error) = configure(&stream) {
        tracing::debug!(conn = %remote, %error, "connection not usable");
        return false;
    }
    // Dropping a connection resets it.
    lobby.enter(remote.ip(), (stream, remote)).is_some()
}

/// The next connection on any of these; `rounds` says which to look at first.
async fn accept_any(
    listeners: &[TcpListener],
    rounds: usize,
) -> io::Result<(TcpStream, SocketAddr)> {
    std::future::poll_fn(|cx| {
        for step in 0..listeners.len() {
            let listener = &listeners[(rounds + step) % listeners.len()];
            if let Poll::Ready(accepted) = listener.poll_accept(cx) {
                return Poll::Ready(accepted);
            }
        }
        Poll::Pending
    })
    .await
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "tests name the events they expect"
)]
mod tests {
    use super::*;

    fn unexpected(event: &LinkEvent) -> ! {
        panic!("unexpected {event:?}")
    }

    #[test]
    fn system_errors_read_as_in_the_original() {
        let error = io::Error::from_raw_os_error(113);
        assert_eq!(words(&error), "no route to host");
        let error = io::Error::from_raw_os_error(111);
        assert_eq!(words(&error), "connection refused");
    }

    #[tokio::test]
    async fn bytes_cross_a_link_and_closing_it_resets_the_other_end() {
        let (mut links, mut events) = Links::new(None, Tasks::default());
        let listener = open_listener("127.0.0.1:0".parse().expect("an address")).expect("listen");
        let address = listener.local_addr().expect("bound");
        let _accept = accept(vec![listener], links.events(), &Tasks::default());
        let out = LinkId::outbound(1);
        links.dial(out, address);
        let mut inbound = None;
        let mut outbound = false;
        while inbound.is_none() || !outbound {
            match events.recv().await.expect("events") {
                LinkEvent::Accepted(stream, _) => inbound = Some(links.adopt(stream)),
                LinkEvent::Dialled(link, Ok(stream)) => {
                    links.run(link, stream);
                    outbound = true;
                }
                other => unexpected(&other),
            }
        }
        links.send(out, b"hello".to_vec()).expect("room");
        let (mut read, mut flushed) = (false, false);
        while !(read && flushed) {
            match events.recv().await.expect("events") {
                LinkEvent::Bytes(link, bytes) => {
                    assert_eq!((Some(link), bytes.as_slice()), (inbound, &b"hello"[..]));
                    read = true;
                }
                LinkEvent::Written(link, messages) => flushed = links.written(link, messages),
                other => unexpected(&other),
            }
        }
        links.close(out);
        match events.recv().await.expect("events") {
            LinkEvent::Ended(link, error) => {
                assert_eq!(Some(link), inbound);
                assert!(error.contains("connection reset by peer"), "{error}");
            }
            other => unexpected(&other),
        }
    }

    #[tokio::test]
    async fn a_refused_dial_says_so() {
        let (mut links, mut events) = Links::new(None, Tasks::default());
        let listener = open_listener("127.0.0.1:0".parse().expect("an address")).expect("listen");
        let address = listener.local_addr().expect("bound");
        drop(listener);
        links.dial(LinkId::outbound(1), address);
        match events.recv().await.expect("events") {
            LinkEvent::Dialled(_, Err(error)) => {
                assert_eq!(
                    error,
                    format!("dial tcp :0->{address}: connect: connection refused")
                );
            }
            other => unexpected(&other),
        }
    }

    #[tokio::test]
    async fn a_peer_that_does_not_read_fills_its_queue() {
        let (mut links, mut events) = Links::new(None, Tasks::default());
        let listener = open_listener("127.0.0.1:0".parse().expect("an address")).expect("listen");
        links.dial(LinkId::outbound(1), listener.local_addr().expect("bound"));
        let Some(LinkEvent::Dialled(link, Ok(stream))) = events.recv().await else {
            panic!("not connected");
        };
        links.run(link, stream);
        let sent = (0..QUEUE_MESSAGES_MAX + 2)
            .take_while(|_| links.send(link, vec![0; 1 << 20]).is_ok())
            .count();
        assert!(sent <= 65, "{sent} megabytes queued");
    }
}
