//! Named tasks that live as long as their owner.

use std::future::Future;

use tokio::task::JoinHandle;

/// A running task. Dropping it stops the task at its next `.await`.
#[derive(Debug)]
pub struct Task {
    name: &'static str,
    handle: JoinHandle<()>,
}

/// Starts a task; the name appears in logs when it panics.
#[expect(clippy::disallowed_methods, reason = "the one place that starts tasks")]
pub fn spawn(name: &'static str, future: impl Future<Output = ()> + Send + 'static) -> Task {
    Task {
        name,
        handle: tokio::spawn(future),
    }
}

/// Starts a task that ends by itself and must not be stopped half-way by whoever wanted its result.
#[expect(clippy::disallowed_methods, reason = "the one place that starts tasks")]
pub fn detach(future: impl Future<Output = ()> + Send + 'static) {
    drop(tokio::spawn(future));
}

impl Task {
    /// Stops the task and waits until it is gone.
    pub async fn stop(mut self) {
        self.handle.abort();
        self.wait().await;
    }

    /// Waits until the task ends by itself.
    pub async fn finished(mut self) {
        self.wait().await;
    }

    async fn wait(&mut self) {
        if let Err(error) = (&mut self.handle).await
            && error.is_panic()
        {
            tracing::error!(task = self.name, %error, "task panicked");
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.handle.abort();
    }
}
