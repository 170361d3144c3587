//! Asking the driver from any task.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use node::{Ask, Command, NodeCounts, NodeSnapshot, Reply, RequestId};
use tokio::sync::{Notify, mpsc, oneshot};

use super::published::Reader;

/// A request and where its answer goes.
pub(super) struct Request {
    pub(super) id: RequestId,
    pub(super) command: Command,
    pub(super) reply: oneshot::Sender<Reply>,
}

/// Asks the driver; cheap to clone.
#[derive(Clone)]
pub struct Handle {
    requests: mpsc::Sender<Request>,
    shared: Arc<Shared>,
    snapshots: Reader<NodeSnapshot>,
    counts: Reader<NodeCounts>,
}

/// What all handles and the driver know.
#[derive(Debug, Default)]
pub(super) struct Shared {
    next_request: AtomicU64,
    /// Requests whose caller went away; no more than there are requests.
    cancelled: Mutex<Vec<RequestId>>,
    cancelled_some: Notify,
    stopped_because: OnceLock<Arc<str>>,
    /// How often the driver waited for the disk.
    commits: AtomicU64,
    /// How often something happened to the node.
    changes: AtomicU64,
    /// Somebody wants a newer view of it.
    view_wanted: Notify,
}

/// The driver is gone: the daemon is stopping, on its own accord if there is a reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the daemon is stopping{}", reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default())]
pub struct Stopped {
    reason: Option<Arc<str>>,
}

impl Shared {
    /// Waits until somebody gave up waiting.
    pub(super) async fn cancelled(&self) {
        self.cancelled_some.notified().await;
    }

    /// The requests given up since last time.
    pub(super) fn take_cancelled(&self) -> Vec<RequestId> {
        std::mem::take(
            &mut *self
                .cancelled
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        )
    }

    /// Notes how often the driver waited for the disk.
    pub(super) fn note_commits(&self, commits: u64) {
        self.commits.store(commits, Ordering::Relaxed);
    }

    /// Notes that something happened to the node, before anybody can hear of it.
    pub(super) fn note_change(&self) {
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// How often something happened to the node.
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Waits until somebody wants a newer view.
    pub(super) async fn view_wanted(&self) {
        self.view_wanted.notified().await;
    }

    /// From now on who asks is told why there is no answer.
    pub(super) fn stop(&self, reason: &str) {
        // Only the first reason counts, and there is one driver.
        let _ = self.stopped_because.set(reason.into());
    }

    fn cancel(&self, id: RequestId) {
        let mut cancelled = self
            .cancelled
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        cancelled.push(id);
        self.cancelled_some.notify_one();
    }

    fn stopped(&self) -> Stopped {
        let reason = self.stopped_because.get().cloned();
        Stopped { reason }
    }
}

/// Tells the driver that nobody waits any more, if dropped before the answer came.
struct Waiting<'a> {
    shared: &'a Shared,
    id: RequestId,
    answered: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.shared.cancel(self.id);
        }
    }
}

impl Handle {
    pub(super) fn new(
        requests: mpsc::Sender<Request>,
        snapshots: Reader<NodeSnapshot>,
        counts: Reader<NodeCounts>,
    ) -> Self {
        Self {
            requests,
            shared: Arc::default(),
            snapshots,
            counts,
        }
    }

    pub(super) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// Has the node carry out a command. Dropping the future takes the command back, unless it was
    /// carried out already.
    pub async fn ask<A: Ask>(&self, ask: A) -> Result<A::Reply, Stopped> {
        let reply = self.call(ask.command()).await?;
        Ok(A::read(reply).expect("the node replies to what it was asked"))
    }

    async fn call(&self, command: Command) -> Result<Reply, Stopped> {
        let (reply, answer) = oneshot::channel();
        let id = RequestId(self.shared.next_request.fetch_add(1, Ordering::Relaxed));
        let request = Request { id, command, reply };
        if self.requests.send(request).await.is_err() {
            return Err(self.shared.stopped());
        }
        let mut waiting = Waiting {
            shared: &self.shared,
            id,
            answered: false,
        };
        let answer = answer.await;
        waiting.answered = true;
        answer.map_err(|_| self.shared.stopped())
    }

    /// Transactions made durable since the daemon started.
    pub fn commits(&self) -> u64 {
        self.shared.commits.load(Ordering::Relaxed)
    }

    /// The node's state, with the effect of everything that was replied to by now.
    pub async fn snapshot(&self) -> Result<Arc<NodeSnapshot>, Stopped> {
        self.read(&self.snapshots).await
    }

    /// The node's counts, with the effect of everything that was replied to by now.
    pub async fn counts(&self) -> Result<Arc<NodeCounts>, Stopped> {
        self.read(&self.counts).await
    }

    async fn read<T>(&self, reader: &Reader<T>) -> Result<Arc<T>, Stopped> {
        if self.requests.is_closed() {
            return Err(self.shared.stopped());
        }
        let wake = || self.shared.view_wanted.notify_one();
        let view = reader.read(self.shared.changes(), wake).await;
        view.ok_or_else(|| self.shared.stopped())
    }
}
