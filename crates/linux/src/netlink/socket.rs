//! The netlink socket: requests, answers, and why one failed.

use std::io;
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// A blocking routing netlink socket bound to one network namespace.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

/// Why a netlink request failed; the message names the thing asked about.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// No link, address or route of that name.
    #[error("{0} not found")]
    NotFound(String),
    /// The name is taken.
    #[error("{0} already exists")]
    Exists(String),
    /// An interface name is empty, longer than 15 bytes or has characters the kernel refuses.
    #[error("invalid interface name {0:?}")]
    Name(String),
    /// The kernel refused for another reason.
    #[error("{what}: {source}")]
    Refused {
        /// The operation and its object, as in `set weave`.
        what: String,
        /// The kernel's reason.
        source: io::Error,
    },
    /// The socket itself failed or the kernel did not answer in time.
    #[error("netlink socket: {0}")]
    Socket(#[source] io::Error),
    /// The kernel answered with something that is not the reply asked for.
    #[error("{0}: unexpected reply from the kernel")]
    Malformed(String),
}

impl LinkError {
    /// The kernel's error code, where there is one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. } | Self::Socket(source) => source.raw_os_error(),
            Self::NotFound(_) => Some(libc::ENODEV),
            Self::Exists(_) => Some(libc::EEXIST),
            Self::Name(_) => Some(libc::EINVAL),
            Self::Malformed(_) => None,
        }
    }
}

