//! The data plane of a host: threads that carry frames between the bridge and the tunnels.
//!
//! Its face is small: [`Plane::ports`] are the ports of the bridge it needs, which somebody else plugs
//! in and keeps, [`Plane::program`] publishes what to do, [`Plane::probe`] sends a special frame,
//! [`Events`] are what the threads have to tell, [`Plane::counters`] and [`Plane::macs`] what they
//! count and learn. What happens to a frame is decided by pure code (`overlay::frame`); here are the
//! system calls and the threads. It knows no runtime: whoever waits for events gives a waker.

mod clock;
mod events;
mod lookout;
mod outlet;
mod plane;
mod rhythm;
mod shared;
mod threads;

pub use events::{Ended, Events};
pub use plane::{BridgePort, Config, Plane, StartError, TAP_NAME};
