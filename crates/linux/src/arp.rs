//! Gratuitous ARP (RFC 5227 section 3, RFC 826): tells the network where an address lives now.

use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use socket2::Socket;
use wire::ethernet::MacAddr;

use crate::netlink::Link;

/// Broadcasts an announcement for each address from a link of the calling thread's namespace.
///
/// Best effort: neighbours with an old entry find out by themselves a few seconds later.
pub(crate) fn announce(link: &Link, addresses: impl IntoIterator<Item = Ipv4Addr>) {
    let Some(mac) = link.mac else { return };
    let frames: Vec<_> = addresses
        .into_iter()
        .map(|a| announcement(mac, a))
        .collect();
    if frames.is_empty() {
        return;
    }
    std::thread::sleep(SETTLE);
    if let Err(error) = send(link.index, &frames) {
        tracing::warn!(interface = %link.name, %error, "address not announced");
    }
}

fn send(index: u32, frames: &[[u8; FRAME_LEN]]) -> io::Result<()> {
    let socket = Socket::new(libc::AF_PACKET.into(), libc::SOCK_RAW.into(), None)?;
    let to = link_address(index)?;
    for frame in frames {
        socket.send_to(frame, &to)?;
    }
    Ok(())
}

fn link_address(index: u32) -> io::Result<socket2::SockAddr> {
    let index = i32::try_from(index).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the storage is large enough and aligned for every socket address, all-zero bytes are a
    // valid `sockaddr_ll`, and the length written is the size of that struct.
    let ((), address) = unsafe {
        socket2::SockAddr::try_init(|storage, length| {
            let link = &mut *storage.cast::<libc::sockaddr_ll>();
            link.sll_family = libc::AF_PACKET as u16;
            link.sll_protocol = (libc::ETH_P_ARP as u16).to_be();
            link.sll_ifindex = index;
            link.sll_halen = 6;
            link.sll_addr[..6].copy_from_slice(&[0xff; 6]);
            *length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            Ok(())
        })
    }?;
    Ok(address)
}

/// Ethernet broadcast, ARP request for Ethernet and IPv4 with sender and target both the address.
fn announcement(mac: MacAddr, address: Ipv4Addr) -> [u8; FRAME_LEN] {
    let mut frame = [0; FRAME_LEN];
    frame[..6].copy_from_slice(&[0xff; 6]);
    frame[6..12].copy_from_slice(&mac.0);
    frame[12..22].copy_from_slice(&[0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1]);
    frame[22..28].copy_from_slice(&mac.0);
    frame[28..32].copy_from_slice(&address.octets());
    frame[32..38].copy_from_slice(&[0xff; 6]);
    frame[38..42].copy_from_slice(&address.octets());
    frame
}

const FRAME_LEN: usize = 42;
/// A link that has just come up drops its first frames; the original waits as long.
const SETTLE: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announcement_asks_everyone_for_its_own_address() {
        let frame = announcement(MacAddr([2, 0, 0, 0, 0, 1]), Ipv4Addr::new(10, 32, 0, 1));
        let text: String = frame.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(
            text,
            "ffffffffffff020000000001080600010800060400010200000000010a200001ffffffffffff0a200001"
        );
    }
}
