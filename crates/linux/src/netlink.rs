//! Routing netlink: links, addresses and routes, as typed blocking requests.
//!
//! The one module that knows the netlink crates; the rest of the crate sees [`Link`], [`Route`] and
//! [`Cidr`](crate::addr::Cidr). A [`Netlink`] acts on the network namespace of the thread that
//! opened it, for as long as it lives, whatever that thread does later. Message formats: `rtnetlink(7)`.

mod address;
mod link;
mod route;
mod socket;
mod watch;

pub use link::{Link, LinkKind, LinkProperty, VethConfig};
pub use route::Route;
pub use socket::{LinkError, Netlink, check_name};
pub use watch::LinkWatch;
