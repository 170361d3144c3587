//! What can be asked of a node, and the type of each reply.
//!
//! Each command is a type that knows its reply ([`Ask`]). [`Command`] and [`Reply`] are the closed lists
//! of them, in which they pass between shell and node.

use std::collections::BTreeSet;

use ipam::{ContainerEvent, Outcome, Refusal};
use mesh::DirectPeer;

/// Correlates a command with its reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// A command that knows the type of its reply.
pub trait Ask {
    /// What it is replied to by.
    type Reply;

    /// The command in the list of all.
    fn command(self) -> Command;

    /// Its reply out of the list of all; `None` if that is the reply to another command.
    fn read(reply: Reply) -> Option<Self::Reply>;
}

/// Add or, with `replace`, replace the direct peers.
#[derive(Debug)]
pub struct Connect {
    /// Resolved peers.
    pub peers: Vec<DirectPeer>,
    /// Forget all earlier direct peers first.
    pub replace: bool,
}

/// Remove direct peers by the text they were given as.
#[derive(Debug)]
pub struct Forget {
    /// The texts.
    pub peers: Vec<String>,
}

/// Something about addresses. The reply may come much later, or not be wanted any more: see
/// `Input::Cancelled`.
#[derive(Debug)]
pub struct Addresses<Q>(pub Q);

/// Something happened to a container.
#[derive(Debug)]
pub struct Container {
    /// Its id.
    pub ident: String,
    /// What.
    pub event: ContainerEvent,
}

/// At start: the containers that run.
#[derive(Debug)]
pub struct Running(pub BTreeSet<String>);

/// Any command.
#[derive(Debug)]
pub enum Command {
    /// See [`Connect`].
    Connect(Connect),
    /// See [`Forget`].
    Forget(Forget),
    /// See [`Addresses`].
    Ipam(ipam::Request),
    /// See [`Container`].
    Container(Container),
    /// See [`Running`].
    Running(BTreeSet<String>),
}

/// Any reply.
#[derive(Debug)]
pub enum Reply {
    /// Nothing to say.
    Done,
    /// Reply to [`Addresses`].
    Ipam(Outcome),
}

impl Reply {
    fn done(&self) -> Option<()> {
        matches!(self, Self::Done).then_some(())
    }
}

impl Ask for Connect {
    type Reply = ();

    fn command(self) -> Command {
        Command::Connect(self)
    }

    fn read(reply: Reply) -> Option<()> {
        reply.done()
    }
}

impl Ask for Forget {
    type Reply = ();

    fn command(self) -> Command {
        Command::Forget(self)
    }

    fn read(reply: Reply) -> Option<()> {
        reply.done()
    }
}

impl<Q: ipam::Ask> Ask for Addresses<Q> {
    type Reply = Result<Q::Answer, Refusal>;

    fn command(self) -> Command {
        Command::Ipam(self.0.request())
    }

    fn read(reply: Reply) -> Option<Self::Reply> {
        let Reply::Ipam(outcome) = reply else {
            return None;
        };
        outcome.map(Q::read).transpose()
    }
}

impl Ask for Container {
    type Reply = ();

    fn command(self) -> Command {
        Command::Container(self)
    }

    fn read(reply: Reply) -> Option<()> {
        reply.done()
    }
}

impl Ask for Running {
    type Reply = ();

    fn command(self) -> Command {
        Command::Running(self.0)
    }

    fn read(reply: Reply) -> Option<()> {
        reply.done()
    }
}

#[cfg(test)]
mod tests {
    use ipam::Answer;

    use super::*;

    #[test]
    fn a_reply_is_read_only_as_the_type_its_command_asked_for() {
        assert_eq!(Forget::read(Reply::Done), Some(()));
        assert_eq!(Forget::read(Reply::Ipam(Ok(Answer::Done))), None);
        assert_eq!(Running::read(Reply::Ipam(Ok(Answer::Done))), None);
        let gained = || Reply::Ipam(Ok(Answer::TakenOver(3)));
        assert_eq!(Addresses::<ipam::TakeOver>::read(gained()), Some(Ok(3)));
        assert_eq!(Addresses::<ipam::Allocate>::read(gained()), None);
        let refused = || Reply::Ipam(Err(Refusal::Cancelled));
        let read = Addresses::<ipam::Allocate>::read(refused());
        assert_eq!(read, Some(Err(Refusal::Cancelled)));
    }
}
