//! The only loop: owns the node, feeds it what happens and does what it says, in order.
//!
//! Inputs come over bounded channels from links, data plane and requests; time comes from `clock`.
//! Nothing else touches the node.
//!
//! A turn takes everything that waits, then makes what the node wants kept durable in one
//! transaction, then does the rest of what it says, in order. So many clients that ask for addresses
//! at once share one wait for the disk. Those who only want to look are shown a view of the node
//! (`published`), made at the end of the turn under way, so they wait for that turn and its disk at
//! most, and no request waits for them.

#[cfg(test)]
mod fake;
mod handle;
mod published;
#[cfg(test)]
mod tests;
mod tunnels;

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use node::{Input, Node, NodeCounts, NodeSnapshot, Output, Record, Reply, RequestId, Turn};
use overlay::table::PlaneEvent;
use plane::Ended;
use tokio::sync::{mpsc, oneshot};
use wire::LinkId;

use crate::clock;
use crate::links::{LinkEvent, Links};
use crate::store::{Store, StoreError};
use handle::{Request, Shared};
use published::{Publisher, published};

pub use handle::{Handle, Stopped};
pub use tunnels::{DataPlane, HostPlane};

/// Name of the record with the direct peers.
pub const DIRECT_PEERS: &str = "direct_peers";
/// Requests waiting for the driver, and most it takes in one turn.
const REQUESTS_MAX: usize = 256;
/// Link events handled in one turn, and tunnel events.
const EVENTS_PER_TURN: usize = 64;

/// Owns the node and everything it acts through.
pub struct Driver {
    node: Node,
    links: Links,
    link_events: mpsc::Receiver<LinkEvent>,
    plane: Box<dyn DataPlane>,
    requests: mpsc::Receiver<Request>,
    shared: Arc<Shared>,
    replies: BTreeMap<RequestId, oneshot::Sender<Reply>>,
    snapshots: Publisher<NodeSnapshot>,
    counts: Publisher<NodeCounts>,
    store: Arc<Store>,
}

/// Why a driver cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// State cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The data plane is gone.
    #[error(transparent)]
    Plane(#[from] Ended),
}

/// What woke the loop.
enum Wake {
    Link(LinkEvent),
    Plane(Result<PlaneEvent, Ended>),
    Request(Request),
    Cancelled,
    ViewWanted,
    Timeout,
    Closed,
}

impl Driver {
    /// A driver that has done nothing yet, and the way to ask it.
    pub fn new(
        node: Node,
        links: (Links, mpsc::Receiver<LinkEvent>),
        plane: Box<dyn DataPlane>,
        store: Arc<Store>,
    ) -> (Self, Handle) {
        let (sender, requests) = mpsc::channel(REQUESTS_MAX);
        let (links, link_events) = links;
        let (snapshots, snapshot_reader) = published();
        let (counts, counts_reader) = published();
        let handle = Handle::new(sender, snapshot_reader, counts_reader);
        let driver = Self {
            node,
            links,
            link_events,
            plane,
            requests,
            shared: handle.shared(),
            replies: BTreeMap::new(),
            snapshots,
            counts,
            store,
        };
        (driver, handle)
    }

    /// Runs until state cannot be written, the data plane ends or a channel is closed. Dropping it
    /// closes all links. Whoever still waits for a reply is told why there is none.
    pub async fn run(mut self) -> Result<(), DriverError> {
        let result = self.turn_for_ever().await;
        if let Err(error) = &result {
            self.shared.stop(&error.to_string());
        }
        result
    }

    async fn turn_for_ever(&mut self) -> Result<(), DriverError> {
        self.carry_out()?;
        while self.turn().await?.is_continue() {}
        Ok(())
    }

    /// Waits for something to happen, and does what comes of it and of all that waits with it.
    async fn turn(&mut self) -> Result<ControlFlow<()>, DriverError> {
        match self.wait().await {
            Wake::Link(event) => self.handle_link(event),
            Wake::Plane(event) => self.handle_plane(event?),
            Wake::Request(request) => self.handle_request(request),
            Wake::Cancelled | Wake::ViewWanted | Wake::Timeout => {}
            Wake::Closed => return Ok(ControlFlow::Break(())),
        }
        self.take_what_waits();
        self.do_what_is_due();
        self.carry_out()?;
        self.publish();
        Ok(ControlFlow::Continue(()))
    }

    async fn wait(&mut self) -> Wake {
        let timeout = self.node.poll_timeout().map(|(at, _)| at);
        tokio::select! {
            event = self.link_events.recv() => event.map_or(Wake::Closed, Wake::Link),
            event = poll_fn(|context| self.plane.poll_event(context)) => Wake::Plane(event),
            request = self.requests.recv() => request.map_or(Wake::Closed, Wake::Request),
            () = self.shared.cancelled() => Wake::Cancelled,
            () = self.shared.view_wanted() => Wake::ViewWanted,
            () = sleep_until(timeout) => Wake::Timeout,
        }
    }

