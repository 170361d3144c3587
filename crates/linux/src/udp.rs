//! UDP sockets of the data plane: batches out by segmentation offload (GSO), batches in by receive
//! offload (GRO), and senders on one port that differ in "don't fragment": one always sets it and
//! heeds the path MTU the kernel knows, one always sets it and heeds the interface's MTU alone, one
//! never sets it.
//!
//! All sockets of a [`UdpPair`] are bound to the same address. A one-instruction socket filter
//! hands everything received to the first, so the others only send. Receive offload comes before
//! the filter: the kernel merges if a socket it picks by the hash of both addresses wants it, so
//! every one of them asks.

use std::io;
use std::mem::{MaybeUninit, size_of, size_of_val};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use libc::{c_int, c_void, cmsghdr, msghdr, sockaddr_storage, socklen_t};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// Largest result of one receive call, bytes.
pub const RECEIVE_BYTES: usize = 65_536;
/// Size of socket buffers, bytes: the default loses bursts of super-frames.
const SOCKET_BUFFER_BYTES: c_int = 4 << 20;
/// A send blocks while the buffer is full, which slows the capturing thread down as it should, but
/// not for ever.
const SEND_TIMEOUT: Duration = Duration::from_millis(200);

const UDP_SEGMENT: c_int = 103;
const UDP_GRO: c_int = 104;
const IPV6_DONTFRAG: c_int = 62;
/// No IPv6 router fragments, so what may be fragmented leaves in pieces any path carries, bytes.
const IPV6_PIECE_BYTES: c_int = 1280;

/// Room for one control message with an int or shorter, aligned as the kernel wants it.
#[repr(C, align(8))]
struct ControlBuffer([u8; 32]);

/// What one receive call gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Bytes in the buffer.
    pub bytes: usize,
    /// Length of each datagram in it but the last, which may be shorter.
    pub datagram_bytes: usize,
    /// Who sent them all.
    pub from: SocketAddr,
}

/// Why a socket pair could not be made.
#[derive(Debug, thiserror::Error)]
#[error("UDP {address}: {source}")]
pub struct UdpError {
    /// Where it should have been bound.
    pub address: SocketAddr,
    /// The kernel's reason.
    pub source: io::Error,
}

/// How a datagram may be sent with regard to its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fragmentation {
    /// It may be fragmented on the way.
    Allowed,
    /// "Don't fragment"; refused beyond the path MTU the kernel knows.
    Refused,
    /// "Don't fragment"; refused beyond the interface's MTU only, whatever routers once said.
    RefusedByInterface,
}

impl Fragmentation {
    /// As the kernel's option for IPv4; the option for IPv6 has the same values.
    const fn discover(self) -> c_int {
        match self {
            Self::Allowed => libc::IP_PMTUDISC_DONT,
            Self::Refused => libc::IP_PMTUDISC_DO,
            Self::RefusedByInterface => libc::IP_PMTUDISC_PROBE,
        }
    }
}

/// Sockets on one address; see the module.
#[derive(Debug)]
pub struct UdpPair {
    df: Socket,
    non_df: Socket,
    probing: Socket,
    local: SocketAddr,
    /// Whether this kernel has segmentation offload; one without would send a batch as one datagram.
    takes_batches: bool,
}

impl UdpPair {
    /// Binds all in the namespace of the calling thread.
    pub fn bind(address: SocketAddr) -> Result<Self, UdpError> {
        Self::try_bind(address).map_err(|source| UdpError { address, source })
    }

    fn try_bind(address: SocketAddr) -> io::Result<Self> {
        // Sockets that share a port do not notice others of the same user that do; a plain one does.
        drop(bound(address, false)?);
        let df = bound(address, true)?;
        attach_first_takes_all(&df)?;
        let takes_batches = set(&df, libc::SOL_UDP, UDP_SEGMENT, 0).is_ok();
        let local = df
            .local_addr()?
            .as_socket()
            .ok_or(io::ErrorKind::InvalidInput)?;
        let non_df = bound(local, true)?;
        let probing = bound(local, true)?;
        for socket in [&df, &non_df, &probing] {
            if set(socket, libc::SOL_UDP, UDP_GRO, 1).is_err() {
                tracing::warn!("kernel without UDP receive offload; throughput will be low");
                break;
            }
        }
        for (socket, fragmentation) in [
            (&df, Fragmentation::Refused),
            (&non_df, Fragmentation::Allowed),
            (&probing, Fragmentation::RefusedByInterface),
        ] {
            set_fragmentation(socket, address.is_ipv4(), fragmentation)?;
            set_buffer(socket, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)?;
            socket.set_write_timeout(Some(SEND_TIMEOUT))?;
        }
        set_buffer(&df, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF)?;
        Ok(Self {
            df,
            non_df,
            probing,
            local,
            takes_batches,
        })
    }