impl Netlink {
    /// Opens a socket in the network namespace of the calling thread.
    pub fn open() -> Result<Self, LinkError> {
        let mut socket = Socket::new(NETLINK_ROUTE).map_err(LinkError::Socket)?;
        socket.bind_auto().map_err(LinkError::Socket)?;
        socket
            .connect(&SocketAddr::new(0, 0))
            .map_err(LinkError::Socket)?;
        let timeout = rustix::net::sockopt::Timeout::Recv;
        rustix::net::sockopt::set_socket_timeout(&socket, timeout, Some(REPLY_TIMEOUT))
            .map_err(|e| LinkError::Socket(e.into()))?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Sends a request and waits for its acknowledgement. `what` is the operation, `name` its object.
    pub(super) fn act(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
        what: &str,
        name: &str,
    ) -> Result<(), LinkError> {
        self.send(message, NLM_F_ACK | flags)?;
        self.replies(what, name, |_| {}).map(drop)
    }

    /// Sends a request that is answered by one message.
    pub(super) fn get(
        &mut self,
        message: RouteNetlinkMessage,
        what: &str,
        name: &str,
    ) -> Result<RouteNetlinkMessage, LinkError> {
        self.send(message, NLM_F_ACK)?;
        let mut answer = None;
        self.replies(what, name, |reply| answer = Some(reply))?;
        answer.ok_or_else(|| LinkError::Malformed(format!("{what} {name}")))
    }

    /// Sends a request that is answered by a list. A list that changed while it was read is read
    /// again, a few times.
    pub(super) fn dump(
        &mut self,
        message: &RouteNetlinkMessage,
        what: &str,
    ) -> Result<Vec<RouteNetlinkMessage>, LinkError> {
        let mut found = Vec::new();
        for _ in 0..DUMP_ATTEMPTS {
            found.clear();
            self.send(message.clone(), NLM_F_DUMP)?;
            if self.replies(what, "", |reply| found.push(reply))? == Consistency::Whole {
                break;
            }
        }
        Ok(found)
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> Result<(), LinkError> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map_err(LinkError::Socket)?;
        Ok(())
    }

    /// Reads until the end of the answer to the last request, passing on each message in it.
    fn replies(
        &mut self,
        what: &str,
        name: &str,
        mut each: impl FnMut(RouteNetlinkMessage),
    ) -> Result<Consistency, LinkError> {
        let mut consistency = Consistency::Whole;
        loop {
            let (bytes, from) = self.socket.recv_from_full().map_err(LinkError::Socket)?;
            if from.port_number() != 0 {
                continue;
            }
            let mut rest = &bytes[..];
            while let Some((header, body)) = split_message(&mut rest) {
                if header.sequence != self.sequence {
                    continue;
                }
                if header.flags & NLM_F_DUMP_INTR != 0 {
                    consistency = Consistency::Torn;
                }
                match NetlinkMessage::<RouteNetlinkMessage>::deserialize(body).map(|m| m.payload) {
                    Ok(NetlinkPayload::InnerMessage(message)) => each(message),
                    Ok(NetlinkPayload::Done(_)) => return Ok(consistency),
                    Ok(NetlinkPayload::Error(error)) => {
                        return match error.code {
                            None => Ok(consistency),
                            Some(_) => Err(refusal(what, name, &error.to_io())),
                        };
                    }
                    // A list also shows links of kinds we never made; one we cannot read is not ours.
                    Ok(_) => {}
                    Err(error) => tracing::debug!(what, %error, "unreadable netlink message"),
                }
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Consistency {
    Whole,
    Torn,
}

struct MessageHeader {
    flags: u16,
    sequence: u32,
}

/// Cuts one message off the front; `None` at the end or when what remains is no message.
fn split_message<'a>(rest: &mut &'a [u8]) -> Option<(MessageHeader, &'a [u8])> {
    let head = rest.get(..HEADER_LEN)?;
    let length = u32::from_ne_bytes(head[..4].try_into().ok()?) as usize;
    let header = MessageHeader {
        flags: u16::from_ne_bytes(head[6..8].try_into().ok()?),
        sequence: u32::from_ne_bytes(head[8..12].try_into().ok()?),
    };
    let message = rest.get(..length).filter(|m| m.len() >= HEADER_LEN)?;
    *rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    Some((header, message))
}

fn refusal(what: &str, name: &str, error: &io::Error) -> LinkError {
    match error.raw_os_error() {
        Some(libc::ENODEV) if !name.is_empty() => LinkError::NotFound(name.to_owned()),
        Some(libc::EEXIST) if !name.is_empty() => LinkError::Exists(name.to_owned()),
        code => LinkError::Refused {
            what: if name.is_empty() {
                what.to_owned()
            } else {
                format!("{what} {name}")
            },
            source: code.map_or_else(|| error.kind().into(), io::Error::from_raw_os_error),
        },
    }
}

/// Refuses what the kernel or firewall text would cut off or misread: interface names are 1 to 15
/// visible ASCII characters, none of them a separator, quote, pattern or number template.
pub fn check_name(name: &str) -> Result<(), LinkError> {
    let length_fits = !name.is_empty() && name.len() <= 15 && name != "." && name != "..";
    let fits = |b: u8| b.is_ascii_graphic() && !br#"/:"'%*\"#.contains(&b);
    if length_fits && name.bytes().all(fits) {
        Ok(())
    } else {
        Err(LinkError::Name(name.to_owned()))
    }
}

/// The kernel answers at once; only a broken one keeps us longer.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);
const DUMP_ATTEMPTS: usize = 4;
const HEADER_LEN: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_names_the_kernel_would_mangle_are_refused() {
        for name in [
            "",
            ".",
            "..",
            "a b",
            "a/b",
            "a:b",
            "sixteen-byte-nam",
            "a\0",
            "a\"",
            "a*",
            "a%d",
            "ä",
        ] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        for name in ["weave", "ethwe0", "vethwepl1234567", "a.b-c_d@e"] {
            assert!(check_name(name).is_ok(), "{name:?}");
        }
    }

    #[test]
    fn a_truncated_answer_ends_the_message_walk() {
        let mut bytes = [0; 20];
        bytes[..4].copy_from_slice(&20u32.to_ne_bytes());
        for length in 0..20 {
            let mut rest = &bytes[..length];
            assert!(split_message(&mut rest).is_none(), "{length}");
        }
        for claimed in [0u32, 15, 21, u32::MAX] {
            bytes[..4].copy_from_slice(&claimed.to_ne_bytes());
            let mut rest = &bytes[..];
            assert!(split_message(&mut rest).is_none(), "{claimed}");
        }
    }

    #[test]
    fn a_refusal_names_the_thing() {
        let io = |code| io::Error::from_raw_os_error(code);
        assert_eq!(
            refusal("set", "weave", &io(libc::ENODEV)).to_string(),
            "weave not found"
        );
        assert_eq!(
            refusal("add", "weave", &io(libc::EEXIST)).to_string(),
            "weave already exists"
        );
        let text = refusal("set", "weave", &io(libc::EPERM)).to_string();
        assert!(
            text.starts_with("set weave: Operation not permitted"),
            "{text}"
        );
    }
}