    /// Feeds the node what came while it was busy, within limits.
    fn take_what_waits(&mut self) {
        for id in self.shared.take_cancelled() {
            // Unknown ones were answered in the meantime, or are skipped when they come.
            if self.replies.remove(&id).is_some() {
                self.feed(Input::Cancelled(id));
            }
        }
        for _ in 1..REQUESTS_MAX {
            let Ok(request) = self.requests.try_recv() else {
                break;
            };
            self.handle_request(request);
        }
        for _ in 1..EVENTS_PER_TURN {
            let Ok(event) = self.link_events.try_recv() else {
                break;
            };
            self.handle_link(event);
        }
        for _ in 1..EVENTS_PER_TURN {
            // The end of the data plane is met at the next wait.
            let Ok(Some(event)) = self.plane.try_event() else {
                break;
            };
            self.handle_plane(event);
        }
    }

    /// However much comes in, time is not forgotten.
    fn do_what_is_due(&mut self) {
        let now = clock::now();
        if self.node.poll_timeout().is_some_and(|(at, _)| at <= now) {
            self.shared.note_change();
            self.node.handle_timeout(now);
        }
    }

    fn handle_request(&mut self, request: Request) {
        let Request { id, command, reply } = request;
        if reply.is_closed() {
            return;
        }
        self.replies.insert(id, reply);
        self.feed(Input::Command { id, command });
    }

    fn handle_plane(&mut self, event: PlaneEvent) {
        self.feed(match event {
            PlaneEvent::Tunnel(event) => Input::Tunnel(event),
            PlaneEvent::Learned(sightings) => Input::Learned(sightings),
        });
    }

    fn handle_link(&mut self, event: LinkEvent) {
        let input = match event {
            LinkEvent::Accepted(stream, remote) => {
                // Without our own address the connection is gone already.
                let Ok(local) = stream.local_addr() else {
                    return;
                };
                let link = self.links.adopt(stream);
                let (local, remote) = (canonical(local), canonical(remote));
                Input::LinkAccepted {
                    link,
                    local,
                    remote,
                }
            }
            LinkEvent::Dialled(link, _) if !self.links.contains(link) => return,
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
            LinkEvent::Written(link, messages) => {
                // What this turn has for it comes behind, and will be reported in its turn.
                if !self.links.written(link, messages) || self.node.turn().sends_on(link) {
                    return;
                }
                Input::LinkFlushed { link }
            }
            LinkEvent::Ended(link, error) if self.links.contains(link) => {
                self.links.close(link);
                Input::LinkClosed { link, error }
            }
            LinkEvent::Bytes(..) | LinkEvent::Ended(..) => return,
        };
        self.feed(input);
    }

    fn feed(&mut self, input: Input) {
        self.shared.note_change();
        self.node.handle_input(input, clock::now());
    }

    /// Does what the node said in this turn. Links whose queue is full end here, which may make the
    /// node say more.
    fn carry_out(&mut self) -> Result<(), StoreError> {
        while !self.node.turn().is_empty() {
            let turn = self.node.take_turn();
            self.carry_out_turn(turn)?;
        }
        Ok(())
    }

    /// First what must be durable, all of it in one transaction, then the rest in order.
    fn carry_out_turn(&mut self, turn: Turn) -> Result<(), StoreError> {
        let outputs = turn.durable(|records| self.keep(records))?;
        let mut broken = BTreeSet::new();
        for output in outputs {
            broken.extend(self.carry_out_one(output));
        }
        for link in broken {
            if self.links.contains(link) {
                self.links.close(link);
                let error = crate::links::QueueFull.to_string();
                self.feed(Input::LinkClosed { link, error });
            }
        }
        Ok(())
    }

    /// Shows readers the node as it is, if they want to know.
    fn publish(&self) {
        let changes = self.shared.changes();
        self.snapshots.refresh(changes, || self.node.snapshot());
        self.counts.refresh(changes, || self.node.counts());
    }

    /// Makes records durable, all or none.
    fn keep(&mut self, records: Vec<Record>) -> Result<(), StoreError> {
        let mut batch = self.store.batch();
        for record in records {
            match record {
                Record::DirectPeers(peers) => batch.put(DIRECT_PEERS, &peers),
                Record::Rows(writes) => batch.apply(writes),
            }
        }
        // On this worker: handing its other tasks to another costs a reply two wake-ups, and there
        // are workers beside it.
        self.store.commit(&batch)?;
        self.shared.note_commits(self.store.commits());
        Ok(())
    }

    /// Does one output; a link that cannot take it is returned.
    fn carry_out_one(&mut self, output: Output) -> Option<LinkId> {
        match output {
            Output::Dial { link, remote } => self.links.dial(link, remote),
            Output::Send { link, bytes } => {
                return self.links.send(link, bytes).is_err().then_some(link);
            }
            Output::Close { link } => self.links.close(link),
            Output::Program(table) => self.plane.program(table),
            Output::Correct(correction) => self.plane.correct(&correction),
            Output::Probe(probe) => self.plane.probe(probe),
            Output::Reply { id, reply } => {
                if let Some(sender) = self.replies.remove(&id) {
                    // Who asked may have gone away.
                    let _ = sender.send(reply);
                }
            }
        }
        None
    }
}

impl Drop for Driver {
    /// Whoever waits for an answer hears why there is none; behind this the reply slots go.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.shared.stop("the driver panicked");
        }
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
