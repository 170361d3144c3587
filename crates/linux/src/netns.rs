//! Network namespaces: naming one, telling two apart, running code inside.
//!
//! A [`Netns`] is an open handle, so the namespace it names cannot be replaced under us. Code runs
//! inside on a thread made for it and thrown away after, so no thread of a runtime ever changes
//! namespace. `/proc/sys/net` follows the namespace of the thread that opens a file in it, and a
//! child process that of the thread that starts it: both work inside [`run_in`].

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// An open network namespace.
#[derive(Debug)]
pub struct Netns {
    file: File,
    identity: Identity,
    label: String,
    process: Option<OwnedFd>,
}

/// What tells two namespaces apart: device and inode of their handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    device: u64,
    inode: u64,
}

/// Why a namespace cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// The name contains a slash or is empty; `ip netns` could not have made it.
    #[error("invalid network namespace name {0:?}")]
    Name(String),
    /// There is no such namespace.
    #[error("network namespace {0} not found")]
    NotFound(String),
    /// There is no such process, or it ended while we looked.
    #[error("process {0} not found")]
    NoProcess(u32),
    /// The file is not the handle of a network namespace.
    #[error("{0} is not a network namespace")]
    NotNetns(String),
    /// The namespace is the host's own, where a container interface must never appear.
    #[error(
        "Container is running in the host network namespace, and therefore cannot be\n\
         connected to weave - perhaps the container was started with --net=host"
    )]
    Host,
    /// The handle cannot be opened or entered.
    #[error("network namespace {label}: {source}")]
    Unusable {
        /// Name, path or process the caller gave.
        label: String,
        /// The kernel's reason.
        source: io::Error,
    },
}

impl Netns {
    /// The namespace of the calling thread.
    pub fn current() -> Result<Self, NetnsError> {
        Self::at(Path::new("/proc/thread-self/ns/net"))
    }

    /// A namespace as users give it: an absolute path, or else a name as in `ip netns`.
    pub fn open(text: &str) -> Result<Self, NetnsError> {
        if text.starts_with('/') {
            Self::at(Path::new(text))
        } else {
            Self::named(text)
        }
    }