    /// The address all are bound to.
    pub const fn local_address(&self) -> SocketAddr {
        self.local
    }

    /// Receives a batch of datagrams of one sender. `WouldBlock`: none is waiting. Errors that
    /// earlier sends caused are reported here too and say nothing about the socket.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Received> {
        let mut from = MaybeUninit::<sockaddr_storage>::zeroed();
        let mut control = ControlBuffer([0; 32]);
        let mut part = libc::iovec {
            iov_base: buffer.as_mut_ptr().cast(),
            iov_len: buffer.len(),
        };
        let mut message = message(&mut part);
        message.msg_name = from.as_mut_ptr().cast();
        message.msg_namelen = size_of::<sockaddr_storage>() as socklen_t;
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control.0);
        // SAFETY: all pointers in `message` point to live memory of the stated lengths.
        let bytes =
            unsafe { libc::recvmsg(self.df.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
        let bytes = usize::try_from(bytes).map_err(|_| io::Error::last_os_error())?;
        // SAFETY: zeroed memory is a valid `sockaddr_storage`, and the kernel wrote a valid one.
        let from = unsafe { from.assume_init() };
        let from = to_socket_addr(&from).ok_or(io::ErrorKind::InvalidData)?;
        // SAFETY: `message` is as the kernel left it.
        let segment = unsafe { gro_segment(&message) };
        let datagram_bytes = segment.filter(|&segment| segment > 0).unwrap_or(bytes);
        Ok(Received {
            bytes,
            datagram_bytes,
            from,
        })
    }

    /// Sends datagrams of `datagram_bytes` each (the last may be shorter) by one call; at most 64,
    /// and 65507 bytes in all. `EMSGSIZE` or `EINVAL`: they exceed the path MTU.
    pub fn send(
        &self,
        fragmentation: Fragmentation,
        to: SocketAddr,
        bytes: &[u8],
        datagram_bytes: usize,
    ) -> io::Result<()> {
        let to = SockAddr::from(to);
        let mut part = libc::iovec {
            iov_base: bytes.as_ptr().cast_mut().cast(),
            iov_len: bytes.len(),
        };
        let mut message = message(&mut part);
        message.msg_name = to.as_ptr().cast_mut().cast();
        message.msg_namelen = to.len();
        let mut control = ControlBuffer([0; 32]);
        if bytes.len() > datagram_bytes {
            if !self.takes_batches {
                return Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP));
            }
            let segment = u16::try_from(datagram_bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
            message.msg_control = control.0.as_mut_ptr().cast();
            // SAFETY: the space for a u16 is less than the 32 bytes of the buffer.
            unsafe {
                message.msg_controllen = libc::CMSG_SPACE(size_of::<u16>() as u32) as usize;
                let header = libc::CMSG_FIRSTHDR(&raw const message);
                (*header).cmsg_level = libc::SOL_UDP;
                (*header).cmsg_type = UDP_SEGMENT;
                (*header).cmsg_len = libc::CMSG_LEN(size_of::<u16>() as u32) as usize;
                libc::CMSG_DATA(header)
                    .cast::<u16>()
                    .write_unaligned(segment);
            }
        }
        let socket = match fragmentation {
            Fragmentation::Allowed => &self.non_df,
            Fragmentation::Refused => &self.df,
            Fragmentation::RefusedByInterface => &self.probing,
        };
        // SAFETY: all pointers in `message` point to live memory of the stated lengths, which the
        // kernel only reads.
        let sent =
            unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
        if sent < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    /// What the kernel holds to be the path MTU towards an address, IP header included, bytes.
    pub fn path_mtu(&self, to: SocketAddr) -> io::Result<usize> {
        let socket = Socket::new(Domain::for_address(to), Type::DGRAM, None)?;
        if !self.local.ip().is_unspecified() {
            socket.bind(&SocketAddr::new(self.local.ip(), 0).into())?;
        }
        socket.connect(&to.into())?;
        let (level, option) = match to {
            SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MTU),
            SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MTU),
        };
        let mut value: c_int = 0;
        let mut length = size_of::<c_int>() as socklen_t;
        // SAFETY: the kernel writes at most one int to `value`.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                level,
                option,
                (&raw mut value).cast::<c_void>(),
                &raw mut length,
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        usize::try_from(value).map_err(|_| io::ErrorKind::InvalidData.into())
    }
}

