//! What the threads of the data plane and the control plane have in common: the plan, who is where, and
//! the word to stop.

use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use arc_swap::ArcSwap;
use overlay::forward::SleevePlan;
use overlay::mac::MacTable;
use rustix::fd::OwnedFd;

use crate::clock;
use crate::events::{Ended, Sender};

/// What the threads and the control plane have in common.
pub(crate) struct Shared {
    pub(crate) plan: ArcSwap<SleevePlan>,
    pub(crate) macs: RwLock<MacTable>,
    pub(crate) stopped: AtomicBool,
    /// Written to make each thread look at `stopped`.
    pub(crate) wakers: [OwnedFd; 2],
    /// Zero of the MAC table's clock.
    pub(crate) started: Instant,
    /// Largest IP packet our bridge takes.
    pub(crate) bridge_mtu_bytes: usize,
    /// Where news goes.
    pub(crate) events: Sender,
}

impl Shared {
    pub(crate) fn now_secs(&self) -> u32 {
        u32::try_from((clock::now() - self.started).as_secs()).unwrap_or(u32::MAX)
    }

    /// Ends all threads. The first reason given is the one told.
    pub(crate) fn stop(&self, why: Ended) {
        self.events.end(why);
        self.stopped.store(true, Ordering::Release);
        for waker in &self.wakers {
            // Fails only when the counter is full, and then the thread is awake.
            let _ = rustix::io::write(waker, &1_u64.to_ne_bytes());
        }
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }
}