    /// A namespace made by `ip netns add`.
    pub fn named(name: &str) -> Result<Self, NetnsError> {
        if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
            return Err(NetnsError::Name(name.to_owned()));
        }
        Self::open_file(&PathBuf::from(NETNS_DIR).join(name), name.to_owned())
    }

    /// The namespace whose handle is at that path.
    pub fn at(path: &Path) -> Result<Self, NetnsError> {
        Self::open_file(path, path.display().to_string())
    }

    /// The namespace a process is in.
    ///
    /// The process is held by a handle while its namespace is opened, so a number that is reused in
    /// between cannot lead to another container.
    pub fn of_process(pid: u32) -> Result<Self, NetnsError> {
        Self::of_process_in(Path::new("/proc"), pid)
    }

    /// As [`Netns::of_process`], with `/proc` mounted elsewhere.
    pub fn of_process_in(proc_path: &Path, pid: u32) -> Result<Self, NetnsError> {
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let process = match pidfd_open(raw.ok_or(NetnsError::NoProcess(pid))?, PidfdFlags::empty())
        {
            Ok(process) => Some(process),
            Err(rustix::io::Errno::SRCH) => return Err(NetnsError::NoProcess(pid)),
            // Kernels before 5.3 lack the call; the number alone has to do there.
            Err(_) => None,
        };
        let path = proc_path.join(pid.to_string()).join("ns/net");
        let mut netns = match Self::open_file(&path, format!("of process {pid}")) {
            Err(NetnsError::NotFound(_)) => return Err(NetnsError::NoProcess(pid)),
            other => other?,
        };
        netns.process = process;
        if netns.process_has_ended() {
            Err(NetnsError::NoProcess(pid))
        } else {
            Ok(netns)
        }
    }

    fn open_file(path: &Path, label: String) -> Result<Self, NetnsError> {
        let unusable = |label: &str, source: io::Error| {
            let label = label.to_owned();
            if source.kind() == io::ErrorKind::NotFound {
                NetnsError::NotFound(label)
            } else {
                NetnsError::Unusable { label, source }
            }
        };
        let file = File::open(path).map_err(|e| unusable(&label, e))?;
        let metadata = file.metadata().map_err(|e| unusable(&label, e))?;
        if !is_netns(&file) {
            return Err(NetnsError::NotNetns(label));
        }
        let identity = Identity {
            device: metadata.dev(),
            inode: metadata.ino(),
        };
        Ok(Self {
            file,
            identity,
            label,
            process: None,
        })
    }

    /// What tells this namespace from others.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The name, path or process it was opened by.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Whether the process it was opened by is known to have ended.
    pub fn process_has_ended(&self) -> bool {
        let Some(process) = &self.process else {
            return false;
        };
        let mut fds = [PollFd::new(process, PollFlags::IN)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        matches!(poll(&mut fds, Some(&now)), Ok(n) if n > 0)
    }

    /// Refuses the caller's own namespace and that of the machine's first process.
    pub fn refuse_host(&self) -> Result<(), NetnsError> {
        let is_own = Self::current()?.identity == self.identity;
        // The first process may be out of sight; then only our own namespace is the host's.
        let is_first = Self::of_process(1).is_ok_and(|n| n.identity == self.identity);
        if is_own || is_first {
            Err(NetnsError::Host)
        } else {
            Ok(())
        }
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Runs `work` on a new thread inside `netns` and waits for it.
///
/// Sockets opened by `work` stay in the namespace and may be returned. A panic in `work` is passed on.
pub fn run_in<T: Send>(netns: &Netns, work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
    let unusable = |source| NetnsError::Unusable {
        label: netns.label.clone(),
        source,
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".to_owned());
        let inside = thread.spawn_scoped(scope, || {
            let kind = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(netns.file.as_fd(), kind).map(|()| work())
        });
        match inside.map_err(unusable)?.join() {
            Ok(result) => result.map_err(|e| unusable(e.into())),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

fn is_netns(file: &File) -> bool {
    // SAFETY: the request takes no argument and only reports on a descriptor we own.
    let kind = unsafe { libc::ioctl(file.as_raw_fd(), NS_GET_NSTYPE) };
    kind == libc::CLONE_NEWNET
}

const NETNS_DIR: &str = "/run/netns";
/// `_IO(0xb7, 3)`, see `ioctl_nsfs(2)`; the type of the request argument differs between C libraries.
const NS_GET_NSTYPE: libc::Ioctl = 0xb703;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_leave_the_directory_are_refused() {
        for name in ["", ".", "..", "a/b", "../x"] {
            assert!(
                matches!(Netns::named(name), Err(NetnsError::Name(_))),
                "{name:?}"
            );
        }
    }

    #[test]
    fn what_is_not_a_namespace_is_named_in_the_error() {
        let text = |r: Result<Netns, NetnsError>| r.unwrap_err().to_string();
        assert_eq!(
            text(Netns::open("/proc/self/status")),
            "/proc/self/status is not a network namespace"
        );
        assert_eq!(
            text(Netns::open("no-such-name")),
            "network namespace no-such-name not found"
        );
        assert_eq!(
            text(Netns::of_process(u32::MAX)),
            format!("process {} not found", u32::MAX)
        );
        assert_eq!(text(Netns::of_process(0)), "process 0 not found");
    }

    #[test]
    fn our_own_namespace_is_the_hosts() {
        let own = Netns::of_process(std::process::id()).unwrap();
        assert!(matches!(own.refuse_host(), Err(NetnsError::Host)));
        assert_eq!(own.identity(), Netns::current().unwrap().identity());
        assert!(!own.process_has_ended());
    }
}
