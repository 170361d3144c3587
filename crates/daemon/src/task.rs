//! Named tasks and threads, and what becomes of their ends.
//!
//! Every task is started by [`Tasks`]. Dropping its [`Task`] stops it, which is how a daemon shuts
//! down. Any other end of one that is essential, and a panic of any at all, is an end of the daemon:
//! whoever runs it waits for the first with [`Tasks::first_end`].

use std::any::Any;
use std::future::{Future, pending, poll_fn};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Poll;

use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinError, JoinHandle};

/// How something ended that should not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum End {
    /// It returned.
    #[error("{0} ended")]
    Returned(&'static str),
    /// It met something it cannot go on with.
    #[error("{name}: {error}")]
    Failed {
        /// Its name.
        name: &'static str,
        /// What it met.
        error: String,
    },
    /// It broke an invariant.
    #[error("{name} panicked: {message}")]
    Panicked {
        /// Its name.
        name: &'static str,
        /// What it said.
        message: String,
    },
}

/// Starts tasks and threads, and hears of the ends of those that should not end; clones hear the same.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    first_end: Arc<watch::Sender<Option<End>>>,
}

/// A running task. Dropping it stops the task at its next `.await`.
#[derive(Debug)]
pub struct Task {
    handle: AbortHandle,
}

impl Tasks {
    /// Starts an essential task: one that runs as long as the daemon.
    pub fn keep<E: Into<anyhow::Error>>(
        &self,
        name: &'static str,
        future: impl Future<Output = Result<(), E>> + Send + 'static,
    ) -> Task {
        let tasks = self.clone();
        Task::start(async move {
            let end = match catch(future).await {
                Ok(Ok(())) => End::Returned(name),
                Ok(Err(error)) => End::failed(name, error),
                Err(panic) => End::panicked(name, &*panic),
            };
            tasks.tell(end);
        })
    }

    /// Starts a task that has an end of its own.
    pub fn spawn(
        &self,
        name: &'static str,
        future: impl Future<Output = ()> + Send + 'static,
    ) -> Task {
        Task::start(self.clone().watched(name, future))
    }

    /// Starts a task that ends by itself and must not be stopped half-way by whoever wanted its
    /// result.
    pub fn detach(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        drop(start(self.clone().watched(name, future)));
    }

    /// Tells of a panic.
    async fn watched(self, name: &'static str, future: impl Future<Output = ()>) {
        if let Err(panic) = catch(future).await {
            self.tell(End::panicked(name, &*panic));
        }
    }

    /// Starts an essential thread.
    pub fn thread(
        &self,
        name: &'static str,
        work: impl FnOnce() + Send + 'static,
    ) -> io::Result<()> {
        let tasks = self.clone();
        let thread = std::thread::Builder::new().name(name.to_owned());
        thread.spawn(move || {
            // What a panic leaves half-done is dropped here, or is of no use to anybody.
            let end = match catch_unwind(AssertUnwindSafe(work)) {
                Ok(()) => End::Returned(name),
                Err(panic) => End::panicked(name, &*panic),
            };
            tasks.tell(end);
        })?;
        Ok(())
    }

    /// Waits for the first end that should not have been.
    pub async fn first_end(&self) -> End {
        let mut ends = self.first_end.subscribe();
        let end = ends.wait_for(Option::is_some).await;
        let end = end.expect("we hold the sender").clone();
        end.expect("that is what was waited for")
    }

    fn tell(&self, end: End) {
        self.first_end.send_if_modified(|first| {
            let is_first = first.is_none();
            if is_first {
                *first = Some(end);
            }
            is_first
        });
    }
}

impl End {
    fn failed(name: &'static str, error: impl Into<anyhow::Error>) -> Self {
        let error = format!("{:#}", error.into());
        Self::Failed { name, error }
    }

    fn panicked(name: &'static str, panic: &(dyn Any + Send)) -> Self {
        let message = panic
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_default();
        Self::Panicked { name, message }
    }
}

