//! The only loop: owns the node, feeds it what happens and does what it says, in order.
//!
//! Inputs come over bounded channels from links, data plane and requests; time comes from `clock`.
//! Nothing else touches the node.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use mesh::LinkId;
use node::{Command, Input, Node, NodeStatus, Output, Record, Reply, RequestId};
use overlay::table::TunnelEvent;
use tokio::sync::{mpsc, oneshot};

use crate::clock;
use crate::datapath::Datapath;
use crate::links::{LinkEvent, Links};
use crate::store::{Store, StoreError};

/// Name of the record with the direct peers.
pub const DIRECT_PEERS: &str = "direct_peers";
/// Requests waiting for the driver.
const REQUESTS_MAX: usize = 64;
/// Inputs handled before the loop looks at its channels again.
const EVENTS_PER_TURN: usize = 64;

/// A request and where its answer goes.
struct Request {
    command: Command,
    reply: oneshot::Sender<Reply>,
}

/// Asks the driver; cheap to clone.
#[derive(Clone)]
pub struct Handle {
    requests: mpsc::Sender<Request>,
}

/// The driver is gone: the daemon is stopping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the daemon is stopping")]
pub struct Stopped;

impl Handle {
    /// Has the node carry out a command.
    pub async fn call(&self, command: Command) -> Result<Reply, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.requests
            .send(Request { command, reply })
            .await
            .map_err(|_| Stopped)?;
        answer.await.map_err(|_| Stopped)
    }

    /// A copy of the node's state.
    pub async fn status(&self) -> Result<NodeStatus, Stopped> {
        match self.call(Command::Status).await? {
            Reply::Status(status) => Ok(*status),
            Reply::Done => Err(Stopped),
        }
    }
}

/// Owns the node and everything it acts through.
pub struct Driver {
    node: Node,
    links: Links,
    link_events: mpsc::Receiver<LinkEvent>,
    datapath: Arc<Datapath>,
    tunnel_events: mpsc::Receiver<TunnelEvent>,
    requests: mpsc::Receiver<Request>,
    replies: BTreeMap<RequestId, oneshot::Sender<Reply>>,
    next_request: u64,
    store: Arc<Store>,
}

/// What woke the loop.
enum Wake {
    Link(LinkEvent),
    Tunnel(TunnelEvent),
    Request(Request),
    Timeout,
    Closed,
}

impl Driver {
    /// A driver that has done nothing yet, and the way to ask it.
    pub fn new(
        node: Node,
        links: (Links, mpsc::Receiver<LinkEvent>),
        datapath: Arc<Datapath>,
        tunnel_events: mpsc::Receiver<TunnelEvent>,
        store: Arc<Store>,
    ) -> (Self, Handle) {
        let (sender, requests) = mpsc::channel(REQUESTS_MAX);
        let (links, link_events) = links;
        let driver = Self {
            node,
            links,
            link_events,
            datapath,
            tunnel_events,
            requests,
            replies: BTreeMap::new(),
            next_request: 0,
            store,
        };
        (driver, Handle { requests: sender })
    }

    /// Runs until state cannot be written or a channel is closed. Dropping it closes all links.
    pub async fn run(mut self) -> Result<(), StoreError> {
        self.drain()?;
        loop {
            match self.wait().await {
                Wake::Link(event) => {
                    self.handle_link(event)?;
                    for _ in 1..EVENTS_PER_TURN {
                        let Ok(event) = self.link_events.try_recv() else {
                            break;
                        };
                        self.handle_link(event)?;
                    }
                }
                Wake::Tunnel(event) => self.feed(Input::Tunnel(event))?,
                Wake::Request(request) => self.handle_request(request)?,
                Wake::Timeout => {
                    self.node.handle_timeout(clock::now());
                    self.drain()?;
                }
                Wake::Closed => return Ok(()),
            }
        }
    }

    async fn wait(&mut self) -> Wake {
        let timeout = self.node.poll_timeout().map(|(at, _)| at);
        tokio::select! {
            event = self.link_events.recv() => event.map_or(Wake::Closed, Wake::Link),
            event = self.tunnel_events.recv() => event.map_or(Wake::Closed, Wake::Tunnel),
            request = self.requests.recv() => request.map_or(Wake::Closed, Wake::Request),
            () = sleep_until(timeout) => Wake::Timeout,
        }
    }

