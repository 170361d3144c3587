//! The TAP device of the data plane: a bridge port whose other end is a file descriptor, passing
//! frames of up to 64 KiB with virtio headers that say how to cut them and which checksum is
//! partial.

use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, RawFd};

use libc::{c_int, c_short, c_uint, c_ulong};

use crate::netlink::check_name;

const DEVICE: &std::ffi::CStr = c"/dev/net/tun";
/// Largest frame with its virtio header the kernel hands over, bytes: buffers of this size lose
/// nothing.
pub const READ_BYTES: usize = 65_536 + 64;

// From <linux/if_tun.h>; the libc crate lacks the offload bits.
const TUN_F_CSUM: c_uint = 0x01;
const TUN_F_TSO4: c_uint = 0x02;
const TUN_F_TSO6: c_uint = 0x04;
const TUN_F_TSO_ECN: c_uint = 0x08;
const TUN_F_USO4: c_uint = 0x20;
const TUN_F_USO6: c_uint = 0x40;
const TCP_OFFLOADS: c_uint = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
const UDP_OFFLOADS: c_uint = TUN_F_USO4 | TUN_F_USO6;
/// Length of the virtio header without the field for merged receive buffers.
const VNET_HEADER_BYTES: c_int = 10;

/// Name and flags, as `TUNSETIFF` takes them (`struct ifreq`).
#[repr(C)]
struct InterfaceRequest {
    name: [u8; libc::IFNAMSIZ],
    flags: c_short,
    rest: [u8; 22],
}

/// Why there is no TAP.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// The name cannot be that of a link.
    #[error("invalid TAP name {0:?}")]
    Name(String),
    /// The kernel has no TUN/TAP support, or we may not use it.
    #[error("/dev/net/tun: {0}")]
    Device(io::Error),
    /// The link exists and is something else, is in use, or we lack the privilege.
    #[error("TAP {name}: {source}")]
    Create {
        /// The name asked for.
        name: String,
        /// The kernel's reason.
        source: io::Error,
    },
}

/// An open TAP. The link vanishes when this is dropped.
#[derive(Debug)]
pub struct Tap {
    file: File,
    takes_udp: bool,
}

impl Tap {
    /// Creates the link in the namespace of the calling thread, with all offloads the kernel has,
    /// non-blocking. It is neither up nor a bridge port yet.
    pub fn create(name: &str) -> Result<Self, TapError> {
        if check_name(name).is_err() {
            return Err(TapError::Name(name.to_owned()));
        }
        // SAFETY: a constant path with a terminating zero; the result is checked below.
        let fd = unsafe {
            libc::open(
                DEVICE.as_ptr(),
                libc::O_RDWR | libc::O_CLOEXEC | libc::O_NONBLOCK,
            )
        };
        if fd < 0 {
            return Err(TapError::Device(io::Error::last_os_error()));
        }
        // SAFETY: `fd` was just opened and nobody else knows it.
        let file = unsafe { File::from_raw_fd(fd) };
        let failed = |source| TapError::Create {
            name: name.to_owned(),
            source,
        };
        let mut request = InterfaceRequest {
            name: [0; libc::IFNAMSIZ],
            flags: (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as c_short,
            rest: [0; 22],
        };
        request.name[..name.len()].copy_from_slice(name.as_bytes());
        // SAFETY: the request has the size and layout of `struct ifreq` and outlives the call.
        check(unsafe { libc::ioctl(fd, libc::TUNSETIFF, &raw mut request) }).map_err(failed)?;
        // SAFETY: the kernel reads one int.
        check(unsafe { libc::ioctl(fd, libc::TUNSETVNETHDRSZ, &VNET_HEADER_BYTES) })
            .map_err(failed)?;
        let takes_udp = set_offloads(fd, TCP_OFFLOADS | UDP_OFFLOADS).is_ok();
        if !takes_udp && set_offloads(fd, TCP_OFFLOADS).is_err() {
            tracing::warn!(
                tap = name,
                "TAP without segmentation offload; throughput will be low"
            );
        }
        Ok(Self { file, takes_udp })
    }

    /// Whether UDP super-frames can be written (and will be read).
    pub const fn takes_udp_super_frames(&self) -> bool {
        self.takes_udp
    }

    /// Reads one frame, virtio header first. `WouldBlock`: none is waiting.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.file).read(buffer)
    }

    /// Writes one frame, virtio header first, from these parts.
    pub fn write(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        (&self.file).write_vectored(parts)
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRawFd for Tap {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

fn set_offloads(fd: RawFd, offloads: c_uint) -> io::Result<()> {
    // SAFETY: this request takes its argument by value.
    check(unsafe { libc::ioctl(fd, libc::TUNSETOFFLOAD, c_ulong::from(offloads)) })
}

fn check(result: c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
