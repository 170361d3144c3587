//! Where a thread waits for its descriptors. They are registered once: a wait that names them anew
//! each time costs as much as a small packet.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::event::{Timespec, epoll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::{Errno, Result};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};

/// What can wake a thread. Only the waker is never named as seen: whoever writes to it has said
/// elsewhere what he wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// Frames on the TAP.
    Tap,
    /// Datagrams on the sockets of IPv4.
    V4,
    /// Datagrams on the sockets of IPv6.
    V6,
    /// Time to let old addresses expire.
    Sweep,
}

impl Source {
    const ALL: [Self; 4] = [Self::Tap, Self::V4, Self::V6, Self::Sweep];
}

/// The number under which the waker is registered.
const WAKER: u64 = Source::ALL.len() as u64;

/// Whether a look may last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Until there is something.
    UntilSeen,
    /// Not at all.
    Never,
}

/// The descriptors a thread waits for.
pub(crate) struct Lookout {
    epoll: OwnedFd,
    timer: Option<OwnedFd>,
}

impl Lookout {
    /// Waits for the waker alone.
    pub(crate) fn new(waker: BorrowedFd<'_>) -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let lookout = Self { epoll, timer: None };
        lookout.register(waker, WAKER)?;
        Ok(lookout)
    }

    /// Waits for this one too. It must stay open as long as the lookout is used.
    pub(crate) fn add(&self, source: Source, fd: BorrowedFd<'_>) -> Result<()> {
        self.register(fd, source as u64)
    }

    /// Sees [`Source::Sweep`] this often.
    pub(crate) fn add_sweep(&mut self, every: Duration) -> Result<()> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let every = Timespec {
            tv_sec: every.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: every.subsec_nanos().into(),
        };
        let times = Itimerspec {
            it_interval: every,
            it_value: every,
        };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &times)?;
        self.register(timer.as_fd(), Source::Sweep as u64)?;
        self.timer = Some(timer);
        Ok(())
    }

    fn register(&self, fd: BorrowedFd<'_>, number: u64) -> Result<()> {
        let data = epoll::EventData::new_u64(number);
        epoll::add(&self.epoll, fd, data, epoll::EventFlags::IN)
    }

    /// Names everything that has something to read, or an end to report.
    pub(crate) fn look(&self, wait: Wait, mut seen: impl FnMut(Source)) -> Result<()> {
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let timeout = match wait {
            Wait::UntilSeen => None,
            Wait::Never => Some(&now),
        };
        let none = epoll::Event {
            flags: epoll::EventFlags::empty(),
            data: epoll::EventData::new_u64(WAKER),
        };
        let mut events = [none; Source::ALL.len() + 1];
        let count = match epoll::wait(&self.epoll, &mut events, timeout) {
            Ok(count) => count,
            Err(Errno::INTR) => return Ok(()),
            Err(error) => return Err(error),
        };
        for event in &events[..count] {
            let number = event.data.u64();
            let source = Source::ALL.into_iter().find(|s| *s as u64 == number);
            if let (Some(Source::Sweep), Some(timer)) = (source, &self.timer) {
                // Fails only if another look has read it, and then it was seen.
                let _ = rustix::io::read(timer, &mut [0; 8]);
            }
            if let Some(source) = source {
                seen(source);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{EventfdFlags, eventfd};
    use rustix::io::{read, write};

    fn ring() -> OwnedFd {
        eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("an eventfd")
    }

    fn look(lookout: &Lookout, wait: Wait) -> Vec<Source> {
        let mut all = Vec::new();
        let seen = lookout.look(wait, |source| all.push(source));
        seen.map(|()| all).expect("the kernel answers")
    }

    #[test]
    fn a_source_is_named_until_it_is_read() {
        let (waker, tap, v6) = (ring(), ring(), ring());
        let lookout = Lookout::new(waker.as_fd()).expect("a lookout");
        for (source, fd) in [(Source::Tap, &tap), (Source::V6, &v6)] {
            lookout.add(source, fd.as_fd()).expect("registered");
        }
        assert_eq!(look(&lookout, Wait::Never), []);
        write(&v6, &1_u64.to_ne_bytes()).expect("written");
        assert_eq!(look(&lookout, Wait::UntilSeen), [Source::V6]);
        assert_eq!(look(&lookout, Wait::Never), [Source::V6]);
        read(&v6, &mut [0; 8]).expect("read");
        assert_eq!(look(&lookout, Wait::Never), []);
    }

    #[test]
    fn the_waker_ends_a_wait_and_names_nothing() {
        let waker = ring();
        let lookout = Lookout::new(waker.as_fd()).expect("a lookout");
        write(&waker, &1_u64.to_ne_bytes()).expect("written");
        assert_eq!(look(&lookout, Wait::UntilSeen), []);
    }

    #[test]
    fn the_time_to_sweep_comes_and_passes() {
        let waker = ring();
        let mut lookout = Lookout::new(waker.as_fd()).expect("a lookout");
        lookout
            .add_sweep(Duration::from_millis(20))
            .expect("a timer");
        assert_eq!(look(&lookout, Wait::Never), []);
        assert_eq!(look(&lookout, Wait::UntilSeen), [Source::Sweep]);
        assert_eq!(look(&lookout, Wait::UntilSeen), [Source::Sweep]);
    }
}