    fn handle_request(&mut self, request: Request) -> Result<(), StoreError> {
        let id = RequestId(self.next_request);
        self.next_request += 1;
        self.replies.insert(id, request.reply);
        self.feed(Input::Command {
            id,
            command: request.command,
        })
    }

    fn handle_link(&mut self, event: LinkEvent) -> Result<(), StoreError> {
        let input = match event {
            LinkEvent::Accepted(stream, remote) => {
                // Without our own address the connection is gone already.
                let Ok(local) = stream.local_addr() else {
                    return Ok(());
                };
                let link = self.links.adopt(stream);
                let (local, remote) = (canonical(local), canonical(remote));
                Input::LinkAccepted {
                    link,
                    local,
                    remote,
                }
            }
            LinkEvent::Dialled(link, _) if !self.links.contains(link) => return Ok(()),
            LinkEvent::Dialled(link, Ok(stream)) => {
                match (stream.local_addr(), stream.peer_addr()) {
                    (Ok(local), Ok(remote)) => {
                        self.links.run(link, stream);
                        let (local, remote) = (canonical(local), canonical(remote));
                        Input::LinkConnected {
                            link,
                            local,
                            remote,
                        }
                    }
                    (Err(error), _) | (_, Err(error)) => {
                        self.links.close(link);
                        Input::DialFailed {
                            link,
                            error: crate::links::words(&error),
                        }
                    }
                }
            }
            LinkEvent::Dialled(link, Err(error)) => {
                self.links.close(link);
                Input::DialFailed { link, error }
            }
            LinkEvent::Bytes(link, bytes) if self.links.contains(link) => {
                Input::LinkBytes { link, bytes }
            }
            LinkEvent::Written(link, messages) if self.links.written(link, messages) => {
                Input::LinkFlushed { link }
            }
            LinkEvent::Ended(link, error) if self.links.contains(link) => {
                self.links.close(link);
                Input::LinkClosed { link, error }
            }
            LinkEvent::Bytes(..) | LinkEvent::Written(..) | LinkEvent::Ended(..) => return Ok(()),
        };
        self.feed(input)
    }

    fn feed(&mut self, input: Input) -> Result<(), StoreError> {
        self.node.handle_input(input, clock::now());
        self.drain()
    }

    /// Does what the node says until it is silent. Links whose queue is full end here.
    fn drain(&mut self) -> Result<(), StoreError> {
        loop {
            let mut broken = Vec::new();
            while let Some(output) = self.node.poll_output() {
                if let Some(link) = self.carry_out(output)? {
                    broken.push(link);
                }
            }
            if broken.is_empty() {
                return Ok(());
            }
            for link in broken {
                if self.links.contains(link) {
                    self.links.close(link);
                    let error = crate::links::QueueFull.to_string();
                    self.node
                        .handle_input(Input::LinkClosed { link, error }, clock::now());
                }
            }
        }
    }

    /// Does one output; a link that cannot take it is returned.
    fn carry_out(&mut self, output: Output) -> Result<Option<LinkId>, StoreError> {
        match output {
            Output::Persist(Record::DirectPeers(peers)) => {
                tokio::task::block_in_place(|| self.store.put(DIRECT_PEERS, &peers))?;
            }
            Output::Dial { link, remote } => self.links.dial(link, remote),
            Output::Send { link, bytes } => {
                if self.links.send(link, bytes).is_err() {
                    return Ok(Some(link));
                }
            }
            Output::Close { link } => self.links.close(link),
            Output::Program(table) => self.datapath.program(table),
            Output::Probe(probe) => self.datapath.probe(probe),
            Output::Reply { id, reply } => {
                if let Some(sender) = self.replies.remove(&id) {
                    // Who asked may have gone away.
                    let _ = sender.send(reply);
                }
            }
        }
        Ok(None)
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// IPv4-mapped addresses become the IPv4 addresses they mean.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
