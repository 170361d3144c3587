//! Notice that links changed, so that the caller looks again.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::LinkError;

/// A subscription to changes of links, bound to the namespace of the thread that opened it.
///
/// It says that something changed, not what: reading the present state afterwards cannot miss an
/// event, and many changes at once cost one look. Open it before the first look.
#[derive(Debug)]
pub struct LinkWatch {
    socket: Socket,
}

impl LinkWatch {
    /// Subscribes to link changes of the calling thread's namespace.
    pub fn open() -> Result<Self, LinkError> {
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(LinkError::Socket)?;
        socket
            .bind(&SocketAddr::new(0, LINK_GROUP))
            .map_err(LinkError::Socket)?;
        socket.set_non_blocking(true).map_err(LinkError::Socket)?;
        Ok(Self { socket })
    }

    /// Waits until some link changes or the time is up; `true` if one did.
    pub fn wait(&self, at_most: Duration) -> io::Result<bool> {
        let timeout = Timespec {
            tv_sec: i64::try_from(at_most.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: at_most.subsec_nanos().into(),
        };
        let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) => Ok(false),
            Ok(_) => self.drain().map(|()| true),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Forgets all changes told so far; for callers that wait for the descriptor themselves.
    pub fn drain(&self) -> io::Result<()> {
        let mut scratch = Vec::with_capacity(SCRATCH_BYTES);
        for _ in 0..MAX_DRAINED {
            scratch.clear();
            match self.socket.recv(&mut scratch, 0) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // The kernel had more to tell than fits; that something changed is all we need.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl AsFd for LinkWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// `RTMGRP_LINK`.
const LINK_GROUP: u32 = 1;
/// Longer notices are cut off; their content is not read.
const SCRATCH_BYTES: usize = 4096;
/// So that a storm of changes cannot hold the caller; the rest makes the next wait return at once.
const MAX_DRAINED: usize = 1024;