impl Task {
    fn start(future: impl Future<Output = ()> + Send + 'static) -> Self {
        let handle = start(future).abort_handle();
        Self { handle }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

/// What an essential task does when the one it serves is gone: that end is told already, or will be,
/// and it is the reason of ours.
pub async fn wait_to_be_stopped<T>() -> T {
    pending().await
}

/// Goes on with the panic of a task of a set, if it ended by one.
pub fn pass_panic_on(ended: Result<(), JoinError>) {
    if let Some(panic) = ended.err().and_then(|error| error.try_into_panic().ok()) {
        std::panic::resume_unwind(panic);
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place that starts tasks")]
fn start(future: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    tokio::spawn(future)
}

/// Runs a future to its end or its panic.
async fn catch<T>(future: impl Future<Output = T>) -> Result<T, Box<dyn Any + Send>> {
    let mut future = Box::pin(future);
    poll_fn(|context| {
        // After a panic the future is not polled again.
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context)));
        match polled {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(value)) => Poll::Ready(Ok(value)),
            Err(panic) => Poll::Ready(Err(panic)),
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use tokio::task::{JoinSet, yield_now};

    use super::*;

    /// What the daemon would say when this is one of its essential tasks.
    async fn said(future: impl Future<Output = io::Result<()>> + Send + 'static) -> String {
        let tasks = Tasks::default();
        let _task = tasks.keep("accept", future);
        tasks.first_end().await.to_string()
    }

    #[tokio::test]
    async fn essential_task_that_ends_is_named_with_its_reason() {
        assert_eq!(said(async { Ok(()) }).await, "accept ended");
        let failing = async { Err(io::Error::other("no descriptors left")) };
        assert_eq!(said(failing).await, "accept: no descriptors left");
        let panicking = async {
            yield_now().await;
            panic!("{} waits", "nobody");
        };
        assert_eq!(said(panicking).await, "accept panicked: nobody waits");
    }

    #[tokio::test]
    async fn stopped_task_is_no_end_of_the_daemon() {
        let tasks = Tasks::default();
        drop(tasks.keep("accept", pending::<io::Result<()>>()));
        let running = tasks.keep("docker watch", pending::<io::Result<()>>());
        for _ in 0..10 {
            yield_now().await;
        }
        drop(running);
        drop(tasks.keep("http", async { io::Result::Ok(()) }));
        yield_now().await;
        assert_eq!(*tasks.first_end.borrow(), None);
    }

    #[tokio::test]
    async fn task_with_an_end_of_its_own_may_end_but_not_panic() {
        let tasks = Tasks::default();
        let _done = tasks.spawn("dial", async {});
        tasks.detach("give addresses", async {});
        yield_now().await;
        assert_eq!(*tasks.first_end.borrow(), None);
        tasks.detach("give addresses", async { panic!("no holder") });
        let end = tasks.first_end().await;
        assert_eq!(end.to_string(), "give addresses panicked: no holder");
    }

    #[tokio::test]
    async fn essential_thread_that_ends_is_named_and_the_first_end_stays() {
        let tasks = Tasks::default();
        tasks.thread("host", || panic!("no bridge")).expect("start");
        let first = tasks.first_end().await;
        assert_eq!(first.to_string(), "host panicked: no bridge");
        let (done, ended) = std::sync::mpsc::channel();
        tasks
            .thread("other", move || done.send(()).expect("still waiting"))
            .expect("start");
        ended.recv().expect("it ran");
        assert_eq!(tasks.first_end().await, first);
    }

    #[tokio::test]
    async fn panic_in_a_set_of_tasks_goes_up_to_its_owner() {
        let owner = async {
            let mut set = JoinSet::new();
            set.spawn(async { panic!("no claim") });
            while let Some(ended) = set.join_next().await {
                pass_panic_on(ended);
            }
            Ok(())
        };
        assert_eq!(said(owner).await, "accept panicked: no claim");
    }
}
