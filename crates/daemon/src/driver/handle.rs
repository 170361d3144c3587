//! Asking the driver from any task.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use node::{Ask, Command, NodeStatus, Reply, RequestId};
use tokio::sync::{Notify, mpsc, oneshot};

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
    pub(super) fn new(requests: mpsc::Sender<Request>) -> Self {
        let shared = Arc::default();
        Self { requests, shared }
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

    /// A copy of the node's state.
    pub async fn status(&self) -> Result<NodeStatus, Stopped> {
        self.ask(node::Status).await
    }
}