/// The socket that receives.
impl AsFd for UdpPair {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.df.as_fd()
    }
}

impl AsRawFd for UdpPair {
    fn as_raw_fd(&self) -> RawFd {
        self.df.as_raw_fd()
    }
}

/// Whether an error of a send means that a datagram exceeded the path MTU (for a batch, older
/// kernels say `EINVAL`).
pub fn is_too_big(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMSGSIZE | libc::EINVAL))
}

/// Whether a batch may have been refused for being one, so that sending one by one is worth a try.
pub fn is_batch_refused(error: &io::Error) -> bool {
    is_too_big(error) || is_batching_unavailable(error)
}

/// Whether the outgoing device or this kernel cannot take batches at all.
pub fn is_batching_unavailable(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EIO | libc::EOPNOTSUPP))
}

fn set_fragmentation(socket: &Socket, is_ipv4: bool, how: Fragmentation) -> io::Result<()> {
    if is_ipv4 {
        return set(
            socket,
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            how.discover(),
        );
    }
    if how == Fragmentation::Allowed {
        set(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU, IPV6_PIECE_BYTES)?;
    } else {
        set(socket, libc::IPPROTO_IPV6, IPV6_DONTFRAG, 1)?;
    }
    set(
        socket,
        libc::IPPROTO_IPV6,
        libc::IPV6_MTU_DISCOVER,
        how.discover(),
    )
}

