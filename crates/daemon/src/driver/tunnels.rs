//! What the driver asks of a data plane, so that it is driven without one in tests.

use std::sync::Arc;
use std::task::{Context, Poll};

use overlay::kind::Probe;
use overlay::mac::MacCorrection;
use overlay::table::{ForwardingTable, PlaneEvent};
use plane::{Ended, Events, Plane};

/// A data plane, as the driver sees it.
pub trait DataPlane: Send {
    /// Publishes a snapshot.
    fn program(&mut self, table: Arc<ForwardingTable>);

    /// Corrects what it learned.
    fn correct(&mut self, correction: &MacCorrection);

    /// Sends a special frame by the snapshot published last.
    fn probe(&mut self, probe: Probe);

    /// The next event, if one waits. An error once the data plane ended and all events are out.
    fn try_event(&mut self) -> Result<Option<PlaneEvent>, Ended>;

    /// The next event; `Pending` keeps the waker for it.
    fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<Result<PlaneEvent, Ended>>;
}

/// The data plane of this host and what it has to tell.
pub struct HostPlane {
    /// Shared with those who read its counters.
    pub plane: Arc<Plane>,
    /// Its events.
    pub events: Events,
}

impl DataPlane for HostPlane {
    fn program(&mut self, table: Arc<ForwardingTable>) {
        self.plane.program(table);
    }

    fn correct(&mut self, correction: &MacCorrection) {
        self.plane.correct(correction);
    }

    fn probe(&mut self, probe: Probe) {
        self.plane.probe(probe);
    }

    fn try_event(&mut self) -> Result<Option<PlaneEvent>, Ended> {
        self.events.try_next()
    }

    fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<Result<PlaneEvent, Ended>> {
        self.events.poll_next(context)
    }
}
