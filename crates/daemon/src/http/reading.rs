//! What `GET` requests read: the node's published state and the counters of the data plane.
//!
//! Formatting thousands of peers takes a while, so it is done on threads of its own, few at a time: the
//! two that drive the node and answer requests go on meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use api::report::Report;
use plane::Plane;
use report::metrics::Counts;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::driver::{Handle, Stopped};
use crate::snapshot::{self, Facts, LearnedMac};
use crate::{clock, process, task};

/// Texts made at once. With a single one a long template would hold up the shortest status.
const READERS_MAX: usize = 2;

/// All there is to read.
pub(super) struct Reading {
    driver: Handle,
    plane: Arc<Plane>,
    /// Set when start-up is complete.
    pub(super) ready: AtomicBool,
    /// Version of this program.
    version: String,
    /// Mesh port.
    port: u16,
    /// Whose turn it is to make a text.
    turns: Arc<Semaphore>,
}

impl Reading {
    /// Of a daemon that is not ready yet.
    pub(super) fn new(driver: Handle, plane: Arc<Plane>, port: u16) -> Arc<Self> {
        Arc::new(Self {
            driver,
            plane,
            ready: AtomicBool::new(false),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            port,
            turns: Arc::new(Semaphore::new(READERS_MAX)),
        })
    }

    /// What is made of the report as of now.
    pub(super) async fn report<T: Send + 'static>(
        self: &Arc<Self>,
        make: impl FnOnce(Report) -> T + Send + 'static,
    ) -> Result<T, Stopped> {
        let turn = self.turn().await;
        let snapshot = self.driver.snapshot().await?;
        let reading = Arc::clone(self);
        let made = aside(turn, move || {
            let status = snapshot.status(clock::now());
            // What it shares with the node is not kept while the text is made.
            drop(snapshot);
            make(snapshot::report(&status, &reading.facts()))
        });
        Ok(made.await)
    }

    /// What is made of the counts as of now.
    pub(super) async fn counts<T: Send + 'static>(
        self: &Arc<Self>,
        make: impl FnOnce(&Counts) -> T + Send + 'static,
    ) -> Result<T, Stopped> {
        let turn = self.turn().await;
        let counts = self.driver.counts().await?;
        let reading = Arc::clone(self);
        let made = aside(turn, move || {
            make(&Counts {
                version: reading.version.clone(),
                state_commits: reading.driver.commits(),
                datapath: reading.plane.counters(),
                process: process::read(),
                ..snapshot::counts(&counts)
            })
        });
        Ok(made.await)
    }

    async fn turn(&self) -> OwnedSemaphorePermit {
        let turn = Arc::clone(&self.turns).acquire_owned().await;
        turn.expect("it is never closed")
    }

    fn facts(&self) -> Facts {
        let macs = self.plane.macs(clock::now()).into_iter();
        Facts {
            version: self.version.clone(),
            ready: self.ready.load(Ordering::Acquire),
            port: self.port,
            interface: self.plane.interface(),
            capture_stats: self.plane.counters(),
            macs: macs
                .map(|(mac, owner, age)| LearnedMac { mac, owner, age })
                .collect(),
            state_commits: self.driver.commits(),
            unix_time: clock::unix_time(),
        }
    }
}

/// Does some work where it holds up nobody. Its turn ends with it, also if nobody waits any more.
async fn aside<T: Send + 'static>(
    turn: OwnedSemaphorePermit,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let work = move || {
        let _turn = turn;
        work()
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(made) => made,
        Err(error) => {
            // Without a panic the runtime is going away, and who waits with it.
            task::pass_panic_on(Err(error));
            task::wait_to_be_stopped().await
        }
    }
}