fn bound(address: SocketAddr, is_shared: bool) -> io::Result<Socket> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if is_shared {
        set(&socket, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Makes the first socket of a port-sharing group receive everything.
fn attach_first_takes_all(socket: &Socket) -> io::Result<()> {
    let mut code = [libc::sock_filter {
        code: (libc::BPF_RET | libc::BPF_K) as u16,
        jt: 0,
        jf: 0,
        k: 0,
    }];
    let program = libc::sock_fprog {
        len: 1,
        filter: code.as_mut_ptr(),
    };
    set_raw(
        socket,
        libc::SOL_SOCKET,
        libc::SO_ATTACH_REUSEPORT_CBPF,
        &program,
    )
}

fn set_buffer(socket: &Socket, force: c_int, ask: c_int) -> io::Result<()> {
    set(socket, libc::SOL_SOCKET, force, SOCKET_BUFFER_BYTES)
        .or_else(|_| set(socket, libc::SOL_SOCKET, ask, SOCKET_BUFFER_BYTES))
}

fn set(socket: &Socket, level: c_int, option: c_int, value: c_int) -> io::Result<()> {
    set_raw(socket, level, option, &value)
}

fn set_raw<T>(socket: &Socket, level: c_int, option: c_int, value: &T) -> io::Result<()> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes of `value`, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const *value).cast::<c_void>(),
            size_of::<T>() as socklen_t,
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// A message of one part, without name and control.
fn message(part: &mut libc::iovec) -> msghdr {
    // SAFETY: all-zero is a valid `msghdr`: null pointers and zero lengths.
    let mut message: msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = part;
    message.msg_iovlen = 1;
    message
}

/// The datagram size the kernel reported, if it merged any.
///
/// # Safety
/// `message` must be as `recvmsg` left it, its control buffer alive.
unsafe fn gro_segment(message: &msghdr) -> Option<usize> {
    // SAFETY: the caller's promise; the macros stay within `msg_controllen`.
    let mut header: *const cmsghdr = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !header.is_null() {
        // SAFETY: `header` points to a complete header inside the control buffer.
        let (level, kind) = unsafe { ((*header).cmsg_level, (*header).cmsg_type) };
        if level == libc::SOL_UDP && kind == UDP_GRO {
            // SAFETY: the kernel put an int behind a header of this type.
            let segment = unsafe { libc::CMSG_DATA(header).cast::<c_int>().read_unaligned() };
            return usize::try_from(segment).ok();
        }
        // SAFETY: as for the first header.
        header = unsafe { libc::CMSG_NXTHDR(message, header) };
    }
    None
}

fn to_socket_addr(storage: &sockaddr_storage) -> Option<SocketAddr> {
    match c_int::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says what it is, and the storage is large and aligned enough.
            let v4 = unsafe { &*(&raw const *storage).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: the family says what it is, and the storage is large and aligned enough.
            let v6 = unsafe { &*(&raw const *storage).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            let port = u16::from_be(v6.sin6_port);
            Some(SocketAddrV6::new(ip, port, v6.sin6_flowinfo, v6.sin6_scope_id).into())
        }
        _ => None,
    }
}

/// Whether this host can use IPv6 at all.
pub fn has_ipv6() -> bool {
    let any = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0);
    bound(any, false).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(address: &str) -> (UdpPair, UdpPair) {
        let bind = || UdpPair::bind(address.parse().unwrap()).unwrap();
        (bind(), bind())
    }

    /// Polls until a batch arrives; the kernel delivers on loopback within the send.
    fn receive(pair: &UdpPair) -> Option<(Vec<u8>, usize, SocketAddr)> {
        let mut buffer = vec![0; RECEIVE_BYTES];
        match pair.receive(&mut buffer) {
            Ok(got) => Some((buffer[..got.bytes].to_vec(), got.datagram_bytes, got.from)),
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                None
            }
        }
    }

    #[test]
    fn batch_arrives_whole_and_in_order_from_either_sender() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            if address.starts_with('[') && !has_ipv6() {
                continue;
            }
            let (a, b) = pairs(address);
            for fragmentation in [
                Fragmentation::Refused,
                Fragmentation::Allowed,
                Fragmentation::RefusedByInterface,
            ] {
                let bytes: Vec<u8> = (0..3500_u32).map(|i| (i % 251) as u8).collect();
                a.send(fragmentation, b.local_address(), &bytes, 1000)
                    .unwrap();
                let mut got = Vec::new();
                while let Some((piece, size, from)) = receive(&b) {
                    assert_eq!(from, a.local_address());
                    assert!(size == 1000 || piece.len() <= 1000);
                    got.extend(piece);
                }
                assert_eq!(got, bytes);
            }
        }
    }

    #[test]
    fn first_socket_of_a_pair_receives_from_everybody() {
        let (a, _) = pairs("127.0.0.1:0");
        let clients: Vec<_> = (0..64)
            .map(|_| std::net::UdpSocket::bind("127.0.0.1:0").unwrap())
            .collect();
        for client in &clients {
            client.send_to(b"hello", a.local_address()).unwrap();
        }
        let mut count = 0;
        while receive(&a).is_some() {
            count += 1;
        }
        assert_eq!(count, clients.len());
    }

    #[test]
    fn port_in_use_is_refused_even_by_a_pair_of_ours() {
        let (a, _) = pairs("127.0.0.1:0");
        let error = UdpPair::bind(a.local_address()).unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn datagram_beyond_the_path_mtu_is_refused_only_with_df() {
        let (a, b) = pairs("127.0.0.1:0");
        let mtu = a.path_mtu(b.local_address()).unwrap();
        assert!(mtu >= 16_384);
        if mtu < 65_535 {
            let bytes = vec![0; mtu];
            for fragmentation in [Fragmentation::Refused, Fragmentation::RefusedByInterface] {
                let refused = a.send(fragmentation, b.local_address(), &bytes, mtu);
                assert!(is_too_big(&refused.unwrap_err()));
            }
            a.send(Fragmentation::Allowed, b.local_address(), &bytes, mtu)
                .unwrap();
        }
    }

    #[test]
    fn refused_connections_do_not_disturb_a_pair() {
        let (a, b) = pairs("127.0.0.1:0");
        let closed = b.local_address();
        drop(b);
        for _ in 0..3 {
            a.send(Fragmentation::Refused, closed, b"anybody there?", 14)
                .unwrap();
        }
        assert_eq!(receive(&a), None);
    }
}
